//! Encryption of disks: LUKS version 1, the AES of old qcow2 images, and the secrets that open them.
//!
//! The algorithms are the RustCrypto crates'; what is here is where keys and sectors lie. This module knows no image
//! format: it encrypts sectors by number and reads headers through a [`crate::layer::Layer`].

mod af;
mod cipher;
mod hash;
pub mod luks;
mod secret;
mod volume;

pub use cipher::{CipherAlg, CipherMode, IvGen, SECTOR, SectorCipher};
pub use hash::Hash;
pub use luks::{Luks, LuksInfo, LuksOptions, MOST_ITER_TIME, SlotChange, SlotInfo};
pub use secret::{Secret, Secrets, unwrap_secret};
pub use volume::Volume;

use crate::error::{BlockError, ErrorKind};

fn invalid(text: impl Into<String>) -> BlockError {
    BlockError::new(ErrorKind::Invalid, text)
}

/// Random bytes of the host.
///
/// # Errors
/// When it gives none.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], BlockError> {
    let mut bytes = [0; N];
    fill_random(&mut bytes)?;
    Ok(bytes)
}

fn fill_random(bytes: &mut [u8]) -> Result<(), BlockError> {
    let fail = |e: getrandom::Error| BlockError::io("could not get random bytes", std::io::Error::from(e));
    getrandom::fill(bytes).map_err(fail)
}

#[cfg(test)]
mod tests;
