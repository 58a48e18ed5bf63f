//! How a file is used, changed while it is open: `blockdev-reopen`.
//!
//! The descriptor stays what it is, with its locks: only its flags change. Requests by the methods of
//! [`Layer`](crate::layer::Layer) are waited for; whoever moves bytes by [`Layer::fast`](crate::layer::Layer::fast) must
//! be held still.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::HostFile;
use crate::error::{BlockError, ErrorKind};
use crate::sys;

/// What can be changed of a file that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways {
    /// `cache.direct`: bypass the page cache (`O_DIRECT`).
    pub direct: bool,
    /// `cache.no-flush`: never sync.
    pub no_flush: bool,
    /// `discard=unmap`: discards punch holes.
    pub discard: bool,
}

impl HostFile {
    /// How it is used as of now.
    #[must_use]
    pub fn ways(&self) -> Ways {
        Ways {
            direct: self.direct.load(Ordering::Relaxed),
            no_flush: self.no_flush.load(Ordering::Relaxed),
            discard: self.discard.load(Ordering::Relaxed),
        }
    }

    /// Has it used as `ways` say from now on. Gives back how it was before.
    ///
    /// # Errors
    /// When its file system has no direct I/O; then nothing has changed.
    pub fn set_ways(&self, ways: Ways) -> Result<Ways, BlockError> {
        let _alone = self.switching.write().unwrap_or_else(PoisonError::into_inner);
        let former = self.ways();
        if ways.no_flush != former.no_flush && !self.read_only {
            // What was not flushed so far is not left behind.
            self.file.sync_data().map_err(|e| {
                BlockError::io(format!("could not sync '{}' before its cache changes", self.path.display()), e)
            })?;
        }
        if ways.direct != former.direct {
            sys::set_direct(&self.file, ways.direct).map_err(|e| {
                let text = format!(
                    "the file system of '{}' does not support O_DIRECT (cache.direct): {e}",
                    self.path.display()
                );
                BlockError::new(ErrorKind::Unsupported, text)
            })?;
            let alignment = if ways.direct { sys::direct_alignment(&self.file, self.logical) } else { 1 };
            self.alignment.store(alignment, Ordering::Release);
        }
        self.direct.store(ways.direct, Ordering::Relaxed);
        self.no_flush.store(ways.no_flush, Ordering::Relaxed);
        self.discard.store(ways.discard, Ordering::Relaxed);
        Ok(former)
    }
}
