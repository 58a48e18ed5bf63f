//! Standard output, where a closed pipe is an error and not a panic.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use super::error::ImgError;

/// Writes `text` and a line end.
///
/// # Errors
/// When nobody reads.
pub(super) fn line(text: impl AsRef<str>) -> Result<(), ImgError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref().as_bytes())?;
    out.write_all(b"\n")?;
    Ok(())
}

/// Writes `value` as JSON, indented by four.
///
/// # Errors
/// When nobody reads.
pub(super) fn json(value: &impl Serialize) -> Result<(), ImgError> {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"    "));
    value.serialize(&mut serializer).map_err(io::Error::from)?;
    bytes.push(b'\n');
    io::stdout().lock().write_all(&bytes)?;
    Ok(())
}

/// `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// For people.
    Human,
    /// For programs.
    Json,
}

impl Form {
    /// The form that `--output` asks for.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn of(option: Option<&str>) -> Result<Self, ImgError> {
        match option {
            None | Some("human") => Ok(Self::Human),
            Some("json") => Ok(Self::Json),
            Some(_) => Err(ImgError::Said("--output must be used with human or json as argument.".to_owned())),
        }
    }
}
