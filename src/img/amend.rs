//! `amend`: other options for an image that is there.

use rhea_block::BlockError;
use rhea_block::crypto::Secret;
use rhea_block::format::luks::LuksDisk;
use rhea_block::format::qcow2::{Amend, Qcow2};
use rhea_block::graph::CacheMode;

use super::args::{Opt, Parsed};
use super::error::{ImgError, chain};
use super::open::{self, Image, Want};
use super::progress::Progress;
use super::target::{Format, Options, amend_help, amendable, slot_change};
use super::{output, size};

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
        let name = parsed.get("f").unwrap_or("qcow2");
        return match Format::by_name(name) {
            Ok(format @ (Format::Qcow2 | Format::Luks)) => output::line(amend_help(format)),
            _ if open::is_driver(name) => Err(not_amendable(name)),
            other => other.map(drop),
        };
    }
    let [name] = parsed.operands.as_slice() else {
        return Err(ImgError::Usage("Expecting one image file name".to_owned()));
    };
    let cache = open::cache_mode("", parsed.get("t"), CacheMode::default())?;
    let image = open::open(name, Want { cache, ..Want::of(parsed)?.writing() })?;
    let any = image.layer().as_any();
    if let Some(luks) = any.downcast_ref::<LuksDisk>() {
        check_known(Format::Luks, &options)?;
        let change = slot_change(&options, "", parsed.has("force"), &parsed.secrets)?;
        if let Some(change) = change {
            luks.change_slots(&password(parsed, &image)?, &change).map_err(|e| told(&e))?;
        }
        return image.close();
    }
    let Some(qcow2) = any.downcast_ref::<Qcow2>() else {
        return Err(not_amendable(image.layer().driver()));
    };
    check_known(Format::Qcow2, &options)?;
    if qcow2.encryption().is_none() && options.iter().any(|(key, _)| key.starts_with("encrypt.")) {
        return Err(ImgError::Said("Can't amend encryption options - encryption not present".to_owned()));
    }
    let slots = slot_change(&options, "encrypt.", parsed.has("force"), &parsed.secrets)?;
    // All are looked at before the first is changed.
    let asked = read(&options)?;
    let progress = Progress::new(parsed.has("p") && !parsed.has("q"));
    if let Some(change) = slots {
        qcow2.change_slots(&password(parsed, &image)?, &change).map_err(|e| told(&e))?;
    }
    qcow2.amend(&asked).map_err(|e| told(&e))?;
    image.close()?;
    progress.end();
    Ok(())
}

fn not_amendable(driver: &str) -> ImgError {
    ImgError::Said(format!("Format driver '{driver}' does not support option amendment"))
}

fn told(e: &BlockError) -> ImgError {
    ImgError::Said(chain(e))
}

/// Refuses what a format does not have, or has only when it is made.
fn check_known(format: Format, options: &Options) -> Result<(), ImgError> {
    let known = amendable(format);
    match options.iter().find(|(key, _)| !known.contains(key)) {
        None => Ok(()),
        Some((key, _)) => {
            let made = if format.has(key) { "\nThis option is only supported for image creation" } else { "" };
            Err(ImgError::Said(format!("Invalid parameter '{key}'{made}")))
        }
    }
}

/// The password with which the image was opened: key slots are changed with the key that it unlocks.
fn password(parsed: &Parsed, image: &Image) -> Result<Secret, ImgError> {
    let id = image.node.key_secret().ok_or_else(|| ImgError::Said("the image was opened without a key".to_owned()))?;
    parsed.secrets.get(id).map_err(|e| told(&e))
}

/// What a qcow2 image is to be.
fn read(options: &Options) -> Result<Amend, ImgError> {
    if options.get("backing_file").or(options.get("backing_fmt")).is_some() {
        let text = "Cannot amend the backing file\nYou can use 'qemu-img rebase' instead.";
        return Err(ImgError::Said(text.to_owned()));
    }
    let version = match options.get("compat") {
        None | Some("") => None,
        Some("0.10" | "v2") => Some(2),
        Some("1.1" | "v3") => Some(3),
        Some(other) => return Err(ImgError::Said(format!("Unknown compatibility level {other}"))),
    };
    let refcount_bits = options.get("refcount_bits").map(|text| match size::parse(text) {
        Ok(bits) if bits.is_power_of_two() && bits <= 64 => Ok(bits as u32),
        Ok(_) => Err("Refcount width must be a power of two and may not exceed 64 bits"),
        Err(_) => Err("Parameter 'refcount_bits' expects a number"),
    });
    let refcount_bits = refcount_bits.transpose().map_err(|text| ImgError::Said(text.to_owned()))?;
    let flag = |key: &str| options.get(key).map(|_| options.flag(key)).transpose();
    let size = options.get("size").map(|text| size::read("image size", text)).transpose()?;
    Ok(Amend {
        version,
        refcount_bits,
        lazy_refcounts: flag("lazy_refcounts")?,
        data_file: options.get("data_file").map(str::to_owned),
        raw_data: flag("data_file_raw")?,
        // As in QEMU a size of 0 is none: it would be the end of all data.
        size: size.filter(|bytes| *bytes != 0),
    })
}
