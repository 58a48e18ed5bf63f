use super::*;

fn cpus() -> CpuTypes {
    CpuTypes { names: vec!["max-x86_64-cpu".into(), "qemu64-x86_64-cpu".into()], properties: vec![("avx", "bool")] }
}

fn names(implements: Option<&str>, with_abstract: bool) -> Vec<String> {
    list(&cpus(), implements, with_abstract).into_iter().map(|one| one.name).collect()
}

#[test]
fn types_that_libvirt_looks_for_are_listed() {
    let all = names(None, false);
    for name in ["isa-serial", "virtio-blk-pci", "iothread", "memory-backend-file", "max-x86_64-cpu"] {
        assert!(all.iter().any(|one| one == name), "{name}");
    }
    // It would ask for an emulator without KVM next.
    assert!(!all.iter().any(|one| one == "tcg-accel"));
}

#[test]
fn implements_chooses_by_kind() {
    let devices = names(Some("device"), false);
    assert!(devices.contains(&"virtio-rng-pci".into()) && devices.contains(&"isa-serial".into()));
    assert!(!devices.contains(&"iothread".into()) && !devices.contains(&"pci-device".into()));
    assert!(names(Some("device"), true).contains(&"pci-device".into()));
    assert!(names(Some("user-creatable"), false).contains(&"rng-random".into()));
    assert!(names(Some("nope"), true).is_empty());
}

#[test]
fn properties_that_libvirt_dies_without_are_a_list() {
    for name in ["memory-backend-file", "none-machine"] {
        assert!(object_properties(&cpus(), name).unwrap().iter().any(|one| one.name == "type"), "{name}");
    }
}

#[test]
fn kinds_are_those_of_qemu() {
    let all = list(&cpus(), None, true);
    let parent = |name: &str| all.iter().find(|one| one.name == name).and_then(|one| one.parent.as_deref());

    assert_eq!((parent("ide-hd"), parent("scsi-cd")), (Some("ide-device"), Some("scsi-disk-base")));
    assert_eq!((parent("iothread"), parent("kvm-pit")), (Some("event-loop-base"), Some("pit-common")));
    assert_eq!((parent("none-machine"), parent("x86_64-cpu")), (Some("machine"), Some("cpu")));
    assert!(!names(Some("isa-device"), false).contains(&"ide-hd".into()));
    assert!(names(Some("cpu"), false).contains(&"max-x86_64-cpu".into()));
    assert!(names(Some("pci-device"), false).contains(&"virtio-blk-pci".into()));
}

#[test]
fn types_of_properties_are_those_of_qemu() {
    let r#type = |typename: &str, property: &str| {
        let all = object_properties(&cpus(), typename).unwrap();
        all.into_iter().find(|one| one.name == property).map(|one| one.r#type)
    };

    for (typename, property, expected) in [
        ("memory-backend-file", "mem-path", "string"),
        ("memory-backend-ram", "size", "int"),
        ("virtio-blk-pci", "iothread", "link<iothread>"),
        ("virtio-blk-pci", "queue-size", "uint16"),
        ("virtio-rng-pci", "rng", "link<rng-backend>"),
        ("ide-hd", "realized", "bool"),
        ("max-x86_64-cpu", "migratable", "bool"),
        ("qemu64-x86_64-cpu", "avx", "bool"),
    ] {
        assert_eq!(r#type(typename, property).as_deref(), Some(expected), "{typename}.{property}");
    }
    assert_eq!((r#type("qemu64-x86_64-cpu", "migratable"), r#type("iothread", "realized")), (None, None));
}

#[test]
fn unknown_types_are_of_the_class_that_managers_expect() {
    let error = device_properties(&cpus(), "qxl").unwrap_err();
    assert_eq!((error.class, error.desc.as_str()), (ErrorClass::DeviceNotFound, "Device 'qxl' not found"));
    let error = object_properties(&cpus(), "qxl").unwrap_err();
    assert_eq!((error.class, error.desc.as_str()), (ErrorClass::DeviceNotFound, "Class 'qxl' not found"));
    let error = device_properties(&cpus(), "iothread").unwrap_err();
    assert_eq!(error.desc, "Parameter 'typename' expects a non-abstract device type");
}

#[test]
fn device_properties_are_those_of_the_command_line() {
    let found = device_properties(&cpus(), "virtio-blk-pci").unwrap();
    for name in ["drive", "serial", "num-queues", "write-cache", "addr"] {
        assert!(found.iter().any(|one| one.name == name), "{name}");
    }
    assert!(found.iter().all(|one| one.name != "id"));
    let pit = device_properties(&cpus(), "kvm-pit").unwrap();
    assert_eq!(pit[0].default_value, Some(json!("delay")));
}

#[test]
fn options_have_their_parameters_once_and_unknown_ones_are_refused() {
    let all = command_line_options(None).unwrap();
    for option in &all {
        let mut names: Vec<_> = option.parameters.iter().map(|one| &one.name).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "{}", option.option);
    }
    let mon = command_line_options(Some("mon")).unwrap();
    assert!(
        mon[0].parameters.iter().any(|one| one.name == "pretty" && one.r#type == CommandLineParameterType::Boolean)
    );
    assert!(!all.iter().any(|one| one.option == "spice"));
    assert_eq!(command_line_options(Some("nope")).unwrap_err().desc, "invalid option name: nope");
}
