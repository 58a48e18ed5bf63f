//! What a benchmark measured, as a file: `target/bench/VERB.json`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::paths;

/// Where the results of `bench VERB` are kept.
pub(super) fn file(verb: &str) -> PathBuf {
    paths::target().join("bench").join(verb).with_extension("json")
}

/// What an earlier run saved.
///
/// # Errors
/// When there was none, or one that measured something else.
pub(super) fn saved<T: DeserializeOwned>(verb: &str) -> Result<T> {
    let file = file(verb);
    let text = fs::read(&file).with_context(|| format!("no earlier run to resume: cannot read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("cannot read {}", file.display()))
}

/// Saves what is there.
pub(super) fn save(verb: &str, results: &impl Serialize) -> Result<()> {
    let file = file(verb);
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(&file, serde_json::to_vec_pretty(results)?).with_context(|| format!("cannot write {}", file.display()))
}
