//! `blockdev-add` and `-blockdev`: arguments as they were written, and the node that they ask for. What options a driver has
//! is the block library's to know.

use rhea_block::spec::BlockdevSpec;
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

impl BlockdevArgs {
    /// The node.
    ///
    /// # Errors
    /// In QEMU's words, what is missing or not known.
    pub fn node(&self) -> Result<BlockdevSpec, SpecError> {
        if let Some(Value::String(driver)) = self.options.get("driver")
            && !BlockdevSpec::DRIVERS.contains(&driver.as_str())
        {
            return Err(SpecError::not_one_of("driver", driver, &BlockdevSpec::DRIVERS));
        }
        let node = serde_json::from_value(Value::Object(self.options.clone()));
        node.map_err(|error| in_our_words(&error.to_string()))
    }
}

/// serde quotes names: "missing field `filename`", "unknown field `x`, expected one of `a`, `b`".
fn in_our_words(text: &str) -> SpecError {
    let mut parts = text.splitn(3, '`');
    let (what, name, rest) = (parts.next(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let rest = rest.strip_prefix(", expected ").map(|known| format!("; it takes {}", known.replace('`', "'")));
    let rest = rest.unwrap_or_default();
    match what {
        Some("missing field ") => SpecError::missing(name),
        Some("unknown field ") => SpecError::new(format!("Parameter '{}' is unexpected{rest}", Shown(name))),
        Some("unknown variant ") => SpecError::new(format!("Invalid value '{}'{rest}", Shown(name))),
        _ => SpecError::new(Shown(text).to_string()),
    }
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
        assert!(word.starts_with("Invalid value 'uring'; it takes "), "{word}");
    }
}
