//! Features that mean nothing without another: taken away with it, so that no guest finds half of an extension.

use super::super::features::FeatureSet;

/// What is needed, and what needs it. Later rows may need what earlier ones took away.
pub(super) const NEEDED_BY: &[(&str, &str)] = &[
    ("fxsr", "fxsr-opt"),
    ("sse", "sse2"),
    ("sse2", "pni"),
    ("pni", "ssse3 sse4a"),
    ("ssse3", "sse4.1"),
    ("sse4.1", "sse4.2"),
    ("xsave", "xsaveopt xsavec xgetbv1 xsaves xfd xsaveerptr avx mpx pku amx-tile"),
    (
        "avx",
        "avx2 fma f16c xop fma4 vaes vpclmulqdq avx512f avx-vnni avx-ifma avx-vnni-int8 avx-ne-convert avx-vnni-int16 sha512 sm3 sm4",
    ),
    (
        "avx512f",
        "avx512dq avx512ifma avx512pf avx512er avx512cd avx512bw avx512vl avx512vbmi avx512vbmi2 avx512vnni \
         avx512bitalg avx512-vpopcntdq avx512-4vnniw avx512-4fmaps avx512-vp2intersect avx512-fp16 avx512-bf16",
    ),
    ("xsavec", "xsaves"),
    ("amx-tile", "amx-bf16 amx-int8 amx-fp16 amx-complex xfd"),
    ("lm", "la57 pdpe1gb lam fred"),
    ("fred", "lkgs"),
    ("svm", SVM),
    ("intel-pt", "intel-pt-lip"),
    ("pdcm", "arch-lbr"),
    ("arch-capabilities", ARCH_CAPABILITIES),
    ("core-capability", "split-lock-detect"),
];

const SVM: &str = "npt lbrv svm-lock nrip-save tsc-scale vmcb-clean flushbyasid decodeassists pause-filter pfthreshold \
                   avic v-vmsave-vmload vgif vnmi svme-addr-chk";
const ARCH_CAPABILITIES: &str = "rdctl-no ibrs-all rsba skip-l1dfl-vmentry ssb-no mds-no pschange-mc-no tsx-ctrl \
                                 taa-no sbdr-ssdp-no fbsdp-no psdp-no fb-clear bhi-no pbrsb-no gds-no rfds-no";

/// Those of `set` that need something which is not in it.
pub(super) fn orphans(set: &FeatureSet) -> FeatureSet {
    let mut left = *set;
    for (needed, by) in NEEDED_BY {
        if !left.has_name(needed) {
            left = left.without(&FeatureSet::of(by));
        }
    }
    set.without(&left)
}
