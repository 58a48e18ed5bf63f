//! Names of things: identifiers and UUIDs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::describe::{Field, Form, Kind};
use super::error::SpecError;

/// Longest `id=`: as QEMU's node names, with room.
const MAX_ID: usize = 127;

/// An `id=` begins with a letter and has letters, digits, `-`, `.` and `_`.
///
/// # Errors
/// It has not.
pub fn check_id(id: &str) -> Result<(), SpecError> {
    let letter_first = id.starts_with(|c: char| c.is_ascii_alphabetic());
    let rest = id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if letter_first && rest && id.len() <= MAX_ID {
        return Ok(());
    }
    Err(SpecError::new(format!(
        "Parameter 'id' expects an identifier: letters, digits, '-', '.' and '_', a letter first, at most {MAX_ID}"
    )))
}

/// A UUID, its bytes in the order in which the text has them (RFC 4122, section 4.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

/// Text that is no UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID such as 12345678-1234-1234-1234-123456789abc")]
pub struct NoUuid;

impl FromStr for Uuid {
    type Err = NoUuid;

    fn from_str(text: &str) -> Result<Self, NoUuid> {
        let dashes: Vec<usize> = text.match_indices('-').map(|(at, _)| at).collect();
        let digits: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
        if dashes != [8, 13, 18, 23] || digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(NoUuid);
        }
        let digits = String::from_utf8(digits).map_err(|_| NoUuid)?;
        u128::from_str_radix(&digits, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| NoUuid)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", u128::from_be_bytes(self.0));
        for (at, digit) in digits.chars().enumerate() {
            if matches!(at, 8 | 12 | 16 | 20) {
                f.write_str("-")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

impl Serialize for Uuid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Field for Uuid {
    const KIND: Kind = Kind::Parsed(&Form {
        name: "str",
        expects: "a UUID such as 12345678-1234-1234-1234-123456789abc",
        accepts: |text| text.parse::<Self>().is_ok(),
        accepts_number: |_| false,
    });
}
