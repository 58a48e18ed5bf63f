//! Debian's Xen: the multiboot kernel that most people have met.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, packages};

/// The ELF file out of the package, downloaded and unpacked the first time, never installed.
pub(crate) fn xen() -> Result<PathBuf> {
    let image = super::directory()?.join("xen");
    if image.is_file() {
        return Ok(image);
    }
    let partial = image.with_extension(format!("partial-{}", std::process::id()));
    fs::create_dir_all(&partial)?;
    let package = packages::resolve("xen-system-amd64")?;
    println!("downloading {package}: a kernel that is started by multiboot");
    packages::download(&package, &partial)?;
    command::run(
        Command::new("sh").current_dir(&partial).args(["-c", "dpkg -x *.deb . && gzip -dc boot/xen-*.gz >xen"]),
    )?;
    fs::rename(partial.join("xen"), &image).context("the package has no Xen in it")?;
    fs::remove_dir_all(&partial)?;
    Ok(image)
}
