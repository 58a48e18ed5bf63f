use proptest::prelude::*;
use serde_json::json;

use crate::spec::error::{Shown, listed, nearest};
use crate::spec::number::{parse_bool, parse_int, parse_size};
use crate::spec::{PciAddr, Uuid, check_id};

#[test]
fn sizes_have_suffixes_fractions_and_limits() {
    let table = [
        ("0", Some(0)),
        ("512", Some(512)),
        ("1k", Some(1 << 10)),
        ("1K", Some(1 << 10)),
        ("3B", Some(3)),
        ("1.5M", Some(3 << 19)),
        ("0.5E", Some(1 << 59)),
        ("15E", Some(15 << 60)),
        ("16E", None),
        ("0x1000", Some(4096)),
        ("18446744073709551615", Some(u64::MAX)),
        ("18446744073709551616", None),
        ("1.0", Some(1)),
        ("1.5", None),
        ("1.5B", None),
        ("", None),
        ("k", None),
        ("-1", None),
        ("+1", None),
        (".5M", None),
        ("1 M", None),
        ("1é", None),
        ("1Z", None),
        ("0x", None),
        ("0x-1", None),
    ];
    for (text, bytes) in table {
        assert_eq!(parse_size(text, 1), bytes, "{text}");
    }
    assert_eq!(parse_size("2", 1 << 20), Some(2 << 20));
    assert_eq!(parse_size("64.0", 1 << 20), Some(64 << 20));
    assert_eq!(parse_size("64.5", 1 << 20), None);
}

#[test]
fn numbers_have_bases_and_signs() {
    let table = [
        ("10", Some(10)),
        ("0x1f", Some(31)),
        ("010", Some(8)),
        ("-5", Some(-5)),
        ("+5", Some(5)),
        ("0", Some(0)),
        ("08", None),
        ("", None),
        ("-", None),
        ("--1", None),
        ("1x", None),
        ("0x+1", None),
    ];
    for (text, number) in table {
        assert_eq!(parse_int(text), number, "{text}");
    }
}

#[test]
fn truth_has_eight_words() {
    assert!(["on", "yes", "true", "y"].iter().all(|word| parse_bool(word) == Some(true)));
    assert!(["off", "no", "false", "n"].iter().all(|word| parse_bool(word) == Some(false)));
    assert_eq!(parse_bool("On"), None);
}

#[test]
fn pci_addresses_have_qemus_forms() {
    let table = [
        ("5", PciAddr::new(5, 0)),
        ("0x5", PciAddr::new(5, 0)),
        ("05.0", PciAddr::new(5, 0)),
        ("5.1", PciAddr::new(5, 1)),
        ("0x1.0x2", PciAddr::new(1, 2)),
        ("1f.7", PciAddr::new(31, 7)),
        ("20", None),
        ("1.8", None),
        ("", None),
        ("1.", None),
        ("1.2.3", None),
        ("+1", None),
    ];
    for (text, addr) in table {
        assert_eq!(text.parse().ok(), addr, "{text}");
    }
    assert_eq!(serde_json::from_value(json!(0x2a)).ok(), PciAddr::new(5, 2));
    assert!(serde_json::from_value::<PciAddr>(json!(-1)).is_err());
    assert!(serde_json::from_value::<PciAddr>(json!(256)).is_err());
}

#[test]
fn identifiers_begin_with_a_letter() {
    for id in ["a", "virtio-disk0", "a.b_c"] {
        assert!(check_id(id).is_ok(), "{id}");
    }
    for id in ["", "1a", "#block1", "a b", "ä", "a/b", &"a".repeat(128)] {
        assert!(check_id(id).is_err(), "{id}");
    }
}

#[test]
fn near_names_are_found_and_far_ones_are_not() {
    let known = ["virtio-blk-pci", "virtio-rng-pci", "isa-serial"];

    assert_eq!(nearest("virtio-blk-pc", known), Some("virtio-blk-pci"));
    assert_eq!(nearest("isa-serail", known), Some("isa-serial"));
    assert_eq!(nearest("e1000", known), None);
    assert_eq!(nearest(&"x".repeat(100_000), known), None);
}

#[test]
fn lists_read_as_a_sentence() {
    assert_eq!(listed(&["a", "b", "c"]), "a, b or c");
    assert_eq!(listed(&["a"]), "a");
}

#[test]
fn shown_text_is_short_and_on_one_line() {
    assert_eq!(Shown("a\nb").to_string(), "a\\nb");
    assert_eq!(Shown(&"x".repeat(10_000)).to_string().len(), 515);
}

proptest! {
    #[test]
    fn uuid_is_written_as_it_was_read(bytes in any::<[u8; 16]>()) {
        let text = Uuid(bytes).to_string();

        prop_assert_eq!(text.parse::<Uuid>(), Ok(Uuid(bytes)));
    }

    #[test]
    fn any_text_is_a_scalar_or_none(text in "\\PC{0,24}") {
        let _ = (parse_size(&text, 1 << 20), parse_int(&text), parse_bool(&text));
        let _ = (text.parse::<PciAddr>(), text.parse::<Uuid>());
    }

    #[test]
    fn whole_sizes_are_read_back(bytes in any::<u64>()) {
        prop_assert_eq!(parse_size(&bytes.to_string(), 1), Some(bytes));
        prop_assert_eq!(parse_size(&format!("{bytes:#x}"), 1), Some(bytes));
    }
}
