//! Where things lie in the source tree and below `target/`.

use std::path::{Path, PathBuf};

/// The root of the source tree, from where this crate was compiled.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// What the lab downloads and makes, kept from run to run.
pub(crate) fn cache() -> PathBuf {
    target().join("lab")
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The recipes of guests: init programs and their configuration.
pub(crate) fn guest_recipe(name: &str) -> PathBuf {
    root().join("resources/guest").join(name)
}
