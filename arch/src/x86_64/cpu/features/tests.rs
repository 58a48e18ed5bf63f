use super::*;

fn only(name: &str) -> Feature {
    let found: Vec<_> = named(name).collect();
    assert_eq!(found.len(), 1, "{name}");
    found[0]
}

#[test]
fn dashes_and_underscores_name_the_same() {
    assert_eq!(only("tsc-deadline"), only("tsc_deadline"));
    assert_eq!(only("lahf_lm"), only("lahf-lm"));
    assert_eq!(only("sse4_1"), only("sse4.1"));
}

#[test]
fn aliases_name_the_same() {
    assert_eq!(only("sse3"), only("pni"));
    assert_eq!(only("i64"), only("lm"));
    assert_eq!(only("xd"), only("nx"));
}

#[test]
fn warnings_name_leaf_register_and_bit() {
    assert_eq!(only("avx").to_string(), "CPUID.01H:ECX.avx [bit 28]");
    assert_eq!(only("lm").to_string(), "CPUID.80000001H:EDX.lm [bit 29]");
    assert_eq!(only("rdctl-no").to_string(), "MSR(10AH).rdctl-no [bit 0]");
}

#[test]
fn clock_is_one_name_with_two_bits() {
    assert_eq!(named("kvmclock").map(|f| f.bit()).collect::<Vec<_>>(), [0, 3]);
}

#[test]
fn no_bit_has_two_names_and_no_name_two_meanings() {
    let mut bits: Vec<_> = all().map(|f| (f.word, f.bit)).collect();
    let mut names: Vec<_> = all().map(|f| f.name).filter(|n| *n != "kvmclock").collect();
    let (bit_count, name_count) = (bits.len(), names.len());

    bits.sort_unstable();
    bits.dedup();
    names.sort_unstable();
    names.dedup();

    assert_eq!((bits.len(), names.len()), (bit_count, name_count));
}

#[test]
fn every_alias_leads_to_a_feature_and_hides_none() {
    assert!(table::ALIASES.iter().all(|(_, to)| all().any(|f| f.name == *to)));
    assert!(table::ALIASES.iter().all(|(alias, _)| all().all(|f| f.name != *alias)));
}

#[test]
fn set_algebra_holds() {
    let a = FeatureSet::of("avx avx2 sse");
    let b = FeatureSet::of("sse lm");

    assert_eq!(a.common(&b), FeatureSet::of("sse"));
    assert_eq!(a.with(&b), FeatureSet::of("sse avx lm avx2"));
    assert_eq!(a.without(&b), FeatureSet::of("avx avx2"));
}

#[test]
fn reported_bits_become_features() {
    let mut cpuid = CpuidTable::new();
    cpuid.set(7, Some(0), [2, 1 << 5, 1 << 22, 0]);
    let msrs = [MsrValue { index: 0x10a, value: 0b100_0001 }];

    let set = FeatureSet::reported(&cpuid, &msrs);

    assert_eq!(set.names(), ["avx2", "rdpid", "rdctl-no", "pschange-mc-no"]);
    assert_eq!(set.cpuid(7, 0, Register::Ebx), 1 << 5);
}
