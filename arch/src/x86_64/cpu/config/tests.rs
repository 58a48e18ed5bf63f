use super::*;

fn parse(text: &str) -> Result<CpuConfig, CpuError> {
    CpuConfig::from_text(text)
}

fn message(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn model_alone_has_the_defaults() {
    let config = parse("qemu64").unwrap();

    assert!(matches!(&config.base, Base::Named(model) if model.name == "qemu64-v1"));
    assert!(config.check && !config.enforce && config.migratable && config.kvm && !config.pmu && config.l3_cache);
    assert_eq!((config.on, config.off), (FeatureSet::new(), FeatureSet::new()));
}

#[test]
fn three_notations_give_a_feature() {
    let config = parse("host,avx=on,+aes,-rdrand,xsave=off,popcnt").unwrap();

    assert_eq!(config.on, FeatureSet::of("avx aes popcnt"));
    assert_eq!(config.off, FeatureSet::of("rdrand xsave"));
}

#[test]
fn later_value_wins_and_minus_wins_over_all() {
    assert_eq!(parse("host,avx=off,avx=on").unwrap().on, FeatureSet::of("avx"));
    assert_eq!(parse("host,-avx,+avx,avx=on").unwrap().off, FeatureSet::of("avx"));
    assert_eq!(parse("host,-avx,+avx,avx=on").unwrap().on, FeatureSet::new());
}

#[test]
fn both_spellings_are_taken() {
    assert_eq!(parse("host,tsc_deadline=on,+kvm_pv_eoi").unwrap().on, FeatureSet::of("tsc-deadline kvm-pv-eoi"));
    assert!(!parse("host,l3_cache=off").unwrap().l3_cache);
}

#[test]
fn numbers_are_decimal_or_hexadecimal() {
    let config = parse("host,level=0xd,xlevel=0x80000008,family=6,model=0x3c,stepping=1,phys-bits=46").unwrap();

    assert_eq!((config.level, config.xlevel), (Some(13), Some(0x8000_0008)));
    assert_eq!((config.family, config.model_number, config.stepping), (Some(6), Some(60), Some(1)));
    assert_eq!(config.phys_bits, 46);
}

#[test]
fn frequencies_take_decimal_suffixes() {
    let hertz = |text: &str| parse(&format!("host,tsc-frequency={text}")).map(|c| c.tsc_frequency.unwrap());

    assert_eq!(hertz("2500000000").unwrap(), 2_500_000_000);
    assert_eq!(hertz("2.5G").unwrap(), 2_500_000_000);
    assert_eq!(hertz("2499.999M").unwrap(), 2_499_999_000);
    for wrong in ["", "G", "1", ".5G", "2..5G", "-1G", "2.5Gx", "99999999999999999999G", "2e9"] {
        assert!(matches!(hertz(wrong), Err(CpuError::BadValue { .. })), "{wrong}");
    }
}

#[test]
fn values_out_of_range_name_the_property_and_what_it_takes() {
    assert_eq!(
        message("host,phys-bits=60"),
        "CPU property 'phys-bits' takes a number of bits from 32 to 52, or 0, not '60'"
    );
    assert_eq!(message("host,avx=maybe"), "CPU property 'avx' takes on or off, not 'maybe'");
    assert_eq!(message("host,vendor=Intel"), "CPU property 'vendor' takes exactly 12 letters, not 'Intel'");
    assert_eq!(message("host,+avx=on"), "CPU property 'avx' takes no value behind + or -, not 'on'");
    assert!(message("host,hv-spinlocks=1").contains("0xfff"));
    assert!(message(&format!("host,model-id={}", "x".repeat(49))).contains("48 bytes"));
}

#[test]
fn unknown_model_names_its_neighbours() {
    let text = message("Haswel");

    assert!(text.starts_with("unknown CPU model 'Haswel'; did you mean Haswell, "), "{text}");
}

#[test]
fn unknown_feature_names_its_neighbours() {
    assert!(message("host,+avx512").contains("did you mean avx512-4fmaps"), "{}", message("host,+avx512"));
    assert!(message("host,tsc-deadlin=on").contains("did you mean tsc-deadline?"));
    assert!(message("host,enforc").contains("did you mean enforce?"));
    // The name is the worse mistake, whatever its value.
    assert!(matches!(parse("host,zzz=zzz"), Err(CpuError::UnknownProperty { .. })));
}

#[test]
fn known_but_impossible_properties_say_why() {
    assert!(message("host,vmx-ept=on").contains("KVM chooses the controls"));
    assert!(message("host,+sgx").contains("no enclave memory"));
    assert!(message("host,hv-passthrough").contains("not supported"));
}

#[test]
fn enlightenments_are_collected() {
    let hyperv = parse("host,hv-relaxed,hv_vpindex=on,+hv-synic,hv-spinlocks=0x1fff,hv-vendor-id=KVM  Hv  KVM")
        .map(|c| c.hyperv)
        .unwrap();

    assert!(hyperv.has("hv-relaxed") && hyperv.has("hv-vpindex") && hyperv.has("hv-synic") && !hyperv.has("hv-time"));
    assert_eq!((hyperv.spinlocks, hyperv.vendor), (Some(0x1fff), Some(*b"KVM  Hv  KVM")));
}

#[test]
fn every_listed_property_is_known() {
    for name in PROPERTIES {
        let unknown = matches!(parse(&format!("host,{name}=?")), Err(CpuError::UnknownProperty { .. }));
        assert!(!unknown, "{name}");
    }
}

#[test]
fn empty_text_is_an_unknown_model() {
    assert!(matches!(parse(""), Err(CpuError::UnknownModel { .. })));
    assert!(matches!(parse(",,"), Err(CpuError::UnknownModel { .. })));
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "(host|EPYC|qemu64)?([,=+_-]|[a-z0-9.]{0,12}|hv-|é){0,12}") {
        let _ = parse(&text);
    }
}
