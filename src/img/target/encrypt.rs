//! The encryption of a new image: `encrypt.*` of qcow2, and the same names without that word for luks.

use std::time::Duration;

use rhea_block::crypto::{CipherAlg, CipherMode, Hash, IvGen, LuksOptions, Secret, Secrets, SlotChange};
use rhea_block::format::qcow2::EncryptOptions;

use super::Options;
use crate::img::error::{ImgError, chain};

/// Milliseconds of one key derivation.
const ITER_TIME: u64 = 2000;

fn refused<T>(key: &str, value: &str) -> Result<T, ImgError> {
    Err(ImgError::Said(format!("Parameter '{key}' does not accept value '{value}'")))
}

/// A choice by name.
fn choice<T>(
    options: &Options,
    prefix: &str,
    key: &str,
    default: T,
    by_name: impl Fn(&str) -> Option<T>,
) -> Result<T, ImgError> {
    match options.get(&format!("{prefix}{key}")) {
        None => Ok(default),
        Some(name) => by_name(name).map_or_else(|| refused(key, name), Ok),
    }
}

/// The secret that an option names. A password is text: other programs could not be told any other.
fn secret(options: &Options, key: &str, secrets: &Secrets) -> Result<Option<Secret>, ImgError> {
    let Some(id) = options.get(key) else { return Ok(None) };
    let secret = secrets.get(id).map_err(|e| ImgError::Said(chain(&e)))?;
    if std::str::from_utf8(secret.bytes()).is_err() {
        return Err(ImgError::Said(format!("Data from secret {id} is not valid UTF-8")));
    }
    Ok(Some(secret))
}

fn password(options: &Options, prefix: &str, secrets: &Secrets) -> Result<Secret, ImgError> {
    let key = format!("{prefix}key-secret");
    let found = secret(options, &key, secrets)?;
    found.ok_or_else(|| ImgError::Said(format!("Parameter '{key}' is required for cipher")))
}

fn number(options: &Options, key: &str) -> Result<Option<u64>, ImgError> {
    let parsed = options.get(key).map(str::parse).transpose();
    parsed.map_err(|_| ImgError::Said(format!("Parameter '{key}' expects a number")))
}

fn iter_time(options: &Options, prefix: &str) -> Result<Duration, ImgError> {
    match number(options, &format!("{prefix}iter-time"))? {
        Some(0) => Err(ImgError::Said("iter-time must be greater than zero".to_owned())),
        time => Ok(Duration::from_millis(time.unwrap_or(ITER_TIME))),
    }
}

/// The password and the header of a LUKS volume.
pub(super) fn luks(options: &Options, prefix: &str, secrets: &Secrets) -> Result<(Secret, LuksOptions), ImgError> {
    let password = password(options, prefix, secrets)?;
    let essiv_hash = choice(options, prefix, "ivgen-hash-alg", Hash::Sha256, Hash::by_name)?;
    let iv = choice(options, prefix, "ivgen-alg", IvGen::Plain64, |name| match name {
        "plain" => Some(IvGen::Plain),
        "plain64" => Some(IvGen::Plain64),
        "essiv" => Some(IvGen::Essiv(essiv_hash)),
        _ => None,
    })?;
    let header = LuksOptions {
        cipher: choice(options, prefix, "cipher-alg", CipherAlg::Aes256, CipherAlg::by_name)?,
        mode: choice(options, prefix, "cipher-mode", CipherMode::Xts, CipherMode::by_name)?,
        iv,
        hash: choice(options, prefix, "hash-alg", Hash::Sha256, Hash::by_name)?,
        iter_time: iter_time(options, prefix)?,
    };
    Ok((password, header))
}

/// The encryption of a qcow2 image, if one is asked for.
pub(super) fn qcow2(options: &Options, secrets: &Secrets) -> Result<Option<EncryptOptions>, ImgError> {
    let old = options.flag("encryption")?;
    let format = match options.get("encrypt.format") {
        Some(_) if options.get("encryption").is_some() => {
            let text = "Options encryption and encrypt.format are mutually exclusive";
            return Err(ImgError::Said(text.to_owned()));
        }
        Some(format) => format,
        None if old => "aes",
        None if options.iter().any(|(key, _)| key.starts_with("encrypt.")) => {
            return Err(ImgError::Said("Parameter 'encrypt.format' is missing".to_owned()));
        }
        None => return Ok(None),
    };
    match format {
        "aes" => Ok(Some(EncryptOptions::Aes { password: password(options, "encrypt.", secrets)? })),
        "luks" => {
            let (password, options) = luks(options, "encrypt.", secrets)?;
            Ok(Some(EncryptOptions::Luks { password, options }))
        }
        other => refused("format", other),
    }
}

/// The change of key slots that `amend` asks for, if it does.
///
/// # Errors
/// The options contradict each other.
pub(in crate::img) fn slot_change(
    options: &Options,
    prefix: &str,
    force: bool,
    secrets: &Secrets,
) -> Result<Option<SlotChange>, ImgError> {
    let said = |text: &str| Err(ImgError::Said(text.to_owned()));
    let key = |name: &str| format!("{prefix}{name}");
    let names = ["state", "new-secret", "old-secret", "keyslot", "iter-time"];
    if names.iter().all(|name| options.get(&key(name)).is_none()) {
        return Ok(None);
    }
    let (new, old) = (secret(options, &key("new-secret"), secrets)?, secret(options, &key("old-secret"), secrets)?);
    let slot = number(options, &key("keyslot"))?;
    match options.get(&key("state")) {
        None => said("Parameter 'state' is missing"),
        Some("active") if options.get(&key("old-secret")).is_some() => {
            said("'old-secret' must not be given when activating keyslots")
        }
        Some("active") => match new {
            Some(new) => {
                let iter_time = iter_time(options, prefix)?;
                Ok(Some(SlotChange::Activate { new, slot, iter_time, force }))
            }
            None => said("'new-secret' is required to activate a keyslot"),
        },
        Some("inactive") if new.is_some() => said("'new-secret' must not be given when erasing keyslots"),
        Some("inactive") if options.get(&key("iter-time")).is_some() => {
            said("'iter-time' must not be given when erasing keyslots")
        }
        Some("inactive") => Ok(Some(SlotChange::Erase { slot, old, force })),
        Some(other) => refused("state", other),
    }
}
