//! Words, sizes and option text.

use std::ffi::OsString;

use crate::img::args::{Opt, Parsed, parse};
use crate::img::error::ImgError;
use crate::img::{keyval, size};

const TABLE: &[Opt] = &[
    Opt::flag('p'),
    Opt::flag('c'),
    Opt::value('O').or("target-format"),
    Opt::long_value("output"),
    Opt::long_flag("image-opts"),
];

fn read(words: &[&str]) -> Result<Parsed, ImgError> {
    parse(words.iter().map(OsString::from).collect(), TABLE)
}

#[test]
fn cluster_ends_in_a_value() {
    let parsed = read(&["-pcOqcow2", "a", "-p", "b"]).unwrap();

    assert!(parsed.has("p") && parsed.has("c"));
    assert_eq!(parsed.get("O"), Some("qcow2"));
    assert_eq!(parsed.operands, ["a", "b"]);
}

#[test]
fn long_options_take_values_both_ways_and_can_be_cut_short() {
    let parsed = read(&["--output=json", "--image", "--outp", "human", "--target-format", "raw"]).unwrap();

    assert_eq!(parsed.all("output").collect::<Vec<_>>(), ["json", "human"]);
    assert!(parsed.has("image-opts"));
    assert_eq!(parsed.get("O"), Some("raw"));
}

#[test]
fn after_two_dashes_all_are_operands() {
    let parsed = read(&["a", "--", "-p", "--", "-"]).unwrap();

    assert_eq!(parsed.operands, ["a", "-p", "--", "-"]);
    assert!(!parsed.has("p"));
}

#[test]
fn mistakes_name_the_word() {
    let said = |words: &[&str]| read(words).unwrap_err().to_string();

    assert_eq!(said(&["-pZ"]), "unrecognized option '-pZ'");
    assert_eq!(said(&["--image-opts=x"]), "unrecognized option '--image-opts=x'");
    assert_eq!(said(&["-O"]), "missing argument for option '-O'");
    assert_eq!(said(&["--output"]), "missing argument for option '--output'");
}

#[test]
fn sizes_are_read_as_written() {
    assert_eq!(size::parse("1.5G"), Ok(3 << 29));
    assert_eq!(size::parse("0x10"), Ok(16));
    assert_eq!(size::parse("7b"), Ok(7));
    assert_eq!(size::parse("8E"), Err(size::Wrong::Range));
    assert_eq!(size::parse("1X"), Err(size::Wrong::Text));
    assert_eq!(size::parse("-1"), Err(size::Wrong::Text));
    assert_eq!(size::parse("0.5"), Err(size::Wrong::Text));
    assert_eq!(size::parse(""), Err(size::Wrong::Text));
}

#[test]
fn sizes_are_written_with_three_digits() {
    let written = [0, 512, 999, 1000, 1024, 200_704, 1 << 30, 1500 << 20, u64::MAX].map(crate::spec::human_size);

    let expected =
        ["0 B", "512 B", "999 B", "0.977 KiB", "1 KiB", "196 KiB", "1 GiB", "1.46 GiB", "16 EiB"].map(str::to_owned);
    assert_eq!(written, expected);
}

#[test]
fn doubled_comma_is_part_of_the_value() {
    let pairs = keyval::pairs("file.filename=a,,b,driver=raw,x").unwrap();

    let expected = [("file.filename", "a,b"), ("driver", "raw"), ("x", "on")];
    assert_eq!(pairs, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
}

#[test]
fn key_that_is_value_and_object_is_refused() {
    let pairs = keyval::pairs("a=1,a.b=2").unwrap();

    assert!(keyval::nested(pairs).is_err());
}
