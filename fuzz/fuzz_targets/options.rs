//! A command line, one word a line. Nothing of it is opened: what is fuzzed ends with the typed request.

#![no_main]

use std::ffi::OsString;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = rhea::cli::parse("rhea", text.lines().map(OsString::from));
});
