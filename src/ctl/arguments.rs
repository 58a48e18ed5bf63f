//! From words to a message.

use serde_json::{Map, Value};

use super::CtlError;

/// The message for a command and the words after it.
pub(super) fn message(name: &str, words: &[String]) -> Result<Map<String, Value>, CtlError> {
    let mut arguments = Map::new();
    for word in words {
        if word.starts_with('{') {
            arguments.extend(super::parse_object(word)?);
            continue;
        }
        let wrong = || CtlError::Argument(word.clone());
        let (key, text) = word.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(wrong)?;
        insert(&mut arguments, key, value(text)).ok_or_else(wrong)?;
    }
    let mut message = Map::new();
    message.insert("execute".into(), name.into());
    if !arguments.is_empty() {
        message.insert("arguments".into(), Value::Object(arguments));
    }
    Ok(message)
}

/// What looks like JSON is JSON, anything else is text.
fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// Puts a value at `a.b.c`; `None` when `a.b` is something else already.
fn insert(object: &mut Map<String, Value>, key: &str, value: Value) -> Option<()> {
    match key.split_once('.') {
        None => {
            object.insert(key.to_owned(), value);
            Some(())
        }
        Some((first, rest)) => {
            let inner = object.entry(first).or_insert_with(|| Value::Object(Map::new()));
            insert(inner.as_object_mut()?, rest, value)
        }
    }
}
