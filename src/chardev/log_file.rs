//! `logfile=`: a copy of all that the guest writes.

use std::fs::File;
use std::io::Write;

/// The copy.
#[derive(Debug)]
pub(crate) struct LogFile {
    file: File,
    has_failed: bool,
}

impl LogFile {
    /// Copies. A full disk must not stop the guest: the first failure is logged, later ones are not.
    pub(crate) fn write(&mut self, data: &[u8]) {
        match self.file.write_all(data) {
            Err(error) if !self.has_failed => {
                self.has_failed = true;
                log::error!("cannot write to the log file of a character device: {error}");
            }
            _ => {}
        }
    }
}

impl From<File> for LogFile {
    fn from(file: File) -> Self {
        Self { file, has_failed: false }
    }
}
