//! The image tool: `rhea img VERB ...`, also under the name `qemu-img`.
//!
//! Each verb is a thin caller of the block library. Options, output and exit codes are those of qemu-img, as scripts
//! know them; `docs/img.md` lists where they differ.

use std::ffi::OsString;
use std::process::ExitCode;

mod amend;
mod args;
mod bench;
mod bitmap;
mod bitmap_copy;
mod check;
mod clock;
mod commit;
mod compare;
mod convert;
mod create;
mod dd;
mod error;
mod extents;
mod help;
mod info;
mod keyval;
mod map;
mod measure;
pub mod nbd;
mod open;
mod output;
mod progress;
mod rebase;
mod resize;
mod secrets;
mod size;
pub(crate) mod snapshot;
mod target;

pub(crate) use info::format_specific_lines;

use crate::logging;
use args::{Opt, Parsed};
use error::ImgError;

/// A verb: its name, its options and what it does.
struct Verb {
    name: &'static str,
    options: &'static [Opt],
    run: fn(&Parsed) -> Result<(), ImgError>,
}

/// All verbs, by name.
const VERBS: &[Verb] = &[
    Verb { name: "amend", options: amend::OPTIONS, run: amend::run },
    Verb { name: "bench", options: bench::OPTIONS, run: bench::run },
    Verb { name: "bitmap", options: bitmap::OPTIONS, run: bitmap::run },
    Verb { name: "check", options: check::OPTIONS, run: check::run },
    Verb { name: "commit", options: commit::OPTIONS, run: commit::run },
    Verb { name: "compare", options: compare::OPTIONS, run: compare::run },
    Verb { name: "convert", options: convert::OPTIONS, run: convert::run },
    Verb { name: "create", options: create::OPTIONS, run: create::run },
    Verb { name: "dd", options: dd::OPTIONS, run: dd::run },
    Verb { name: "info", options: info::OPTIONS, run: info::run },
    Verb { name: "map", options: map::OPTIONS, run: map::run },
    Verb { name: "measure", options: measure::OPTIONS, run: measure::run },
    Verb { name: "rebase", options: rebase::OPTIONS, run: rebase::run },
    Verb { name: "resize", options: resize::OPTIONS, run: resize::run },
    Verb { name: "snapshot", options: snapshot::OPTIONS, run: snapshot::run },
];

/// Runs the image tool. `program` is what messages begin with (`qemu-img`, or `rhea img`); `args` are the words after
/// that name. The exit code is what qemu-img's would be.
#[must_use]
pub fn main(program: &str, args: Vec<OsString>) -> ExitCode {
    error::set_program(program);
    logging::start_warnings(program);
    match run(program, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            e.report(program);
            ExitCode::from(e.code())
        }
    }
}

fn run(program: &str, args: Vec<OsString>) -> Result<(), ImgError> {
    let mut words = args.into_iter();
    let Some(first) = words.next() else { return Err(ImgError::Usage("Not enough arguments".to_owned())) };
    let first = first.to_string_lossy().into_owned();
    match first.as_str() {
        "-h" | "--help" | "help" => return output::line(help::all(program)),
        "-V" | "--version" => {
            let (level, own) = (crate::cli::QEMU_VERSION, env!("CARGO_PKG_VERSION"));
            return output::line(format!("{program} version {level} (Rhea {own})"));
        }
        "-T" | "--trace" => {
            return Err(ImgError::Usage("tracing is not supported: leave out -T".to_owned()));
        }
        _ if first.starts_with('-') => return Err(ImgError::Usage(format!("unrecognized option '{first}'"))),
        _ => {}
    }
    let verb = VERBS.iter().find(|verb| verb.name == first);
    let verb = verb.ok_or_else(|| ImgError::Usage(format!("Command not found: {first}")))?;
    let words: Vec<OsString> = words.collect();
    if words.iter().any(|word| word == "-h" || word == "--help") {
        return output::line(help::verb(program, verb.name));
    }
    let mut parsed = if verb.name == "resize" { resize::words(words)? } else { args::parse(words, verb.options)? };
    progress::answer_signals();
    parsed.secrets = secrets::of(&parsed)?;
    (verb.run)(&parsed)
}

#[cfg(test)]
mod tests;
