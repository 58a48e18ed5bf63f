//! Rules in a file: sections with a name in brackets, and lines of `key = "value"`.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::rules::Rules;
use crate::error::{BlockError, ErrorKind};

/// No file of rules is longer, in bytes.
const MOST: u64 = 1 << 20;

/// The rules in the file at `path`.
pub(super) fn read(path: &str) -> Result<Rules, BlockError> {
    let context = |source| BlockError::io(format!("Could not read blkdebug config file '{path}'"), source);
    let length = std::fs::metadata(path).map_err(context)?.len();
    if length > MOST {
        return Err(BlockError::new(
            ErrorKind::Invalid,
            format!("'{path}' is no blkdebug config file: it is too long"),
        ));
    }
    let text = std::fs::read_to_string(path).map_err(context)?;
    parse(&text).map_err(|error| error.within(format!("Could not parse blkdebug config file '{path}'")))
}

pub(super) fn parse(text: &str) -> Result<Rules, BlockError> {
    let mut rules = Rules::default();
    let mut section: Option<(String, Map<String, Value>)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let wrong = || {
            let text = format!("line {number} is neither [inject-error], [set-state] nor key = \"value\"");
            BlockError::new(ErrorKind::Invalid, text)
        };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            finish(section.replace((name.to_owned(), Map::new())), &mut rules)?;
            continue;
        }
        let (key, value) = line.split_once('=').ok_or_else(wrong)?;
        let value = value.trim().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or_else(wrong)?;
        let (_, values) = section.as_mut().ok_or_else(wrong)?;
        values.insert(key.trim().replace('_', "-"), value.into());
    }
    finish(section, &mut rules)?;
    Ok(rules)
}

/// Makes a rule of a section.
fn finish(section: Option<(String, Map<String, Value>)>, rules: &mut Rules) -> Result<(), BlockError> {
    match section {
        None => Ok(()),
        Some((name, values)) if name == "inject-error" => rules.inject(&rule(values)?),
        Some((name, values)) if name == "set-state" => rules.set_state(&rule(values)?),
        Some((name, _)) => Err(BlockError::new(ErrorKind::Invalid, format!("there is no section '{name}'"))),
    }
}

fn rule<T: DeserializeOwned>(values: Map<String, Value>) -> Result<T, BlockError> {
    T::deserialize(Value::Object(values)).map_err(|error| BlockError::new(ErrorKind::Invalid, error.to_string()))
}
