//! What a command line's mistake looks like: `program: -option argument: sentence`.

use std::fmt;

use crate::spec::SpecError;
use crate::spec::error::Shown;

/// A command line that cannot be followed; one line of text.
#[derive(Debug)]
pub struct CliError {
    program: String,
    place: Option<Place>,
    source: SpecError,
}

/// The option and its argument, as the user wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) option: String,
    pub(super) argument: Option<String>,
}

impl CliError {
    pub(super) fn new(program: &str, place: Option<Place>, source: SpecError) -> Self {
        Self { program: program.to_owned(), place, source }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Shown(&self.option))?;
        match &self.argument {
            Some(argument) => write!(f, " {}", Shown(argument)),
            None => Ok(()),
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", Shown(&self.program))?;
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}", self.source)
    }
}

impl std::error::Error for CliError {}

/// Why the reading of options ends before their end.
#[derive(Debug)]
pub(super) enum Stop {
    /// Something is wrong.
    Wrong(SpecError),
    /// Something is to be printed, and nothing else done.
    Print(String),
}

impl From<SpecError> for Stop {
    fn from(error: SpecError) -> Self {
        Self::Wrong(error)
    }
}
