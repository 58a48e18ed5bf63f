//! What to do when the host fails a guest's request (`werror=`, `rerror=`), for every kind of disk front end.

use std::sync::Arc;

/// A policy for one direction (`BlockdevOnError` in QMP).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// Tell the guest.
    Report,
    /// Tell the guest that all is well.
    Ignore,
    /// Stop the machine when the host's disk is full, tell the guest of all else.
    Enospc,
    /// Stop the machine and try again when it goes on.
    Stop,
}

/// What is done about one failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorAction {
    /// The guest is told.
    Report,
    /// The guest is not told.
    Ignore,
    /// The request is held until the machine goes on, then tried again.
    Stop,
}

impl OnError {
    /// What to do about `errno`.
    #[must_use]
    pub fn action(self, errno: i32) -> ErrorAction {
        match self {
            Self::Report => ErrorAction::Report,
            Self::Ignore => ErrorAction::Ignore,
            Self::Stop => ErrorAction::Stop,
            Self::Enospc if errno == libc::ENOSPC => ErrorAction::Stop,
            Self::Enospc => ErrorAction::Report,
        }
    }
}

/// One failure, as the `BLOCK_IO_ERROR` event tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoFailure {
    /// The request wrote (or flushed, or discarded); otherwise it read.
    pub write: bool,
    /// What is done about it.
    pub action: ErrorAction,
    /// The host's `errno`.
    pub errno: i32,
}

/// Both policies of a disk and whom to tell.
#[derive(Clone)]
pub struct ErrorPolicy {
    /// For reads (`rerror`).
    pub read: OnError,
    /// For writes, flushes, discards (`werror`).
    pub write: OnError,
    /// Told of every failure, on the disk's thread: it must not wait. When the action is [`ErrorAction::Stop`] it has
    /// to see to it that the machine stops.
    pub tell: Arc<dyn Fn(IoFailure) + Send + Sync>,
}

impl ErrorPolicy {
    /// QEMU's defaults: reads are reported, writes are but for a full disk, which stops the machine.
    #[must_use]
    pub fn new(tell: Arc<dyn Fn(IoFailure) + Send + Sync>) -> Self {
        Self { read: OnError::Report, write: OnError::Enospc, tell }
    }

    /// Decides about a failure and tells of it.
    #[must_use]
    pub fn decide(&self, write: bool, errno: i32) -> ErrorAction {
        let action = if write { self.write } else { self.read }.action(errno);
        (self.tell)(IoFailure { write, action, errno });
        action
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enospc_stops_for_a_full_disk_only() {
        assert_eq!(OnError::Enospc.action(libc::ENOSPC), ErrorAction::Stop);
        assert_eq!(OnError::Enospc.action(libc::EIO), ErrorAction::Report);
        assert_eq!(OnError::Stop.action(libc::EIO), ErrorAction::Stop);
        assert_eq!(OnError::Ignore.action(libc::ENOSPC), ErrorAction::Ignore);
    }
}
