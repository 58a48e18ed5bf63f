//! `amend`: other options for an image that is there.

use rhea_block::format::qcow2::Qcow2;
use rhea_block::graph::CacheMode;
use rhea_block::layer::{Layer, Preallocation};

use super::args::{Opt, Parsed};
use super::error::{ImgError, chain};
use super::open::{self, Want};
use super::progress::Progress;
use super::size;
use super::target::{Format, Options};

/// The verb's options.
pub(super) const OPTIONS: &[Opt] = &[
    open::OBJECT,
    open::IMAGE_OPTS,
    Opt::value('f').or("format"),
    Opt::value('o').or("options"),
    Opt::value('t').or("cache"),
    Opt::flag('p').or("progress"),
    Opt::flag('q').or("quiet"),
    Opt::long_flag("force"),
];

/// Runs the verb.
///
/// # Errors
/// The options cannot be changed in this image.
pub(super) fn run(parsed: &Parsed) -> Result<(), ImgError> {
    let options = Options::read(parsed.all("o"))?;
    if parsed.get("o").is_none() {
        return Err(ImgError::Usage("Must specify options (-o)".to_owned()));
    }
    if options.asks_for_help() {
        return super::output::line(
            "Amend options for 'qcow2':\n  compat=<str> - version of the format: 1.1 (v3)\n  lazy_refcounts=<bool \
             (on/off)> - reference counts may be written late\n  size=<size> - bytes of the disk",
        );
    }
    let [name] = parsed.operands.as_slice() else {
        return Err(ImgError::Usage("Expecting one image file name".to_owned()));
    };
    if parsed.has("force") {
        return Err(ImgError::Said("--force is for encrypted images, which are not supported".to_owned()));
    }
    let cache = open::cache_mode("", parsed.get("t"), CacheMode::default())?;
    let image = open::open(name, Want { cache, ..Want::of(parsed)?.writing() })?;
    let Some(qcow2) = image.layer().as_any().downcast_ref::<Qcow2>() else {
        let driver = image.layer().driver();
        return Err(ImgError::Said(format!("Format driver '{driver}' does not support option amendment")));
    };
    Format::Qcow2.check(&options)?;
    // All are looked at before the first is changed.
    let changes: Vec<Change> = options.iter().map(|(key, value)| change(key, value)).collect::<Result<_, _>>()?;
    let progress = Progress::new(parsed.has("p") && !parsed.has("q"));
    for change in &changes {
        apply(qcow2, image.layer().as_ref(), change)?;
    }
    image.close()?;
    progress.end();
    Ok(())
}

enum Change {
    Upgrade,
    LazyRefcounts(bool),
    Size(u64),
}

fn change(key: &str, value: &str) -> Result<Change, ImgError> {
    let said = |text: String| Err(ImgError::Said(text));
    match (key, value) {
        ("compat", "1.1" | "v3") => Ok(Change::Upgrade),
        ("compat", "0.10" | "v2") => said("amending to compat=0.10 is not supported: convert the image".to_owned()),
        ("compat", _) => said(format!("Unknown compatibility level {value}")),
        ("lazy_refcounts", "on" | "yes" | "true" | "y") => Ok(Change::LazyRefcounts(true)),
        ("lazy_refcounts", "off" | "no" | "false" | "n") => Ok(Change::LazyRefcounts(false)),
        ("lazy_refcounts", _) => said("Parameter 'lazy_refcounts' expects 'on' or 'off'".to_owned()),
        ("size", _) => size::read("image size", value).map(Change::Size),
        ("backing_file" | "backing_fmt", _) => {
            said("Cannot amend the backing file\nYou can use 'qemu-img rebase' instead.".to_owned())
        }
        ("refcount_bits" | "data_file" | "data_file_raw", _) => {
            said(format!("amending '{key}' is not supported: convert the image"))
        }
        _ => said(format!("Invalid parameter '{key}'\nThis option is only supported for image creation")),
    }
}

fn apply(qcow2: &Qcow2, layer: &dyn Layer, change: &Change) -> Result<(), ImgError> {
    let result = match change {
        Change::Upgrade => qcow2.upgrade(),
        Change::LazyRefcounts(on) => qcow2.set_lazy_refcounts(*on),
        Change::Size(bytes) if *bytes == layer.size() => Ok(()),
        Change::Size(bytes) => layer.resize(*bytes, Preallocation::Off),
    };
    result.map_err(|e| ImgError::Said(chain(&e)))
}
