//! One option of the command line with its argument.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::qmp::framing::with_double_quotes;
use crate::qmp::json;
use crate::spec::SpecError;
use crate::spec::describe::Describe;
use crate::spec::error::{Shown, Words};
use crate::spec::read::{self, Source};

use super::error::{CliError, Place};
use super::text::{self, Pair};

/// What help is about.
pub(super) enum Help {
    /// The types there are.
    All,
    /// The properties of this type.
    Of(String),
}

fn is_help(word: &str) -> bool {
    word == "help" || word == "?"
}

/// An option as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arg {
    /// With its dashes.
    pub(super) option: String,
    /// Empty for an option without one.
    argument: OsString,
    has_argument: bool,
}

impl Arg {
    pub(super) fn new(option: String, argument: Option<OsString>) -> Self {
        let has_argument = argument.is_some();
        Self { option, argument: argument.unwrap_or_default(), has_argument }
    }

    /// An image without an option in front of it.
    pub(super) fn image(image: OsString) -> Self {
        Self { option: image.to_string_lossy().into_owned(), argument: image, has_argument: false }
    }

    /// Says that this option is wrong.
    pub(super) fn wrong(&self, source: SpecError) -> CliError {
        CliError::Option { place: self.place(), source }
    }

    /// The option as the user wrote it.
    pub(super) fn place(&self) -> Place {
        let argument = self.has_argument.then(|| self.argument.to_string_lossy().into_owned());
        Place { option: self.option.clone(), argument }
    }

    /// The argument as text.
    pub(super) fn text(&self) -> Result<&str, SpecError> {
        self.argument.to_str().ok_or_else(|| SpecError::new("the argument is not UTF-8"))
    }

    /// The argument as a path, which need not be UTF-8.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(AsRef::<OsStr>::as_ref(&self.argument))
    }

    /// The argument as pairs.
    pub(super) fn pairs(&self, main: Option<&str>) -> Result<Vec<Pair>, SpecError> {
        text::pairs(self.text()?, main)
    }

    /// The argument as a spec that is a plain list of pairs.
    pub(super) fn options<T: Describe + DeserializeOwned>(&self, main: Option<&str>) -> Result<T, SpecError> {
        read::read(text::flat(self.pairs(main)?, &[]), Source::Text, Words::Options)
    }

    /// The argument as an object: JSON if it begins with `{`, else pairs with nested keys.
    pub(super) fn object(&self, main: &str) -> Result<(Map<String, Value>, Source), SpecError> {
        match self.json()? {
            Some(object) => Ok((object, Source::Json)),
            None => Ok((text::nested(self.pairs(Some(main))?)?, Source::Text)),
        }
    }

    /// The argument as JSON if it begins with `{`; strings may stand in single quotes, as in QMP.
    pub(super) fn json(&self) -> Result<Option<Map<String, Value>>, SpecError> {
        let text = self.text()?;
        if !text.starts_with('{') {
            return Ok(None);
        }
        match json::read(with_double_quotes(text).as_bytes()) {
            Ok(Value::Object(object)) => Ok(Some(object)),
            // What begins with a brace and is JSON is an object.
            Ok(_) => Err(SpecError::wrong_type("the argument", "object")),
            Err(error) => Err(SpecError::new(Shown(&error.to_string()).to_string())),
        }
    }

    /// The argument asks for help: `help` or `?`.
    pub(super) fn wants_help(&self) -> bool {
        self.argument.to_str().is_some_and(is_help)
    }

    /// What help the argument asks for: `help` for the key `main`, whatever stands beside it, or a key `help` anywhere.
    pub(super) fn help(&self, main: &str) -> Option<Help> {
        let text = self.text().ok().filter(|text| !text.starts_with('{'))?;
        let pairs = text::pairs(text, Some(main)).ok()?;
        let name = &pairs.iter().rfind(|pair| pair.key == main)?.value;
        match pairs.iter().any(|pair| is_help(&pair.key)) {
            _ if is_help(name) => Some(Help::All),
            true => Some(Help::Of(name.clone())),
            false => None,
        }
    }
}
