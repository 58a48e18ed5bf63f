use std::ffi::OsString;

use crate::cli::{Invocation, parse, table};
use crate::spec::chardev::ChardevSpec;
use crate::spec::describe::DescribeUnion;
use crate::spec::{DeviceSpec, ObjectSpec};

use super::{line, message, printed, words};

#[test]
fn help_has_every_option() {
    let help = printed("-help");

    for option in table::all() {
        let head = format!("\n-{}", option.name);
        let found = help.match_indices(&head).any(|(at, _)| help[at + head.len()..].starts_with([' ', '\n']));
        assert!(found, "{}", option.name);
    }
    assert_eq!(help, printed("--help"));
    assert_eq!(help, printed("-h"));
    assert!(help.lines().all(|line| line.len() <= 130), "{help}");
}

#[test]
fn version_begins_as_qemus_under_qemus_name() {
    let version = |name: &str| match parse(name, [OsString::from("-version")]) {
        Ok(Invocation::Print(text)) => text,
        other => panic!("{other:?}"),
    };

    assert!(version("qemu-system-x86_64").starts_with("QEMU emulator version 7.2.0 (Rhea "));
    assert!(version("kvm").starts_with("QEMU emulator version 7.2.0 "));
    assert!(version("rhea").starts_with("Rhea "));
}

#[test]
fn lists_have_what_there_is() {
    assert!(
        printed("-machine help")
            .contains("pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)")
    );
    assert!(printed("-cpu help").contains("x86 qemu64"));
    assert!(printed("-cpu help").contains(" sse4.2 "));
    let (devices, objects, chardevs) = (printed("-device help"), printed("-object help"), printed("-chardev help"));
    assert!(devices.contains("name \"ide-cd\", bus IDE, "), "{devices}");
    for name in DeviceSpec::UNION.names() {
        assert!(devices.contains(&format!("name \"{name}\"")));
    }
    for name in ObjectSpec::UNION.names() {
        assert!(objects.contains(&format!("  {name}\n")));
    }
    for name in ChardevSpec::UNION.names() {
        assert!(chardevs.contains(&format!("  {name}\n")));
    }
}

#[test]
fn every_type_lists_its_properties() {
    let kinds = [("device", DeviceSpec::UNION), ("object", ObjectSpec::UNION), ("chardev", ChardevSpec::UNION)];
    for (option, union) in kinds {
        for variant in union.variants {
            let help = printed(&format!("-{option} {},help", variant.name));
            for prop in variant.description.own {
                assert!(help.contains(&format!("  {}", prop.name)), "{}: {help}", prop.name);
            }
        }
    }
}

#[test]
fn property_help_says_type_and_default() {
    let help = printed("-device virtio-blk-pci,help");

    assert!(help.starts_with("virtio-blk-pci options:\n"));
    assert!(
        help.contains(
            "  queue-size=<uint16>    - Entries of each queue: a power of two from 4 to 1024 (default: 256)\n"
        )
    );
    assert!(help.contains(
        "  share-rw=<bool>        - Let other devices and other programs that say the same write to the image, too (default: off)\n"
    ));
    assert!(help.contains("  drive=<str>            - Node name or drive id of the disk (required)\n"));
}

#[test]
fn help_is_found_wherever_it_stands() {
    let (devices, serial) = (printed("-device help"), printed("-device isa-serial,help"));

    for line in ["-device ?", "-device help,foo", "-device driver=help,id=a"] {
        assert_eq!(printed(line), devices, "{line}");
    }
    for line in ["-device isa-serial,index=1,help", "-device isa-serial,?", "-device id=a,driver=isa-serial,help=x"] {
        assert_eq!(printed(line), serial, "{line}");
    }
    assert_eq!(printed("-machine nosuch,help"), printed("-machine help"));
    assert_eq!(printed("-object help,id=a"), printed("-object help"));
}

#[test]
fn help_of_no_type_is_told() {
    // QEMU tells it and ends with status 0.
    match words("-device foo,help") {
        Ok(Invocation::Tell(error)) => assert_eq!(line(&error), "rhea: -device foo,help: Device 'foo' not found"),
        other => panic!("{other:?}"),
    }
    let wrong = message("-object foo,help");
    assert!(wrong.starts_with("rhea: -object foo,help: Parameter 'qom-type' does not accept value 'foo'"), "{wrong}");
}
