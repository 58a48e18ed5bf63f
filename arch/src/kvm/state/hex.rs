//! Bytes as hexadecimal text.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

/// Longest text that is taken, in digits.
const LONGEST: usize = 2 * 65536;

pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |n: u8| DIGITS.get(usize::from(n)).copied().map_or('0', char::from);
    let text: String = bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 0xf)]).collect();
    serializer.serialize_str(&text)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() > LONGEST || !text.len().is_multiple_of(2) {
        return Err(D::Error::custom("hexadecimal text of odd or excessive length"));
    }
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|n| u8::try_from(n).ok());
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
    bytes.ok_or_else(|| D::Error::custom("not hexadecimal text"))
}
