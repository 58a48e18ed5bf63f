//! Secrets by name: what `-object secret` holds, and how one secret is kept under another.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aes::Aes256;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, KeyIvInit};
use zeroize::Zeroizing;

use super::invalid;
use crate::error::{BlockError, ErrorKind};

/// A password or key; its memory is cleared when it is dropped, and it never shows in a message.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// A secret of these bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Decrypts a secret that is kept under `key` (AES-256-CBC with PKCS#7 padding, the form of `keyid=` and `iv=`).
///
/// # Errors
/// When the key, the vector or the padding is not what the form asks for.
pub fn unwrap_secret(key: &Secret, iv: &[u8], bytes: &[u8]) -> Result<Secret, BlockError> {
    if key.bytes().len() != 32 {
        return Err(invalid(format!("Master secret key must be 32 bytes, not {}", key.bytes().len())));
    }
    if iv.len() != 16 {
        return Err(invalid(format!("IV should be 16 bytes in length not {}", iv.len())));
    }
    let cipher = cbc::Decryptor::<Aes256>::new_from_slices(key.bytes(), iv);
    let cipher = cipher.map_err(|_| invalid("the secret's key or IV has a wrong length"))?;
    let plain = cipher.decrypt_padded_vec::<Pkcs7>(bytes);
    plain.map(Secret::new).map_err(|_| invalid("Incorrect number of padding bytes found on decrypted data"))
}

/// All secrets of a machine, or of one run of the image tool. Clones are the same secrets.
#[derive(Debug, Clone, Default)]
pub struct Secrets(Arc<Mutex<BTreeMap<String, Secret>>>);

impl Secrets {
    /// Keeps a secret by its name; one of that name is replaced.
    pub fn set(&self, id: &str, secret: Secret) {
        self.lock().insert(id.to_owned(), secret);
    }

    /// Forgets one; images that are open stay so.
    pub fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    /// The secret named `id`.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, id: &str) -> Result<Secret, BlockError> {
        let found = self.lock().get(id).cloned();
        found.ok_or_else(|| BlockError::new(ErrorKind::NotFound, format!("No secret with id '{id}'")))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Secret>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
