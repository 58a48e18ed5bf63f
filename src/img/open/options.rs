//! Images that are named by options: `--image-opts driver=qcow2,file.filename=...`, and `json:{...}` as a name.

use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;

use rhea_block::graph::{Graph, Node};
use rhea_block::spec::{self, Backing, BlockdevSpec};
use serde_json::{Map, Value};

use super::super::error::ImgError;
use super::super::keyval;
use super::{FORMATS, Want, look, not_open, probed, raw_warning};
use crate::qmp::framing::with_double_quotes;
use crate::qmp::json;
use crate::sentence::to_stderr;

mod wrong;

type Object = Map<String, Value>;

fn refused(name: &str, why: impl std::fmt::Display) -> ImgError {
    ImgError::Said(format!("Could not open '{name}': {why}"))
}

/// The options that `name` is, if it is no file name.
///
/// # Errors
/// Text that is none of the form it claims.
pub(super) fn given(name: &str, want: Want<'_>) -> Result<Option<Object>, ImgError> {
    if want.image_opts {
        let object = keyval::nested(keyval::pairs(name)?)?;
        let shared = object.get("force-share").is_none_or(|given| given == "on");
        if want.force_share && !shared {
            return Err(ImgError::Said("--force-share/-U conflicts with image options".to_owned()));
        }
        return Ok(Some(object));
    }
    let Some(text) = name.strip_prefix("json:") else { return Ok(None) };
    let value = json::read(with_double_quotes(text).as_bytes())
        .map_err(|e| refused(name, format_args!("Could not parse the JSON options: {e}")))?;
    let Value::Object(object) = value else { return Err(refused(name, "Invalid JSON object given")) };
    let mut object = keyval::nested_json(object)?;
    if let Some(format) = want.format {
        object.insert("driver".to_owned(), format.into());
    }
    Ok(Some(object))
}

/// The node beneath what the options describe, and the driver if they name it.
///
/// # Errors
/// There is none, or it is described wrongly.
pub(super) fn file_of(
    name: &str,
    mut object: Object,
    want: Want<'_>,
) -> Result<(BlockdevSpec, Option<String>), ImgError> {
    fill_in(&mut object, want);
    let driver = object.get("driver").and_then(Value::as_str).map(str::to_owned);
    Ok((file_beneath(name, &mut object)?, driver))
}

/// Opens what the options describe.
///
/// # Errors
/// They describe it wrongly, or it cannot be opened.
pub(super) fn open(graph: &Graph, name: &str, mut object: Object, want: Want<'_>) -> Result<Arc<Node>, ImgError> {
    let fail = |e| not_open(name, e);
    refuse_beneath(name, &object, want)?;
    fill_in(&mut object, want);
    let mut guessed = None;
    if !object.contains_key("driver") {
        let file = graph.add(&file_beneath(name, &mut object)?).map_err(fail)?;
        let format = probed(file.layer().as_ref()).map_err(fail)?.unwrap_or_else(|| "raw".to_owned());
        object.insert("driver".to_owned(), format.into());
        object.insert("file".to_owned(), file.name().into());
        guessed = Some(file);
    }
    let beneath = match object.get("backing") {
        Some(Value::Object(_)) => object.shift_remove("backing"),
        _ => None,
    };
    let mut spec = spec(name, &object)?;
    match (&mut spec, beneath) {
        (BlockdevSpec::Qcow2(spec), beneath) => {
            spec.look = look(want);
            if beneath.is_some() || want.no_backing || spec.backing.is_default() {
                spec.backing = backing(beneath, want);
            }
        }
        (_, Some(_)) => return Err(refused(name, "Driver doesn't support backing files")),
        (BlockdevSpec::Luks(spec), None) => spec.look = look(want),
        (BlockdevSpec::Raw(raw), None) if raw.size.is_some_and(|size| !size.is_multiple_of(512)) => {
            return Err(refused(name, "Specified size is not multiple of 512"));
        }
        _ => {}
    }
    match (&spec, guessed) {
        (BlockdevSpec::Raw(raw), Some(file)) if raw.read_only == Some(false) => {
            add_guarded(graph, name, raw, &file, want)
        }
        _ => graph.add(&spec).map_err(fail),
    }
}

/// Refuses options of what is beneath where only the image's own metadata are told: nothing would come of them.
fn refuse_beneath(name: &str, object: &Object, want: Want<'_>) -> Result<(), ImgError> {
    let beneath = object.get("backing").filter(|beneath| want.no_backing && want.no_data && beneath.is_object());
    let Some(option) = beneath.and_then(|beneath| first_option("backing", beneath)) else { return Ok(()) };
    let driver = object.get("driver").and_then(Value::as_str).unwrap_or("qcow2");
    Err(refused(name, format_args!("Block format '{driver}' does not support the option '{option}'")))
}

/// The name of an option in `value`, which stands at `place`: of its driver, or of the first one.
fn first_option(place: &str, value: &Value) -> Option<String> {
    let Value::Object(object) = value else { return Some(place.to_owned()) };
    let (key, value) = object.get_key_value("driver").or_else(|| object.iter().next())?;
    first_option(&format!("{place}.{key}"), value)
}

/// Opens an image that is to be written and that nobody said is raw.
fn add_guarded(graph: &Graph, name: &str, raw: &spec::Raw, file: &Node, want: Want<'_>) -> Result<Arc<Node>, ImgError> {
    if raw.offset.or(raw.size).is_some() {
        return Err(refused(name, "offset and size are for images that are known to be raw: add driver=raw"));
    }
    if want.warn {
        to_stderr(raw_warning(&file.filename().display().to_string()));
    }
    graph.add_guarded(raw).map_err(|e| not_open(name, e))
}

/// What lies beneath an overlay: what its header names, and what the options say of that.
pub(super) fn backing(options: Option<Value>, want: Want<'_>) -> Backing {
    let options = match options {
        Some(Value::Object(options)) => Some(options),
        _ => None,
    };
    match (options, want.write_beneath) {
        _ if want.no_backing => Backing::None,
        (None, 0) => Backing::Header,
        (Some(options), 0) => Backing::Over(options),
        (options, depth) => Backing::Over(written(options.unwrap_or_default(), depth)),
    }
}

/// What options say of an image beneath, with the one at `depth` from there (1: itself) open for writing.
fn written(mut options: Object, depth: usize) -> Object {
    if depth > 1 {
        let beneath = match options.shift_remove("backing") {
            Some(Value::Object(beneath)) => beneath,
            _ => Object::new(),
        };
        options.insert("backing".to_owned(), Value::Object(written(beneath, depth - 1)));
        return options;
    }
    let format = options.get("driver").and_then(Value::as_str).is_none_or(|driver| FORMATS.contains(&driver));
    if format && let Value::Object(file) = options.entry("file").or_insert_with(|| Object::new().into()) {
        open_up(file);
    }
    open_up(&mut options);
    options
}

fn open_up(node: &mut Object) {
    node.insert("read-only".to_owned(), false.into());
    node.entry("discard").or_insert_with(|| "unmap".into());
}

/// The node that is the options' `file`, which is taken out of them.
fn file_beneath(name: &str, object: &mut Object) -> Result<BlockdevSpec, ImgError> {
    let mut file = match object.shift_remove("file") {
        Some(Value::Object(file)) => file,
        Some(Value::String(node)) => {
            return Err(refused(name, format_args!("Cannot find device='{node}' nor node-name='{node}'")));
        }
        _ if object.contains_key("driver") => {
            return Err(refused(name, "A block device must be specified for \"file\""));
        }
        _ => return Err(refused(name, "Must specify either driver or file")),
    };
    // It is opened by itself and still takes over what is said above.
    for key in ["read-only", "auto-read-only", "force-share"] {
        if let Some(value) = object.get(key) {
            file.entry(key).or_insert_with(|| value.clone());
        }
    }
    file.entry("discard").or_insert_with(|| "unmap".into());
    if let Some(Value::Object(cache)) = object.get("cache") {
        put_beneath(&mut file, "cache", cache.clone());
    }
    spec(name, &file)
}

fn spec(name: &str, object: &Object) -> Result<BlockdevSpec, ImgError> {
    let read = serde_json::from_value(Value::Object(object.clone()));
    read.map_err(|e| refused(name, wrong::in_words(object, &e.to_string())))
}

/// What the command line says beside the options, where they do not say it themselves: whether the image is written,
/// shared and cached; and the drivers of files.
fn fill_in(object: &mut Object, want: Want<'_>) {
    for (key, value) in [("read-only", !want.write), ("force-share", want.force_share)] {
        object.entry(key).or_insert(Value::Bool(value));
    }
    object.entry("discard").or_insert_with(|| "unmap".into());
    let cache = [("direct", want.cache.direct()), ("no-flush", want.cache.no_flush())];
    put_beneath(object, "cache", cache.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect());
    let aio = want.aio.and_then(|aio| serde_json::to_value(aio).ok());
    name_drivers(object, aio.as_ref());
}

/// Adds `more` to the object `key` as far as that does not say it already.
fn put_beneath(object: &mut Object, key: &str, more: Object) {
    if let Value::Object(inner) = object.entry(key).or_insert_with(|| Object::new().into()) {
        for (key, value) in more {
            inner.entry(key).or_insert(value);
        }
    }
}

/// What has a file's name and no driver is a file, at any depth, but for images beneath others: these are what their
/// headers say. `aio` is for the files of the image itself.
fn name_drivers(object: &mut Object, aio: Option<&Value>) {
    let in_files = matches!(object.get("driver").and_then(Value::as_str), Some("file" | "host_device"));
    if let Some(aio) = aio.filter(|_| in_files) {
        object.entry("aio").or_insert_with(|| aio.clone());
    }
    for (role, inner) in object.iter_mut() {
        let Value::Object(inner) = inner else { continue };
        let is_backing = role == "backing";
        if !is_backing
            && !inner.contains_key("driver")
            && let Some(Value::String(path)) = inner.get("filename")
        {
            let device = std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device());
            inner.insert("driver".to_owned(), if device { "host_device" } else { "file" }.into());
        }
        name_drivers(inner, aio.filter(|_| !is_backing));
    }
}

#[cfg(test)]
mod tests;
