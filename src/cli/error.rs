//! What a command line's mistake looks like: `-option argument: sentence`, behind the program's name.

use std::fmt;

use crate::spec::SpecError;
use crate::spec::error::Shown;

/// A command line that cannot be followed. Message and causes together are one line.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum CliError {
    /// One option is wrong in itself.
    #[error("{place}")]
    Option {
        /// The option and its argument, as the user wrote them.
        place: Place,
        /// What is wrong.
        #[source]
        source: SpecError,
    },
    /// Options do not go together.
    #[error(transparent)]
    Together(#[from] SpecError),
}

/// The option and its argument, as the user wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub(super) option: String,
    pub(super) argument: Option<String>,
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

/// Why the reading of options ends before their end.
#[derive(Debug)]
pub(super) enum Stop {
    /// Something is wrong.
    Wrong(SpecError),
    /// Something is to be printed, and nothing else done.
    Print(String),
    /// The same, but there is nothing to print: as under QEMU that is told, and is no failure.
    NoHelp(SpecError),
}

impl From<SpecError> for Stop {
    fn from(error: SpecError) -> Self {
        Self::Wrong(error)
    }
}
