//! Standard output. Who closes his end of a pipe has read enough: the verb goes on.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use super::error::{ImgError, chain, tell};

/// Writes `text` and a line end.
///
/// # Errors
/// When it cannot be written, but for a reader who has gone.
pub(super) fn line(text: impl AsRef<str>) -> Result<(), ImgError> {
    let mut bytes = text.as_ref().as_bytes().to_vec();
    bytes.push(b'\n');
    write(&bytes)
}

/// Writes `value` as JSON, indented by four.
///
/// # Errors
/// When it cannot be written, but for a reader who has gone.
pub(super) fn json(value: &impl Serialize) -> Result<(), ImgError> {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, Indented::default());
    value.serialize(&mut serializer).map_err(io::Error::from)?;
    bytes.push(b'\n');
    write(&bytes)
}

fn write(bytes: &[u8]) -> Result<(), ImgError> {
    Ok(stream().write_all(bytes)?)
}

/// What the words `shown` came to, where they only tell of work that has an exit code of its own: as in QEMU that is
/// the same where they cannot be written.
pub(super) fn beside(shown: Result<(), ImgError>) {
    if let Err(e) = shown {
        tell(&format!("warning: {}", chain(&e)));
    }
}

/// Standard output for what is written in parts.
pub(super) fn stream() -> impl Write {
    Stream(io::stdout().lock())
}

struct Stream<W>(W);

impl<W: Write> Write for Stream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(bytes.len()),
            done => done,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0.flush() {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            done => done,
        }
    }
}

/// JSON as QEMU writes it: indented by four, the end of a list or object on a line of its own also when it is empty.
#[derive(Default)]
struct Indented {
    depth: usize,
}

impl Indented {
    fn new_line<W: ?Sized + Write>(&self, out: &mut W) -> io::Result<()> {
        out.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| out.write_all(b"    "))
    }

    fn begin<W: ?Sized + Write>(&mut self, out: &mut W, mark: &[u8]) -> io::Result<()> {
        self.depth += 1;
        out.write_all(mark)
    }

    fn end<W: ?Sized + Write>(&mut self, out: &mut W, mark: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        self.new_line(out)?;
        out.write_all(mark)
    }

    fn item<W: ?Sized + Write>(&self, out: &mut W, first: bool) -> io::Result<()> {
        if !first {
            out.write_all(b",")?;
        }
        self.new_line(out)
    }
}

impl Formatter for Indented {
    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.begin(out, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.end(out, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.item(out, first)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.begin(out, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.end(out, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.item(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
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
