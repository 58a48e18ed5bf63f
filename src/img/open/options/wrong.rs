//! What is wrong with options, in QEMU's words.

use rhea_block::spec::BlockdevSpec;
use serde_json::{Map, Value};

use super::FORMATS;

/// What `error`, which reading `object` gave, means for a user.
pub(super) fn in_words(object: &Map<String, Value>, error: &str) -> String {
    let node = blamed(object, error);
    let driver = node.get("driver").and_then(Value::as_str).unwrap_or_default();
    // serde quotes names: "unknown field `x`, expected one of `a`, `b`".
    let mut parts = error.splitn(3, '`');
    let (what, option) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match (what, option) {
        ("unknown field ", _) if FORMATS.contains(&driver) => {
            format!("Block format '{driver}' does not support the option '{option}'")
        }
        ("unknown field ", _) => format!("Block protocol '{driver}' doesn't support the option '{option}'"),
        ("unknown variant ", _) if option == driver => format!("Unknown driver '{driver}'"),
        ("missing field ", "driver") => "Must specify either driver or file".to_owned(),
        ("missing field ", "file") => "A block device must be specified for \"file\"".to_owned(),
        ("missing field ", "filename") => format!("The '{driver}' block driver requires a file name"),
        _ => error.to_owned(),
    }
}

/// The innermost node that gives this error by itself.
fn blamed<'a>(object: &'a Map<String, Value>, error: &str) -> &'a Map<String, Value> {
    let is_to_blame = |value: &&Value| {
        let read = serde_json::from_value::<BlockdevSpec>((*value).clone());
        read.is_err_and(|inner| inner.to_string() == error)
    };
    let inner = ["file", "image", "data-file", "backing"].iter().filter_map(|role| object.get(*role));
    let inner = inner.filter(|value| value.is_object()).find(is_to_blame).and_then(Value::as_object);
    inner.map_or(object, |inner| blamed(inner, error))
}
