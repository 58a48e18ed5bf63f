//! Whether what is said of a node is what its driver takes: told before anything is opened, in QEMU's words, with the whole
//! path to what is wrong. The library, which reads it afterwards, knows neither where a value stood nor whether a number
//! was written as a text.

use rhea_block::spec::parse_size;
use serde_json::{Map, Value};

use super::blockdev_schema::{ADDRESSES, COMMON, DRIVERS, Kind, Opt};
use crate::spec::SpecError;
use crate::spec::error::{Shown, did_you_mean};
use crate::spec::number::parse_bool;
use crate::spec::read::{SIZE, Source};

/// Checks a node and those described within it. Depth is bounded by how deep JSON and option text are read.
///
/// # Errors
/// The first option that is unknown, is missing, or has a value that it cannot have.
pub(crate) fn check_node(options: &Map<String, Value>, source: Source) -> Result<(), SpecError> {
    Check(source).node(options, "")
}

/// As [`check_node`], of JSON: the name of a node, or one described in place; `at` is where that stands.
///
/// # Errors
/// As [`check_node`].
pub(super) fn check_reference(value: &Value, at: &str) -> Result<(), SpecError> {
    Check(Source::Json).value(&Kind::Node, value, at)
}

/// How it was written.
struct Check(Source);

impl Check {
    /// Options of a node; they stand at `at`, which is empty or ends in a dot.
    fn node(&self, options: &Map<String, Value>, at: &str) -> Result<(), SpecError> {
        self.choice(options, "driver", &DRIVERS, COMMON, at)
    }

    /// An object whose member `tag` says which others it has beside the `shared` ones.
    fn choice(
        &self,
        object: &Map<String, Value>,
        tag: &str,
        cases: &[(&str, &[Opt])],
        shared: &[Opt],
        at: &str,
    ) -> Result<(), SpecError> {
        let place = format_args!("{at}{tag}");
        let chosen = match object.get(tag) {
            None => return Err(SpecError::missing(place)),
            Some(Value::String(chosen)) => chosen,
            Some(_) => return Err(SpecError::wrong_type(place, "string")),
        };
        let Some((_, own)) = cases.iter().find(|(name, _)| name == chosen) else {
            let names: Vec<&str> = cases.iter().map(|(name, _)| *name).collect();
            return Err(SpecError::not_one_of(place, chosen, &names));
        };
        self.members(object, Some(tag), &[shared, own], at)
    }

    fn members(
        &self,
        object: &Map<String, Value>,
        tag: Option<&str>,
        known: &[&[Opt]],
        at: &str,
    ) -> Result<(), SpecError> {
        let known = || known.iter().copied().flatten();
        for opt in known() {
            match object.get(opt.name) {
                Some(value) => self.value(&opt.kind, value, &format!("{at}{}", opt.name))?,
                None if opt.optional => {}
                None => return Err(SpecError::missing(format_args!("{at}{}", opt.name))),
            }
        }
        let is_known = |name: &str| Some(name) == tag || known().any(|opt| opt.name == name);
        match object.keys().find(|name| !is_known(name)) {
            Some(name) => {
                let hint = did_you_mean(name, known().map(|opt| opt.name));
                Err(SpecError::new(format!("Parameter '{at}{}' is unexpected{hint}", Shown(name))))
            }
            None => Ok(()),
        }
    }

    /// A value; `name` is the path to it.
    fn value(&self, kind: &Kind, value: &Value, name: &str) -> Result<(), SpecError> {
        let within = || format!("{name}.");
        let expected = match (kind, value) {
            (Kind::Node | Kind::NodeOrNull, Value::Object(node)) => return self.node(node, &within()),
            (Kind::Object(_, known), Value::Object(object)) => return self.members(object, None, &[known], &within()),
            (Kind::Server, Value::Object(server)) => return self.choice(server, "type", &ADDRESSES, &[], &within()),
            (Kind::List(_, known), Value::Array(elements)) => return self.elements(elements, known, name),
            (Kind::Either(_, [Kind::Object(_, known), _]), Value::Object(object)) => {
                return self.members(object, None, &[known], &within());
            }
            (Kind::Either(_, [_, Kind::Words(_, words)]) | Kind::Words(_, words), Value::String(word)) => {
                let is_one = words.contains(&word.as_str());
                return if is_one { Ok(()) } else { Err(SpecError::not_one_of(name, word, words)) };
            }
            (Kind::Flag, Value::String(text)) if self.0 == Source::Text => {
                let is_one = parse_bool(text).is_some();
                return if is_one { Ok(()) } else { Err(SpecError::expects(name, "'on' or 'off'")) };
            }
            (Kind::Number, Value::String(text)) if self.0 == Source::Text => {
                let is_one = parse_size(text).is_some();
                return if is_one { Ok(()) } else { Err(SpecError::expects(name, SIZE)) };
            }
            (Kind::Number, Value::Number(number)) if number.is_i64() => {
                let is_one = number.is_u64();
                return if is_one { Ok(()) } else { Err(SpecError::expects(name, "a non-negative number below 2^63")) };
            }
            (Kind::Text | Kind::Node | Kind::NodeOrNull, Value::String(_))
            | (Kind::Flag, Value::Bool(_))
            | (Kind::NodeOrNull, Value::Null) => return Ok(()),
            (Kind::Text | Kind::Words(..) | Kind::Either(..), _) => "string",
            (Kind::Flag, _) => "boolean",
            (Kind::Number, _) => "integer",
            (Kind::Node, _) => "BlockdevRef",
            (Kind::NodeOrNull, _) => "BlockdevRefOrNull",
            (Kind::Object(..) | Kind::Server, _) => "object",
            (Kind::List(..), _) => "array",
        };
        Err(SpecError::wrong_type(name, expected))
    }

    fn elements(&self, elements: &[Value], known: &[Opt], name: &str) -> Result<(), SpecError> {
        elements.iter().enumerate().try_for_each(|(index, element)| match element {
            Value::Object(element) => self.members(element, None, &[known], &format!("{name}[{index}].")),
            _ => Err(SpecError::wrong_type(format_args!("{name}[{index}]"), "object")),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(options: &Value, source: Source) -> String {
        check_node(options.as_object().expect("an object"), source).expect_err("refused").to_string()
    }

    fn wrong(options: &Value) -> String {
        refused(options, Source::Json)
    }

    #[test]
    fn mistakes_are_told_in_words_that_clients_match() {
        assert_eq!(wrong(&json!({"driver": "file"})), "Parameter 'filename' is missing");
        assert_eq!(wrong(&json!({"node-name": "x"})), "Parameter 'driver' is missing");
        assert!(wrong(&json!({"driver": "x"})).starts_with("Parameter 'driver' does not accept value 'x'; it takes "));
        assert_eq!(wrong(&json!({"driver": "null-co", "colour": "red"})), "Parameter 'colour' is unexpected");
        let near = wrong(&json!({"driver": "null-co", "read-zeros": true}));
        assert_eq!(near, "Parameter 'read-zeros' is unexpected; did you mean 'read-zeroes'?");
        let word = wrong(&json!({"driver": "file", "filename": "x", "aio": "uring"}));
        assert_eq!(word, "Parameter 'aio' does not accept value 'uring'; it takes threads, native or io_uring");
        assert_eq!(wrong(&json!({"driver": 5})), "Invalid parameter type for 'driver', expected: string");
        let fraction = wrong(&json!({"driver": "null-co", "size": 1.5}));
        assert_eq!(fraction, "Invalid parameter type for 'size', expected: integer");
        let negative = wrong(&json!({"driver": "raw", "offset": -1, "file": "f"}));
        assert_eq!(negative, "Parameter 'offset' expects a non-negative number below 2^63");
    }

    #[test]
    fn what_is_wrong_within_is_named_with_its_path() {
        let image = |file: Value| json!({"driver": "qcow2", "file": file});
        assert_eq!(wrong(&image(json!({"driver": "file"}))), "Parameter 'file.filename' is missing");
        assert_eq!(wrong(&image(json!({"filename": "x"}))), "Parameter 'file.driver' is missing");
        assert_eq!(wrong(&image(json!({"driver": "null-co", "colour": 1}))), "Parameter 'file.colour' is unexpected");
        let server = |server: Value| wrong(&image(image(json!({"driver": "nbd", "server": server}))));
        assert_eq!(server(json!({"type": "inet", "host": "h"})), "Parameter 'file.file.server.port' is missing");
        assert_eq!(server(json!({"host": "h"})), "Parameter 'file.file.server.type' is missing");
        let kind = "Parameter 'file.file.server.type' does not accept value 'vsock'; it takes inet or unix";
        assert_eq!(server(json!({"type": "vsock"})), kind);
        assert_eq!(server(json!("h")), "Invalid parameter type for 'file.file.server', expected: object");
        let beneath = json!({"driver": "qcow2", "file": "f", "backing": image(json!({"driver": "file"}))});
        assert_eq!(wrong(&beneath), "Parameter 'backing.file.filename' is missing");
        let rule = json!({"driver": "blkdebug", "image": "i", "inject-error": [{"event": "e"}, {"errno": 5}]});
        assert_eq!(wrong(&rule), "Parameter 'inject-error[1].event' is missing");
        let checks = json!({"driver": "qcow2", "file": "f", "overlap-check": {"template": "al"}});
        assert!(wrong(&checks).starts_with("Parameter 'overlap-check.template' does not accept value 'al'; it takes "));
    }

    #[test]
    fn text_stands_for_numbers_and_flags_in_option_text_only() {
        let null = json!({"driver": "null-co", "node-name": "x", "size": "1M", "read-zeroes": "on"});
        let options = null.as_object().expect("an object");
        assert_eq!(check_node(options, Source::Text), Ok(()));
        assert_eq!(wrong(&null), "Invalid parameter type for 'size', expected: integer");
        // The value that is wrong may be right elsewhere.
        let number = refused(&json!({"driver": "null-co", "node-name": "x", "size": "x"}), Source::Text);
        assert_eq!(number, format!("Parameter 'size' expects {SIZE}"));
        let cache = json!({"driver": "raw", "node-name": "x", "cache": {"direct": "x"}, "file": "f"});
        assert_eq!(refused(&cache, Source::Text), "Parameter 'cache.direct' expects 'on' or 'off'");
    }
}
