//! Images that are named by options: `--image-opts driver=qcow2,file.filename=...`, and `json:{...}` as a name.

use std::sync::Arc;

use rhea_block::format::qcow2::backing_of;
use rhea_block::graph::{Graph, Node};
use rhea_block::spec::BlockdevSpec;
use serde_json::{Map, Value};

use super::super::error::ImgError;
use super::super::keyval;
use super::{Want, look, not_open, probed};
use crate::qmp::framing::with_double_quotes;
use crate::qmp::json;

fn refused(name: &str, why: impl std::fmt::Display) -> ImgError {
    ImgError::Said(format!("Could not open '{name}': {why}"))
}

/// The options that `name` is, if it is no file name.
///
/// # Errors
/// Text that is none of the form it claims.
pub(super) fn given(name: &str, want: Want<'_>) -> Result<Option<Map<String, Value>>, ImgError> {
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
    if !object.contains_key("driver") && !object.contains_key("file") {
        return Err(refused(name, "Must specify either driver or file"));
    }
    Ok(Some(object))
}

/// The node beneath what the options describe, and the driver if they name it.
///
/// # Errors
/// There is none, or it is described wrongly.
pub(super) fn file_of(
    name: &str,
    mut object: Map<String, Value>,
    want: Want<'_>,
) -> Result<(BlockdevSpec, Option<String>), ImgError> {
    fill_in(&mut object, want);
    let driver = object.get("driver").and_then(Value::as_str).map(str::to_owned);
    let Some(Value::Object(mut file)) = object.remove("file") else {
        return Err(refused(name, "A block device must be specified for \"file\""));
    };
    for (key, value) in [("read-only", !want.write), ("force-share", want.force_share)] {
        file.entry(key).or_insert(Value::Bool(value));
    }
    Ok((spec(name, file)?, driver))
}

/// Opens what the options describe.
///
/// # Errors
/// They describe it wrongly, or it cannot be opened.
pub(super) fn open(
    graph: &Graph,
    name: &str,
    mut object: Map<String, Value>,
    want: Want<'_>,
) -> Result<Arc<Node>, ImgError> {
    fill_in(&mut object, want);
    if want.no_backing {
        object.remove("backing");
    }
    add_drivers(name, &mut object, want)?;
    if want.no_backing && object.get("driver").is_some_and(|driver| driver == "qcow2") {
        object.insert("backing".to_owned(), Value::Null);
    }
    let mut spec = spec(name, object)?;
    match &mut spec {
        BlockdevSpec::Qcow2(spec) => spec.look = look(want),
        BlockdevSpec::Luks(spec) => spec.look = look(want),
        _ => {}
    }
    graph.add(&spec).map_err(|e| not_open(name, e))
}

fn spec(name: &str, object: Map<String, Value>) -> Result<BlockdevSpec, ImgError> {
    let driver = object.get("driver").and_then(Value::as_str).map(str::to_owned);
    serde_json::from_value(Value::Object(object)).map_err(|e| match (e.to_string(), driver) {
        (text, Some(driver)) if text.starts_with(&format!("unknown variant `{driver}`")) => {
            refused(name, format_args!("Unknown driver '{driver}'"))
        }
        (text, _) => refused(name, text),
    })
}

/// Says of what drivers images are for which the options leave that open: what the header of the image above says, or
/// else what the content shows.
fn add_drivers(name: &str, object: &mut Map<String, Value>, want: Want<'_>) -> Result<(), ImgError> {
    let is_open = |of: Option<&Value>| matches!(of, Some(Value::Object(of)) if !of.contains_key("driver"));
    let below_is_open = is_open(object.get("backing"));
    if object.contains_key("driver") && !below_is_open {
        return Ok(());
    }
    let Some(Value::Object(file)) = object.get("file") else {
        return Err(refused(name, "no driver and no file"));
    };
    let graph = super::graph(want);
    let mut look = file.clone();
    look.extend([("read-only".to_owned(), true.into()), ("force-share".to_owned(), true.into())]);
    let file = graph.add(&spec(name, look)?).map_err(|e| not_open(name, e))?;
    let file = file.layer().as_ref();
    let shown = probed(file).map_err(|e| not_open(name, e))?.unwrap_or_else(|| "raw".to_owned());
    let driver = object.entry("driver").or_insert_with(|| shown.into()).clone();
    if let (true, Some(Value::Object(below))) = (below_is_open, object.get_mut("backing")) {
        if driver == "qcow2"
            && let (_, Some(format)) = backing_of(file).map_err(|e| not_open(name, e))?
        {
            below.insert("driver".to_owned(), format.into());
        }
        name_protocols(below);
        add_drivers(name, below, want)?;
    }
    Ok(())
}

/// What the command line says beside the options: whether it is written, shared, and a file's driver.
fn fill_in(object: &mut Map<String, Value>, want: Want<'_>) {
    for (key, value) in [("read-only", !want.write), ("force-share", want.force_share)] {
        object.entry(key).or_insert(Value::Bool(value));
    }
    name_protocols(object);
}

/// What holds the bytes of an image is a file if nothing else is said.
fn name_protocols(object: &mut Map<String, Value>) {
    for child in ["file", "data-file"] {
        if let Some(Value::Object(file)) = object.get_mut(child) {
            file.entry("driver").or_insert_with(|| "file".into());
        }
    }
}
