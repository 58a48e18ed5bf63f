//! JSON as QEMU writes it: a space after `:` and `,` in lines, four spaces a level when pretty. Scripts match it.

use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// The message as bytes, with the line end that QMP has.
pub(crate) fn to_line(message: &Value, pretty: bool) -> Vec<u8> {
    let mut line = Vec::new();
    let written = if pretty {
        message.serialize(&mut Serializer::with_formatter(&mut line, PrettyFormatter::with_indent(b"    ")))
    } else {
        message.serialize(&mut Serializer::with_formatter(&mut line, Spaced))
    };
    // A value in memory can always be written to memory.
    debug_assert!(written.is_ok());
    line.extend(b"\r\n");
    line
}
