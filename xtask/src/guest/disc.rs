//! A disc that starts: GRUB as grub-mkrescue installs it, with a menu of ours on the serial port, for a BIOS and for
//! UEFI.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::{command, paths};

/// What the menu starts besides: kernels that firmware enters in real mode, at their places on the disc.
const KERNELS: &[&str] = &["/boot/memtest86+x64.bin", "/boot/ipxe.lkrn"];

/// The disc, made anew.
pub(crate) fn boot_disc() -> Result<PathBuf> {
    let image = super::directory()?.join("boot-disc.iso");
    let files = image.with_extension(format!("files-{}", std::process::id()));
    let grub = files.join("boot/grub");
    fs::create_dir_all(&grub)?;
    fs::copy(paths::guest_recipe("grub.cfg"), grub.join("grub.cfg"))?;
    for kernel in KERNELS {
        fs::copy(kernel, files.join(kernel.trim_start_matches('/')))?;
    }
    let partial = image.with_extension(format!("partial-{}", std::process::id()));
    let mut mkrescue = Command::new("grub-mkrescue");
    // Only what the menu needs: the disc is written in a moment and starts sooner.
    mkrescue.args(["--locales=", "--fonts=", "--themes=", "--compress=xz"]);
    mkrescue.arg("--install-modules=normal serial terminal linux16 iso9660 multiboot halt test");
    mkrescue.arg("-o").arg(&partial).arg(&files).stderr(Stdio::null());
    command::output(&mut mkrescue)?;
    fs::rename(&partial, &image)?;
    fs::remove_dir_all(&files)?;
    Ok(image)
}
