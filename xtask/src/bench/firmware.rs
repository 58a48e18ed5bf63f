//! What QEMU loads from its own directory.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const NAMES: [&str; 5] = ["bios-256k.bin", "bios-microvm.bin", "kvmvapic.bin", "linuxboot_dma.bin", "pvh.bin"];
const DIRECTORIES: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];

/// The files, by their paths in a counting machine.
pub(super) fn files() -> Result<Vec<(String, PathBuf)>> {
    NAMES.into_iter().map(|name| Ok((format!("usr/share/qemu/{name}"), find(name)?))).collect()
}

fn find(name: &str) -> Result<PathBuf> {
    let found = DIRECTORIES.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.is_file());
    found.with_context(|| format!("QEMU's firmware {name} is in none of {}", DIRECTORIES.join(", ")))
}
