//! Option text: `k=v,k=v`, where `,,` is a comma in a value, a first word without `=` is the value of the option's main
//! key, and later words without `=` are switches: `server` for `server=on`, `nowait` for `wait=off`.
//!
//! The form is QEMU's (qemu(1), "Options"). What the keys mean is not known here.

use serde_json::{Map, Value};

use crate::spec::SpecError;
use crate::spec::error::Shown;

/// Deepest nesting of a key with dots (`a.b.c` has 3). The values are dropped recursively, so it must have a bound.
const MAX_DEPTH: usize = 16;

/// Longest key.
const MAX_KEY: usize = 127;

/// One `key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    /// The key, dots and all.
    pub(super) key: String,
    /// Its value.
    pub(super) value: String,
    /// It was written as a switch.
    pub(super) switch: bool,
}

/// Takes option text apart. `main` is the key whose value a first word without `=` is.
///
/// # Errors
/// A key that is empty or too long.
pub(crate) fn pairs(text: &str, main: Option<&str>) -> Result<Vec<Pair>, SpecError> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let first = pairs.is_empty();
        let key_end = rest.find(['=', ',']).unwrap_or(rest.len());
        let (key, after) = rest.split_at(key_end);
        let pair = if let Some(value) = after.strip_prefix('=') {
            let (value, left) = take_value(value);
            rest = left;
            Pair { key: key.to_owned(), value, switch: false }
        } else if let Some(main) = main.filter(|_| first) {
            let (value, left) = take_value(rest);
            rest = left;
            Pair { key: main.to_owned(), value, switch: false }
        } else {
            rest = after.strip_prefix(',').unwrap_or(after);
            switch(key)
        };
        check_key(&pair.key)?;
        pairs.push(pair);
    }
    Ok(pairs)
}

/// Up to the first comma that is not doubled, doubled ones made single; and what follows.
fn take_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(',') {
        value.push_str(before);
        match after.strip_prefix(',') {
            Some(more) => {
                value.push(',');
                rest = more;
            }
            None => return (value, after),
        }
    }
    value.push_str(rest);
    (value, "")
}

fn switch(word: &str) -> Pair {
    let (key, value) = match word.strip_prefix("no") {
        Some(key) if !key.is_empty() => (key, "off"),
        _ => (word, "on"),
    };
    Pair { key: key.to_owned(), value: value.to_owned(), switch: true }
}

fn check_key(key: &str) -> Result<(), SpecError> {
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(SpecError::new(format!("Invalid parameter '{}'; write NAME=VALUE", Shown(key))));
    }
    Ok(())
}

/// Pairs as one object. Keys in `lists` may come many times and make an array; of others the last one counts.
pub(crate) fn flat(pairs: Vec<Pair>, lists: &[&str]) -> Map<String, Value> {
    let mut object = Map::new();
    for Pair { key, value, .. } in pairs {
        if !lists.contains(&key.as_str()) {
            object.insert(key, Value::String(value));
            continue;
        }
        let list = object.entry(key).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list {
            list.push(Value::String(value));
        }
    }
    object
}

/// Pairs as an object with an object for each dot: `a.b=c` is `{"a": {"b": "c"}}`, and `a.0=x,a.1=y` an array.
///
/// # Errors
/// A key is both a value and an object, has empty parts or too many, or an array has gaps.
pub(crate) fn nested(pairs: Vec<Pair>) -> Result<Map<String, Value>, SpecError> {
    let mut object = Map::new();
    for Pair { key, value, .. } in pairs {
        insert(&mut object, &key, &key, value, MAX_DEPTH)?;
    }
    object.into_iter().map(|(key, value)| Ok((key.clone(), arrays(value, &key)?))).collect()
}

fn insert(
    object: &mut Map<String, Value>,
    path: &str,
    whole: &str,
    value: String,
    depth: usize,
) -> Result<(), SpecError> {
    let invalid = || SpecError::new(format!("Invalid parameter '{}'", Shown(whole)));
    let mixed = || SpecError::new(format!("Parameters '{}.*' used inconsistently", Shown(whole)));
    let Some((head, tail)) = path.split_once('.') else {
        if path.is_empty() {
            return Err(invalid());
        }
        return match object.get(path) {
            Some(Value::Object(_)) => Err(mixed()),
            _ => {
                object.insert(path.to_owned(), Value::String(value));
                Ok(())
            }
        };
    };
    if head.is_empty() || depth == 0 {
        return Err(invalid());
    }
    match object.entry(head).or_insert_with(|| Value::Object(Map::new())) {
        Value::Object(inner) => insert(inner, tail, whole, value, depth - 1),
        _ => Err(mixed()),
    }
}

/// Turns objects whose keys are all numbers into arrays.
fn arrays(value: Value, path: &str) -> Result<Value, SpecError> {
    let Value::Object(object) = value else { return Ok(value) };
    let numbered = |key: &String| key.bytes().all(|b| b.is_ascii_digit());
    if !object.keys().all(numbered) {
        if let Some(key) = object.keys().find(|key| numbered(key)) {
            return Err(SpecError::new(format!(
                "Parameters '{}.*' used inconsistently",
                Shown(&format!("{path}.{key}"))
            )));
        }
        let inner = |(key, value): (String, Value)| {
            let value = arrays(value, &format!("{path}.{key}"))?;
            Ok((key, value))
        };
        return object.into_iter().map(inner).collect::<Result<Map<_, _>, _>>().map(Value::Object);
    }
    let mut object = object;
    (0..object.len())
        .map(|index| {
            let path = format!("{path}.{index}");
            match object.shift_remove(&index.to_string()) {
                Some(value) => arrays(value, &path),
                None => Err(SpecError::new(format!("Parameter '{}' missing", Shown(&path)))),
            }
        })
        .collect::<Result<Vec<_>, _>>()
        .map(Value::Array)
}
