//! Guests' file systems: a tree of files, then ext4 made from it by `mke2fs -d`, without mounting or being root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::initramfs::with_libraries;
use crate::{command, host, packages, paths};

/// A raw image with a small root file system: busybox under its own init, a shell on the serial console.
pub(crate) fn root_tree() -> Result<PathBuf> {
    packages::ensure(packages::LAB)?;
    let tree = Tree::new("root")?;
    tree.busybox()?;
    for (path, recipe) in [
        ("bin/console", "console"),
        ("etc/inittab", "inittab"),
        ("etc/rc", "rc"),
        ("etc/acpi/PWRF/00000080", "power-button"),
    ] {
        tree.copy(path, &paths::guest_recipe(recipe))?;
    }
    tree.image(32)
}

/// Programs that look at disks and tables, beside those of sg3-utils, whose names all begin alike.
const TOOLS: &[&str] = &[
    "fio",
    "hdparm",
    "smartctl",
    "iscsi-test-cu",
    "lspci",
    "lsblk",
    "eject",
    "dmidecode",
    "acpidump",
    "iasl",
    "sh",
    "tar",
];

/// A raw image with [`TOOLS`], sg3-utils and their libraries, to be mounted in a guest and entered with chroot.
pub(crate) fn tools_tree() -> Result<PathBuf> {
    packages::ensure(packages::TOOLS)?;
    let tree = Tree::new("tools")?;
    let find = |name: &&str| host::find_program(name).with_context(|| format!("{name} is not installed"));
    let mut programs = TOOLS.iter().map(find).collect::<Result<Vec<_>>>()?;
    programs.extend(scsi_tools(&find(&"sg_inq")?)?);
    for program in programs {
        for file in with_libraries(&program)? {
            tree.copy(file.to_string_lossy().trim_start_matches('/'), &file)?;
        }
    }
    tree.image(160)
}

/// The programs beside this one of the same package.
fn scsi_tools(one: &Path) -> Result<Vec<PathBuf>> {
    let directory = one.parent().context("a program without a directory")?;
    let all = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(all
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"sg_")))
        .collect())
}

/// A directory that becomes a file system; gone when done.
struct Tree {
    name: &'static str,
    files: PathBuf,
}

impl Tree {
    fn new(name: &'static str) -> Result<Self> {
        let files = super::directory()?.join(format!("{name}-{}", std::process::id()));
        for directory in ["bin", "dev", "etc", "mnt", "proc", "root", "sbin", "sys", "tmp"] {
            fs::create_dir_all(files.join(directory))?;
        }
        Ok(Self { name, files })
    }

    fn copy(&self, path: &str, source: &Path) -> Result<()> {
        let to = self.files.join(path);
        fs::create_dir_all(to.parent().context("a file without a directory")?)?;
        fs::copy(source, &to).with_context(|| format!("cannot copy {}", source.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    fn busybox(&self) -> Result<()> {
        let busybox = host::find_program("busybox").context("busybox is not installed")?;
        self.copy("bin/busybox", &busybox)?;
        for applet in command::output(Command::new(&busybox).arg("--list"))?.lines() {
            if applet != "busybox" {
                symlink("busybox", self.files.join("bin").join(applet))?;
            }
        }
        symlink("../bin/busybox", self.files.join("sbin/init"))?;
        Ok(())
    }

    /// Makes the file system in a raw image of this many MiB.
    fn image(&self, mebibytes: u32) -> Result<PathBuf> {
        packages::ensure(packages::DISK)?;
        let image = super::directory()?.join(format!("{}.raw", self.name));
        let partial = image.with_extension(format!("partial-{}", std::process::id()));
        let mut mke2fs = Command::new("mke2fs");
        mke2fs
            .env("PATH", host::search_path())
            .args(["-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d"])
            .stdout(Stdio::null());
        command::run(mke2fs.arg(&self.files).arg(&partial).arg(format!("{mebibytes}M")))?;
        fs::rename(&partial, &image)?;
        Ok(image)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Only disk space is lost if this fails, and `cargo clean` finds it.
        let _ = fs::remove_dir_all(&self.files);
    }
}
