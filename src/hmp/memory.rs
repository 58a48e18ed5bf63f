//! `x`, `xp`, `sum`, `i`, `o` and `print`: memory, ports and numbers in the formats of a debugger.

use std::fmt::Write;

use crate::qmp::command::args::{Memsave, Pmemsave};
use crate::qmp::{Command, Inspect, Inspection, QmpError};

use super::Context;
use super::commands::{Failure, Printed, Words, quiet};

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
                other => {
                    let shown = other.escape_default();
                    return Err(Failure::Usage(format!("invalid char in format: '{shown}'")));
                }
            }
        }
        Ok(format)
    }

    /// The width of a port: 1, 2 or 4 bytes.
    fn port_size(self) -> u8 {
        match self.size {
            1 => 1,
            2 => 2,
            _ => 4,
        }
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

/// The format, and which word comes behind it.
fn format(words: &Words<'_>) -> Result<(Format, usize), Failure> {
    let given = words.get(0).and_then(|word| word.strip_prefix('/'));
    Ok((Format::parse(given.unwrap_or_default())?, usize::from(given.is_some())))
}

/// The format, if there is one, and the number that the other words come to.
fn format_and_value(context: &mut Context<'_>, words: &Words<'_>) -> Result<(Format, i64), Failure> {
    let (format, first) = format(words)?;
    let text = words.rest(first);
    Ok((format, Words::of(&[text]).number(context, 0)?))
}

/// `print /fmt expr`.
pub(crate) fn print(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let (format, value) = format_and_value(context, words)?;
    Ok(match format.letter {
        'o' => format!("0{value:o}\n"),
        'u' => format!("{}\n", value.cast_unsigned()),
        'c' => format!("{}\n", show_character(value.to_le_bytes()[0])),
        'd' => format!("{value}\n"),
        _ if value == 0 => "0\n".to_owned(),
        _ => format!("{value:#x}\n"),
    })
}

/// `x /fmt addr`, `xp /fmt addr`.
pub(crate) fn examine(context: &mut Context<'_>, words: &Words<'_>, space: Space) -> Printed {
    let (mut format, address) = format_and_value(context, words)?;
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
    let (format, address) = format_and_value(context, words)?;
    let (port, size) = (port(address)?, format.port_size());
    let letter = match size {
        1 => 'b',
        2 => 'w',
        _ => 'l',
    };
    let Inspection::Bytes(bytes) = context.inspect(Inspect::Port { port, size })? else {
        return Err(Failure::Error(QmpError::generic("Cannot access ports")));
    };
    let value = bytes.iter().rev().fold(0_u32, |value, byte| value << 8 | u32::from(*byte));
    Ok(format!("port{letter}[0x{port:04x}] = 0x{value:0width$x}\n", width = usize::from(size) * 2))
}

fn port(address: i64) -> Result<u16, Failure> {
    u16::try_from(address).map_err(|_| Failure::Usage(format!("{address:#x} is no port")))
}

/// `o /fmt addr value`: what a guest would write there.
pub(crate) fn write_port(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let (format, first) = format(words)?;
    let port = port(words.number(context, first)?)?;
    let value = words.number(context, first + 1)?.to_le_bytes();
    let bytes = value.get(..format.port_size().into()).unwrap_or_default().to_vec();
    context.inspect(Inspect::WritePort { port, bytes })?;
    Ok(String::new())
}

/// `gva2gpa addr`.
pub(crate) fn translate(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let address = words.number(context, 0)?.cast_unsigned();
    let cpu = context.cpu;
    match context.inspect(Inspect::Translate { cpu, address })? {
        Inspection::Text(text) => Ok(text),
        Inspection::Bytes(_) => Err(QmpError::generic("Cannot access memory").into()),
    }
}

/// `sum addr size`: the checksum of BSD's `sum` over guest-physical memory.
pub(crate) fn sum(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let mut address = words.number(context, 0)?.cast_unsigned();
    let size = words.number(context, 1)?;
    let mut left = u64::try_from(size).map_err(|_| Failure::Usage(format!("{size} is no size")))?;
    let mut sum = 0_u16;
    // Ends where RAM ends: what is no memory is refused.
    while left > 0 {
        let length = left.min(LIMIT);
        let query = Inspect::Memory { cpu: None, address, length: u32::try_from(length).unwrap_or_default() };
        let Inspection::Bytes(bytes) = context.inspect(query)? else {
            return Err(QmpError::generic("Cannot access memory").into());
        };
        sum = bytes.iter().fold(sum, |sum, byte| sum.rotate_right(1).wrapping_add((*byte).into()));
        (address, left) = (address.wrapping_add(length), left - length);
    }
    Ok(format!("{sum:05}\n"))
}

/// What `memsave` and `pmemsave` are told.
fn saving(context: &mut Context<'_>, words: &Words<'_>) -> Result<Pmemsave, Failure> {
    let (val, size) = (words.number(context, 0)?, words.number(context, 1)?);
    Ok(Pmemsave { val, size, filename: words.need(2, "filename")?.to_owned() })
}

/// `memsave addr size file`.
pub(crate) fn save_linear(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let Pmemsave { val, size, filename } = saving(context, words)?;
    let cpu_index = Some(context.cpu.into());
    quiet(context, Command::Memsave(Memsave { val, size, filename, cpu_index }))
}

/// `pmemsave addr size file`.
pub(crate) fn save_physical(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let args = saving(context, words)?;
    quiet(context, Command::Pmemsave(args))
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
