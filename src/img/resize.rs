//! `resize`: a disk of another size.

use std::ffi::OsString;

use rhea_block::layer::Preallocation;

use super::args::{self, Opt, Parsed};
use super::error::{ImgError, chain};
use super::open::{self, Want};
use super::size::{self, Wrong};
use super::{output, target};

/// The verb's options.
pub(super) const OPTIONS: &[Opt] = &[
    open::OBJECT,
    open::IMAGE_OPTS,
    Opt::value('f').or("format"),
    Opt::long_value("preallocation"),
    Opt::flag('q').or("quiet"),
    Opt::long_flag("shrink"),
];

/// A size as it is asked for.
enum Change {
    To(u64),
    More(u64),
    Less(u64),
}

/// The last word is the size, also when it looks like an option (`-5M`).
///
/// # Errors
/// As [`args::parse`].
pub(super) fn words(mut words: Vec<OsString>) -> Result<Parsed, ImgError> {
    let size = words.pop().filter(|_| !words.is_empty());
    let size = size.ok_or_else(|| ImgError::Usage("Not enough arguments".to_owned()))?;
    let mut parsed = args::parse(words, OPTIONS)?;
    parsed.operands.push(size.to_string_lossy().into_owned());
    Ok(parsed)
}

/// Runs the verb.
///
/// # Errors
/// The image cannot be opened or brought to that size.
pub(super) fn run(parsed: &Parsed) -> Result<(), ImgError> {
    let (name, asked) = match parsed.operands.as_slice() {
        [name, size] => (name, change(size)?),
        _ => return Err(ImgError::Usage("Expecting image file name and size".to_owned())),
    };
    let preallocation = match parsed.get("preallocation") {
        None => Preallocation::Off,
        Some(name) => {
            target::preallocation(name).map_err(|_| ImgError::Said(format!("Invalid preallocation mode '{name}'")))?
        }
    };
    let image = open::open(name, Want::of(parsed)?.writing())?;
    let now = image.layer().size();
    let new = match asked {
        Change::To(bytes) => Some(bytes),
        Change::More(bytes) => now.checked_add(bytes),
        Change::Less(bytes) => now.checked_sub(bytes),
    };
    let new = new.filter(|new| *new > 0 && i64::try_from(*new).is_ok());
    let new = new.ok_or_else(|| ImgError::Said("New image size must be positive".to_owned()))?;
    if new <= now && preallocation != Preallocation::Off {
        return Err(ImgError::Said("Preallocation can only be used for growing images".to_owned()));
    }
    if new < now && !parsed.has("shrink") {
        return Err(ImgError::Lines(vec![
            "Use the --shrink option to perform a shrink operation.".to_owned(),
            "warning: Shrinking an image will delete all data beyond the shrunken image's end. Before performing such \
             an operation, make sure there is no important data there."
                .to_owned(),
        ]));
    }
    let on_device = image.node.child("file").is_some_and(|file| file.layer().driver() == "host_device");
    if new != now && on_device && image.layer().driver() == "raw" {
        return Err(ImgError::Said("Cannot resize device files".to_owned()));
    }
    if new != now {
        image.layer().resize(new, preallocation).map_err(|e| ImgError::Said(chain(&e)))?;
    }
    image.close()?;
    if !parsed.has("q") {
        output::beside(output::line("Image resized."));
    }
    Ok(())
}

fn change(text: &str) -> Result<Change, ImgError> {
    let (make, digits): (fn(u64) -> Change, _) = match text.split_at_checked(1) {
        Some(("+", rest)) => (Change::More, rest),
        Some(("-", rest)) => (Change::Less, rest),
        _ => (Change::To, text),
    };
    match size::parse(digits) {
        Ok(bytes) => Ok(make(bytes)),
        Err(Wrong::Range) => Err(ImgError::Said(format!("Parameter 'size' expects a size below 2^63, not '{text}'"))),
        Err(Wrong::Text) => Err(size::not_a_size("size")),
    }
}
