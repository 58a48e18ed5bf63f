//! `blockdev-add` and `-blockdev`: arguments as they were written, and the node that they ask for. What options a driver has
//! is the block library's to know.

use rhea_block::spec::{BlockdevSpec, SocketAddress};
use serde_json::{Map, Value};

use super::error::Shown;
use super::{SpecError, read};

/// Arguments of `blockdev-add` as they were written.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockdevArgs {
    /// `driver`, `node-name` and the driver's options.
    pub options: Map<String, Value>,
    /// In option text every scalar is a string.
    pub source: read::Source,
}

/// `-blockdev`.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockdevOption {
    /// The option with its argument, as the user wrote them.
    pub typed: String,
    /// What it says.
    pub args: BlockdevArgs,
}

impl BlockdevArgs {
    /// The node.
    ///
    /// # Errors
    /// In QEMU's words, what is missing or not known.
    pub fn node(&self) -> Result<BlockdevSpec, SpecError> {
        match self.options.get("driver") {
            Some(Value::String(driver)) if !BlockdevSpec::DRIVERS.contains(&driver.as_str()) => {
                return Err(SpecError::not_one_of("driver", driver, &BlockdevSpec::DRIVERS));
            }
            None | Some(Value::String(_)) => {}
            Some(_) => return Err(SpecError::wrong_type("driver", "string")),
        }
        let node = serde_json::from_value(Value::Object(self.options.clone()));
        node.map_err(|error| {
            let missing = missing_within(&self.options, "");
            missing.unwrap_or_else(|| in_our_words(&self.options, &error.to_string()))
        })
    }
}

/// What the innermost node or address lacks that is described wrongly, with the path to it in front of the name. Depth is
/// bounded by how deep JSON and option text are read.
fn missing_within(options: &Map<String, Value>, prefix: &str) -> Option<SpecError> {
    options.iter().find_map(|(name, value)| {
        let inner = value.as_object()?;
        let error = match name.as_str() {
            "file" | "backing" | "data-file" | "image" => {
                serde_json::from_value::<BlockdevSpec>(value.clone()).err()?
            }
            "server" => serde_json::from_value::<SocketAddress>(value.clone()).err()?,
            _ => return None,
        };
        let below = format!("{prefix}{name}.");
        missing_within(inner, &below).or_else(|| {
            let text = error.to_string();
            let (name, _) = text.strip_prefix("missing field `")?.split_once('`')?;
            Some(SpecError::missing(format_args!("{below}{name}")))
        })
    })
}

/// serde quotes names: "missing field `filename`", "unknown field `x`, expected one of `a`, `b`", and texts: "invalid value:
/// string "x", expected 'on' or 'off'".
fn in_our_words(options: &Map<String, Value>, text: &str) -> SpecError {
    if let Some((value, expected)) =
        text.strip_prefix("invalid value: ").and_then(|rest| rest.split_once(", expected "))
        && let Some(name) = path_to(options, &|_, given| is_told(given, value))
    {
        return SpecError::expects(name, expected);
    }
    let mut parts = text.splitn(3, '`');
    let (what, name, rest) = (parts.next(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let rest = rest.strip_prefix(", expected ").map(|known| format!("; it takes {}", known.replace('`', "'")));
    let rest = rest.unwrap_or_default();
    match what {
        Some("missing field ") => SpecError::missing(name),
        Some("unknown field ") => {
            let path = path_to(options, &|key, _| key == name).unwrap_or_else(|| name.to_owned());
            SpecError::new(format!("Parameter '{}' is unexpected{rest}", Shown(&path)))
        }
        Some("unknown variant ") => match path_to(options, &|_, given| given == name) {
            Some(path) => SpecError::new(format!("Parameter '{path}' does not accept value '{}'{rest}", Shown(name))),
            None => SpecError::new(format!("Invalid value '{}'{rest}", Shown(name))),
        },
        _ => SpecError::new(Shown(text).to_string()),
    }
}

/// serde says a value so: `string "x"`, "integer `-1`".
fn is_told(value: &Value, told: &str) -> bool {
    match value {
        Value::String(text) => told == format!("string {text:?}"),
        Value::Number(number) => told.split('`').nth(1) == Some(&number.to_string()),
        _ => false,
    }
}

/// The name, with dots, of the first option that is looked for, the outer ones first.
fn path_to(options: &Map<String, Value>, is_it: &dyn Fn(&str, &Value) -> bool) -> Option<String> {
    let here = options.iter().find(|(key, value)| is_it(key, value));
    let below =
        || options.iter().find_map(|(key, value)| Some(format!("{key}.{}", path_to(value.as_object()?, is_it)?)));
    here.map(|(key, _)| key.clone()).or_else(below)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(options: Value) -> String {
        let Value::Object(options) = options else { panic!("not an object") };
        BlockdevArgs { options, source: read::Source::Json }.node().expect_err("refused").to_string()
    }

    #[test]
    fn mistakes_are_told_in_words_that_clients_match() {
        assert_eq!(refused(json!({"driver": "file"})), "Parameter 'filename' is missing");
        assert!(refused(json!({"driver": "x"})).starts_with("Parameter 'driver' does not accept value 'x'; it takes "));
        let unknown = refused(json!({"driver": "null-co", "colour": "red"}));
        assert!(unknown.starts_with("Parameter 'colour' is unexpected; it takes one of 'node-name', "), "{unknown}");
        let word = refused(json!({"driver": "file", "filename": "x", "aio": "uring"}));
        assert!(word.starts_with("Parameter 'aio' does not accept value 'uring'; it takes "), "{word}");
        assert_eq!(refused(json!({"driver": 5})), "Invalid parameter type for 'driver', expected: string");
        let inner = refused(json!({"driver": "raw", "file": {"driver": "null-co", "colour": "red"}}));
        assert!(inner.starts_with("Parameter 'file.colour' is unexpected; "), "{inner}");
        let switch = json!({"driver": "raw", "cache": {"direct": "x"}, "file": "f"});
        assert_eq!(refused(switch), "Parameter 'cache.direct' expects 'on' or 'off'");
        let size = refused(json!({"driver": "raw", "offset": -1, "file": "f"}));
        assert!(size.starts_with("Parameter 'offset' expects a number of bytes"), "{size}");
    }

    #[test]
    fn what_is_missing_within_is_named_with_its_path() {
        let image = |file: Value| json!({"driver": "qcow2", "file": file});
        assert_eq!(refused(image(json!({"driver": "file"}))), "Parameter 'file.filename' is missing");
        assert_eq!(refused(image(json!({"filename": "x"}))), "Parameter 'file.driver' is missing");
        let deep = image(image(json!({"driver": "nbd", "server": {"type": "inet", "host": "h"}})));
        assert_eq!(refused(deep), "Parameter 'file.file.server.port' is missing");
        let beneath = json!({"driver": "qcow2", "file": "f", "backing": image(json!({"driver": "file"}))});
        assert_eq!(refused(beneath), "Parameter 'backing.file.filename' is missing");
        let unknown = refused(image(json!({"driver": "file", "filename": "x", "colour": 1})));
        assert!(unknown.starts_with("Parameter 'file.colour' is unexpected"), "{unknown}");
    }
}
