//! Option text of `-o`, `-l` and `--image-opts`: `key=value,key=value`, where `,,` is a comma in a value.

use serde_json::{Map, Value};

use super::error::ImgError;

/// Deepest nesting of a key with dots.
const MOST_DEPTH: usize = 16;
/// The same of a name of the form `json:{...}`, which may describe a chain: as deep as JSON is read.
const MOST_JSON_DEPTH: usize = 128;

/// Refuses a value of `-o` that cannot stand beside others: an empty one, or one with a lone comma at an end.
///
/// # Errors
/// It is such a value.
pub(super) fn check_list(text: &str) -> Result<(), ImgError> {
    let commas = text.len() - text.trim_end_matches(',').len();
    if text.is_empty() || text.starts_with(',') || commas % 2 == 1 {
        return Err(ImgError::Said(format!("Invalid option list: {text}")));
    }
    Ok(())
}

/// `key=value` pairs in order. A key without a value is `on`, as a switch; with `no` before it, `off`.
///
/// # Errors
/// An empty key.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, ImgError> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let key_end = rest.find(['=', ',']).unwrap_or(rest.len());
        let (key, after) = rest.split_at(key_end);
        if key.is_empty() {
            return Err(ImgError::Said(format!("Invalid parameter '{rest}'; write NAME=VALUE")));
        }
        let (value, left) = match after.strip_prefix('=') {
            Some(value) => take_value(value),
            None => ("on".to_owned(), after.strip_prefix(',').unwrap_or(after)),
        };
        let (key, value) = match key.strip_prefix("no") {
            Some(switch) if !after.starts_with('=') && !switch.is_empty() => (switch, "off".to_owned()),
            _ => (key, value),
        };
        pairs.push((key.to_owned(), value));
        rest = left;
    }
    Ok(pairs)
}

/// Up to the first comma that is not doubled, doubled ones made single; and what follows.
fn take_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(',') {
        value.push_str(before);
        let Some(more) = after.strip_prefix(',') else { return (value, after) };
        value.push(',');
        rest = more;
    }
    value.push_str(rest);
    (value, "")
}

/// Pairs as an object, with an object for each dot in a key, or a list where what follows are numbers from 0 on.
///
/// # Errors
/// A key is both a value and an object, or nested without bound.
pub(super) fn nested(
    pairs: impl IntoIterator<Item = (String, impl Into<Value>)>,
) -> Result<Map<String, Value>, ImgError> {
    let mut object = Map::new();
    for (key, value) in pairs {
        insert(&mut object, &key, &key, value.into(), MOST_DEPTH)?;
    }
    Ok(with_lists(object))
}

/// The same of JSON, where keys have dots and objects at every depth. As in QEMU, what an object says counts more than a
/// key with dots beside it.
///
/// # Errors
/// As [`nested`].
pub(super) fn nested_json(object: Map<String, Value>) -> Result<Map<String, Value>, ImgError> {
    let mut flat = Map::new();
    flatten(object, "", &mut flat);
    let mut object = Map::new();
    for (key, value) in flat {
        insert(&mut object, &key, &key, value, MOST_JSON_DEPTH)?;
    }
    Ok(with_lists(object))
}

/// The same with a list for each object within whose keys are 0, 1, 2 and so on.
fn with_lists(object: Map<String, Value>) -> Map<String, Value> {
    object.into_iter().map(|(key, value)| (key, with_list(value))).collect()
}

fn with_list(value: Value) -> Value {
    let Value::Object(object) = value else { return value };
    let mut object = with_lists(object);
    let keys: Vec<String> = (0..object.len()).map(|n| n.to_string()).collect();
    match keys.is_empty() || keys.iter().any(|key| !object.contains_key(key)) {
        true => Value::Object(object),
        false => Value::Array(keys.iter().filter_map(|key| object.shift_remove(key)).collect()),
    }
}

/// Puts each value into `flat` by its whole key; objects with nothing in them are values.
fn flatten(object: Map<String, Value>, prefix: &str, flat: &mut Map<String, Value>) {
    let is_inner = |value: &Value| value.as_object().is_some_and(|inner| !inner.is_empty());
    let (inner, plain): (Vec<_>, Vec<_>) = object.into_iter().partition(|(_, value)| is_inner(value));
    for (key, value) in plain {
        flat.insert(format!("{prefix}{key}"), value);
    }
    for (key, value) in inner {
        if let Value::Object(inner) = value {
            flatten(inner, &format!("{prefix}{key}."), flat);
        }
    }
}

fn insert(
    object: &mut Map<String, Value>,
    path: &str,
    whole: &str,
    value: Value,
    depth: usize,
) -> Result<(), ImgError> {
    let invalid = || ImgError::Said(format!("Invalid parameter '{whole}'"));
    let Some((head, tail)) = path.split_once('.') else {
        if path.is_empty() || matches!(object.get(path), Some(Value::Object(_))) {
            return Err(invalid());
        }
        object.insert(path.to_owned(), value);
        return Ok(());
    };
    if head.is_empty() || depth == 0 {
        return Err(invalid());
    }
    match object.entry(head).or_insert_with(|| Value::Object(Map::new())) {
        Value::Object(inner) => insert(inner, tail, whole, value, depth - 1),
        _ => Err(invalid()),
    }
}
