//! `info`: what an image is.

use std::collections::HashSet;

use rhea_block::format::qcow2::Qcow2;
use rhea_block::graph::ImageDetails;
use serde_json::{Map, Value};

use super::args::{Opt, Parsed};
use super::error::ImgError;
use super::open::{self, Image, Want};
use super::output::{self, Form};
use super::snapshot;
use crate::spec::human_size;

/// The verb's options.
pub(super) const OPTIONS: &[Opt] = &[
    open::OBJECT,
    open::IMAGE_OPTS,
    open::FORCE_SHARE,
    Opt::value('f').or("format"),
    Opt::long_value("output"),
    Opt::long_flag("backing-chain"),
];

/// Runs the verb.
///
/// # Errors
/// The image, or one beneath it that was asked for, cannot be opened.
pub(super) fn run(parsed: &Parsed) -> Result<(), ImgError> {
    let form = Form::of(parsed.get("output"))?;
    let [name] = parsed.operands.as_slice() else {
        return Err(ImgError::Usage("Expecting one image file name".to_owned()));
    };
    let want = Want { no_backing: true, no_data: true, ..Want::of(parsed)? };
    let chain = parsed.has("backing-chain");
    let images = collect(name, want, chain)?;
    match form {
        Form::Human => {
            let texts: Vec<_> = images.iter().map(human_text).collect();
            output::line(texts.join("\n\n"))
        }
        Form::Json if chain => output::json(&images.iter().map(|told| &told.image).collect::<Vec<_>>()),
        Form::Json => images.first().map_or(Ok(()), |told| output::json(&told.image)),
    }
}

/// The image and, for a chain, all beneath it.
fn collect(name: &str, want: Want<'_>, chain: bool) -> Result<Vec<Details>, ImgError> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut next = Some((name.to_owned(), want.format.map(str::to_owned), want.image_opts));
    while let Some((name, format, image_opts)) = next.take() {
        let image = open::open(&name, Want { format: format.as_deref(), image_opts, ..want })?;
        let path = image.node.filename().to_path_buf();
        if !seen.insert(std::fs::canonicalize(&path).unwrap_or(path)) {
            return Err(ImgError::Said(format!("Backing file '{name}' creates an infinite loop.")));
        }
        let mut details = details_of(&image)?;
        if let Some(protocol) = format.as_deref().and_then(open::protocol) {
            details.image.format = protocol;
        }
        if chain && let Some(below) = &details.image.full_backing_filename {
            open::check_protocol(below).map_err(|e| ImgError::Said(format!("Could not open '{below}': {e}")))?;
            next = Some((below.clone(), details.image.backing_filename_format.clone(), false));
        }
        found.push(details);
    }
    Ok(found)
}

/// What the library tells, with the path of the image beneath although that is not open.
struct Details {
    image: ImageDetails,
    /// The snapshots as text.
    table: Option<String>,
}

fn details_of(image: &Image) -> Result<Details, ImgError> {
    let mut details = image.node.details();
    if let Some(name) = &details.backing_filename {
        details.full_backing_filename = Some(open::beside(&image.node.filename(), name).display().to_string());
    }
    let Some(qcow2) = image.layer().as_any().downcast_ref::<Qcow2>() else {
        return Ok(Details { image: details, table: None });
    };
    let fail = || ImgError::block(format!("Could not read the tables of '{}'", image.name));
    let snapshots = qcow2.snapshots().map_err(fail())?;
    qcow2.bitmaps().map_err(fail())?;
    let table = (!snapshots.is_empty()).then(|| snapshot::table(&snapshots));
    Ok(Details { image: details, table })
}

/// The text for people.
fn human_text(told: &Details) -> String {
    let details = &told.image;
    let mut lines = vec![
        format!("image: {}", details.filename),
        format!("file format: {}", details.format),
        format!("virtual size: {} ({} bytes)", human_size(details.virtual_size), details.virtual_size),
        format!("disk size: {}", details.actual_size.map_or("unavailable".to_owned(), human_size)),
    ];
    if details.encrypted == Some(true) {
        lines.push("encrypted: yes".to_owned());
    }
    if let Some(cluster) = details.cluster_size {
        lines.push(format!("cluster_size: {cluster}"));
    }
    if details.dirty_flag == Some(true) {
        lines.push("cleanly shut down: no".to_owned());
    }
    if let Some(name) = &details.backing_filename {
        let full = details.full_backing_filename.as_ref().filter(|full| *full != name);
        lines.push(match full {
            Some(full) => format!("backing file: {name} (actual path: {full})"),
            None => format!("backing file: {name}"),
        });
    }
    if let Some(format) = &details.backing_filename_format {
        lines.push(format!("backing file format: {format}"));
    }
    lines.extend(told.table.clone());
    lines.extend(details.format_specific.as_ref().map(format_specific_lines).unwrap_or_default());
    lines.join("\n")
}

/// What only an image's format has, `{"type": FORMAT, "data": {…}}`, as lines for people.
pub(crate) fn format_specific_lines(specific: &Value) -> Vec<String> {
    let Some(data) = specific.get("data") else { return Vec::new() };
    let mut lines = vec!["Format specific information:".to_owned()];
    if let Value::Object(object) = data {
        object_lines(object, 1, &mut lines);
    }
    lines
}

/// Keys with values, nested by four blanks; a dash in a key is a blank.
fn object_lines(object: &Map<String, Value>, depth: usize, lines: &mut Vec<String>) {
    for (key, value) in object {
        value_lines(&key.replace('-', " "), value, depth, lines);
    }
}

fn value_lines(key: &str, value: &Value, depth: usize, lines: &mut Vec<String>) {
    let blanks = " ".repeat(4 * depth);
    match value {
        Value::Object(inner) => {
            lines.push(format!("{blanks}{key}:"));
            object_lines(inner, depth + 1, lines);
        }
        Value::Array(items) => {
            lines.push(format!("{blanks}{key}:"));
            for (n, item) in items.iter().enumerate() {
                value_lines(&format!("[{n}]"), item, depth + 1, lines);
            }
        }
        Value::String(text) => lines.push(format!("{blanks}{key}: {text}")),
        other => lines.push(format!("{blanks}{key}: {other}")),
    }
}
