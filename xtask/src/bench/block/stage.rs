//! The files that the cells work on: made once, by qemu-img and by plain writes, and kept.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;

/// Bytes of the disk with content.
pub(super) const SIZE: u64 = 256 << 20;
/// Clusters of the scattered image.
const SCATTERED: u64 = 1 << 16;

/// A folder with the files.
pub(super) struct Stage {
    folder: PathBuf,
}

impl Stage {
    /// Makes what is not there yet.
    pub(super) fn new(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        let stage = Self { folder };
        stage.make("data.raw", content)?;
        stage.make("write.raw", |path| fs::copy(stage.path("data.raw"), path).map(drop).map_err(Into::into))?;
        stage.make("data.qcow2", |path| stage.convert(&["-O", "qcow2"], path))?;
        stage.make("write.qcow2", |path| stage.convert(&["-O", "qcow2"], path))?;
        stage.make("packed.qcow2", |path| stage.convert(&["-c", "-O", "qcow2"], path))?;
        // One cluster in 16 MiB of 1 TiB, and one in 1000 MiB.
        stage.make("scattered.qcow2", |path| scatter(path, SCATTERED, "16M"))?;
        stage.make("sparse.qcow2", |path| scatter(path, 1000, "1000M"))?;
        Ok(stage)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes one file under another name first, so that half a file is never taken for one.
    fn make(&self, name: &str, how: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let path = self.path(name);
        if path.exists() {
            return Ok(());
        }
        println!("making {}", path.display());
        let part = self.path("part");
        how(&part).with_context(|| format!("cannot make {}", path.display()))?;
        // Benchmarks of writes must not wait for these.
        File::open(&part)?.sync_all()?;
        fs::rename(&part, &path)?;
        Ok(())
    }

    fn convert(&self, options: &[&str], to: &Path) -> Result<()> {
        let mut tool = Command::new("qemu-img");
        command::run(tool.args(["convert", "-f", "raw"]).args(options).arg(self.path("data.raw")).arg(to))
    }
}

/// Programs and their libraries, which compress as disks do; the last sixteenth is zero.
fn content(path: &Path) -> Result<()> {
    let mut out = File::create(path)?;
    let mut left = SIZE - SIZE / 16;
    let mut folders = vec![PathBuf::from("/usr/lib"), PathBuf::from("/usr/bin")];
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> = fs::read_dir(&folder).into_iter().flatten().flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && left > 0 {
                let Ok(file) = File::open(entry.path()) else { continue };
                let mut bytes = Vec::new();
                file.take(left).read_to_end(&mut bytes)?;
                out.write_all(&bytes)?;
                left -= bytes.len() as u64;
            }
        }
    }
    out.set_len(SIZE)?;
    Ok(())
}

/// A 1 TiB image with `count` clusters, `step` apart, of which the first 4 KiB are written.
fn scatter(path: &Path, count: u64, step: &str) -> Result<()> {
    let mut tool = Command::new("qemu-img");
    command::run(tool.args(["create", "-q", "-f", "qcow2"]).arg(path).arg("1T"))?;
    let mut tool = Command::new("qemu-img");
    let count = count.to_string();
    command::run(tool.args(["bench", "-q", "-w", "-c", &count, "-S", step, "-f", "qcow2"]).arg(path))
}

/// Reads a file so that it is in the page cache.
pub(super) fn warm(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    let mut bytes = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        match file.read_at(&mut bytes, at)? {
            0 => return Ok(()),
            n => at += n as u64,
        }
    }
}
