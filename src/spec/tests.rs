use serde_json::{Map, Value, json};

use super::describe::{Describe, DescribeUnion, Kind, Union};
use super::device::{DiskSpec, OnError, VirtioBlkSpec};
use super::object::ThrottleLimits;
use super::pci::OnOffAuto;
use super::read::Source;
use super::*;

mod scalars;
mod wire;

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("not an object: {other}"),
    }
}

fn device(value: Value, source: Source) -> Result<DeviceSpec, String> {
    DeviceSpec::read(object(value), source).map_err(|error| error.to_string())
}

#[test]
fn text_and_json_make_the_same_disk() {
    let text = json!({"driver": "virtio-blk-pci", "drive": "d", "addr": "0x2", "num-queues": "0x4", "event_idx": "no",
                      "min_io_size": "4k", "write-cache": "on"});
    let typed = json!({"driver": "virtio-blk-pci", "drive": "d", "addr": 16, "num-queues": 4, "event_idx": false,
                       "min_io_size": 4096, "write-cache": "on"});

    let from_text = device(text, Source::Text);
    let from_json = device(typed, Source::Json);

    assert_eq!(from_text, from_json);
    let Ok(DeviceSpec::VirtioBlk(disk)) = from_text else { panic!("{from_text:?}") };
    assert_eq!(disk.num_queues, Some(4));
    assert_eq!(disk.pci.addr, PciAddr::new(2, 0));
    assert_eq!(disk.disk.write_cache, OnOffAuto::On);
    assert_eq!(disk.queue_size, 256);
}

#[test]
fn alias_becomes_the_full_name() {
    let spec = device(json!({"driver": "virtio-blk", "drive": "d"}), Source::Json);

    assert_eq!(spec.map(|spec| spec.type_name()), Ok("virtio-blk-pci"));
}

#[test]
fn device_mistakes_have_qemus_words() {
    let table = [
        (json!({}), "Parameter 'driver' is missing"),
        (json!({"driver": "foo"}), "'foo' is not a valid device model name"),
        (
            json!({"driver": "virtio-blk-pcj"}),
            "'virtio-blk-pcj' is not a valid device model name; did you mean 'virtio-blk-pci'?",
        ),
        (json!({"driver": "virtio-rng-pci", "zz": 1}), "Property 'virtio-rng-pci.zz' not found"),
        (
            json!({"driver": "virtio-rng-pci", "perid": 1}),
            "Property 'virtio-rng-pci.perid' not found; did you mean 'period'?",
        ),
        (json!({"driver": "virtio-rng-pci", "period": "1"}), "Parameter 'period' expects uint64"),
        (json!({"driver": "isa-serial", "index": true}), "Parameter 'index' expects uint64"),
        (
            json!({"driver": "virtio-blk-pci", "drive": "d", "logical_block_size": "512"}),
            "Parameter 'logical_block_size' expects uint64",
        ),
        (
            json!({"driver": "virtio-blk-pci", "drive": "d", "bootindex": "1"}),
            "Invalid parameter type for 'bootindex', expected: integer",
        ),
        (json!({"driver": "virtio-blk-pci"}), "Parameter 'drive' is missing"),
        (
            json!({"driver": "virtio-blk-pci", "drive": "d", "werror": "x"}),
            "Parameter 'werror' does not accept value 'x'; it takes auto, report, ignore, stop or enospc",
        ),
        (
            json!({"driver": "virtio-rng-pci", "addr": "40"}),
            "Property 'virtio-rng-pci.addr' doesn't take value '40'; it expects a slot from 0 to 1f, in hexadecimal, \
             with an optional function from 0 to 7, as in 05.0",
        ),
    ];
    for (value, message) in table {
        assert_eq!(device(value, Source::Json).unwrap_err(), message);
    }
}

#[test]
fn number_out_of_range_says_the_range() {
    let spec = device(json!({"driver": "isa-debugcon", "chardev": "c", "iobase": "70000"}), Source::Text);

    assert_eq!(spec.unwrap_err(), "Parameter 'iobase' expects uint16 from 0 to 65535");
}

#[test]
fn nested_group_is_named_in_full() {
    let spec = ObjectSpec::read(
        object(json!({"qom-type": "throttle-group", "id": "t", "limits": {"iops-total": "x"}})),
        Source::Text,
    );

    assert_eq!(spec.unwrap_err().to_string(), "Parameter 'limits.iops-total' expects integer");
}

#[test]
fn contradicting_limits_are_refused() {
    let limits = ThrottleLimits { bps_total: 1, bps_read: 1, ..ThrottleLimits::default() };

    assert!(limits.check().is_err());
}

#[test]
fn description_has_name_type_default_and_help() {
    let description = VirtioBlkSpec::DESCRIPTION;

    let prop = description.find("queue-size").expect("declared");

    assert_eq!(prop.kind.name(), "uint16");
    assert_eq!(description.default_of(prop), Some(json!(256)));
    assert_eq!(prop.help(), "Entries of each queue: a power of two from 4 to 1024");
    assert!(description.find("multifunction").is_some());
    assert!(description.find("drive").is_some_and(|drive| drive.required));
}

#[test]
fn defaults_read_back_as_defaults() {
    let spec = device(json!({"driver": "virtio-blk-pci", "drive": "d"}), Source::Json).expect("valid");

    let again: DeviceSpec = serde_json::from_value(serde_json::to_value(&spec).expect("serializes")).expect("reads");

    assert_eq!(again, spec);
    let disk = DiskSpec { werror: OnError::Auto, ..DiskSpec::default() };
    let expected = VirtioBlkSpec { drive: "d".into(), disk, ..VirtioBlkSpec::default() };
    assert_eq!(spec, DeviceSpec::VirtioBlk(expected));
}

#[test]
fn serde_alone_refuses_what_is_not_declared() {
    let unknown = json!({"driver": "virtio-rng-pci", "period": 1, "zz": 1});

    assert!(serde_json::from_value::<DeviceSpec>(unknown).is_err());
}

fn unions() -> [&'static Union; 4] {
    [DeviceSpec::UNION, ObjectSpec::UNION, ChardevSpec::UNION, smbios::SmbiosSpec::UNION]
}

#[test]
fn every_property_has_help_and_is_declared_once() {
    for variant in unions().into_iter().flat_map(|union| union.variants) {
        let mut seen = Vec::new();
        for prop in variant.description.props() {
            assert!(!prop.help().is_empty(), "{}.{}", variant.name, prop.name);
            assert!(!seen.contains(&prop.name), "{}.{}", variant.name, prop.name);
            seen.push(prop.name);
        }
    }
}

#[test]
fn every_default_has_the_type_of_its_property() {
    for variant in unions().into_iter().flat_map(|union| union.variants) {
        for prop in variant.description.props() {
            let Some(default) = variant.description.default_of(prop) else { continue };
            let fits = match prop.kind {
                Kind::Bool => default.is_boolean(),
                Kind::Int { .. } | Kind::Size => default.is_number(),
                Kind::Str => default.is_string(),
                Kind::Enum(words) => default.as_str().is_some_and(|word| words.words.contains(&word)),
                Kind::Struct(_) => default.is_object(),
                Kind::List(_) => default.is_array(),
                Kind::Parsed(_) | Kind::Any => true,
            };
            assert!(fits, "{}.{}: {default}", variant.name, prop.name);
        }
    }
}
