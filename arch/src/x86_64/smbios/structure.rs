//! One structure: a header, fields, and the strings that fields name by number (DSP0134, 6.1.2 and 6.1.3).

use super::SmbiosError;

/// The type of the last structure.
pub(super) const END_OF_TABLE: u8 = 127;
const HEADER_LEN: usize = 4;

/// A structure with its strings, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Structure(Vec<u8>);

impl Structure {
    pub(super) fn kind(&self) -> u8 {
        self.0.first().copied().unwrap_or(END_OF_TABLE)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// A structure whose bytes never change.
    pub(super) fn fixed(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// Parts the structures of a file; the strings behind each end with two zeros.
    pub(super) fn split(index: usize, bytes: &[u8]) -> Result<Vec<Self>, SmbiosError> {
        let mut structures = Vec::new();
        let mut offset = 0;
        while offset < bytes.len() {
            let rest = &bytes[offset..];
            let length = one_length(rest).ok_or(SmbiosError::Binary { index, offset })?;
            structures.push(Self(rest[..length].to_vec()));
            offset += length;
        }
        Ok(structures)
    }
}

fn one_length(bytes: &[u8]) -> Option<usize> {
    let formatted = usize::from(*bytes.get(1)?);
    if formatted < HEADER_LEN {
        return None;
    }
    let end = bytes.get(formatted..)?.windows(2).position(|pair| pair == [0, 0])?;
    Some(formatted + end + 2)
}

/// A structure that is being made.
pub(super) struct Draft {
    formatted: Vec<u8>,
    strings: Vec<String>,
}

impl Draft {
    pub(super) fn new(kind: u8, handle: u16) -> Self {
        let [low, high] = handle.to_le_bytes();
        Self { formatted: vec![kind, 0, low, high], strings: Vec::new() }
    }

    pub(super) fn byte(mut self, value: u8) -> Self {
        self.formatted.push(value);
        self
    }

    pub(super) fn word(self, value: u16) -> Self {
        self.raw(&value.to_le_bytes())
    }

    pub(super) fn dword(self, value: u32) -> Self {
        self.raw(&value.to_le_bytes())
    }

    pub(super) fn qword(self, value: u64) -> Self {
        self.raw(&value.to_le_bytes())
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.formatted.extend_from_slice(bytes);
        self
    }

    /// Adds a string and the field that names it; an empty one is no string and number 0.
    pub(super) fn string(mut self, text: &str) -> Self {
        if text.is_empty() {
            return self.byte(0);
        }
        self.strings.push(text.to_owned());
        let number = self.strings.len() as u8;
        self.byte(number)
    }

    /// Adds a string that no field names.
    pub(super) fn unnamed(mut self, text: &str) -> Self {
        self.strings.push(text.to_owned());
        self
    }

    pub(super) fn finish(mut self) -> Result<Structure, SmbiosError> {
        let kind = self.formatted[0];
        if self.strings.len() > 255 {
            return Err(SmbiosError::Strings { kind, count: self.strings.len() });
        }
        if let Some(text) = self.strings.iter().find(|text| text.contains('\0')) {
            return Err(SmbiosError::Zero(text.clone()));
        }
        self.formatted[1] = self.formatted.len() as u8;
        for text in &self.strings {
            self.formatted.extend_from_slice(text.as_bytes());
            self.formatted.push(0);
        }
        // Two zeros where there is no string, else one behind the last string's own.
        let zeros: &[u8] = if self.strings.is_empty() { &[0, 0] } else { &[0] };
        self.formatted.extend_from_slice(zeros);
        Ok(Structure(self.formatted))
    }
}
