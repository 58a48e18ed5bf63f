//! Sizes, read as the user writes them.

use super::error::ImgError;

/// Why a size is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// Not a number with a suffix.
    Text,
    /// Not below 2^63, or not in the range asked for.
    Range,
}

/// Bytes: a decimal number, whole or with a fraction and a suffix, or a hexadecimal one. Suffixes are powers of 1024.
pub(super) fn parse(text: &str) -> Result<u64, Wrong> {
    parse_signed_limit(text, i64::MAX as u64)
}

fn parse_signed_limit(text: &str, most: u64) -> Result<u64, Wrong> {
    let text = text.trim_start();
    let text = text.strip_prefix('+').unwrap_or(text);
    let in_range = |bytes: u64| if bytes > most { Err(Wrong::Range) } else { Ok(bytes) };
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Wrong::Text);
        }
        return u64::from_str_radix(digits, 16).map_err(|_| Wrong::Range).and_then(in_range);
    }
    let whole_len = text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = text.split_at(whole_len);
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(after) => after.split_at(after.bytes().take_while(u8::is_ascii_digit).count()),
        None => ("", rest),
    };
    if whole.is_empty() {
        return Err(Wrong::Text);
    }
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        "e" => 60,
        _ => return Err(Wrong::Text),
    };
    if !fraction.is_empty() && shift == 0 && fraction.bytes().any(|b| b != b'0') {
        return Err(Wrong::Text);
    }
    let whole: u64 = whole.parse().map_err(|_| Wrong::Range)?;
    let bytes = whole.checked_mul(1 << shift).ok_or(Wrong::Range)?;
    // 18 digits are more than the 60 bits of the largest suffix can tell apart.
    let digits = &fraction[..fraction.len().min(18)];
    let part: u128 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| Wrong::Text)? };
    let scale = 10u128.pow(digits.len() as u32);
    let extra = ((part << shift) + scale / 2) / scale;
    bytes.checked_add(extra as u64).ok_or(Wrong::Range).and_then(in_range)
}

/// As [`parse`], with the message for `what` ("image size") when it is wrong.
///
/// # Errors
/// Not a size, or past 2^63.
pub(super) fn read(what: &str, text: &str) -> Result<u64, ImgError> {
    read_in(what, text, 0, i64::MAX as u64)
}

/// The value of the option `key` is no size.
pub(super) fn not_a_size(key: &str) -> ImgError {
    ImgError::Said(format!(
        "Parameter '{key}' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, P or E means kilo-, \
         mega-, giga-, tera-, peta-\nand exabytes, respectively."
    ))
}

/// As [`read`], in a range of its own.
///
/// # Errors
/// Not a size, or out of the range.
pub(super) fn read_in(what: &str, text: &str, least: u64, most: u64) -> Result<u64, ImgError> {
    match parse_signed_limit(text, most) {
        Ok(bytes) if bytes >= least => Ok(bytes),
        Err(Wrong::Text) => Err(ImgError::Lines(vec![
            format!("Invalid {what} specified. You may use k, M, G, T, P or E suffixes for"),
            "kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.".to_owned(),
        ])),
        Ok(_) | Err(Wrong::Range) => {
            Err(ImgError::Said(format!("Invalid {what} specified. Must be between {least} and {most}.")))
        }
    }
}
