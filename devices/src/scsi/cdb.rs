//! Command descriptor blocks (SPC-5, 4.2).

use super::sense::{self, Sense};

/// Longest block taken; longer ones (group 3) are refused.
pub const MAX_CDB: usize = 16;

/// One command descriptor block, as long as its operation code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cdb {
    bytes: [u8; MAX_CDB],
    len: u8,
}

impl Cdb {
    /// Takes a block out of a transport's field, which may be longer. The length comes from the operation code's group
    /// (SPC-5, 4.2.5.1): what the transport says counts only where it is too short.
    ///
    /// # Errors
    /// [`sense::INVALID_OPCODE`] for groups without a fixed length, [`sense::INVALID_FIELD`] for a field that is too
    /// short.
    pub fn parse(field: &[u8]) -> Result<Self, Sense> {
        let opcode = field.first().copied().ok_or(sense::INVALID_OPCODE)?;
        let len: u8 = match opcode >> 5 {
            0 => 6,
            1 | 2 => 10,
            4 => 16,
            5 => 12,
            _ => return Err(sense::INVALID_OPCODE),
        };
        let field = field.get(..usize::from(len)).ok_or(sense::INVALID_FIELD)?;
        let mut bytes = [0; MAX_CDB];
        for (byte, value) in bytes.iter_mut().zip(field) {
            *byte = *value;
        }
        Ok(Self { bytes, len })
    }

    /// Operation code.
    #[must_use]
    pub fn opcode(&self) -> u8 {
        self.bytes[0]
    }

    /// Length in bytes: 6, 10, 12 or 16.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Never: a block has at least an operation code.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Byte `at`; 0 past the end.
    #[must_use]
    pub fn byte(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    /// Whether bits `mask` of byte `at` are not all zero.
    #[must_use]
    pub fn has(&self, at: usize, mask: u8) -> bool {
        self.byte(at) & mask != 0
    }

    /// Service action: the low five bits of byte 1 (SPC-5, 4.2.5.2).
    #[must_use]
    pub fn action(&self) -> u8 {
        self.byte(1) & 0x1f
    }

    /// Big-endian number of `len` (up to 8) bytes at `at`.
    #[must_use]
    pub fn be(&self, at: usize, len: usize) -> u64 {
        (at..at + len).fold(0, |value, at| value << 8 | u64::from(self.byte(at)))
    }

    /// The same, where it counts bytes of a reply or of parameters: at most 32 bits.
    #[must_use]
    pub fn length(&self, at: usize, len: usize) -> usize {
        usize::try_from(self.be(at, len.min(4))).unwrap_or(usize::MAX)
    }

    /// READ CAPACITY has an address of `len` bytes at 2 only with PMI, in byte `pmi`; both are the end of the medium here
    /// (SBC-2, 5.10).
    ///
    /// # Errors
    /// [`sense::INVALID_FIELD`] for an address without PMI.
    pub fn check_capacity(&self, len: usize, pmi: usize) -> Result<(), Sense> {
        if self.be(2, len) != 0 && !self.has(pmi, 1) { Err(sense::INVALID_FIELD) } else { Ok(()) }
    }
}
