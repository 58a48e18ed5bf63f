//! `-cpu` as written. Which models and features there are, the CPU models know.

use super::error::SpecError;

/// A model and what is changed of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuSpec {
    /// Its name.
    pub model: String,
    /// Features and properties with their values, in the order in which they take effect: those of `name=value` as
    /// written, then those of `+name` (value `on`), then those of `-name` (value `off`), as QEMU has it.
    pub features: Vec<(String, String)>,
}

/// Most features in one option: far more than there are.
const MAX_FEATURES: usize = 1024;

impl CpuSpec {
    /// Reads `MODEL[,+NAME|-NAME|NAME=VALUE|NAME]…`.
    ///
    /// # Errors
    /// There is no model, or a feature has no name.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let mut parts = text.split(',');
        let model = parts.next().unwrap_or_default().to_owned();
        if model.is_empty() {
            return Err(SpecError::new("no CPU model given; use -cpu help to list them"));
        }
        let (mut set, mut plus, mut minus) = (Vec::new(), Vec::new(), Vec::new());
        for part in parts.by_ref().take(MAX_FEATURES) {
            let (list, name, value) = if let Some(name) = part.strip_prefix('+') {
                (&mut plus, name, "on")
            } else if let Some(name) = part.strip_prefix('-') {
                (&mut minus, name, "off")
            } else {
                let (name, value) = part.split_once('=').unwrap_or((part, "on"));
                (&mut set, name, value)
            };
            if name.is_empty() {
                return Err(SpecError::new("a CPU feature without a name; write +NAME, -NAME or NAME=VALUE"));
            }
            list.push((name.to_owned(), value.to_owned()));
        }
        if parts.next().is_some() {
            return Err(SpecError::new(format!("more than {MAX_FEATURES} CPU features")));
        }
        Ok(Self { model, features: [set, plus, minus].concat() })
    }
}
