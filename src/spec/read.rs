//! From a JSON value to a typed spec.
//!
//! The check comes first: it goes through the value by the type's description, turns the strings of option text into the
//! types that the description asks for, resolves aliases, and words the mistakes. What passes it, serde can read.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::describe::{Describe, DescribeUnion, Description, Form, Kind, Prop, Variant};
use super::error::{Shown, SpecError, Words};
use super::number::{parse_bool, parse_int, parse_size};

/// How the value was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Option text: every scalar is a string.
    Text,
    /// JSON: every scalar has its type.
    Json,
    /// JSON where strings may stand for every scalar, as in `device_add`.
    Either,
}

/// Makes a spec of an object.
///
/// # Errors
/// A sentence about the first thing that is wrong.
pub fn read<T: Describe + DeserializeOwned>(
    object: Map<String, Value>,
    source: Source,
    words: Words,
) -> Result<T, SpecError> {
    let checked = check(object, T::DESCRIPTION, &Reader { source, words, prefix: "" })?;
    from_checked(checked)
}

/// As [`read`], for an object below the parameter `prefix`, which messages name.
///
/// # Errors
/// A sentence about the first thing that is wrong.
pub fn read_below<T: Describe + DeserializeOwned>(
    prefix: &str,
    object: Map<String, Value>,
    source: Source,
) -> Result<T, SpecError> {
    let prefix = format!("{prefix}.");
    let checked = check(object, T::DESCRIPTION, &Reader { source, words: Words::Parameters, prefix: &prefix })?;
    from_checked(checked)
}

/// Makes a spec of an object whose tag chooses the type. `words` is made of the type that `find` finds by the tag, or words
/// why not.
///
/// # Errors
/// A sentence about the first thing that is wrong.
pub fn read_union<T: DescribeUnion + DeserializeOwned>(
    mut object: Map<String, Value>,
    source: Source,
    words: fn(&'static Variant) -> Words,
    find: fn(&str) -> Result<&'static Variant, SpecError>,
) -> Result<T, SpecError> {
    let tag = T::UNION.tag;
    let variant = match object.shift_remove(tag) {
        None => return Err(SpecError::missing(tag)),
        Some(Value::String(name)) => find(&name)?,
        Some(_) => return Err(SpecError::wrong_type(tag, "string")),
    };
    let mut checked = check(object, variant.description, &Reader { source, words: words(variant), prefix: "" })?;
    checked.insert(tag.to_owned(), Value::from(variant.name));
    from_checked(checked)
}

/// The value of one property, written as text, with the type that JSON would have.
///
/// # Errors
/// There is no such property, or the text is no value of it.
pub fn typed(description: &'static Description, name: &str, text: &str) -> Result<Value, SpecError> {
    let reader = Reader { source: Source::Text, words: Words::Properties(description.name), prefix: "" };
    match description.find(name) {
        Some(prop) => reader.value(&prop.kind, Value::from(text), prop.name),
        None => Err(unknown(&reader, name, description.props().into_iter().map(|prop| prop.name))),
    }
}

/// What the check lets through and serde does not would be a mistake in a description; it is told, not hidden.
fn from_checked<T: DeserializeOwned>(checked: Map<String, Value>) -> Result<T, SpecError> {
    serde_json::from_value(Value::Object(checked))
        .map_err(|error| SpecError::new(Shown(&error.to_string()).to_string()))
}

struct Reader<'a> {
    source: Source,
    words: Words,
    /// What stands in front of names in messages: empty, or ends in a dot.
    prefix: &'a str,
}

fn check(
    object: Map<String, Value>,
    description: &'static Description,
    reader: &Reader<'_>,
) -> Result<Map<String, Value>, SpecError> {
    let mut checked = Map::new();
    for (name, value) in object {
        let Some(prop) = description.find(&name) else {
            let known = description.props().into_iter().map(|prop| prop.name);
            return Err(unknown(reader, &name, known));
        };
        let value = reader.value(&prop.kind, value, prop.name)?;
        checked.insert(prop.name.to_owned(), value);
    }
    let absent = |prop: &&Prop| prop.required && !checked.contains_key(prop.name);
    match description.props().into_iter().find(absent) {
        Some(prop) => Err(SpecError::missing(format_args!("{}{}", reader.prefix, prop.name))),
        None => Ok(checked),
    }
}

fn unknown(reader: &Reader<'_>, name: &str, known: impl Iterator<Item = &'static str>) -> SpecError {
    if reader.prefix.is_empty() {
        return SpecError::unknown(reader.words, name, known);
    }
    let known: Vec<String> = known.map(|known| format!("{}{known}", reader.prefix)).collect();
    SpecError::unknown(reader.words, &format!("{}{name}", reader.prefix), known.iter().map(String::as_str))
}

impl Reader<'_> {
    fn value(&self, kind: &'static Kind, value: Value, name: &str) -> Result<Value, SpecError> {
        match kind {
            Kind::Any => Ok(value),
            Kind::Bool => self.boolean(value, name),
            Kind::Int { name: type_name, min, max } => self.integer(&value, name, type_name, *min..=*max),
            Kind::Size => self.size(&value, name),
            Kind::Str => match value {
                Value::String(_) => Ok(value),
                other => Err(self.wrong_type(name, "string", &other)),
            },
            Kind::Enum(enumeration) => self.word(value, name, enumeration.words),
            Kind::Parsed(form) => self.parsed(value, name, form),
            Kind::Struct(description) => match value {
                Value::Object(object) => {
                    let prefix = format!("{}{name}.", self.prefix);
                    check(object, description, &Reader { prefix: &prefix, ..*self }).map(Value::Object)
                }
                other => Err(self.wrong_type(name, "object", &other)),
            },
            Kind::List(element) => match value {
                Value::Array(values) => {
                    values.into_iter().map(|value| self.value(element, value, name)).collect::<Result<_, _>>()
                }
                other => Err(self.wrong_type(name, "array", &other)),
            },
        }
    }

    /// The text of a scalar where option text is allowed to stand for it.
    fn text<'v>(&self, value: &'v Value) -> Option<&'v str> {
        value.as_str().filter(|_| self.source != Source::Json)
    }

    fn boolean(&self, value: Value, name: &str) -> Result<Value, SpecError> {
        if let Some(text) = self.text(&value) {
            let parsed = parse_bool(text).map(Value::Bool);
            return parsed.ok_or_else(|| self.expects(name, "'on' or 'off'"));
        }
        if value.is_boolean() { Ok(value) } else { Err(self.wrong_type(name, "boolean", &value)) }
    }

    fn integer(
        &self,
        value: &Value,
        name: &str,
        type_name: &str,
        range: std::ops::RangeInclusive<i128>,
    ) -> Result<Value, SpecError> {
        let number = match self.text(value) {
            Some(text) => parse_int(text).ok_or_else(|| self.expects(name, self.whole()))?,
            None => whole_number(value).ok_or_else(|| self.no_number(name, !type_name.starts_with('u'), value))?,
        };
        if !range.contains(&number) {
            let limits = format!("{type_name} from {} to {}", range.start(), range.end());
            return Err(self.expects(name, &limits));
        }
        Ok(json_integer(number))
    }

    /// What QEMU calls a whole number.
    fn whole(&self) -> &'static str {
        if self.words == Words::Options { "a number" } else { "integer" }
    }

    fn size(&self, value: &Value, name: &str) -> Result<Value, SpecError> {
        match self.text(value) {
            Some(text) => parse_size(text, 1).map(Value::from).ok_or_else(|| self.expects(name, SIZE)),
            None => value.as_u64().map(Value::from).ok_or_else(|| self.no_number(name, false, value)),
        }
    }

    fn word(&self, value: Value, name: &str, words: &[&str]) -> Result<Value, SpecError> {
        let Value::String(text) = &value else { return Err(self.wrong_type(name, "string", &value)) };
        if words.contains(&text.as_str()) {
            return Ok(value);
        }
        Err(SpecError::not_one_of(format_args!("{}{name}", self.prefix), text, words))
    }

    fn parsed(&self, value: Value, name: &str, form: &Form) -> Result<Value, SpecError> {
        let accepted = match &value {
            Value::String(text) => (form.accepts)(text),
            Value::Number(number) => number.as_i64().is_some_and(form.accepts_number),
            _ => return Err(self.wrong_type(name, "string", &value)),
        };
        if accepted { Ok(value) } else { Err(self.not_taken(name, &value, form)) }
    }

    fn not_taken(&self, name: &str, value: &Value, form: &Form) -> SpecError {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match self.words {
            Words::Properties(of) => SpecError::new(format!(
                "Property '{of}.{name}' doesn't take value '{}'; it expects {}",
                Shown(&text),
                form.expects
            )),
            Words::Options | Words::Parameters => self.expects(name, form.expects),
        }
    }

    fn expects(&self, name: &str, what: &str) -> SpecError {
        SpecError::expects(format_args!("{}{name}", self.prefix), what)
    }

    /// Of a device's numbers those without a sign are refused in other words, as by QEMU.
    fn no_number(&self, name: &str, signed: bool, value: &Value) -> SpecError {
        match (self.source, self.words) {
            (Source::Json, Words::Properties(_)) if !signed => self.expects(name, "uint64"),
            _ => self.wrong_type(name, "integer", value),
        }
    }

    /// In option text nothing has a type of its own: an object where a scalar should be comes of dots in the name.
    fn wrong_type(&self, name: &str, expected: &str, value: &Value) -> SpecError {
        match (self.source, value) {
            (Source::Text, Value::Object(object)) => {
                let inner = object.keys().next().map_or("", String::as_str);
                unknown(self, &format!("{name}.{inner}"), std::iter::empty())
            }
            _ => SpecError::wrong_type(format_args!("{}{name}", self.prefix), expected),
        }
    }
}

/// For "Parameter 'x' expects …".
pub const SIZE: &str = "a non-negative number below 2^64, with an optional suffix k, M, G, T, P or E";

fn whole_number(value: &Value) -> Option<i128> {
    value.as_i64().map(i128::from).or(value.as_u64().map(i128::from))
}

fn json_integer(number: i128) -> Value {
    u64::try_from(number).map_or_else(|_| Value::from(i64::try_from(number).unwrap_or(i64::MIN)), Value::from)
}
