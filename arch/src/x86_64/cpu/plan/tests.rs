use super::super::features::{Feature, Register, all};
use super::*;

/// `KVM_GET_SUPPORTED_CPUID` on a Xeon of the Skylake generation, from its features and the leaves that matter.
fn intel() -> HostCpu {
    let features = "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 ss \
                    pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx f16c \
                    rdrand arat fsgsbase tsc-adjust bmi1 hle avx2 smep bmi2 erms invpcid rtm mpx avx512f avx512dq rdseed \
                    adx smap clflushopt clwb avx512cd avx512bw avx512vl pku md-clear spec-ctrl stibp arch-capabilities \
                    ssbd xsaveopt xsavec xgetbv1 xsaves syscall nx pdpe1gb rdtscp lm lahf-lm abm 3dnowprefetch invtsc \
                    kvmclock kvm-nopiodelay kvm-asyncpf kvm-steal-time kvm-pv-eoi kvm-pv-unhalt kvmclock-stable-bit pdcm \
                    skip-l1dfl-vmentry pschange-mc-no";
    let mut host = host(b"GenuineIntel", 0x16, 0x0005_0654, 0x8000_0008, 46, features);
    host.supported.set(4, Some(0), [0x1c00_4121, 0x01c0_003f, 0x3f, 0]);
    host.supported.set(4, Some(1), [0x1c00_4122, 0x01c0_003f, 0x3f, 0]);
    host.supported.set(4, Some(2), [0x1c00_4143, 0x03c0_003f, 0x3ff, 0]);
    host.supported.set(4, Some(3), [0x1c03_c163, 0x0280_003f, 0x6fff, 4]);
    host.supported.set(0xa, None, [0x0730_0402, 0, 0, 0x603]);
    host.supported.set(0xd, Some(0), [0x2ff, 0xa88, 0xa88, 0]);
    host.supported.set(0xd, Some(1), [0xf, 0xa08, 0, 0]);
    for (component, length, offset) in
        [(2, 0x100, 0x240), (3, 0x40, 0x3c0), (4, 0x40, 0x400), (5, 0x40, 0x440), (6, 0x200, 0x480), (7, 0x400, 0x680)]
    {
        host.supported.set(0xd, Some(component), [length, offset, 0, 0]);
    }
    host.supported.set(0xd, Some(9), [8, 0xa80, 0, 0]);
    host.msrs.push(MsrValue { index: MSR_MICROCODE_REVISION, value: 0x0200_006b_0000_0000 });
    host
}

/// The same of an EPYC of the Milan generation.
fn amd() -> HostCpu {
    let features = "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni \
                    pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx f16c \
                    rdrand arat fsgsbase tsc-adjust bmi1 avx2 smep bmi2 erms invpcid rdseed adx smap clflushopt clwb \
                    sha-ni umip pku vaes vpclmulqdq rdpid fsrm spec-ctrl stibp ssbd xsaveopt xsavec xgetbv1 xsaves \
                    syscall nx mmxext fxsr-opt pdpe1gb rdtscp lm lahf-lm svm cr8legacy abm sse4a misalignsse \
                    3dnowprefetch osvw topoext perfctr-core clzero xsaveerptr wbnoinvd ibpb ibrs amd-stibp amd-ssbd npt \
                    nrip-save vgif lfence-always-serializing null-sel-clr-base invtsc kvmclock kvm-nopiodelay \
                    kvm-asyncpf kvm-steal-time kvm-pv-eoi kvm-pv-unhalt kvmclock-stable-bit";
    let mut host = host(b"AuthenticAMD", 0x10, 0x00a0_0f11, 0x8000_0021, 48, features);
    host.supported.set(0xd, Some(0), [0x207, 0x988, 0x988, 0]);
    host.supported.set(0xd, Some(1), [0xf, 0x348, 0, 0]);
    host.supported.set(0xd, Some(2), [0x100, 0x240, 0, 0]);
    host.supported.set(0xd, Some(9), [8, 0x980, 0, 0]);
    host
}

fn host(vendor: &[u8; 12], level: u32, signature: u32, xlevel: u32, phys_bits: u32, names: &str) -> HostCpu {
    let [b, d, c] = super::super::hyperv::text(vendor);
    let mut supported = CpuidTable::new();
    let mut msrs = Vec::new();
    supported.set(0, None, [level, b, c, d]);
    supported.set(0x8000_0000, None, [xlevel, b, c, d]);
    let set = FeatureSet::of(names);
    for source in all().map(|f| f.source) {
        match source {
            Source::Cpuid { leaf, subleaf, .. } => {
                let word = |register| set.cpuid(leaf, subleaf, register);
                let words = [Register::Eax, Register::Ebx, Register::Ecx, Register::Edx].map(word);
                supported.set(leaf, matches!(leaf, 7 | 0xd | 0x14).then_some(subleaf), words);
            }
            Source::Msr { index } if msrs.iter().all(|m: &MsrValue| m.index != index) => {
                msrs.push(MsrValue { index, value: set.word(source) });
            }
            Source::Msr { .. } => {}
        }
    }
    supported.set_bits(1, 0, |e| e.eax = signature);
    supported.set_bits(0x8000_0008, 0, |e| e.eax = phys_bits | 48 << 8);
    let brand = [[u32::from_le_bytes(*b"HOST"), 0, 0, 0], [0; 4], [0; 4]];
    HostCpu { supported, hyperv: None, msrs, brand }
}

fn single() -> Topology {
    Topology::new(1, 1, 1, 1).unwrap()
}

fn plan_on(host: &HostCpu, cpu: &str, topology: Topology) -> CpuPlan {
    CpuPlan::new(&CpuConfig::from_text(cpu).unwrap(), host, topology).unwrap()
}

fn answer(table: &CpuidTable, leaf: u32, subleaf: u32) -> [u32; 4] {
    table.get(leaf, subleaf).map_or([0; 4], |e| [e.eax, e.ebx, e.ecx, e.edx])
}

fn feature(name: &str) -> Feature {
    super::super::features::named(name).next().unwrap()
}

#[test]
fn host_has_what_the_host_has_and_nothing_that_ties_it_down() {
    let plan = plan_on(&intel(), "host", single());

    assert!(["avx512f", "rtm", "kvm-pv-unhalt", "hypervisor"].iter().all(|f| plan.features().has_name(f)));
    assert!(!plan.features().has_name("invtsc") && !plan.features().has_name("pdcm"));
    assert_eq!(answer(&plan.cpuid(0), 1, 0)[0], 0x0005_0654);
    assert_eq!(answer(&plan.cpuid(0), 0x8000_0002, 0)[0].to_le_bytes(), *b"HOST");
    assert_eq!(plan.warnings(), []);
}

#[test]
fn migratable_off_lets_the_invariant_counter_in() {
    assert!(plan_on(&intel(), "host,migratable=off", single()).features().has_name("invtsc"));
    assert!(plan_on(&intel(), "host,+invtsc", single()).features().has_name("invtsc"));
}

#[test]
fn named_model_is_the_same_on_a_better_host() {
    let plan = plan_on(&intel(), "Haswell", single());
    let table = plan.cpuid(0);

    assert_eq!(plan.warnings(), []);
    assert!(!plan.features().has_name("avx512f") && plan.features().has_name("kvmclock"));
    // Family 6, model 60, stepping 4.
    assert_eq!(answer(&table, 1, 0)[0], 0x0003_06c4);
    assert_eq!(answer(&table, 0, 0)[0], 0xd);
    let brand: Vec<u8> = (2..5).flat_map(|n| answer(&table, 0x8000_0000 + n, 0)).flat_map(u32::to_le_bytes).collect();
    assert!(brand.starts_with(b"Intel Core Processor (Haswell)\0"));
}

#[test]
fn feature_that_the_host_lacks_is_warned_about_and_left_out() {
    let plan = plan_on(&amd(), "Haswell", single());

    let missing = [CpuWarning::Missing(feature("hle")), CpuWarning::Missing(feature("rtm"))];
    assert_eq!(plan.warnings(), missing);
    assert_eq!(plan.warnings()[0].to_string(), "host doesn't support requested feature: CPUID.07H:EBX.hle [bit 4]");
    assert!(!plan.features().has_name("rtm"));
    assert_eq!(plan_on(&amd(), "Haswell,check=off", single()).warnings(), []);
}

#[test]
fn enforce_refuses_what_the_host_lacks() {
    let config = CpuConfig::from_text("Haswell,enforce").unwrap();

    let error = CpuPlan::new(&config, &amd(), single()).unwrap_err();

    assert_eq!(
        error.to_string(),
        "the host does not support requested features: CPUID.07H:EBX.hle [bit 4], CPUID.07H:EBX.rtm [bit 11]"
    );
    assert!(CpuPlan::new(&config, &intel(), single()).is_ok());
}

#[test]
fn enforce_does_not_ask_for_what_was_turned_off() {
    let config = CpuConfig::from_text("Haswell,enforce,-hle,rtm=off").unwrap();

    assert!(CpuPlan::new(&config, &amd(), single()).is_ok());
}

#[test]
fn feature_falls_with_what_it_needs() {
    let plan = plan_on(&intel(), "host,-xsave,+avx2", single());

    assert!(["avx", "avx2", "avx512f", "xsaves", "pku"].iter().all(|f| !plan.features().has_name(f)));
    assert_eq!(plan.warnings(), [CpuWarning::Orphan(feature("avx2"))]);
    assert!(plan.cpuid(0).get(0xd, 0).is_none());
}

#[test]
fn every_dependency_is_between_features() {
    for (needed, by) in depend::NEEDED_BY {
        let names = by.split_ascii_whitespace().chain([*needed]);
        names.for_each(|name| assert!(super::super::features::named(name).next().is_some(), "{name}"));
    }
}

#[test]
fn vendor_is_the_hosts_unless_given() {
    let vendor = |host: &HostCpu, cpu: &str| {
        let [_, b, c, d] = answer(&plan_on(host, cpu, single()).cpuid(0), 0, 0);
        [b, d, c].iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>()
    };

    assert_eq!(vendor(&amd(), "Haswell"), b"AuthenticAMD");
    assert_eq!(vendor(&intel(), "EPYC,-svm"), b"GenuineIntel");
    assert_eq!(vendor(&intel(), "host,vendor=AuthenticAMD"), b"AuthenticAMD");
}

#[test]
fn amd_repeats_features_in_its_extended_leaf() {
    let fpu_and_apic = 1 | 1 << 9;

    assert_eq!(answer(&plan_on(&amd(), "EPYC", single()).cpuid(0), 0x8000_0001, 0)[3] & fpu_and_apic, fpu_and_apic);
    assert_eq!(answer(&plan_on(&intel(), "Haswell", single()).cpuid(0), 0x8000_0001, 0)[3] & fpu_and_apic, 0);
}

#[test]
fn intel_topology_is_in_leaves_1_4_and_b() {
    let topology = Topology::new(2, 1, 3, 2).unwrap();
    let table = plan_on(&intel(), "host", topology).cpuid(7);

    // Processor 7: socket 1, core 0, thread 1: APIC id 9 of 8 ids a socket.
    assert_eq!(answer(&table, 1, 0)[1], 9 << 24 | 6 << 16 | 8 << 8);
    assert_ne!(answer(&table, 1, 0)[3] & 1 << 28, 0);
    assert_eq!(answer(&table, 0xb, 0), [1, 2, 0x100, 9]);
    assert_eq!(answer(&table, 0xb, 1), [3, 6, 0x201, 9]);
    assert_eq!(answer(&table, 0xb, 2), [0, 0, 2, 9]);
    // L1: shared by the 2 ids of a core; 4 core ids in the socket. L3: by all 8 ids.
    assert_eq!(answer(&table, 4, 0)[0], 0x121 | 1 << 14 | 3 << 26);
    assert_eq!(answer(&table, 4, 3)[0], 0x163 | 7 << 14 | 3 << 26);
    assert_eq!(answer(&table, 4, 4), [0; 4]);
    assert!(table.get(0x1f, 0).is_none());
}

#[test]
fn dies_get_leaf_1f() {
    let table = plan_on(&intel(), "host", Topology::new(1, 2, 2, 2).unwrap()).cpuid(5);

    assert_eq!(answer(&table, 0, 0)[0], 0x1f);
    assert_eq!(answer(&table, 0x1f, 0), [1, 2, 0x100, 5]);
    assert_eq!(answer(&table, 0x1f, 1), [2, 4, 0x201, 5]);
    assert_eq!(answer(&table, 0x1f, 2), [3, 8, 0x502, 5]);
    assert_eq!(answer(&table, 0x1f, 3), [0, 0, 3, 5]);
}

#[test]
fn amd_topology_is_in_leaves_8_1d_and_1e() {
    let plan = plan_on(&amd(), "EPYC-Milan", Topology::new(2, 1, 3, 2).unwrap());
    let table = plan.cpuid(7);

    assert_eq!(answer(&table, 0x8000_0008, 0)[2], 5 | 3 << 12);
    assert_ne!(answer(&table, 0x8000_0001, 0)[2] & 2, 0);
    // APIC id 9; core 0 of two threads; node 1 of one in the socket.
    assert_eq!(answer(&table, 0x8000_001e, 0), [9, 1 << 8, 1, 0]);
    // L1 shared by 2 threads, L3 by the 6 of the socket; 32 MiB in 16 ways are 32768 sets.
    assert_eq!(answer(&table, 0x8000_001d, 0), [0x121 | 1 << 14, 0x01c0_003f, 63, 0]);
    assert_eq!(answer(&table, 0x8000_001d, 3), [0x163 | 5 << 14, 0x03c0_003f, 32767, 0]);
    assert!(table.get(4, 0).is_none());
}

#[test]
fn amd_threads_without_their_leaf_are_warned_about() {
    let threads = Topology::new(1, 1, 1, 2).unwrap();

    assert_eq!(plan_on(&amd(), "Opteron_G3,check=off", threads).warnings(), [CpuWarning::ThreadsUnseen(2)]);
    assert_eq!(plan_on(&amd(), "host", threads).warnings(), []);
}

#[test]
fn one_processor_claims_no_siblings() {
    let table = plan_on(&amd(), "EPYC", single()).cpuid(0);

    assert_eq!(answer(&table, 1, 0)[1] >> 16, 0);
    assert_eq!(answer(&table, 1, 0)[3] & 1 << 28, 0);
    assert_eq!(answer(&table, 0x8000_0001, 0)[2] & 2, 0);
    assert_eq!(answer(&table, 0x8000_0008, 0)[2], 0);
}

#[test]
fn ids_above_255_are_whole_in_the_topology_leaves() {
    let table = plan_on(&intel(), "host", Topology::new(1, 1, 300, 1).unwrap()).cpuid(299);

    assert_eq!(answer(&table, 1, 0)[1] >> 24, 299 & 0xff);
    assert_eq!(answer(&table, 0xb, 0)[3], 299);
}

#[test]
fn host_caches_are_shown_when_asked_for() {
    let table = plan_on(&intel(), "host,host-cache-info=on", single()).cpuid(0);

    // 1 MiB L2 of 16 ways, 11-way L3 of 28672 sets; shared as the guest's own topology has it.
    assert_eq!(answer(&table, 4, 2), [0x143, 0x03c0_003f, 0x3ff, 0]);
    assert_eq!(answer(&table, 4, 3), [0x163, 0x0280_003f, 0x6fff, 0]);
}

#[test]
fn third_level_cache_can_be_left_out() {
    let table = plan_on(&intel(), "host,l3-cache=off", single()).cpuid(0);

    assert_eq!(answer(&table, 4, 2)[0] & 0xff, 0x43);
    assert_eq!(answer(&table, 4, 3), [0; 4]);
}

#[test]
fn kvm_is_told_at_its_leaves() {
    let table = plan_on(&intel(), "host", single()).cpuid(0);

    let [max, b, c, d] = answer(&table, 0x4000_0000, 0);
    assert_eq!(max, 0x4000_0001);
    assert_eq!([b, c, d].map(u32::to_le_bytes).concat(), b"KVMKVMKVM\0\0\0");
    assert_eq!(answer(&table, 0x4000_0001, 0)[0] & 0b1001, 0b1001);
}

#[test]
fn kvm_can_be_hidden() {
    let plan = plan_on(&intel(), "host,kvm=off", single());
    let table = plan.cpuid(0);

    assert!(table.get(0x4000_0000, 0).is_none() && table.get(0x4000_0001, 0).is_none());
    assert_ne!(answer(&table, 1, 0)[2] & 1 << 31, 0);
    let hidden = plan_on(&intel(), "host,kvm=off,-hypervisor", single()).cpuid(0);
    assert_eq!(answer(&hidden, 1, 0)[2] & 1 << 31, 0);
}

#[test]
fn hyperv_moves_kvm_up() {
    let table = plan_on(&intel(), "host,hv-relaxed", single()).cpuid(0);

    assert_eq!(answer(&table, 0x4000_0000, 0)[0], 0x4000_0005);
    assert_eq!(answer(&table, 0x4000_0100, 0)[0], 0x4000_0101);
    assert_ne!(answer(&table, 0x4000_0101, 0)[0], 0);
}

#[test]
fn frequency_that_was_asked_for_is_told() {
    let plan = plan_on(&intel(), "host,tsc-frequency=2.5G", single());

    assert_eq!(plan.tsc_khz(), Some(2_500_000));
    assert_eq!(answer(&plan.cpuid(0), 0x4000_0010, 0)[..2], [2_500_000, 1_000_000]);
    assert_eq!(answer(&plan.cpuid(0), 0x4000_0000, 0)[0], 0x4000_0010);
}

#[test]
fn counters_come_only_when_asked_for() {
    assert!(plan_on(&intel(), "host", single()).cpuid(0).get(0xa, 0).is_none());

    let plan = plan_on(&intel(), "host,pmu=on", single());

    assert_eq!(answer(&plan.cpuid(0), 0xa, 0)[0], 0x0730_0402);
    assert!(plan.features().has_name("pdcm"));
}

#[test]
fn address_width_follows_model_host_or_wish() {
    let bits = |cpu: &str| plan_on(&intel(), cpu, single()).phys_bits();

    assert_eq!(bits("host"), 46);
    assert_eq!(bits("Haswell"), 40);
    assert_eq!(bits("Haswell,host-phys-bits=on"), 46);
    assert_eq!(bits("host,host-phys-bits-limit=43"), 43);
    assert_eq!(bits("host,host-phys-bits=off"), 40);
    assert_eq!(bits("Haswell,phys-bits=42"), 42);
    assert_eq!(bits("kvm32"), 36);
    assert_eq!(bits("486"), 32);
}

#[test]
fn more_address_bits_than_the_host_has_are_warned_about() {
    let plan = plan_on(&intel(), "host,phys-bits=48", single());

    assert_eq!(plan.warnings(), [CpuWarning::PhysBits { asked: 48, host: 46 }]);
    let refused = CpuPlan::new(&CpuConfig::from_text("kvm32,phys-bits=40").unwrap(), &intel(), single());
    assert!(matches!(refused, Err(CpuError::Unsupported { .. })));
}

#[test]
fn xsave_area_holds_what_the_model_has() {
    let area = |cpu| answer(&plan_on(&intel(), cpu, single()).cpuid(0), 0xd, 0);

    assert_eq!(area("Haswell"), [7, 0x340, 0x340, 0]);
    assert_eq!(area("host"), [0x2ff, 0xa88, 0xa88, 0]);
    assert_eq!(area("host,-pku,-mpx,-avx512f"), [7, 0x340, 0x340, 0]);
    assert_eq!(area("Westmere"), [0; 4]);
}

#[test]
fn level_rises_to_what_the_features_need() {
    let level = |cpu| answer(&plan_on(&intel(), cpu, single()).cpuid(0), 0, 0)[0];

    assert_eq!(level("Conroe"), 0xa);
    assert_eq!(level("Conroe,+xsaveopt,+xsave"), 0xd);
    assert_eq!(level("Conroe,level=4"), 4);
    assert!(plan_on(&intel(), "host,level=4", single()).cpuid(0).get(7, 0).is_none());
}

#[test]
fn old_model_has_no_extended_leaves() {
    let table = plan_on(&intel(), "pentium", single()).cpuid(0);

    assert!(table.entries().iter().all(|e| e.function < 0x8000_0000));
}

#[test]
fn capability_registers_are_set_to_what_the_model_has() {
    let model = plan_on(&intel(), "Icelake-Server-v3,check=off", single()).msrs();
    let bare = plan_on(&intel(), "Haswell", single()).msrs();

    // skip-l1dfl-vmentry and pschange-mc-no, of those in the model, are what the host has.
    assert!(model.contains(&MsrValue { index: 0x10a, value: 1 << 3 | 1 << 6 }));
    assert!(bare.iter().all(|m| m.index != 0x10a && m.index != MSR_MICROCODE_REVISION));
}

#[test]
fn host_keeps_capability_bits_without_a_name_and_its_microcode() {
    let mut host = intel();
    host.msrs[0].value |= 1 << 50;

    let msrs = plan_on(&host, "host,pschange-mc-no=off", single()).msrs();

    assert!(msrs.contains(&MsrValue { index: 0x10a, value: 1 << 50 | 1 << 3 }));
    assert!(msrs.contains(&MsrValue { index: MSR_MICROCODE_REVISION, value: 0x0200_006b_0000_0000 }));
}

#[test]
fn signature_fields_can_be_given() {
    let table = plan_on(&intel(), "qemu64,family=25,model=0x31,stepping=2,model-id=Test", single()).cpuid(0);

    // Family 25 is 15 and 10 more; model 0x31.
    assert_eq!(answer(&table, 1, 0)[0], 0x00a3_0f12);
    assert_eq!(answer(&table, 0x8000_0002, 0)[0].to_le_bytes(), *b"Test");
}

#[test]
fn unavailable_features_are_listed_by_name() {
    assert_eq!(unavailable_features("Haswell", &amd()).unwrap(), ["hle", "rtm"]);
    assert_eq!(unavailable_features("Haswell", &intel()).unwrap(), [""; 0]);
    assert_eq!(unavailable_features("host", &amd()).unwrap(), [""; 0]);
    assert_eq!(unavailable_features("nonsense", &amd()), None);
}

#[test]
fn every_model_on_every_host_fits_kvm() {
    let topology = Topology::new(2, 2, 3, 2).unwrap();
    let names = models::names().into_iter().map(|(name, _)| name).chain(["host", "max", "base"].map(str::to_owned));

    for name in names {
        for host in [intel(), amd()] {
            let table = plan_on(&host, &format!("{name},check=off"), topology).cpuid(11);
            assert!(table.entries().len() <= CpuidTable::MAX_ENTRIES);
            let mut keys: Vec<_> = table.entries().iter().map(|e| (e.function, e.index)).collect();
            keys.dedup();
            assert_eq!(keys.len(), table.entries().len(), "{name}");
        }
    }
}
