//! Numbers, sizes and truth values as option text writes them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::describe::{Field, Kind};

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

impl Field for ByteSize {
    const KIND: Kind = Kind::Size;
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A size for people: three significant digits and a binary unit, as `1 GiB`, `196 KiB`, `0.977 KiB`.
#[must_use]
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    // A unit is used up to 1000 of the one below, not 1024: "0.977 KiB", never a number of four digits.
    let mut unit = 0;
    let mut below = 1u64;
    while unit < 6 && u128::from(bytes) >= u128::from(below) * 1000 {
        unit += 1;
        below <<= 10;
    }
    let value = bytes as f64 / below as f64;
    format!("{} {}B", three_digits(value), UNITS[unit])
}

/// C's `%.3g` for numbers from 0 to below 1000.
fn three_digits(value: f64) -> String {
    let decimals = match value {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 || v == 0.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    if text == "1000" {
        return "1e+03".to_owned();
    }
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// `on`, `yes`, `true`, `y`; `off`, `no`, `false`, `n`.
#[must_use]
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

/// A whole number: decimal, hexadecimal after `0x`, octal after `0`, a sign in front.
#[must_use]
pub fn parse_int(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let value = i128::from(parse_unsigned(digits)?);
    Some(if negative { -value } else { value })
}

fn parse_unsigned(digits: &str) -> Option<u64> {
    let (digits, radix) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (digits, 8),
        None => (digits, 10),
    };
    // from_str_radix takes a sign, which has been taken already.
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// A size: a decimal number, with a fraction if a suffix follows, or a hexadecimal number; `k`, `M`, `G`, `T`, `P`, `E` are
/// powers of 1024, `B` is bytes. Without a suffix the number counts `unit` bytes.
#[must_use]
pub fn parse_size(text: &str, unit: u64) -> Option<u64> {
    if text.starts_with("0x") || text.starts_with("0X") {
        return parse_unsigned(text)?.checked_mul(unit);
    }
    let (number, unit, part_of) = match text.char_indices().next_back() {
        Some((at, suffix)) if suffix.is_ascii_alphabetic() => {
            let unit = suffix_unit(suffix)?;
            (text.get(..at)?, unit, unit)
        }
        // A fraction of what no suffix names is one of a byte.
        _ => (text, unit, 1),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    whole.checked_add(fraction_of(fraction, part_of)?)
}

fn suffix_unit(suffix: char) -> Option<u64> {
    let power = match suffix.to_ascii_lowercase() {
        'b' => 0,
        'k' => 10,
        'm' => 20,
        'g' => 30,
        't' => 40,
        'p' => 50,
        'e' => 60,
        _ => return None,
    };
    Some(1 << power)
}

/// `0.digits` of `unit`, rounded to whole bytes; nothing for a part of a byte.
fn fraction_of(digits: &str, unit: u64) -> Option<u64> {
    if digits.bytes().all(|digit| digit == b'0') {
        return Some(0);
    }
    if unit == 1 {
        return None;
    }
    // 18 digits are finer than any unit; the product stays below 2^120.
    let digits = digits.get(..digits.len().min(18))?;
    let scale = 10_u128.pow(u32::try_from(digits.len()).ok()?);
    let part = u128::from(digits.parse::<u64>().ok()?) * u128::from(unit);
    u64::try_from((part + scale / 2) / scale).ok()
}
