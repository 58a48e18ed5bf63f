//! The header's fields on disk (specification 1.2.3, figures 1 and 2), all numbers big-endian.

use super::super::cipher::{CipherAlg, CipherMode, IvGen, SECTOR};
use super::super::hash::Hash;
use super::{Luks, SLOTS, STRIPES};
use crate::error::{BlockError, ErrorKind};

/// Bytes of the header.
pub(super) const HEADER: usize = 592;

const MAGIC: &[u8; 6] = b"LUKS\xba\xbe";
/// Where the slots begin, and bytes of each.
const SLOTS_AT: usize = 208;
const SLOT: usize = 48;
const ACTIVE: u32 = 0x00ac_71f3;
const INACTIVE: u32 = 0x0000_dead;

/// A key slot's fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) active: bool,
    pub(super) iterations: u32,
    pub(super) salt: [u8; 32],
    /// Start of the key material, in sectors.
    pub(super) sector: u32,
    pub(super) stripes: u32,
}

impl Slot {
    /// A slot without a key.
    pub(super) fn empty(sector: u32) -> Self {
        Self { active: false, iterations: 0, salt: [0; 32], sector, stripes: STRIPES }
    }

    /// Start of the key material, in bytes.
    pub(super) fn offset(&self) -> u64 {
        u64::from(self.sector) * SECTOR as u64
    }
}

fn corrupt(text: impl Into<String>) -> BlockError {
    BlockError::new(ErrorKind::Corrupt, text)
}

fn unknown(text: impl Into<String>) -> BlockError {
    BlockError::new(ErrorKind::Unsupported, text)
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|b| b.try_into().ok()).unwrap_or([0; N])
}

/// Text up to its end mark.
fn text<'a>(bytes: &'a [u8], at: usize, len: usize, what: &str) -> Result<&'a str, BlockError> {
    let field = bytes.get(at..at + len).unwrap_or(&[]);
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .ok_or_else(|| corrupt(format!("LUKS header {what} is not terminated")))?;
    str::from_utf8(&field[..end]).map_err(|_| corrupt(format!("LUKS header {what} is not text")))
}

impl Luks {
    /// From the first [`HEADER`] bytes.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BlockError> {
        if !bytes.starts_with(MAGIC) {
            return Err(BlockError::new(ErrorKind::Invalid, "Volume is not in LUKS format"));
        }
        let version = u16::from_be_bytes(array(bytes, 6));
        if version != 1 {
            return Err(unknown(format!("LUKS version {version} is not supported")));
        }
        let name = text(bytes, 8, 32, "cipher name")?;
        let spec = text(bytes, 40, 32, "cipher mode")?;
        let (mode_name, iv_name) =
            spec.split_once('-').ok_or_else(|| corrupt(format!("Unexpected cipher mode string format '{spec}'")))?;
        let mode = CipherMode::by_name(mode_name)
            .ok_or_else(|| unknown(format!("Algorithm '{mode_name}' for the cipher mode is not supported")))?;
        let iv = IvGen::by_spec(iv_name)
            .ok_or_else(|| unknown(format!("Algorithm '{iv_name}' for the IV is not supported")))?;
        let hash = text(bytes, 72, 32, "hash spec")?;
        let hash =
            Hash::by_name(hash).ok_or_else(|| unknown(format!("Algorithm '{hash}' for the hash is not supported")))?;
        let key_len = be32(bytes, 108) as usize;
        let cipher = CipherAlg::of_family(name, key_len / mode.keys())
            .filter(|_| key_len.is_multiple_of(mode.keys()))
            .ok_or_else(|| unknown(format!("Algorithm '{name}' with key size {key_len} bytes is not supported")))?;
        let slots = std::array::from_fn(|n| {
            let at = SLOTS_AT + n * SLOT;
            Slot {
                active: be32(bytes, at) == ACTIVE,
                iterations: be32(bytes, at + 4),
                salt: array(bytes, at + 8),
                sector: be32(bytes, at + 40),
                stripes: be32(bytes, at + 44),
            }
        });
        let marks = (0..SLOTS).map(|n| be32(bytes, SLOTS_AT + n * SLOT));
        if let Some((n, _)) = marks.enumerate().find(|(_, mark)| *mark != ACTIVE && *mark != INACTIVE) {
            return Err(corrupt(format!("Keyslot {n} state (active/disable) is corrupted")));
        }
        Ok(Self {
            cipher,
            mode,
            iv,
            hash,
            payload: be32(bytes, 104),
            digest: array(bytes, 112),
            salt: array(bytes, 132),
            iterations: be32(bytes, 164),
            uuid: text(bytes, 168, 40, "UUID")?.to_owned(),
            slots,
        })
    }

    /// The fields that later steps rely on, with key material inside `room` bytes from the header's start.
    pub(super) fn check(&self, room: u64) -> Result<(), BlockError> {
        if self.iterations == 0 {
            return Err(corrupt("LUKS key iteration count is zero"));
        }
        let len = self.key_len() as u64 * u64::from(STRIPES);
        let end = self.payload_offset().min(room);
        let place = |slot: &Slot| slot.offset()..slot.offset() + len;
        for (n, slot) in self.slots.iter().enumerate() {
            if slot.stripes != STRIPES {
                return Err(corrupt(format!("Keyslot {n} is corrupted (stripes {} != {STRIPES})", slot.stripes)));
            }
            if slot.active && slot.iterations == 0 {
                return Err(corrupt(format!("Keyslot {n} iteration count is zero")));
            }
            if slot.offset() < HEADER as u64 {
                return Err(corrupt(format!("Keyslot {n} is overlapping the LUKS header")));
            }
            if place(slot).end > end {
                return Err(corrupt(format!("Keyslot {n} is overlapping with the encrypted payload")));
            }
            let clash = |other: &Slot| place(other).start < place(slot).end && place(slot).start < place(other).end;
            if let Some(other) = self.slots[n + 1..].iter().position(clash) {
                return Err(corrupt(format!("Keyslots {n} and {} are overlapping in the header", n + 1 + other)));
            }
        }
        Ok(())
    }

    /// The header's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEADER];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, MAGIC);
        put(6, &1u16.to_be_bytes());
        put(8, self.cipher.family().as_bytes());
        put(40, format!("{}-{}", self.mode.name(), self.iv.spec()).as_bytes());
        put(72, self.hash.name().as_bytes());
        put(104, &self.payload.to_be_bytes());
        put(108, &(self.key_len() as u32).to_be_bytes());
        put(112, &self.digest);
        put(132, &self.salt);
        put(164, &self.iterations.to_be_bytes());
        put(168, self.uuid.as_bytes());
        for (n, slot) in self.slots.iter().enumerate() {
            let at = SLOTS_AT + n * SLOT;
            put(at, &if slot.active { ACTIVE } else { INACTIVE }.to_be_bytes());
            put(at + 4, &slot.iterations.to_be_bytes());
            put(at + 8, &slot.salt);
            put(at + 40, &slot.sector.to_be_bytes());
            put(at + 44, &slot.stripes.to_be_bytes());
        }
        out
    }
}
