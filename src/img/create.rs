//! `create`: new images.

use std::path::Path;

use super::args::{Opt, Parsed};
use super::error::{ImgError, chain};
use super::open::{self, Want};
use super::target::{Format, Options};
use super::{output, size, target};

/// The verb's options.
pub(super) const OPTIONS: &[Opt] = &[
    open::OBJECT,
    Opt::value('F').or("backing-format"),
    Opt::value('b').or("backing"),
    Opt::value('f').or("format"),
    Opt::value('o').or("options"),
    Opt::flag('q').or("quiet"),
    Opt::flag('u').or("backing-unsafe"),
];

/// Runs the verb.
///
/// # Errors
/// The image cannot be made as asked.
pub(super) fn run(parsed: &Parsed) -> Result<(), ImgError> {
    let mut options = Options::read(parsed.all("o"))?;
    let format_name = parsed.get("f").unwrap_or("raw");
    if options.asks_for_help() {
        return output::line(Format::by_name(format_name)?.help());
    }
    let (path, given) = match parsed.operands.as_slice() {
        [] => return Err(ImgError::Usage("Expecting image file name".to_owned())),
        [path] => (path, None),
        [path, size] => (path, Some(size::read("image size", size)?)),
        [_, _, extra, ..] => return Err(ImgError::Usage(format!("Unexpected argument: {extra}"))),
    };
    let named = |e: ImgError| ImgError::Said(format!("{path}: {}", chain(&e)));
    let format = Format::by_name(format_name).map_err(named)?;
    for (option, key) in [("b", "backing_file"), ("F", "backing_fmt")] {
        if let Some(value) = parsed.get(option) {
            if format != Format::Qcow2 {
                let what = if option == "b" { "Backing file" } else { "Backing format" };
                return Err(named(ImgError::Said(format!("{what} not supported for file format '{}'", format.name()))));
            }
            options.set(key, value);
        }
    }
    format.check(&options).map_err(named)?;
    if let Some(bytes) = given {
        if options.get("size").is_some() {
            return Err(named(ImgError::Said("The image size must be specified only once".to_owned())));
        }
        options.set("size", bytes.to_string());
    }
    if options.get("backing_file") == Some("") {
        return Err(named(ImgError::Said("Expected backing file name, got empty string".to_owned())));
    }
    target::refuse_own_backing(path, &options).map_err(named)?;
    let unsafe_backing = parsed.has("u");
    let bytes = disk_size(path, &options, unsafe_backing, parsed).map_err(named)?;
    options.set("size", bytes.to_string());
    open::check_protocol(path).map_err(named)?;
    if !parsed.has("q") {
        output::beside(output::line(format.formatting(format_name, path, &options)));
    }
    format.make(format_name, path, &options, bytes, &parsed.secrets).map_err(named)
}

/// The size that was given, or the backing file's; the backing file is looked at unless `blind`.
fn disk_size(path: &str, options: &Options, blind: bool, parsed: &Parsed) -> Result<u64, ImgError> {
    let given = options.get("size").map(|text| size::parse(text).map_err(|_| size::not_a_size("size"))).transpose()?;
    let backing = options.get("backing_file").filter(|name| !name.is_empty());
    if blind && backing.is_some() && options.get("backing_fmt").is_none() {
        return Err(ImgError::Said("Backing file specified without backing format".to_owned()));
    }
    let below = match backing {
        Some(name) if !blind => Some(backing_size(path, name, options.get("backing_fmt"), parsed)?),
        _ => None,
    };
    given.or(below).ok_or_else(|| ImgError::Said("Image creation needs a size parameter".to_owned()))
}

fn backing_size(path: &str, name: &str, format: Option<&str>, parsed: &Parsed) -> Result<u64, ImgError> {
    let below = open::beside(Path::new(path), name);
    let shown = below.display().to_string();
    let secrets = Some(&parsed.secrets);
    // Only its size is asked for, so it may be in use: a guest may be writing to it.
    let want = Want { format, no_data: true, force_share: true, secrets, ..Want::default() };
    let image = open::open(&shown, want).map_err(|e| {
        let text = chain(&e);
        // The file's own message names it.
        let text = text.strip_prefix(&format!("Could not open '{shown}': ")).unwrap_or(&text);
        ImgError::Said(format!("{text}\nCould not open backing image."))
    })?;
    if format.is_none() {
        let driver = image.layer().driver();
        return Err(ImgError::Said(format!(
            "Backing file specified without backing format\nDetected format of {driver}."
        )));
    }
    Ok(image.layer().size())
}
