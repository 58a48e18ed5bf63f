//! Every processor feature that can be named: its name and its bit.
//!
//! The names are those that `-cpu` and the management layers above know. Names that the processor manuals give but that
//! nobody may set for a guest (OSXSAVE, which CPUID reports of CR4) are not here.

use super::{Bit, Register::*, Source, Word};

/// The first of KVM's own leaves, where the features are. The leaf moves up by 0x100 when Hyper-V's are there too.
pub const KVM_LEAF: u32 = 0x4000_0001;

const fn cpuid((leaf, subleaf, register): (u32, u32, super::Register)) -> Source {
    Source::Cpuid { leaf, subleaf, register }
}

const fn at(bit: u8, name: &'static str) -> Bit {
    Bit { bit, name }
}

/// All words, CPUID first, then feature MSRs.
pub(super) const WORDS: &[Word] = &[
    // SDM volume 2, CPUID, table 3-11; APM volume 3, E.3.2.
    Word {
        source: cpuid((1, 0, Edx)),
        bits: &[
            at(0, "fpu"),
            at(1, "vme"),
            at(2, "de"),
            at(3, "pse"),
            at(4, "tsc"),
            at(5, "msr"),
            at(6, "pae"),
            at(7, "mce"),
            at(8, "cx8"),
            at(9, "apic"),
            at(11, "sep"),
            at(12, "mtrr"),
            at(13, "pge"),
            at(14, "mca"),
            at(15, "cmov"),
            at(16, "pat"),
            at(17, "pse36"),
            at(18, "pn"),
            at(19, "clflush"),
            at(21, "ds"),
            at(22, "acpi"),
            at(23, "mmx"),
            at(24, "fxsr"),
            at(25, "sse"),
            at(26, "sse2"),
            at(27, "ss"),
            at(28, "ht"),
            at(29, "tm"),
            at(30, "ia64"),
            at(31, "pbe"),
        ],
    },
    // SDM volume 2, CPUID, table 3-10; bit 31 is kept for hypervisors.
    Word {
        source: cpuid((1, 0, Ecx)),
        bits: &[
            at(0, "pni"),
            at(1, "pclmulqdq"),
            at(2, "dtes64"),
            at(3, "monitor"),
            at(4, "ds-cpl"),
            at(5, "vmx"),
            at(6, "smx"),
            at(7, "est"),
            at(8, "tm2"),
            at(9, "ssse3"),
            at(10, "cid"),
            at(12, "fma"),
            at(13, "cx16"),
            at(14, "xtpr"),
            at(15, "pdcm"),
            at(17, "pcid"),
            at(18, "dca"),
            at(19, "sse4.1"),
            at(20, "sse4.2"),
            at(21, "x2apic"),
            at(22, "movbe"),
            at(23, "popcnt"),
            at(24, "tsc-deadline"),
            at(25, "aes"),
            at(26, "xsave"),
            at(28, "avx"),
            at(29, "f16c"),
            at(30, "rdrand"),
            at(31, "hypervisor"),
        ],
    },
    // SDM volume 2, CPUID, leaf 06H.
    Word { source: cpuid((6, 0, Eax)), bits: &[at(2, "arat")] },
    // SDM volume 2, CPUID, leaf 07H.
    Word {
        source: cpuid((7, 0, Ebx)),
        bits: &[
            at(0, "fsgsbase"),
            at(1, "tsc-adjust"),
            at(3, "bmi1"),
            at(4, "hle"),
            at(5, "avx2"),
            at(7, "smep"),
            at(8, "bmi2"),
            at(9, "erms"),
            at(10, "invpcid"),
            at(11, "rtm"),
            at(14, "mpx"),
            at(16, "avx512f"),
            at(17, "avx512dq"),
            at(18, "rdseed"),
            at(19, "adx"),
            at(20, "smap"),
            at(21, "avx512ifma"),
            at(22, "pcommit"),
            at(23, "clflushopt"),
            at(24, "clwb"),
            at(25, "intel-pt"),
            at(26, "avx512pf"),
            at(27, "avx512er"),
            at(28, "avx512cd"),
            at(29, "sha-ni"),
            at(30, "avx512bw"),
            at(31, "avx512vl"),
        ],
    },
    // SDM volume 2, CPUID, leaf 07H.
    Word {
        source: cpuid((7, 0, Ecx)),
        bits: &[
            at(1, "avx512vbmi"),
            at(2, "umip"),
            at(3, "pku"),
            at(5, "waitpkg"),
            at(6, "avx512vbmi2"),
            at(7, "shstk"),
            at(8, "gfni"),
            at(9, "vaes"),
            at(10, "vpclmulqdq"),
            at(11, "avx512vnni"),
            at(12, "avx512bitalg"),
            at(14, "avx512-vpopcntdq"),
            at(16, "la57"),
            at(22, "rdpid"),
            at(24, "bus-lock-detect"),
            at(25, "cldemote"),
            at(27, "movdiri"),
            at(28, "movdir64b"),
            at(31, "pks"),
        ],
    },
    // SDM volume 2, CPUID, leaf 07H.
    Word {
        source: cpuid((7, 0, Edx)),
        bits: &[
            at(2, "avx512-4vnniw"),
            at(3, "avx512-4fmaps"),
            at(4, "fsrm"),
            at(8, "avx512-vp2intersect"),
            at(10, "md-clear"),
            at(14, "serialize"),
            at(16, "tsx-ldtrk"),
            at(19, "arch-lbr"),
            at(20, "ibt"),
            at(22, "amx-bf16"),
            at(23, "avx512-fp16"),
            at(24, "amx-tile"),
            at(25, "amx-int8"),
            at(26, "spec-ctrl"),
            at(27, "stibp"),
            at(28, "flush-l1d"),
            at(29, "arch-capabilities"),
            at(30, "core-capability"),
            at(31, "ssbd"),
        ],
    },
    // SDM volume 2, CPUID, leaf 07H, subleaf 1.
    Word {
        source: cpuid((7, 1, Eax)),
        bits: &[
            at(0, "sha512"),
            at(1, "sm3"),
            at(2, "sm4"),
            at(4, "avx-vnni"),
            at(5, "avx512-bf16"),
            at(7, "cmpccxadd"),
            at(10, "fzrm"),
            at(11, "fsrs"),
            at(12, "fsrc"),
            at(17, "fred"),
            at(18, "lkgs"),
            at(19, "wrmsrns"),
            at(21, "amx-fp16"),
            at(23, "avx-ifma"),
            at(26, "lam"),
        ],
    },
    // SDM volume 2, CPUID, leaf 07H, subleaf 1.
    Word {
        source: cpuid((7, 1, Edx)),
        bits: &[
            at(4, "avx-vnni-int8"),
            at(5, "avx-ne-convert"),
            at(8, "amx-complex"),
            at(10, "avx-vnni-int16"),
            at(14, "prefetchiti"),
        ],
    },
    // SDM volume 2, CPUID, leaf 07H, subleaf 2.
    Word {
        source: cpuid((7, 2, Edx)),
        bits: &[
            at(0, "intel-psfd"),
            at(1, "ipred-ctrl"),
            at(2, "rrsba-ctrl"),
            at(3, "ddpd-u"),
            at(4, "bhi-ctrl"),
            at(5, "mcdt-no"),
        ],
    },
    // SDM volume 2, CPUID, leaf 0DH.
    Word {
        source: cpuid((0xd, 1, Eax)),
        bits: &[at(0, "xsaveopt"), at(1, "xsavec"), at(2, "xgetbv1"), at(3, "xsaves"), at(4, "xfd")],
    },
    // SDM volume 2, CPUID, leaf 14H.
    Word { source: cpuid((0x14, 0, Ecx)), bits: &[at(31, "intel-pt-lip")] },
    // kernel, Documentation/virt/kvm/x86/cpuid.rst; the clock has an old and a new bit.
    Word {
        source: cpuid((KVM_LEAF, 0, Eax)),
        bits: &[
            at(0, "kvmclock"),
            at(1, "kvm-nopiodelay"),
            at(2, "kvm-mmu"),
            at(3, "kvmclock"),
            at(4, "kvm-asyncpf"),
            at(5, "kvm-steal-time"),
            at(6, "kvm-pv-eoi"),
            at(7, "kvm-pv-unhalt"),
            at(9, "kvm-pv-tlb-flush"),
            at(10, "kvm-asyncpf-vmexit"),
            at(11, "kvm-pv-ipi"),
            at(12, "kvm-poll-control"),
            at(13, "kvm-pv-sched-yield"),
            at(14, "kvm-asyncpf-int"),
            at(15, "kvm-msi-ext-dest-id"),
            at(24, "kvmclock-stable-bit"),
        ],
    },
    // likewise: hints, which the kernel never offers by itself.
    Word { source: cpuid((KVM_LEAF, 0, Edx)), bits: &[at(0, "kvm-hint-dedicated")] },
    // APM volume 3, E.4.2; SDM volume 2, CPUID.
    Word {
        source: cpuid((0x8000_0001, 0, Edx)),
        bits: &[
            at(11, "syscall"),
            at(20, "nx"),
            at(22, "mmxext"),
            at(25, "fxsr-opt"),
            at(26, "pdpe1gb"),
            at(27, "rdtscp"),
            at(29, "lm"),
            at(30, "3dnowext"),
            at(31, "3dnow"),
        ],
    },
    // APM volume 3, E.4.2.
    Word {
        source: cpuid((0x8000_0001, 0, Ecx)),
        bits: &[
            at(0, "lahf-lm"),
            at(1, "cmp-legacy"),
            at(2, "svm"),
            at(3, "extapic"),
            at(4, "cr8legacy"),
            at(5, "abm"),
            at(6, "sse4a"),
            at(7, "misalignsse"),
            at(8, "3dnowprefetch"),
            at(9, "osvw"),
            at(10, "ibs"),
            at(11, "xop"),
            at(12, "skinit"),
            at(13, "wdt"),
            at(15, "lwp"),
            at(16, "fma4"),
            at(17, "tce"),
            at(19, "nodeid-msr"),
            at(21, "tbm"),
            at(22, "topoext"),
            at(23, "perfctr-core"),
            at(24, "perfctr-nb"),
        ],
    },
    // APM volume 3, E.4.6; SDM volume 3, 18.17.1.
    Word { source: cpuid((0x8000_0007, 0, Edx)), bits: &[at(8, "invtsc")] },
    // APM volume 3, E.4.7.
    Word {
        source: cpuid((0x8000_0008, 0, Ebx)),
        bits: &[
            at(0, "clzero"),
            at(2, "xsaveerptr"),
            at(9, "wbnoinvd"),
            at(12, "ibpb"),
            at(14, "ibrs"),
            at(15, "amd-stibp"),
            at(17, "stibp-always-on"),
            at(24, "amd-ssbd"),
            at(25, "virt-ssbd"),
            at(26, "amd-no-ssb"),
            at(28, "amd-psfd"),
            at(29, "btc-no"),
        ],
    },
    // APM volume 3, E.4.9.
    Word {
        source: cpuid((0x8000_000a, 0, Edx)),
        bits: &[
            at(0, "npt"),
            at(1, "lbrv"),
            at(2, "svm-lock"),
            at(3, "nrip-save"),
            at(4, "tsc-scale"),
            at(5, "vmcb-clean"),
            at(6, "flushbyasid"),
            at(7, "decodeassists"),
            at(10, "pause-filter"),
            at(12, "pfthreshold"),
            at(13, "avic"),
            at(15, "v-vmsave-vmload"),
            at(16, "vgif"),
            at(25, "vnmi"),
            at(28, "svme-addr-chk"),
        ],
    },
    // APM volume 3, E.4.17.
    Word {
        source: cpuid((0x8000_0021, 0, Eax)),
        bits: &[
            at(0, "no-nested-data-bp"),
            at(2, "lfence-always-serializing"),
            at(6, "null-sel-clr-base"),
            at(8, "auto-ibrs"),
            at(20, "prefetchi"),
            at(24, "eraps"),
            at(27, "sbpb"),
            at(28, "ibpb-brtype"),
            at(29, "srso-no"),
            at(30, "srso-user-kernel-no"),
        ],
    },
    // VIA PadLock Programming Guide, CPUID.
    Word {
        source: cpuid((0xc000_0001, 0, Edx)),
        bits: &[
            at(2, "xstore"),
            at(3, "xstore-en"),
            at(6, "xcrypt"),
            at(7, "xcrypt-en"),
            at(8, "ace2"),
            at(9, "ace2-en"),
            at(10, "phe"),
            at(11, "phe-en"),
            at(12, "pmm"),
            at(13, "pmm-en"),
        ],
    },
    // IA32_ARCH_CAPABILITIES, SDM volume 4, table 2-2.
    Word {
        source: Source::Msr { index: 0x10a },
        bits: &[
            at(0, "rdctl-no"),
            at(1, "ibrs-all"),
            at(2, "rsba"),
            at(3, "skip-l1dfl-vmentry"),
            at(4, "ssb-no"),
            at(5, "mds-no"),
            at(6, "pschange-mc-no"),
            at(7, "tsx-ctrl"),
            at(8, "taa-no"),
            at(13, "sbdr-ssdp-no"),
            at(14, "fbsdp-no"),
            at(15, "psdp-no"),
            at(17, "fb-clear"),
            at(20, "bhi-no"),
            at(24, "pbrsb-no"),
            at(26, "gds-no"),
            at(27, "rfds-no"),
        ],
    },
    // IA32_CORE_CAPABILITIES, SDM volume 4, table 2-2.
    Word { source: Source::Msr { index: 0xcf }, bits: &[at(5, "split-lock-detect")] },
];

/// Other spellings of a name. Underscores for dashes need no entry.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("sse3", "pni"),
    ("pclmuldq", "pclmulqdq"),
    ("sse4-1", "sse4.1"),
    ("sse4-2", "sse4.2"),
    ("xd", "nx"),
    ("ffxsr", "fxsr-opt"),
    ("i64", "lm"),
];
