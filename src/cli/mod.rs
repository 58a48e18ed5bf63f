//! The command line: option text to JSON values to a [`VmSpec`], and the help from the same tables.
//!
//! ```text
//!  arguments ── table ──> Arg ── text ──> JSON object ── spec::read ──> typed spec ──> Draft ── finish ──> VmSpec
//! ```
//!
//! An option is one line of a table (module `table`): its name, the form of its argument, a sentence for the help and what
//! it does to the draft. Options that QEMU has and this program has not are in the table too, each with what would work.
//!
//! What this module refuses to know: files, devices, KVM. Nothing is opened here.

use std::ffi::{OsStr, OsString};

use crate::spec::VmSpec;
use crate::spec::error::{SpecError, did_you_mean};

mod arg;
mod boot;
mod chars;
mod device;
mod disk;
mod draft;
mod error;
mod globals;
mod help;
mod legacy;
mod machine;
mod process;
mod refused;
mod table;
#[cfg(test)]
mod tests;
pub(crate) mod text;

pub(crate) use chars::read_chardev;
pub(crate) use disk::read_drive;
pub use error::{CliError, Place};
pub use help::QEMU_VERSION;

use arg::Arg;
use draft::Draft;
use error::Stop;
use table::{Action, OptionDef};

/// What a command line asks for.
#[derive(Debug, PartialEq)]
pub enum Invocation {
    /// A machine.
    Run(Box<VmSpec>),
    /// This text on standard output, and nothing else; exit status 0.
    Print(String),
    /// This on standard error, and nothing else; exit status 0.
    Tell(CliError),
}

/// Most arguments; the kernel's own limit is higher still.
const MAX_ARGUMENTS: usize = 65_536;

/// Reads a whole command line. `program` is the name that the program was called by, which help and version print; it is
/// not among `args`.
///
/// # Errors
/// What is wrong, and what would work; nothing has been done by then.
pub fn parse(program: &str, args: impl IntoIterator<Item = OsString>) -> Result<Invocation, CliError> {
    let mut args = args.into_iter().take(MAX_ARGUMENTS);
    let mut draft = Draft { program: program.to_owned(), ..Draft::default() };
    while let Some(word) = args.next() {
        let (action, arg) = recognize(&word, &mut args)?;
        match apply(&mut draft, action, &arg) {
            Ok(()) => {}
            Err(Stop::Print(text)) => return Ok(Invocation::Print(text)),
            Err(Stop::NoHelp(error)) => return Ok(Invocation::Tell(arg.wrong(error))),
            Err(Stop::Wrong(error)) => return Err(arg.wrong(error)),
        }
    }
    draft.finish().map(|spec| Invocation::Run(Box::new(spec)))
}

/// What is done for a word that is no option: an image for the first IDE disk.
const IMAGE: Action = Action::Apply(disk::image);

/// Finds the option that `word` names and takes its argument from `args`.
fn recognize(word: &OsStr, args: &mut impl Iterator<Item = OsString>) -> Result<(Action, Arg), CliError> {
    let text = word.to_string_lossy();
    let Some(name) = text.strip_prefix('-').filter(|name| !name.is_empty()) else {
        return Ok((IMAGE, Arg::image(word.to_owned())));
    };
    let name = name.strip_prefix('-').unwrap_or(name);
    let bare = || Arg::new(text.clone().into_owned(), None);
    let Some(option) = table::find(name) else {
        let hint = did_you_mean(name, table::all().map(|option| option.name));
        return Err(bare().wrong(SpecError::new(format!("invalid option{hint}"))));
    };
    let OptionDef { argument, action, .. } = *option;
    if argument.is_none() {
        return Ok((action, bare()));
    }
    match args.next() {
        Some(value) => Ok((action, Arg::new(text.into_owned(), Some(value)))),
        None => Err(bare().wrong(SpecError::new("requires an argument"))),
    }
}

fn apply(draft: &mut Draft, action: Action, arg: &Arg) -> Result<(), Stop> {
    match action {
        Action::Apply(apply) => apply(draft, arg),
        Action::Meaningless(_) => Ok(()),
        Action::Refuse(instead) => Err(SpecError::new(format!("not supported; {instead}")).into()),
    }
}
