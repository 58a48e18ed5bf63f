//! What can go wrong in a verb, and what the user is told.

use std::error::Error;
use std::io;
use std::sync::OnceLock;

use rhea_block::BlockError;

use crate::sentence::{plain, to_stderr};

/// A failure of a verb.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImgError {
    /// The command line makes no sense; the user is pointed to the help text.
    #[error("{0}")]
    Usage(String),
    /// Something is not as it must be.
    #[error("{0}")]
    Said(String),
    /// Several messages, each a line of its own.
    #[error("{}", .0.join("; "))]
    Lines(Vec<String>),
    /// The block library failed while doing `context`.
    #[error("{context}")]
    Block {
        /// What was being done, or to what.
        context: String,
        /// Why it failed.
        #[source]
        source: BlockError,
    },
    /// An image could not be read.
    #[error("error while reading")]
    Read(#[from] BlockError),
    /// A failure with an exit code of its own.
    #[error("{source}")]
    Coded {
        /// The exit code.
        code: u8,
        /// The failure.
        source: Box<ImgError>,
    },
    /// The output could not be written.
    #[error("could not write the output")]
    Output(#[from] io::Error),
    /// Everything was said already; only the exit code is left.
    #[error("exit code {0}")]
    Exit(u8),
}

impl ImgError {
    /// A block error while doing `context`.
    pub(super) fn block(context: impl Into<String>) -> impl FnOnce(BlockError) -> Self {
        let context = context.into();
        move |source| Self::Block { context, source }
    }

    /// The same with an exit code of its own.
    pub(super) fn coded(self, code: u8) -> Self {
        Self::Coded { code, source: Box::new(self) }
    }

    /// The exit code of the program.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Coded { code, .. } | Self::Exit(code) => *code,
            _ => 1,
        }
    }

    /// Prints the message after the program's name, as scripts expect it.
    pub(super) fn report(&self, program: &str) {
        match self {
            Self::Exit(_) => {}
            Self::Coded { source, .. } => source.report(program),
            Self::Lines(lines) => lines.iter().for_each(|line| to_stderr(format!("{program}: {line}"))),
            Self::Usage(text) => to_stderr(format!("{program}: {text}\nTry '{program} --help' for more information")),
            _ => to_stderr(format!("{program}: {}", chain(self))),
        }
    }
}

/// The error and its causes as one sentence, and behind it in a line of its own what may help.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(e) = next {
        let part = plain(&e.to_string());
        // The format names its file, too. As in QEMU only a file that the host refuses is named behind the image.
        let refused = e.source().is_some_and(<dyn Error>::is::<io::Error>);
        if refused || parts.is_empty() || !part.starts_with("Could not open '") {
            parts.push(part);
        }
        next = e.source();
    }
    let hint = BlockError::hint_of(error).map(|hint| format!("\n{hint}"));
    parts.join(": ") + &hint.unwrap_or_default()
}

static PROGRAM: OnceLock<String> = OnceLock::new();

/// Sets the name before messages that end nothing. The first call counts.
pub(super) fn set_program(name: &str) {
    PROGRAM.get_or_init(|| name.to_owned());
}

/// Tells something that does not end the verb.
pub(super) fn tell(text: &str) {
    to_stderr(format!("{}: {text}", PROGRAM.get().map_or("rhea img", String::as_str)));
}
