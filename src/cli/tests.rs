use std::error::Error;
use std::ffi::OsString;

use crate::chardev::config::Config;
use crate::spec::{ChardevSpec, VmSpec};

use super::{CliError, Invocation, parse};

mod accepted;
mod help;
mod libvirt;
mod numa;
mod random;
mod refused;
mod text;

/// Reads the words of `line`, parted by spaces, after the program's name.
fn words(line: &str) -> Result<Invocation, CliError> {
    list(&line.split_whitespace().collect::<Vec<_>>())
}

fn list(args: &[&str]) -> Result<Invocation, CliError> {
    parse("rhea", args.iter().map(OsString::from))
}

/// The error with its causes behind the program's name, as main prints it.
fn line(error: &CliError) -> String {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("rhea: {error}{cause}")
}

/// The machine that `line` asks for.
fn vm(line: &str) -> VmSpec {
    match words(line) {
        Ok(Invocation::Run(spec)) => *spec,
        other => panic!("{line}: {other:?}"),
    }
}

/// What the character devices' own code makes of one.
fn config(spec: &ChardevSpec) -> Config {
    Config::from_spec(spec).expect("complete")
}

/// The message that `line` ends in.
fn message(line: &str) -> String {
    match words(line) {
        Err(error) => self::line(&error),
        other => panic!("{line}: {other:?}"),
    }
}

/// The text that `line` prints.
fn printed(line: &str) -> String {
    match words(line) {
        Ok(Invocation::Print(text)) => text,
        other => panic!("{line}: {other:?}"),
    }
}
