//! First file systems for the lab and for guests: busybox, kernel modules and an init program from `resources/guest`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::modules::Module;
use crate::{command, host, modules, paths};

/// An initramfs in the making.
pub(crate) struct Initramfs {
    archive: Archive,
    programs: BTreeSet<PathBuf>,
}

impl Initramfs {
    /// Busybox under all its names, a console, and the recipe as `/init`.
    pub(crate) fn new(recipe: &str) -> Result<Self> {
        let mut archive = Archive::default();
        for directory in ["dev", "proc", "sys", "tmp", "mnt"] {
            archive.directory(directory);
        }
        archive.character_device("dev/console", 5, 1);
        let busybox = host::find_program("busybox").context("busybox is not installed")?;
        archive.file("bin/busybox", 0o755, &read(&busybox)?);
        let applets = command::output(Command::new(&busybox).arg("--list"))?;
        for applet in applets.lines().filter(|applet| *applet != "busybox") {
            archive.symlink(&format!("bin/{applet}"), "busybox");
        }
        archive.file("init", 0o755, &read(&paths::guest_recipe(recipe))?);
        Ok(Self { archive, programs: BTreeSet::new() })
    }

    /// Adds modules with what they need.
    pub(crate) fn modules(self, directory: &Path, wanted: &[&str]) -> Result<Self> {
        Ok(self.insert(&modules::with_dependencies(directory, wanted)?))
    }

    /// Adds these modules, and `/modules/order`, the names in order of insertion.
    pub(crate) fn insert(mut self, modules: &[Module]) -> Self {
        let mut order = String::new();
        for module in modules {
            self.archive.file(&format!("modules/{}.ko", module.name), 0o644, &module.object);
            order += &format!("{}\n", module.name);
        }
        self.archive.file("modules/order", 0o644, order.as_bytes());
        self
    }

    /// Adds a program of this machine, at the same path, with its shared libraries.
    pub(crate) fn program(mut self, path: &Path) -> Result<Self> {
        for file in with_libraries(path)? {
            if self.programs.insert(file.clone()) {
                self.archive.file(archived(&file).as_str(), 0o755, &read(&file)?);
            }
        }
        Ok(self)
    }

    /// Adds a program from `resources/guest`.
    pub(crate) fn recipe(mut self, path: &str, recipe: &str) -> Result<Self> {
        self.archive.file(path, 0o755, &read(&paths::guest_recipe(recipe))?);
        Ok(self)
    }

    /// Adds a file.
    pub(crate) fn file(mut self, path: &str, permissions: u32, content: &[u8]) -> Self {
        self.archive.file(path, permissions, content);
        self
    }

    /// The archive, not compressed: unpacking costs a guest more than reading.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.archive.finish()
    }
}

/// A program and the shared libraries the dynamic linker loads for it.
pub(crate) fn with_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let mut files = vec![program.to_path_buf()];
    // ldd fails for static programs, which need nothing.
    let listed = command::output(Command::new("ldd").arg(program)).unwrap_or_default();
    files.extend(listed.lines().filter_map(library).map(PathBuf::from));
    Ok(files)
}

/// The path in a line such as `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` or `/lib64/ld-linux… (0x…)`.
fn library(line: &str) -> Option<&str> {
    line.split_whitespace().find(|word| word.starts_with('/'))
}

fn archived(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
