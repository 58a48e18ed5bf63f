use super::*;

#[test]
fn cpuinfo_with_vmx_or_svm_is_hardware() {
    let intel = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vme vmx ssse3\n";
    let amd = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu svm\n";

    assert_eq!(HostKind::from_cpuinfo(intel), HostKind::Hardware);
    assert_eq!(HostKind::from_cpuinfo(amd), HostKind::Hardware);
}

#[test]
fn cpuinfo_without_either_flag_is_software() {
    // Neither another key nor a longer flag counts.
    let text = "model name\t: vmx svm\nvmx flags\t: vnmi vmx\nflags\t\t: fpu svm_lock notvmx\nbugs\t: svm\n";

    assert_eq!(HostKind::from_cpuinfo(text), HostKind::Software);
}

#[test]
fn missing_device_says_what_to_load() {
    let error = Host::open(Path::new("/nonexistent/kvm")).unwrap_err();

    assert!(matches!(error, HostError::Missing { .. }));
    assert!(error.to_string().contains("kvm_intel or kvm_amd"), "{error}");
}

#[test]
fn another_file_is_not_kvm() {
    let error = Host::open(Path::new("/dev/null")).unwrap_err();

    assert!(matches!(error, HostError::NotKvm { .. }), "{error}");
}

#[test]
fn directory_cannot_be_opened() {
    let error = Host::open(Path::new("/")).unwrap_err();

    assert!(matches!(error, HostError::Open { .. }), "{error}");
}
