//! Hash functions by name, and the key derivation on them (PBKDF2, RFC 8018 section 5.2).

use ripemd::Ripemd160;
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

/// A hash function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the functions' names say what they are")]
pub enum Hash {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Ripemd160,
}

/// Does `$body` with `$type` as the function's type.
macro_rules! with_type {
    ($hash:expr, $type:ident => $body:expr) => {
        match $hash {
            Hash::Sha1 => {
                type $type = Sha1;
                $body
            }
            Hash::Sha224 => {
                type $type = Sha224;
                $body
            }
            Hash::Sha256 => {
                type $type = Sha256;
                $body
            }
            Hash::Sha384 => {
                type $type = Sha384;
                $body
            }
            Hash::Sha512 => {
                type $type = Sha512;
                $body
            }
            Hash::Ripemd160 => {
                type $type = Ripemd160;
                $body
            }
        }
    };
}

impl Hash {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Sha1, Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512, Self::Ripemd160];

    /// Its name in headers and options.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha224 => "sha224",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Ripemd160 => "ripemd160",
        }
    }

    /// The function of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.name() == name)
    }

    /// The hash of the parts, one behind the other.
    pub(super) fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        with_type!(self, H => {
            let mut hasher = H::new();
            parts.iter().for_each(|part| hasher.update(part));
            hasher.finalize().to_vec()
        })
    }

    /// Parts that a derived key of `bytes` has, each as long as what the function gives.
    pub(super) fn parts(self, bytes: usize) -> usize {
        bytes.div_ceil(with_type!(self, H => H::output_size()))
    }

    /// Derives a key of `out`'s length from a password.
    pub(super) fn derive(self, password: &[u8], salt: &[u8], iterations: u32, out: &mut [u8]) {
        with_type!(self, H => pbkdf2::pbkdf2_hmac::<H>(password, salt, iterations, out));
    }
}
