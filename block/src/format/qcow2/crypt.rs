//! Encrypted images: `crypt_method` 1 (AES, old) and 2 (LUKS), "Full disk encryption header pointer" in the
//! specification.
//!
//! Only the guest's data are encrypted, by sectors whose number is where they are: in the guest's disk for AES, in the
//! host file for LUKS. The LUKS header lies in clusters of its own.

use std::sync::Mutex;

use super::header::{EXT_CRYPTO, Extension, Header, corrupt, unsupported};
use super::overlap::{Kind, Kinds};
use super::{OpenOptions, Qcow2, lock};
use crate::crypto::{Luks, LuksInfo, LuksOptions, Secret, SlotChange, Volume};
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Layer, write_all};
use crate::mem::{Sink, Source};

/// How an image's data are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// AES-128-CBC under the password itself, as old images are. Broken by design; only there to be read.
    Aes,
    /// LUKS version 1.
    Luks,
}

impl Encryption {
    /// Its name in options.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes => "aes",
            Self::Luks => "luks",
        }
    }
}

/// What a new image is encrypted with.
#[derive(Debug, Clone)]
pub enum EncryptOptions {
    /// AES, for programs that know nothing better.
    Aes {
        /// The password.
        password: Secret,
    },
    /// LUKS.
    Luks {
        /// The password of the first key slot.
        password: Secret,
        /// The header.
        options: LuksOptions,
    },
}

impl EncryptOptions {
    /// `crypt_method` in the header.
    pub(super) fn method(&self) -> u32 {
        match self {
            Self::Aes { .. } => 1,
            Self::Luks { .. } => 2,
        }
    }

    fn password(&self) -> &Secret {
        match self {
            Self::Aes { password } | Self::Luks { password, .. } => password,
        }
    }
}

/// An open image's encryption.
pub(super) struct Crypt {
    volume: Volume,
    /// The LUKS header and where it is.
    luks: Option<(Mutex<Luks>, u64)>,
}

impl Crypt {
    /// What the header asks for, with the key if there is one. Images that are only looked at need none.
    pub(super) fn open(file: &dyn Layer, header: &Header, options: &OpenOptions) -> Result<Option<Self>, BlockError> {
        let found = match header.crypt_method {
            0 => None,
            1 => Some(Encryption::Aes),
            _ => Some(Encryption::Luks),
        };
        if let Some(asked) = options.encryption.filter(|asked| Some(*asked) != found) {
            let text = match found {
                None => "No encryption in image header, but options specified format '".to_owned() + asked.name() + "'",
                Some(found) => format!(
                    "Header reported '{}' encryption format but options specify '{}'",
                    found.name(),
                    asked.name()
                ),
            };
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        let Some(found) = found else { return Ok(None) };
        let luks = match found {
            Encryption::Aes => None,
            Encryption::Luks => Some(read_luks(file, header)?),
        };
        let cipher = match (&options.password, &luks) {
            (None, _) if options.no_data => None,
            (None, _) => {
                let text = "Parameter 'encrypt.key-secret' is required for cipher";
                return Err(BlockError::new(ErrorKind::Invalid, text));
            }
            (Some(password), None) => Some(Volume::old_aes(password)?),
            (Some(password), Some((luks, at))) => Some(luks.unlock(file, *at, password)?),
        };
        let luks = luks.map(|(luks, at)| (Mutex::new(luks), at));
        Ok(Some(Self { volume: Volume::new(cipher), luks }))
    }

    /// Number of the byte whose sector is encrypted: LUKS counts in the host file.
    fn number(&self, host: u64, guest: u64) -> u64 {
        if self.luks.is_some() { host } else { guest }
    }
}

/// The LUKS header, and where it is.
fn read_luks(file: &dyn Layer, header: &Header) -> Result<(Luks, u64), BlockError> {
    let (at, len) = header.crypto_place()?;
    Luks::read(file, at, len).map(|luks| (luks, at))
}

impl Header {
    /// The clusters of the LUKS header, if there is one.
    pub(super) fn crypto_range(&self) -> Option<std::ops::Range<u64>> {
        let (at, len) = self.crypto_place().ok().filter(|_| self.crypt_method == 2)?;
        Some(at..at + len)
    }

    /// Where the LUKS header is, and how long.
    pub(super) fn crypto_place(&self) -> Result<(u64, u64), BlockError> {
        let extension = self.extensions.iter().find(|extension| extension.kind == EXT_CRYPTO);
        let extension = extension
            .ok_or_else(|| corrupt("the header of an encrypted image does not say where its LUKS header is"))?;
        let words = extension.data.as_chunks::<8>().0;
        let ([at, len], 16) = (words, extension.data.len()) else {
            return Err(corrupt("the full disk encryption header pointer is broken"));
        };
        let (at, len) = (u64::from_be_bytes(*at), u64::from_be_bytes(*len));
        if !at.is_multiple_of(self.cluster_size()) || at == 0 || at >> 56 != 0 {
            return Err(corrupt(format!("Encryption header offset '{at}' is not a multiple of cluster size")));
        }
        // Key material of eight slots with the longest keys is 2 MiB.
        if len > 64 << 20 {
            return Err(unsupported(format!("an encryption header of {len} bytes is not supported")));
        }
        Ok((at, len))
    }
}

impl Qcow2 {
    /// Reads guest data at `host`, where the guest's byte `guest` is.
    pub(super) fn read_data(&self, into: Sink<'_>, host: u64, guest: u64) -> Result<(), BlockError> {
        match &self.crypt {
            None => self.data.read(into, host),
            Some(crypt) => crypt.volume.read(self.data.as_ref(), into, host, crypt.number(host, guest)),
        }
    }

    /// Writes guest data to `host`, where the guest's byte `guest` is.
    pub(super) fn write_data(&self, from: Source<'_>, host: u64, guest: u64) -> Result<(), BlockError> {
        if !self.geometry.external {
            self.guard.check(host..host + from.len() as u64, Kinds::NONE)?;
        }
        match &self.crypt {
            None => self.data.write(from, host),
            Some(crypt) => crypt.volume.write(self.data.as_ref(), from, host, crypt.number(host, guest)),
        }
    }

    /// The encryption, if there is one, and what the LUKS header says.
    #[must_use]
    pub fn encryption(&self) -> Option<(Encryption, Option<LuksInfo>)> {
        let crypt = self.crypt.as_ref()?;
        let info = crypt.luks.as_ref().map(|(luks, _)| lock(luks).info());
        Some((if info.is_some() { Encryption::Luks } else { Encryption::Aes }, info))
    }

    /// Changes key slots; `password` opens the image.
    ///
    /// # Errors
    /// When the image has none, or as [`Luks::change_slots`].
    pub fn change_slots(&self, password: &Secret, change: &SlotChange) -> Result<(), BlockError> {
        self.writable()?;
        let Some((luks, at)) = self.crypt.as_ref().and_then(|crypt| crypt.luks.as_ref()) else {
            let text = match &self.crypt {
                None => "QCOW2 image is not encrypted, can't amend",
                Some(_) => "Only LUKS encryption options can be amended for qcow2",
            };
            return Err(BlockError::new(ErrorKind::Unsupported, text));
        };
        lock(luks).change_slots(self.file.as_ref(), *at, password, change)
    }

    /// Gives a new image without data its encryption.
    pub(super) fn encrypt_new(&mut self, options: &EncryptOptions) -> Result<(), BlockError> {
        let luks = match options {
            EncryptOptions::Aes { .. } => None,
            EncryptOptions::Luks { password, options } => {
                let len = options.payload_offset();
                let file = self.file.clone();
                let at = self.exclusively(|alloc| {
                    let clusters = len.div_ceil(self.geometry.cluster());
                    let taken = alloc.counts.take_run(file.as_ref(), clusters)?;
                    file.write_zeroes(taken.offset, clusters * self.geometry.cluster(), false)?;
                    self.write_counts(alloc)?;
                    Ok(taken.offset)
                })?;
                Some((Luks::create(file.as_ref(), at, options, password)?, at, len))
            }
        };
        let mut header = lock(&self.alloc).header.clone();
        header.crypt_method = options.method();
        let (luks, cipher) = match luks {
            None => (None, Volume::old_aes(options.password())?),
            Some(((luks, cipher), at, len)) => {
                let data = [at.to_be_bytes(), len.to_be_bytes()].concat();
                header.extensions.push(Extension { kind: EXT_CRYPTO, data });
                (Some((Mutex::new(luks), at)), cipher)
            }
        };
        write_all(self.file.as_ref(), &header.encode()?, 0)?;
        self.file.flush()?;
        if let Some(place) = header.crypto_range() {
            self.guard.metadata.add(Kind::Header, place);
        }
        lock(&self.alloc).header = header;
        self.crypt = Some(Crypt { volume: Volume::new(Some(cipher)), luks });
        Ok(())
    }
}
