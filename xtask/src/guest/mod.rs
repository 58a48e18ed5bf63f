//! Guests: what they boot and the disks they have, made from Debian's files and the recipes in `resources/guest`.

mod debian;
mod disc;
mod disk;
mod xen;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::initramfs::Initramfs;
use crate::kernel::{Flavor, Kernel};
use crate::{packages, paths};

pub(crate) use debian::DebianDisk;
pub(crate) use disc::boot_disc;
pub(crate) use disk::{root_tree, tools_tree};
pub(crate) use xen::xen;

/// What guests of ours need from their kernel, where it is not built in.
const MODULES: &[&str] =
    &["virtio_pci", "virtio_blk", "virtio_rng", "ext4", "crc32c_generic", "button", "evdev", "rng_core", "efivarfs"];

/// What those with the generic kernel need besides: the cloud kernel has no drivers for IDE.
const GENERIC_MODULES: &[&str] = &["ata_piix", "virtio_scsi", "sd_mod", "sr_mod", "sg", "isofs"];

/// A kernel with an initramfs that has its modules.
pub(crate) struct Boot {
    /// The kernel.
    pub(crate) kernel: Kernel,
    /// The initramfs made for it.
    pub(crate) initramfs: PathBuf,
}

impl Boot {
    /// The kernel of this flavor and an initramfs made anew.
    pub(crate) fn prepare(flavor: Flavor) -> Result<Self> {
        packages::ensure(packages::LAB)?;
        let boot = Self { kernel: flavor.get()?, initramfs: Self::initramfs(flavor)? };
        let besides = if flavor == Flavor::Generic { GENERIC_MODULES } else { &[] };
        let modules = [MODULES, besides].concat();
        let archive =
            Initramfs::new("init")?.recipe("bin/console", "console")?.modules(&boot.kernel.modules, &modules)?.finish();
        replace(&boot.initramfs, &archive)?;
        Ok(boot)
    }

    /// What [`Boot::prepare`] has made.
    pub(crate) fn open(flavor: Flavor) -> Result<Self> {
        Ok(Self { kernel: flavor.get()?, initramfs: Self::initramfs(flavor)? })
    }

    fn initramfs(flavor: Flavor) -> Result<PathBuf> {
        Ok(directory()?.join(format!("initramfs-{}", flavor.name())))
    }
}

/// Where guests' files lie.
pub(crate) fn directory() -> Result<PathBuf> {
    let directory = paths::cache().join("guest");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

/// Writes a file so that whoever reads it meanwhile sees the old one or the new one, whole.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let partial = path.with_extension(format!("partial-{}", std::process::id()));
    fs::write(&partial, content).with_context(|| format!("cannot write {}", partial.display()))?;
    fs::rename(&partial, path)?;
    Ok(())
}
