//! `measure`: how much space an image would take.

use rhea_block::format::qcow2::{self, Qcow2};
use rhea_block::layer::Preallocation;
use serde_json::Map;

use super::args::{Opt, Parsed};
use super::error::{ImgError, chain};
use super::extents;
use super::open::{self, Image, Want};
use super::output::{self, Form};
use super::size;
use super::target::{Format, Made, Options};

/// The verb's options.
pub(super) const OPTIONS: &[Opt] = &[
    open::OBJECT,
    open::IMAGE_OPTS,
    open::FORCE_SHARE,
    Opt::value('f').or("format"),
    Opt::value('O').or("target-format"),
    Opt::value('o').or("target-format-options"),
    Opt::value('l').or("snapshot"),
    Opt::long_value("size"),
    Opt::long_value("output"),
];

/// Runs the verb.
///
/// # Errors
/// The options contradict each other, or the image cannot be read.
pub(super) fn run(parsed: &Parsed) -> Result<(), ImgError> {
    let said = |text: &str| Err(ImgError::Said(text.to_owned()));
    let form = Form::of(parsed.get("output"))?;
    let snapshot = parsed.get("l").map(open::snapshot_ref).transpose()?;
    let image = match (parsed.operands.as_slice(), parsed.get("size")) {
        ([], Some(_)) => None,
        ([name], None) => Some(open::open(name, Want { snapshot: snapshot.as_ref(), ..Want::of(parsed)? })?),
        ([], None) if ["image-opts", "f", "l"].iter().any(|option| parsed.has(option)) => {
            return said("--image-opts, -f, and -l require a filename argument.");
        }
        ([], None) => return said("Either --size N or one filename must be specified."),
        ([_], Some(_)) => return said("--size N cannot be used together with a filename."),
        _ => return said("At most one filename argument is allowed."),
    };
    let bytes = match parsed.get("size") {
        Some(text) => size::read("image size", text)?,
        None => image.as_ref().map_or(0, |image| image.layer().size()),
    };
    let name = parsed.get("O").unwrap_or("raw");
    let format = Format::by_name(name).map_err(|e| match open::FORMATS.contains(&name) {
        true => ImgError::Said(format!("Block driver '{name}' does not support size measurement")),
        false => e,
    })?;
    let mut options = Options::read(parsed.all("o"))?;
    format.check(&options).map_err(|e| {
        ImgError::Lines(vec![chain(&e), format!("Invalid options for file format '{}'", format.name())])
    })?;
    if format.has("data_file_raw") {
        // It makes no difference to the size, so it needs no data file here.
        options.set("data_file_raw", "off");
    }
    let mut bitmaps = None;
    let (required, fully) = match format.plan(&options, bytes, &parsed.secrets)?.format {
        Made::Raw { size, .. } => (size.next_multiple_of(512), size.next_multiple_of(512)),
        Made::Luks { size, header, .. } => {
            let whole = size.next_multiple_of(512).saturating_add(header.payload_offset());
            (whole, whole)
        }
        Made::Qcow2(plan) => {
            let reserved = matches!(plan.preallocation, Preallocation::Falloc | Preallocation::Full);
            // How much of what lies beneath is shared is not known before the copy.
            let all = reserved || plan.backing.is_some();
            let allocated = match &image {
                Some(_) if all => u64::MAX,
                None if reserved => u64::MAX,
                None => 0,
                Some(image) => data_clusters(image, plan.cluster_size)?,
            };
            let measured = qcow2::measure(&plan, allocated).map_err(|e| ImgError::Said(chain(&e)))?;
            let kept = image.as_ref().filter(|_| plan.version > 2);
            bitmaps = kept.map(|image| bitmap_bytes(image, plan.cluster_size)).transpose()?.flatten();
            (measured.required, measured.fully_allocated)
        }
    };
    match form {
        Form::Human => {
            let more = bitmaps.map_or(String::new(), |bytes| format!("\nbitmaps size: {bytes}"));
            output::line(format!("required size: {required}\nfully allocated size: {fully}{more}"))
        }
        Form::Json => {
            let mut object = Map::new();
            if let Some(bytes) = bitmaps {
                object.insert("bitmaps".to_owned(), bytes.into());
            }
            object.insert("required".to_owned(), required.into());
            object.insert("fully-allocated".to_owned(), fully.into());
            output::json(&object)
        }
    }
}

/// Bytes that copies of the image's bitmaps would take in clusters of `cluster` bytes (directory, tables, bits); `None`
/// if it is of version 2, which has none.
fn bitmap_bytes(image: &Image, cluster: u64) -> Result<Option<u64>, ImgError> {
    let Some(qcow2) = image.layer().as_any().downcast_ref::<Qcow2>() else { return Ok(None) };
    let list = qcow2.bitmaps().map_err(ImgError::block(format!("could not read the bitmaps of '{}'", image.name)))?;
    if !qcow2.can_have_bitmaps() {
        return Ok(None);
    }
    let mut directory = 0u64;
    let mut bytes = 0u64;
    // As in QEMU also of those that are not copied.
    for bitmap in &list {
        let granules = image.layer().size().div_ceil(1 << bitmap.granularity_bits.min(63));
        let clusters = granules.div_ceil(8).div_ceil(cluster);
        bytes += clusters * cluster + (clusters * 8).next_multiple_of(cluster);
        directory += (24 + bitmap.name.len() as u64).next_multiple_of(8);
    }
    Ok(Some(bytes + directory.next_multiple_of(cluster)))
}

/// Bytes of the target's clusters that would get data.
fn data_clusters(image: &Image, cluster: u64) -> Result<u64, ImgError> {
    let mut counted_to = 0;
    let mut bytes = 0;
    extents::for_each(&image.node, 0, image.layer().size(), |run| {
        if run.data && !run.zero {
            let start = (run.start / cluster * cluster).max(counted_to);
            let end = (run.start + run.len).next_multiple_of(cluster);
            bytes += end.saturating_sub(start);
            counted_to = counted_to.max(end);
        }
        Ok::<(), ImgError>(())
    })?;
    Ok(bytes)
}
