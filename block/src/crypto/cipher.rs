//! Sectors under a block cipher: cipher, mode and initialization vector, as LUKS names them (specification 1.2.3,
//! section 3.2, and the names that dm-crypt gave them).

use aes::{Aes128, Aes192, Aes256};
use cbc::cipher::{
    Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit,
    consts::U16,
};
use serpent::Serpent;
use twofish::Twofish;
use xts_mode::Xts128;

use super::hash::Hash;
use super::invalid;
use crate::error::BlockError;

/// Bytes that are encrypted together.
pub const SECTOR: usize = 512;

/// A block cipher with the length of its key in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the ciphers' names say what they are")]
pub enum CipherAlg {
    Aes128,
    Aes192,
    Aes256,
    Serpent128,
    Serpent192,
    Serpent256,
    Twofish128,
    Twofish192,
    Twofish256,
}

impl CipherAlg {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Aes128,
        Self::Aes192,
        Self::Aes256,
        Self::Serpent128,
        Self::Serpent192,
        Self::Serpent256,
        Self::Twofish128,
        Self::Twofish192,
        Self::Twofish256,
    ];

    /// Its name in options (`aes-256`).
    #[must_use]
    pub fn name(self) -> String {
        format!("{}-{}", self.family(), 8 * self.key_len())
    }

    /// The cipher of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cipher| cipher.name() == name)
    }

    /// The cipher that a header names, with a key of `len` bytes.
    pub(super) fn of_family(family: &str, len: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|cipher| cipher.family() == family && cipher.key_len() == len)
    }

    /// Its name in headers (`aes`).
    pub(super) fn family(self) -> &'static str {
        match self {
            Self::Aes128 | Self::Aes192 | Self::Aes256 => "aes",
            Self::Serpent128 | Self::Serpent192 | Self::Serpent256 => "serpent",
            Self::Twofish128 | Self::Twofish192 | Self::Twofish256 => "twofish",
        }
    }

    /// Bytes of its key.
    pub(super) fn key_len(self) -> usize {
        match self {
            Self::Aes128 | Self::Serpent128 | Self::Twofish128 => 16,
            Self::Aes192 | Self::Serpent192 | Self::Twofish192 => 24,
            Self::Aes256 | Self::Serpent256 | Self::Twofish256 => 32,
        }
    }
}

/// How the blocks of a sector are chained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the modes' names say what they are")]
pub enum CipherMode {
    Ecb,
    Cbc,
    Xts,
}

impl CipherMode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ecb, Self::Cbc, Self::Xts];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ecb => "ecb",
            Self::Cbc => "cbc",
            Self::Xts => "xts",
        }
    }

    /// The mode of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// Keys that it takes: XTS has a second one for the tweak.
    pub(super) fn keys(self) -> usize {
        if self == Self::Xts { 2 } else { 1 }
    }
}

/// What a sector's initialization vector is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IvGen {
    /// The lower 32 bits of its number.
    Plain,
    /// Its number.
    Plain64,
    /// Its number, encrypted with a hash of the key.
    Essiv(Hash),
}

impl IvGen {
    /// Its name in options, without the hash.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Plain64 => "plain64",
            Self::Essiv(_) => "essiv",
        }
    }

    /// Its name in headers.
    pub(super) fn spec(self) -> String {
        match self {
            Self::Essiv(hash) => format!("essiv:{}", hash.name()),
            other => other.name().to_owned(),
        }
    }

    /// What a header names.
    pub(super) fn by_spec(spec: &str) -> Option<Self> {
        let (name, hash) = spec.split_once(':').map_or((spec, None), |(name, hash)| (name, Some(hash)));
        // A hash that nothing is hashed with: QEMU writes it, whatever the generator.
        let idle = hash.is_none_or(|hash| hash == "md5" || Hash::by_name(hash).is_some());
        match name {
            "plain" if idle => Some(Self::Plain),
            "plain64" if idle => Some(Self::Plain64),
            "essiv" => hash.and_then(Hash::by_name).map(Self::Essiv),
            _ => None,
        }
    }
}

/// What [`SectorCipher`] needs of a cipher of one type.
trait Sectors: Send + Sync {
    fn encrypt(&self, sector: &mut [u8], iv: [u8; 16]);
    fn decrypt(&self, sector: &mut [u8], iv: [u8; 16]);
}

/// Whole blocks; a sector has no other bytes.
fn blocks(sector: &mut [u8]) -> &mut [Array<u8, U16>] {
    Array::slice_as_chunks_mut(sector).0
}

struct Ecb<C>(C);
struct Cbc<C>(C);

/// A block cipher of 16 bytes a block, both ways.
trait Block16: BlockCipherEncrypt<BlockSize = U16> + BlockCipherDecrypt<BlockSize = U16> + Send + Sync {}
impl<C: BlockCipherEncrypt<BlockSize = U16> + BlockCipherDecrypt<BlockSize = U16> + Send + Sync> Block16 for C {}

impl<C: Block16> Sectors for Ecb<C> {
    fn encrypt(&self, sector: &mut [u8], _iv: [u8; 16]) {
        self.0.encrypt_blocks(blocks(sector));
    }
    fn decrypt(&self, sector: &mut [u8], _iv: [u8; 16]) {
        self.0.decrypt_blocks(blocks(sector));
    }
}

impl<C: Block16> Sectors for Cbc<C> {
    fn encrypt(&self, sector: &mut [u8], iv: [u8; 16]) {
        cbc::Encryptor::inner_iv_init(&self.0, &iv.into()).encrypt_blocks(blocks(sector));
    }
    fn decrypt(&self, sector: &mut [u8], iv: [u8; 16]) {
        cbc::Decryptor::inner_iv_init(&self.0, &iv.into()).decrypt_blocks(blocks(sector));
    }
}

impl<C: Block16> Sectors for Xts128<C> {
    fn encrypt(&self, sector: &mut [u8], iv: [u8; 16]) {
        self.encrypt_sector(sector, iv.into());
    }
    fn decrypt(&self, sector: &mut [u8], iv: [u8; 16]) {
        self.decrypt_sector(sector, iv.into());
    }
}

fn sectors<C: Block16 + KeyInit + 'static>(mode: CipherMode, key: &[u8]) -> Option<Box<dyn Sectors>> {
    Some(match mode {
        CipherMode::Ecb => Box::new(Ecb(C::new_from_slice(key).ok()?)),
        CipherMode::Cbc => Box::new(Cbc(C::new_from_slice(key).ok()?)),
        CipherMode::Xts => {
            let (first, second) = key.split_at(key.len() / 2);
            Box::new(Xts128::new(C::new_from_slice(first).ok()?, C::new_from_slice(second).ok()?))
        }
    })
}

fn sectors_of(alg: CipherAlg, mode: CipherMode, key: &[u8]) -> Option<Box<dyn Sectors>> {
    match alg {
        CipherAlg::Aes128 => sectors::<Aes128>(mode, key),
        CipherAlg::Aes192 => sectors::<Aes192>(mode, key),
        CipherAlg::Aes256 => sectors::<Aes256>(mode, key),
        CipherAlg::Serpent128 | CipherAlg::Serpent192 | CipherAlg::Serpent256 => sectors::<Serpent>(mode, key),
        CipherAlg::Twofish128 | CipherAlg::Twofish192 | CipherAlg::Twofish256 => sectors::<Twofish>(mode, key),
    }
}

/// Encrypts and decrypts sectors by their number.
pub struct SectorCipher {
    sectors: Box<dyn Sectors>,
    iv: IvGen,
    /// Encrypts the sector's number, for ESSIV.
    essiv: Option<Box<dyn Sectors>>,
}

impl SectorCipher {
    /// A cipher under `key`, which holds both keys for XTS.
    ///
    /// # Errors
    /// When the key's length is not the cipher's, or no cipher's key is as long as ESSIV's hash.
    pub fn new(alg: CipherAlg, mode: CipherMode, iv: IvGen, key: &[u8]) -> Result<Self, BlockError> {
        let wrong = || invalid(format!("a key of {} bytes is not for cipher {}", key.len(), alg.name()));
        if key.len() != alg.key_len() * mode.keys() {
            return Err(wrong());
        }
        let sectors = sectors_of(alg, mode, key).ok_or_else(wrong)?;
        let essiv = match iv {
            IvGen::Essiv(hash) => {
                let salt = hash.digest(&[key]);
                let wide = CipherAlg::of_family(alg.family(), salt.len());
                let made = wide.and_then(|wide| sectors_of(wide, CipherMode::Ecb, &salt));
                Some(made.ok_or_else(|| {
                    invalid(format!("No {} cipher with key size {} available", alg.family(), salt.len()))
                })?)
            }
            IvGen::Plain | IvGen::Plain64 => None,
        };
        Ok(Self { sectors, iv, essiv })
    }

    fn iv(&self, sector: u64) -> [u8; 16] {
        let number = if self.iv == IvGen::Plain { sector & u64::from(u32::MAX) } else { sector };
        let mut iv = [0; 16];
        iv[..8].copy_from_slice(&number.to_le_bytes());
        if let Some(essiv) = &self.essiv {
            essiv.encrypt(&mut iv, [0; 16]);
        }
        iv
    }

    /// Encrypts `bytes`, which begin at sector number `first`; the last sector may be short, a multiple of 16 bytes.
    pub fn encrypt(&self, bytes: &mut [u8], first: u64) {
        for (n, sector) in (first..).zip(bytes.chunks_mut(SECTOR)) {
            self.sectors.encrypt(sector, self.iv(n));
        }
    }

    /// Decrypts `bytes`, as [`Self::encrypt`].
    pub fn decrypt(&self, bytes: &mut [u8], first: u64) {
        for (n, sector) in (first..).zip(bytes.chunks_mut(SECTOR)) {
            self.sectors.decrypt(sector, self.iv(n));
        }
    }
}
