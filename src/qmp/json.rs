//! JSON as QEMU reads it: no key twice in an object. And as it writes it: a space after `:` and `,` in lines, four spaces a
//! level when pretty. Scripts match it.

use std::{fmt, io};

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use serde_json::{Map, Value};

/// The text is no JSON, or an object in it has a key twice. Says why; "JSON parse error" stands before it.
#[derive(Debug, thiserror::Error)]
#[error("JSON parse error, {0}")]
pub(crate) struct JsonError(String);

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        // Without the place, which stands behind it: QEMU says none.
        let text = error.to_string();
        Self(if text.starts_with(DUPLICATE) { DUPLICATE.to_owned() } else { text })
    }
}

const DUPLICATE: &str = "duplicate key";

/// Reads one value, which is all of the text. (RFC 8259, section 4, leaves open what a key means that stands twice.)
///
/// # Errors
/// It is none, is deeper than serde_json goes, or has a key twice at any depth.
pub(crate) fn read(text: &[u8]) -> Result<Value, JsonError> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Unique.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// A value of any kind whose objects have every key once.
struct Unique;

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = elements.next_element_seed(Self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(DUPLICATE));
            }
            let value = members.next_value_seed(Self)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// The message as bytes, with the line end that QMP has.
pub(crate) fn to_line(message: &Value, pretty: bool) -> Vec<u8> {
    let mut line = Vec::new();
    let written = if pretty {
        message.serialize(&mut Serializer::with_formatter(&mut line, PrettyFormatter::with_indent(b"    ")))
    } else {
        message.serialize(&mut Serializer::with_formatter(&mut line, Spaced))
    };
    // A value in memory can always be written to memory.
    debug_assert!(written.is_ok());
    line.extend(b"\r\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        read(text.as_bytes()).expect_err("refused").to_string()
    }

    #[test]
    fn values_are_what_serde_json_makes_of_them() {
        let text = r#"{"a": [1, -2, 1.5, null, true, "x\n\u00e4", {}], "b": {"a": 18446744073709551615}, "c": []}"#;
        assert_eq!(
            read(text.as_bytes()).expect("it is JSON"),
            serde_json::from_str::<Value>(text).expect("it is JSON")
        );
    }

    #[test]
    fn key_that_stands_twice_is_refused_at_every_depth() {
        for text in [
            r#"{"a": 1, "a": 1}"#,
            r#"{"a": {"b": {"c": 1, "d": 2, "c": 3}}}"#,
            r#"{"a": [[{"b": 1}, {"b": 1, "b": 2}]]}"#,
            r#"{"ab": 1, "\u0061b": 2}"#,
        ] {
            assert_eq!(refused(text), "JSON parse error, duplicate key");
        }
    }

    #[test]
    fn text_that_is_no_json_is_told_with_its_place() {
        assert_eq!(refused("{\"a\" 1}"), "JSON parse error, expected `:` at line 1 column 6");
        assert_eq!(refused("{} {}"), "JSON parse error, trailing characters at line 1 column 4");
        assert!(refused(&"[".repeat(1000)).starts_with("JSON parse error, recursion limit exceeded"));
    }
}
