//! Debian's kernels, downloaded and unpacked below `target/lab`, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{command, host, packages, paths, payload};

/// Which of Debian's builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Flavor {
    /// `linux-image-amd64`: every driver; has 9p, so it runs the lab itself.
    Generic,
    /// `linux-image-cloud-amd64`: only what clouds have; the usual guest.
    Cloud,
}

/// One unpacked kernel.
pub(crate) struct Kernel {
    /// The bzImage as distributed.
    pub(crate) vmlinuz: PathBuf,
    /// The ELF file taken out of the bzImage.
    pub(crate) vmlinux: PathBuf,
    /// `lib/modules/VERSION`, with `modules.dep` made.
    pub(crate) modules: PathBuf,
}

impl Flavor {
    /// Its name in paths and on command lines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Cloud => "cloud",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Generic => "linux-image-amd64",
            Self::Cloud => "linux-image-cloud-amd64",
        }
    }

    /// The kernel from the cache; downloaded and unpacked the first time.
    pub(crate) fn get(self) -> Result<Kernel> {
        let directory = paths::cache().join("kernel").join(self.name());
        if !directory.is_dir() {
            self.fetch(&directory).with_context(|| format!("cannot get Debian's {} kernel", self.name()))?;
        }
        Kernel::open(&directory)
    }

    /// Fills `directory` in one rename, so that an interrupted run leaves nothing that looks whole.
    fn fetch(self, directory: &Path) -> Result<()> {
        packages::ensure(packages::LAB)?;
        let partial = directory.with_extension(format!("partial-{}", std::process::id()));
        fs::create_dir_all(&partial)?;
        let package = packages::resolve(self.package())?;
        println!("downloading {package}: {}", self.why());
        packages::download(&package, &partial)?;
        let archive = only_entry(&partial, |name| name.ends_with(".deb"))?;
        command::run(Command::new("dpkg").arg("-x").arg(&archive).arg(&partial))?;
        fs::remove_file(&archive)?;
        let version = version(&partial)?;
        command::run(Command::new("depmod").env("PATH", host::search_path()).arg("-b").arg(&partial).arg(&version))?;
        let image = fs::read(partial.join(format!("boot/vmlinuz-{version}")))?;
        fs::write(partial.join("boot/vmlinux"), payload::unpack(&image)?)?;
        // Somebody else may have been faster: then theirs is as good.
        if fs::rename(&partial, directory).is_err() && directory.is_dir() {
            fs::remove_dir_all(&partial)?;
        }
        Ok(())
    }

    fn why(self) -> &'static str {
        match self {
            Self::Generic => "the kernel of the lab machine, and a guest with every driver",
            Self::Cloud => "the kernel of most guests",
        }
    }
}

impl Kernel {
    fn open(directory: &Path) -> Result<Self> {
        let version = version(directory)?;
        Ok(Self {
            vmlinuz: directory.join(format!("boot/vmlinuz-{version}")),
            vmlinux: directory.join("boot/vmlinux"),
            modules: directory.join("lib/modules").join(version),
        })
    }
}

/// The version an unpacked kernel package calls itself.
fn version(directory: &Path) -> Result<String> {
    let modules = only_entry(&directory.join("lib/modules"), |_| true)?;
    let name = modules.file_name().context("a directory without a name")?;
    Ok(name.to_string_lossy().into_owned())
}

/// The one entry of a directory that `wanted` likes.
fn only_entry(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    entries
        .filter_map(Result::ok)
        .find(|entry| wanted(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .with_context(|| format!("nothing of use in {}", directory.display()))
}
