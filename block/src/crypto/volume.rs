//! An encrypted disk, open: bytes at any alignment on a cipher that knows only whole sectors.

use std::sync::{PoisonError, RwLock};

use zeroize::Zeroizing;

use super::cipher::{CipherAlg, CipherMode, IvGen, SECTOR, SectorCipher};
use super::secret::Secret;
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Layer, read_vec, write_all};
use crate::mem::{Sink, Source};

/// Most bytes that are encrypted in one piece, so that memory stays bounded.
const STEP: usize = 1 << 20;

/// The key of a disk, in use. Without a key it is only there to be looked at: its content cannot be had.
pub struct Volume {
    cipher: Option<SectorCipher>,
    /// Held for reading by whoever writes whole sectors, for writing by whoever changes part of one.
    edges: RwLock<()>,
}

impl Volume {
    /// A disk under `cipher`, or one whose content nobody may ask for.
    #[must_use]
    pub fn new(cipher: Option<SectorCipher>) -> Self {
        Self { cipher, edges: RwLock::new(()) }
    }

    /// The cipher of version 1 and 2 qcow images: AES-128-CBC under the password's first 16 bytes.
    ///
    /// # Errors
    /// Never for a key of that length.
    pub fn old_aes(password: &Secret) -> Result<SectorCipher, BlockError> {
        let mut key = Zeroizing::new([0; 16]);
        key.iter_mut().zip(password.bytes()).for_each(|(k, p)| *k = *p);
        SectorCipher::new(CipherAlg::Aes128, CipherMode::Cbc, IvGen::Plain64, &*key)
    }

    fn cipher(&self) -> Result<&SectorCipher, BlockError> {
        let locked = || BlockError::new(ErrorKind::Permission, "the encrypted image was opened without its key");
        self.cipher.as_ref().ok_or_else(locked)
    }

    /// Fills `into` with what `data` holds at `host`; byte 0 of the first sector's number is `number`.
    ///
    /// # Errors
    /// When there is no key, or the bytes cannot be read.
    pub fn read(&self, data: &dyn Layer, into: Sink<'_>, host: u64, number: u64) -> Result<(), BlockError> {
        let cipher = self.cipher()?;
        let mut done = 0;
        while done < into.len() {
            let head = (number + done as u64) as usize % SECTOR;
            let take = (into.len() - done).min(STEP - head);
            let start = done as u64;
            let mut bytes = read_vec(data, host + start - head as u64, (head + take).next_multiple_of(SECTOR))?;
            cipher.decrypt(&mut bytes, (number + start) / SECTOR as u64);
            into.part(done, take).copy_from(&bytes[head..head + take]);
            done += take;
        }
        Ok(())
    }

    /// Writes `from` to `host` of `data`, as [`Self::read`].
    ///
    /// # Errors
    /// When there is no key, or the bytes cannot be written.
    pub fn write(&self, data: &dyn Layer, from: Source<'_>, host: u64, number: u64) -> Result<(), BlockError> {
        let cipher = self.cipher()?;
        let mut done = 0;
        while done < from.len() {
            let at = number + done as u64;
            let head = at as usize % SECTOR;
            let take = (from.len() - done).min(STEP - head);
            let (start, whole) = (host + done as u64 - head as u64, (head + take).next_multiple_of(SECTOR));
            let first = at / SECTOR as u64;
            if head == 0 && whole == take {
                let _shared = self.edges.read().unwrap_or_else(PoisonError::into_inner);
                let mut bytes = from.part(done, take).to_vec();
                cipher.encrypt(&mut bytes, first);
                write_all(data, &bytes, start)?;
            } else {
                let _alone = self.edges.write().unwrap_or_else(PoisonError::into_inner);
                let mut bytes = read_vec(data, start, whole)?;
                cipher.decrypt(&mut bytes, first);
                from.part(done, take).copy_to(&mut bytes[head..head + take]);
                cipher.encrypt(&mut bytes, first);
                write_all(data, &bytes, start)?;
            }
            done += take;
        }
        Ok(())
    }
}
