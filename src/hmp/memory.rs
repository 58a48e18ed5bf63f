//! `x`, `xp`, `i` and `print`: memory, ports and numbers in the formats of a debugger.

use std::fmt::Write;

use crate::qmp::{Inspect, Inspection, QmpError};

use super::Context;
use super::commands::{Failure, Printed, Words};
use super::expression::evaluate;

/// The most that one command shows, in bytes.
const LIMIT: u64 = 64 << 10;
/// Bytes in a line.
const LINE: usize = 16;

/// Which addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    /// Those of the vCPU, through its page tables.
    Virtual,
    /// Those of the machine.
    Physical,
}

/// `/4xw`: how many, how shown, how wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Format {
    count: u64,
    letter: char,
    /// Bytes.
    size: usize,
}

impl Format {
    /// Reads `/…`; what is left out is one hexadecimal word of four bytes.
    fn parse(text: &str) -> Result<Self, Failure> {
        let invalid = || Failure::Usage("invalid char in format".into());
        let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
        let (count, letters) = text.split_at(digits);
        let count = if count.is_empty() { 1 } else { count.parse().map_err(|_| invalid())? };
        let mut format = Self { count, letter: 'x', size: 4 };
        for letter in letters.chars() {
            match letter {
                'x' | 'd' | 'u' | 'o' | 'c' => format.letter = letter,
                'i' => return Err(Failure::Error(QmpError::generic("instructions are not disassembled here"))),
                'b' => format.size = 1,
                'h' => format.size = 2,
                'w' => format.size = 4,
                'g' => format.size = 8,
                _ => return Err(invalid()),
            }
        }
        Ok(format)
    }

    /// A value as it is shown, without the space before it. `value` has `size` bytes.
    fn show(self, value: u64) -> String {
        let bits = self.size * 8;
        match self.letter {
            'd' => format!("{:width$}", sign_extend(value, bits), width = (bits * 10).div_ceil(33)),
            'u' => format!("{value:width$}", width = (bits * 10).div_ceil(33)),
            'o' => format!("0{value:0width$o}", width = bits.div_ceil(3)),
            'c' => show_character(value.to_le_bytes()[0]),
            _ => format!("0x{value:0width$x}", width = bits / 4),
        }
    }
}

fn sign_extend(value: u64, bits: usize) -> i64 {
    let unused = 64 - bits.min(64);
    (value << unused).cast_signed() >> unused
}

fn show_character(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".into(),
        b'\\' => "'\\\\'".into(),
        b'\n' => "'\\n'".into(),
        b'\r' => "'\\r'".into(),
        b' '..=b'~' => format!("'{}'", char::from(byte)),
        _ => format!("'\\x{byte:02x}'"),
    }
}

/// The format, if there is one, and the number.
fn format_and_value(words: &Words<'_>) -> Result<(Format, i64), Failure> {
    let given = words.get(0).and_then(|word| word.strip_prefix('/'));
    let format = Format::parse(given.unwrap_or_default())?;
    let text = words.rest(usize::from(given.is_some()));
    let value = evaluate(&text).map_err(|error| Failure::Usage(error.to_string()))?;
    Ok((format, value))
}

/// `print /fmt expr`.
pub(crate) fn print(words: &Words<'_>) -> Printed {
    let given = words.get(0).is_some_and(|word| word.starts_with('/'));
    let (format, value) = format_and_value(words)?;
    Ok(match format.letter {
        'o' => format!("0{value:o}\n"),
        'u' => format!("{}\n", value.cast_unsigned()),
        'c' => format!("{}\n", show_character(value.to_le_bytes()[0])),
        'x' if given => format!("0x{value:x}\n"),
        _ => format!("{value}\n"),
    })
}

/// `x /fmt addr`, `xp /fmt addr`.
pub(crate) fn examine(context: &mut Context<'_>, words: &Words<'_>, space: Space) -> Printed {
    let (mut format, address) = format_and_value(words)?;
    let length = format.count.saturating_mul(format.size as u64);
    if format.letter == 'c' {
        format.size = 1;
    }
    if length > LIMIT {
        return Err(Failure::Error(QmpError::generic(format!("at most {LIMIT} bytes can be shown at once"))));
    }
    let address = address.cast_unsigned();
    let cpu = (space == Space::Virtual).then_some(context.cpu);
    let query = Inspect::Memory { cpu, address, length: u32::try_from(length).unwrap_or_default() };
    let Inspection::Bytes(bytes) = context.inspect(query)? else {
        return Err(Failure::Error(QmpError::generic("Cannot access memory")));
    };
    Ok(dump(format, address, &bytes))
}

/// `i /fmt addr`: what a guest would read there, with the side effects that it would have.
pub(crate) fn read_port(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let (format, address) = format_and_value(words)?;
    let port = u16::try_from(address).map_err(|_| Failure::Usage(format!("{address:#x} is no port")))?;
    let (letter, size) = match format.size {
        1 => ('b', 1),
        2 => ('w', 2),
        _ => ('l', 4),
    };
    let Inspection::Bytes(bytes) = context.inspect(Inspect::Port { port, size })? else {
        return Err(Failure::Error(QmpError::generic("Cannot access ports")));
    };
    let value = bytes.iter().rev().fold(0_u32, |value, byte| value << 8 | u32::from(*byte));
    Ok(format!("port{letter}[0x{port:04x}] = 0x{value:0width$x}\n", width = usize::from(size) * 2))
}

fn dump(format: Format, address: u64, bytes: &[u8]) -> String {
    let mut text = String::new();
    for (number, line) in (0_u64..).zip(bytes.chunks(LINE)) {
        let _ = write!(text, "{:016x}:", address.wrapping_add(number * LINE as u64));
        for value in line.chunks(format.size) {
            let mut whole = [0; 8];
            for (place, byte) in whole.iter_mut().zip(value) {
                *place = *byte;
            }
            let _ = write!(text, " {}", format.show(u64::from_le_bytes(whole)));
        }
        text.push('\n');
    }
    text
}
