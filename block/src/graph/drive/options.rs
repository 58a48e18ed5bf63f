//! Options of a format or protocol in `-drive`: put over what the drive's own options say, and read as in `-blockdev`.

use std::path::Path;

use serde_json::{Map, Value};

use super::DriveSpec;
use crate::error::{BlockError, ErrorKind};
use crate::graph::named::{by_name, in_file_system};
use crate::spec::{self, Backing, BlockdevSpec, Cache, Discard};

type Object = Map<String, Value>;

/// The node beneath the format: what the file's name means with `options`, or what these say alone.
pub(super) fn protocol_of(
    drive: &DriveSpec,
    read_only: bool,
    options: Option<Value>,
) -> Result<BlockdevSpec, BlockError> {
    let file = spec::File {
        filename: drive.file.clone(),
        aio: drive.aio,
        locking: drive.locking,
        read_only: Some(read_only),
        auto_read_only: Some(drive.auto_read_only),
        force_share: Some(drive.force_share),
        discard: Some(Discard::Unmap),
        cache: Some(Cache { direct: Some(drive.direct), no_flush: Some(drive.no_flush) }),
        ..spec::File::default()
    };
    let options = match options {
        None => return by_name(file),
        Some(Value::Object(options)) => options,
        Some(_) => {
            let text = "the name of a node in 'file' is not taken here: use -blockdev";
            return Err(BlockError::new(ErrorKind::Unsupported, text));
        }
    };
    let in_files = matches!(options.get("driver").and_then(Value::as_str), None | Some("file" | "host_device"));
    let base = if !drive.file.is_empty() {
        to_object(&by_name(file)?)?
    } else {
        // What files have and others do not stays away from those.
        let file = if in_files { file } else { spec::File { aio: None, locking: None, ..file } };
        let mut base = to_object(&BlockdevSpec::File(file))?;
        base.remove("filename");
        base
    };
    from_object(&merged(base, options))
}

/// A raw node as `raw` says, with `options` put over it.
pub(super) fn raw_of(raw: spec::Raw, options: Object) -> Result<spec::Raw, BlockError> {
    match format_of("raw", raw, options)? {
        BlockdevSpec::Raw(raw) => Ok(raw),
        _ => Err(BlockError::new(ErrorKind::Invalid, "the options are not those of a raw image")),
    }
}

/// A node of `format` as `common` says, with `options` put over it.
pub(super) fn format_of(format: &str, common: spec::Raw, options: Object) -> Result<BlockdevSpec, BlockError> {
    let mut base = to_object(&BlockdevSpec::Raw(common))?;
    base.insert("driver".to_owned(), format.into());
    put_over(base, options)
}

/// The node that `base` describes, with `options` put over it. What they say of the image beneath is put over what the
/// header says when it is opened.
pub(in crate::graph) fn put_over(base: Object, mut options: Object) -> Result<BlockdevSpec, BlockError> {
    let beneath = match options.remove("backing") {
        Some(Value::Object(beneath)) => Some(beneath),
        Some(other) => {
            options.insert("backing".to_owned(), other);
            None
        }
        None => None,
    };
    let mut node = from_object(&merged(base, options))?;
    match (beneath, &mut node) {
        (None, _) => {}
        (Some(beneath), BlockdevSpec::Qcow2(qcow2)) => qcow2.backing = Backing::Over(beneath),
        (Some(_), _) => return Err(BlockError::new(ErrorKind::Invalid, "Driver doesn't support backing files")),
    }
    Ok(node)
}

/// The node that `options` describe by a `driver` or a `filename` of their own; without, the file at `path`, with them
/// put over it.
pub(in crate::graph) fn file_over(path: Option<&Path>, mut options: Object) -> Result<BlockdevSpec, BlockError> {
    if options.contains_key("driver") {
        return from_object(&options);
    }
    let name = options.remove("filename").and_then(|name| name.as_str().map(str::to_owned));
    let file = |filename: String| spec::File { filename, ..spec::File::default() };
    let base = match (name, path) {
        (Some(name), _) => by_name(file(name))?,
        (None, Some(path)) => in_file_system(file(path.display().to_string())),
        (None, None) => {
            return Err(BlockError::new(ErrorKind::Invalid, "A block device must be specified for \"file\""));
        }
    };
    from_object(&merged(to_object(&base)?, options))
}

/// A node's description as the object it is written as.
pub(in crate::graph) fn to_object(spec: &BlockdevSpec) -> Result<Object, BlockError> {
    match serde_json::to_value(spec) {
        Ok(Value::Object(object)) => Ok(object),
        _ => Err(BlockError::new(ErrorKind::Invalid, "the drive's options cannot be put together")),
    }
}

fn from_object(object: &Object) -> Result<BlockdevSpec, BlockError> {
    serde_json::from_value(Value::Object(object.clone())).map_err(|error| {
        let driver = object.get("driver").and_then(Value::as_str).unwrap_or_default();
        BlockError::new(ErrorKind::Invalid, in_words(object, driver, &error.to_string()))
    })
}

/// What serde says, in QEMU's words. It quotes names, "unknown field `x`, expected one of `a`, `b`", and values, "invalid
/// value: string "x", expected 'on' or 'off'".
fn in_words(object: &Object, driver: &str, error: &str) -> String {
    if let Some((_, expected)) = error.strip_prefix("invalid value: ").and_then(|rest| rest.split_once(", expected "))
        && let Some(name) = blamed(object, &[], error)
    {
        return format!("Parameter '{name}' expects {expected}");
    }
    let mut parts = error.splitn(3, '`');
    let (what, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match (what, name) {
        ("unknown field ", _) => format!("Block format '{driver}' does not support the option '{name}'"),
        ("unknown variant ", _) if name == driver => format!("Unknown driver '{driver}'"),
        ("unknown variant ", _) => match blamed(object, &[], error) {
            Some(option) => format!("Parameter '{option}' does not accept value '{name}'"),
            None => format!("the options of driver '{driver}' have no value '{name}'"),
        },
        ("missing field ", "filename") => format!("The '{driver}' block driver requires a file name"),
        ("missing field ", "file") => "A block device must be specified for \"file\"".to_owned(),
        ("missing field ", _) => format!("Parameter '{name}' is missing"),
        _ => error.to_owned(),
    }
}

/// The option below `at` without which it is another error, or none: its name, with dots within others.
fn blamed(whole: &Object, at: &[&str], error: &str) -> Option<String> {
    let here = at.iter().try_fold(whole, |object, name| object.get(*name)?.as_object())?;
    let is_to_blame = |name: &&str| {
        let mut rest = whole.clone();
        let inner = at.iter().try_fold(&mut rest, |object, name| object.get_mut(*name)?.as_object_mut());
        inner.and_then(|inner| inner.shift_remove(*name));
        serde_json::from_value::<BlockdevSpec>(Value::Object(rest)).err().is_none_or(|other| other.to_string() != error)
    };
    // Without a driver, or a type, all the rest means something else.
    let name = here.keys().map(String::as_str).filter(|name| !["driver", "type"].contains(name)).find(is_to_blame)?;
    let path = [at, &[name]].concat();
    blamed(whole, &path, error).or_else(|| Some(path.join(".")))
}

/// `base` with what `over` says put over it, objects inside put together likewise.
fn merged(mut base: Object, over: Object) -> Object {
    for (key, value) in over {
        let value = match (base.remove(&key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => Value::Object(merged(below, above)),
            (_, value) => value,
        };
        base.insert(key, value);
    }
    base
}
