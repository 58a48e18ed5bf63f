//! `--object secret,...`: the passwords of encrypted images.

use rhea_block::crypto::Secrets;
use serde_json::{Map, Value};

use super::args::Parsed;
use super::error::{ImgError, chain};
use super::keyval;
use crate::qmp::framing::with_double_quotes;
use crate::qmp::json;
use crate::spec::ObjectSpec;
use crate::spec::read::Source;

/// The secrets of all `--object`, in order: a later one may be kept under an earlier.
///
/// # Errors
/// An object that is no secret, or whose secret cannot be had.
pub(super) fn of(parsed: &Parsed) -> Result<Secrets, ImgError> {
    let secrets = Secrets::default();
    for text in parsed.all("object") {
        let (object, source) = object(text)?;
        match ObjectSpec::read(object, source).map_err(|e| ImgError::Said(e.to_string()))? {
            ObjectSpec::Secret(spec) if secrets.get(&spec.id).is_ok() => {
                let text = format!("attempt to add duplicate property '{}' to object (type 'container')", spec.id);
                return Err(ImgError::Said(text));
            }
            ObjectSpec::Secret(spec) => {
                crate::secret::add(&secrets, &spec).map_err(|e| ImgError::Said(chain(&e)))?;
            }
            _ => return Err(ImgError::Said(format!("--object {text}: the image tool has a use for secrets only"))),
        }
    }
    Ok(secrets)
}

/// Option text, whose first word is the object's type, or JSON.
fn object(text: &str) -> Result<(Map<String, Value>, Source), ImgError> {
    if text.starts_with('{') {
        return match json::read(with_double_quotes(text).as_bytes()) {
            Ok(Value::Object(object)) => Ok((object, Source::Json)),
            Ok(_) => Err(ImgError::Said(format!("--object {text}: a JSON object is needed"))),
            Err(error) => Err(ImgError::Said(error.to_string())),
        };
    }
    let first = text.split(',').next().unwrap_or_default();
    let text = if first.contains('=') { text.to_owned() } else { format!("qom-type={text}") };
    Ok((keyval::nested(keyval::pairs(&text)?)?, Source::Text))
}
