//! What can be asked of a host file.

use crate::lock::Access;

/// How to open a host file.
#[derive(Debug, Clone)]
pub struct FileOptions {
    /// Writes are refused.
    pub read_only: bool,
    /// Opens read-only where writing is not permitted, instead of failing.
    pub auto_read_only: bool,
    /// `cache.direct`: bypass the page cache (`O_DIRECT`).
    pub direct: bool,
    /// `cache.no-flush`: never sync.
    pub no_flush: bool,
    /// `discard=unmap`: discards punch holes.
    pub discard: bool,
    /// The ring may move the bytes.
    pub ring: bool,
    /// What to tell other programs through byte-range locks; `None` takes no locks.
    pub lock: Option<Access>,
    /// `locking=on`: fail where locks are not supported (with `auto` they are left out).
    pub lock_required: bool,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            auto_read_only: false,
            direct: false,
            no_flush: false,
            discard: true,
            ring: false,
            lock: Some(Access::Write),
            lock_required: false,
        }
    }
}
