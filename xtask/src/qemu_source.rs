//! QEMU's source package from Debian, with the tests that are run on Rhea; nothing of it is copied into this project.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::packages::{self, Package};
use crate::{command, paths};

/// What unpacking needs.
const NEEDED: &[Package] =
    &[Package { name: "dpkg-dev", program: "dpkg-source", why: "unpacks Debian's source packages" }];

/// Where source packages are listed: apt's own list may have only binaries.
const SOURCES: &str = "\
deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main
deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian-security bookworm-security main
";

/// Where it lies, with what is built of it.
pub(crate) fn directory() -> PathBuf {
    paths::target().join("qtests")
}

/// The unpacked source package; fetched the first time.
pub(crate) fn fetch() -> Result<PathBuf> {
    packages::ensure(NEEDED)?;
    let directory = directory();
    fs::create_dir_all(&directory)?;
    let source = directory.join("qemu");
    if source.is_dir() {
        return Ok(source);
    }
    println!("fetching QEMU's source package");
    packages::download_source("qemu", SOURCES, &directory)?;
    let described = fs::read_dir(&directory)?.filter_map(|entry| Some(entry.ok()?.path()));
    let description = described
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "dsc"))
        .context("the source package came without its description")?;
    let partial = directory.join("qemu.partial");
    if partial.is_dir() {
        fs::remove_dir_all(&partial)?;
    }
    command::output(Command::new("dpkg-source").arg("--extract").args([&description, &partial]))?;
    fs::rename(&partial, &source)?;
    Ok(source)
}
