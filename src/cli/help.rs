//! What `-help` and its relatives print; all of it comes from the tables and descriptions that parse.

use std::fmt::Write;

use rhea_arch::x86_64::cpu::{features, models};
use serde_json::Value;

use crate::spec::chardev::ChardevSpec;
use crate::spec::describe::{Describe, DescribeUnion, Description, Kind, Prop};
use crate::spec::error::{Shown, SpecError, listed};
use crate::spec::machine::MACHINES;
use crate::spec::{DeviceSpec, ObjectSpec};

use super::arg::Arg;
use super::draft::Draft;
use super::error::Stop;
use super::process::ITEMS;
use super::table::{Action, OptionDef, SECTIONS, flag};

pub(super) const OPTIONS: &[OptionDef] =
    &[flag("help", "print this", help), flag("h", "print this", help), flag("version", "print the version", version)];

/// Columns before the sentence of an option.
const INDENT: usize = 16;
/// Columns of the whole.
const WIDTH: usize = 100;
/// Columns of the list of CPU features.
const FEATURE_COLUMNS: usize = 75;

fn help(draft: &mut Draft, _: &Arg) -> Result<(), Stop> {
    Err(Stop::Print(whole(&draft.program)))
}

fn version(draft: &mut Draft, _: &Arg) -> Result<(), Stop> {
    Err(Stop::Print(version_text(&draft.program)))
}

/// The QEMU whose behaviour this program has, as `major.minor.micro`.
pub const QEMU_VERSION: &str = "7.2.0";

/// One line. Under QEMU's names it begins as QEMU's, because programs look for that.
pub(super) fn version_text(program: &str) -> String {
    let own = env!("CARGO_PKG_VERSION");
    if program.starts_with("qemu") || program == "kvm" {
        format!("QEMU emulator version {QEMU_VERSION} (Rhea {own})\n")
    } else {
        format!("Rhea {own} (QEMU {QEMU_VERSION} compatible)\n")
    }
}

/// All options.
pub(super) fn whole(program: &str) -> String {
    let mut out = version_text(program);
    let _ = write!(out, "usage: {} [OPTION...]\n\n", Shown(program));
    out.push_str("Options have one or two dashes. A comma in a value is written twice.\n");
    for section in SECTIONS {
        let _ = write!(out, "\n{}:\n", section.title);
        for option in section.options {
            describe(&mut out, option);
        }
    }
    out
}

fn describe(out: &mut String, option: &OptionDef) {
    let head = match option.argument {
        Some(argument) => format!("-{} {argument}", option.name),
        None => format!("-{}", option.name),
    };
    out.push_str(&head);
    let sentence = match option.action {
        Action::Refuse(instead) => instead,
        Action::Meaningless(reason) => reason,
        Action::Apply(_) => option.help,
    };
    let mut column = head.len();
    if column >= INDENT {
        out.push('\n');
        column = 0;
    }
    let mut first = true;
    for word in sentence.split(' ') {
        if !first && column + 1 + word.len() > WIDTH {
            out.push('\n');
            column = 0;
        }
        let pad = if column < INDENT { INDENT - column } else { 1 };
        let _ = write!(out, "{:pad$}{word}", "");
        column += pad + word.len();
        first = false;
    }
    out.push('\n');
}

/// `-machine help`.
pub(super) fn machines() -> String {
    let mut out = String::from("Supported machines are:\n");
    for machine in MACHINES {
        if let Some(alias) = machine.alias {
            let _ = writeln!(out, "{alias:<20} {} (alias of {})", machine.help, machine.name);
        }
        let default = if machine.is_default { " (default)" } else { "" };
        let _ = writeln!(out, "{:<20} {}{default}", machine.name, machine.help);
    }
    out
}

/// `-cpu help`.
pub(super) fn cpus() -> String {
    let mut out = String::from("Available CPUs:\n");
    for (name, help) in models::names() {
        let _ = writeln!(out, "{}", format!("x86 {name:<20}  {help}").trim_end());
    }
    out.push_str("\nRecognized CPUID flags:\n");
    let mut line = String::new();
    for feature in features::names() {
        if line.len() + 1 + feature.len() > FEATURE_COLUMNS {
            let _ = writeln!(out, " {line}");
            line.clear();
        }
        line.push(' ');
        line.push_str(feature);
    }
    let _ = writeln!(out, " {line}");
    out
}

/// `-device help`.
pub(super) fn devices() -> String {
    let mut out = String::new();
    for variant in DeviceSpec::UNION.variants {
        let bus = DeviceSpec::bus_type(variant.name);
        let _ = write!(out, "name \"{}\", bus {bus}", variant.name);
        for alias in variant.aliases {
            let _ = write!(out, ", alias \"{alias}\"");
        }
        let _ = writeln!(out, ", desc \"{}\"", variant.description.help());
    }
    out
}

/// `-device TYPE,help`.
pub(super) fn device(name: &str) -> Result<String, SpecError> {
    let unknown = |_| SpecError::new(format!("Device '{}' not found", Shown(name)));
    DeviceSpec::variant(name).map(|variant| list(variant.name, variant.description)).map_err(unknown)
}

/// `-object help`.
pub(super) fn objects() -> String {
    let mut names = ObjectSpec::UNION.names();
    names.sort_unstable();
    format!("List of user creatable objects:\n  {}\n", names.join("\n  "))
}

/// `-object TYPE,help`.
pub(super) fn object(name: &str) -> Result<String, SpecError> {
    ObjectSpec::variant(name).map(|variant| list(variant.name, variant.description))
}

/// `-chardev help`.
pub(super) fn chardevs() -> String {
    format!("Available chardev backend types:\n  {}\n", ChardevSpec::names().join("\n  "))
}

/// `-chardev TYPE,help`.
pub(super) fn chardev(name: &str) -> Result<String, SpecError> {
    ChardevSpec::variant(name).map(|variant| list(variant.name, variant.description))
}

/// The properties of a type.
pub(super) fn properties<T: Describe>() -> String {
    list(T::DESCRIPTION.name, T::DESCRIPTION)
}

/// `-d help`.
pub(super) fn log_items() -> String {
    let mut out = String::from("Log items (comma separated):\n");
    for (name, _, help) in ITEMS {
        let _ = writeln!(out, "{name:<15} {help}");
    }
    out
}

/// `NAME options:` and a line for each property, by name.
fn list(name: &str, description: &'static Description) -> String {
    let mut out = format!("{name} options:\n");
    let mut props = description.props();
    props.sort_unstable_by_key(|prop| prop.name);
    for prop in props {
        property(&mut out, "", prop, description.default_of(prop));
    }
    out
}

fn property(out: &mut String, prefix: &str, prop: &Prop, default: Option<Value>) {
    if let Kind::Struct(inner) = prop.kind {
        for below in inner.props() {
            property(out, &format!("{prefix}{}.", prop.name), below, inner.default_of(below));
        }
        return;
    }
    let head = format!("  {prefix}{}=<{}>", prop.name, prop.kind.name());
    let mut help = prop.help();
    if let Kind::Enum(words) = prop.kind {
        let _ = write!(help, ": {}", listed(words.words));
    }
    let _ = write!(out, "{head:<24} - {help}");
    match default {
        _ if prop.required => out.push_str(" (required)"),
        Some(Value::Bool(on)) => {
            let _ = write!(out, " (default: {})", if on { "on" } else { "off" });
        }
        Some(value) => {
            let _ = write!(out, " (default: {value})");
        }
        None => {}
    }
    out.push('\n');
}
