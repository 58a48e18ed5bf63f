//! The options there are: one line each, from which both the reading and the help follow.

use super::arg::Arg;
use super::draft::Draft;
use super::error::Stop;

/// What an option does.
#[derive(Clone, Copy)]
pub(super) enum Action {
    /// It changes the draft.
    Apply(fn(&mut Draft, &Arg) -> Result<(), Stop>),
    /// QEMU has it and this program has not: what would work instead.
    Refuse(&'static str),
    /// It is accepted and changes nothing: see `spec::meaningless`.
    Meaningless(&'static str),
}

/// An option.
#[derive(Clone, Copy)]
pub(super) struct OptionDef {
    /// Its name, without dashes.
    pub(super) name: &'static str,
    /// The form of its argument; nothing if it takes none.
    pub(super) argument: Option<&'static str>,
    /// A sentence.
    pub(super) help: &'static str,
    /// What it does.
    pub(super) action: Action,
}

/// Options under one heading of the help.
pub(super) struct Section {
    /// The heading.
    pub(super) title: &'static str,
    /// The options.
    pub(super) options: &'static [OptionDef],
}

/// An option that takes an argument.
pub(super) const fn takes(
    name: &'static str,
    argument: &'static str,
    help: &'static str,
    apply: fn(&mut Draft, &Arg) -> Result<(), Stop>,
) -> OptionDef {
    OptionDef { name, argument: Some(argument), help, action: Action::Apply(apply) }
}

/// An option that takes none.
pub(super) const fn flag(
    name: &'static str,
    help: &'static str,
    apply: fn(&mut Draft, &Arg) -> Result<(), Stop>,
) -> OptionDef {
    OptionDef { name, argument: None, help, action: Action::Apply(apply) }
}

/// An option that takes an argument and is refused.
pub(super) const fn refused(name: &'static str, argument: &'static str, instead: &'static str) -> OptionDef {
    OptionDef { name, argument: Some(argument), help: instead, action: Action::Refuse(instead) }
}

/// An option that takes none and is refused.
pub(super) const fn refused_flag(name: &'static str, instead: &'static str) -> OptionDef {
    OptionDef { name, argument: None, help: instead, action: Action::Refuse(instead) }
}

/// All options.
pub(super) const SECTIONS: &[Section] = &[
    Section { title: "Machine", options: super::machine::OPTIONS },
    Section { title: "What the guest starts", options: super::boot::OPTIONS },
    Section { title: "Disks", options: super::disk::OPTIONS },
    Section { title: "Devices and objects", options: super::device::OPTIONS },
    Section { title: "Serial ports, monitors and character devices", options: super::chars::OPTIONS },
    Section { title: "The process", options: super::process::OPTIONS },
    Section { title: "Help", options: super::help::OPTIONS },
    Section { title: "Accepted without effect", options: super::refused::MEANINGLESS },
    Section { title: "QEMU's options that are not supported", options: super::refused::OPTIONS },
];

/// The option of this name.
pub(super) fn find(name: &str) -> Option<&'static OptionDef> {
    all().find(|option| option.name == name)
}

/// Every option.
pub(super) fn all() -> impl Iterator<Item = &'static OptionDef> {
    SECTIONS.iter().flat_map(|section| section.options)
}
