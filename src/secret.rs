//! Secrets of `-object secret`: from the file or text that holds them to the bytes that open a disk.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rhea_block::BlockError;
use rhea_block::crypto::{Secret, Secrets, unwrap_secret};
use thiserror::Error;

use crate::spec::object::{SecretFormat, SecretSpec};

/// Longest secret, in bytes: passwords and keys are far shorter.
const MOST: u64 = 1 << 20;

/// Bytes of a block of AES, which secrets are kept under.
const BLOCK: usize = 16;

/// A secret that cannot be had.
#[derive(Debug, Error)]
pub enum SecretError {
    /// Its file.
    #[error("Unable to read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its file has more than a secret.
    #[error("{path} is longer than the {MOST} bytes that a secret may have")]
    Long {
        /// The file.
        path: PathBuf,
    },
    /// Its text.
    #[error("Base64 data contains invalid characters")]
    Base64,
    /// It is kept under another, and is no whole number of cipher blocks.
    #[error("Length {0} must be a multiple of block size {BLOCK}")]
    Length(usize),
    /// The one that it is kept under.
    #[error(transparent)]
    Key(#[from] BlockError),
}

/// Reads the secret that `spec` describes and keeps it by its name; `keyid` names one that is there already.
///
/// # Errors
/// It cannot be read or decoded.
pub fn add(secrets: &Secrets, spec: &SecretSpec) -> Result<(), SecretError> {
    let bytes = match (&spec.data, &spec.file) {
        (Some(data), _) => data.clone().into_bytes(),
        (None, Some(path)) => read(path)?,
        (None, None) => Vec::new(),
    };
    let secret = match (&spec.keyid, &spec.iv) {
        (Some(key), Some(iv)) => {
            // The format is that of what is given; what is inside is the secret as it is.
            let wrapped = if spec.format == SecretFormat::Base64 { decode(&bytes)? } else { bytes };
            if !wrapped.len().is_multiple_of(BLOCK) {
                return Err(SecretError::Length(wrapped.len()));
            }
            unwrap_secret(&secrets.get(key)?, &decode(iv.as_bytes())?, &wrapped)?
        }
        _ if spec.format == SecretFormat::Base64 => Secret::new(decode(&bytes)?),
        _ => Secret::new(bytes),
    };
    secrets.set(&spec.id, secret);
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, SecretError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MOST + 1).read_to_end(&mut bytes));
    read.map_err(|source| SecretError::File { path: path.to_owned(), source })?;
    if bytes.len() as u64 > MOST {
        return Err(SecretError::Long { path: path.to_owned() });
    }
    Ok(bytes)
}

/// Base64 with line ends, as tools write it into files.
fn decode(text: &[u8]) -> Result<Vec<u8>, SecretError> {
    let text: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    BASE64.decode(text).map_err(|_| SecretError::Base64)
}

#[cfg(test)]
mod tests;
