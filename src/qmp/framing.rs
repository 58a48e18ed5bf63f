//! Finds the JSON objects in a client's bytes: several in a read, one over many, on one line or on ten.
//!
//! It holds at most [`MAX_MESSAGE`] bytes, whatever comes. A byte that no message can have at that place is answered at
//! once, though its line may never end; what follows is passed over up to the end of the line or the next brace, so one
//! mistake gets one answer. Of a message that is too large everything up to the end of the line is passed over: nobody
//! wants its inner objects for commands.
//!
//! As in QEMU, strings may also stand in single quotes, which people type; they are turned into JSON's.

/// The longest message, in bytes.
pub const MAX_MESSAGE: usize = 1 << 20;
/// How deep objects and arrays may be in one another; what reads them afterwards allows no more either.
pub const MAX_DEPTH: usize = 120;

/// Why there is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// Something that begins no message.
    #[error("JSON parse error, stray '{}'", char::from(*.0).escape_default())]
    Stray(u8),
    /// More than [`MAX_MESSAGE`].
    #[error("JSON parse error, message longer than {MAX_MESSAGE} bytes")]
    TooLong,
    /// More than [`MAX_DEPTH`].
    #[error("JSON parse error, nesting deeper than {MAX_DEPTH}")]
    TooDeep,
}

/// One client's stream.
#[derive(Debug, Default)]
pub struct Framer {
    message: Vec<u8>,
    depth: usize,
    mode: Mode,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Before a message, or in one but not in a string.
    #[default]
    Structure,
    /// In a string that ends with this.
    Text { quote: u8, escaped: bool },
    /// After a mistake, up to the end of the line or, unless `line`, to what may begin a message.
    Skip { line: bool },
}

impl Framer {
    /// Takes one byte; gives a message when it is complete.
    ///
    /// # Errors
    ///
    /// The stream is no sequence of JSON objects within the bounds.
    pub fn push(&mut self, byte: u8) -> Result<Option<Vec<u8>>, FramingError> {
        match self.mode {
            Mode::Skip { line: false } if matches!(byte, b'{' | b'[') => {
                self.mode = Mode::Structure;
                self.in_structure(byte)?;
            }
            Mode::Skip { .. } => {
                if byte == b'\n' {
                    self.mode = Mode::Structure;
                }
                return Ok(None);
            }
            Mode::Text { quote, escaped } => self.in_text(byte, quote, escaped)?,
            Mode::Structure if self.depth == 0 => self.between(byte)?,
            Mode::Structure => self.in_structure(byte)?,
        }
        if self.message.len() > MAX_MESSAGE {
            return self.fail(FramingError::TooLong);
        }
        let is_complete = self.depth == 0 && !self.message.is_empty();
        Ok(is_complete.then(|| std::mem::take(&mut self.message)))
    }

    /// Nothing of an incomplete message is kept.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Bytes of an incomplete message.
    pub fn held(&self) -> usize {
        self.message.len()
    }

    fn between(&mut self, byte: u8) -> Result<(), FramingError> {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => Ok(()),
            b'{' | b'[' => self.in_structure(byte),
            _ => self.fail(FramingError::Stray(byte)),
        }
    }

    fn in_structure(&mut self, byte: u8) -> Result<(), FramingError> {
        match byte {
            b'{' | b'[' => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return self.fail(FramingError::TooDeep);
                }
            }
            b'}' | b']' => self.depth -= 1,
            b'"' | b'\'' => {
                self.mode = Mode::Text { quote: byte, escaped: false };
                self.message.push(b'"');
                return Ok(());
            }
            b'\t' | b'\r' | b'\n' => {}
            // No token of JSON has them; QEMU's own tests interpolate with %.
            0..=0x1f | 0x80.. | b'%' => return self.fail(FramingError::Stray(byte)),
            _ => {}
        }
        self.message.push(byte);
        Ok(())
    }

    fn in_text(&mut self, byte: u8, quote: u8, escaped: bool) -> Result<(), FramingError> {
        // Control characters are written as escapes (RFC 8259, 7), and some bytes are never UTF-8 (RFC 3629, 1).
        if matches!(byte, 0..=0x1f | 0xc0 | 0xc1 | 0xf5..) {
            return self.fail(FramingError::Stray(byte));
        }
        self.mode = Mode::Text { quote, escaped: !escaped && byte == b'\\' };
        match byte {
            b'\'' if escaped => {
                // JSON has no such escape and needs none.
                self.message.pop();
                self.message.push(b'\'');
            }
            _ if !escaped && byte == quote => {
                self.mode = Mode::Structure;
                self.message.push(b'"');
            }
            b'"' if !escaped => self.message.extend(b"\\\""),
            _ => self.message.push(byte),
        }
        Ok(())
    }

    fn fail<T>(&mut self, error: FramingError) -> Result<T, FramingError> {
        let line = !matches!(error, FramingError::Stray(_));
        *self = Self { mode: Mode::Skip { line }, ..Self::default() };
        Err(error)
    }
}

/// A whole text with JSON's quotes in place of single ones; what is no single object stays as it is, for the parser to
/// complain about.
pub fn with_double_quotes(text: &str) -> String {
    let mut framer = Framer::default();
    for (index, byte) in text.bytes().enumerate() {
        match framer.push(byte) {
            Ok(None) => {}
            Ok(Some(message)) if index + 1 == text.len() => {
                return String::from_utf8(message).unwrap_or_else(|_| text.to_owned());
            }
            Ok(Some(_)) | Err(_) => break,
        }
    }
    text.to_owned()
}

#[cfg(test)]
mod tests;
