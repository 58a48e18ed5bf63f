//! Whatever is on the command line, the answer is a machine, a text, or one line.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use proptest::prelude::*;

use crate::cli::{parse, table};

use super::line;

fn option() -> impl Strategy<Value = String> {
    let names: Vec<&'static str> = table::all().map(|option| option.name).collect();
    prop_oneof![
        8 => proptest::sample::select(names).prop_map(|name| format!("-{name}")),
        1 => "-{0,3}[a-z]{0,6}",
    ]
}

/// Words that mean something in some option.
fn word() -> impl Strategy<Value = String> {
    let known = [
        "virtio-blk-pci",
        "virtio-rng-pci",
        "isa-serial",
        "memory-backend-ram",
        "socket",
        "file",
        "stdio",
        "mon:",
        "none",
        "unix:",
        "tcp:",
        "id",
        "drive",
        "size",
        "addr",
        "cpus",
        "type",
        "path",
        "server",
        "nowait",
        "host",
        "1",
        "0x10",
        "-1",
        "4096",
        "1G",
        "1.5T",
        "18446744073709551616",
        "on",
        "off",
        "node",
        "throttling",
        "limits",
        "0",
        "help",
        "kvm",
        "pc",
        "base",
        "2026-11-23",
        "fd",
        "set",
        "value",
        "qom-type",
        "driver",
        "backend",
    ];
    prop_oneof![6 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => "\\PC{0,8}"]
}

fn argument() -> impl Strategy<Value = OsString> {
    let text = proptest::collection::vec((word(), "[=,.:{}\\[\\]-]{0,2}"), 0..8)
        .prop_map(|parts| parts.into_iter().map(|(word, mark)| word + &mark).collect::<String>());
    let json = (word(), word(), any::<i64>(), word())
        .prop_map(|(a, b, n, c)| format!("{{\"driver\":{a:?},\"qom-type\":{b:?},\"id\":{n},\"{c}\":[{{}}]}}"));
    prop_oneof![
        6 => text.prop_map(OsString::from),
        2 => json.prop_map(OsString::from),
        1 => proptest::collection::vec(any::<u8>(), 0..16).prop_map(OsString::from_vec),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn any_command_line_has_an_answer(words in proptest::collection::vec((option(), proptest::option::of(argument())), 0..6)) {
        let mut args = Vec::new();
        for (option, argument) in words {
            args.push(option.into());
            args.extend(argument);
        }

        if let Err(error) = parse("rhea", args) {
            let message = line(&error);
            prop_assert!(message.starts_with("rhea: "), "{message:?}");
            prop_assert!(!message.contains(char::is_control), "{message:?}");
        }
    }
}

#[test]
fn deep_json_is_a_message() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{{\"driver\":{}1{}}}", open.repeat(100_000), close.repeat(100_000));

        let result = parse("rhea", ["-device", &deep].map(OsString::from));

        assert!(result.is_err_and(|error| line(&error).len() < 2000));
    }
}
