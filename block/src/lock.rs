//! Byte-range locks that tell other programs how an image is used, compatible with QEMU's.
//!
//! Seen in `/proc/locks` while `qemu-io` holds an image (`docs/` of QEMU name the scheme "image locking"): every
//! permission has a number *n*. A program that uses permission *n* holds a shared open-file-description lock on byte
//! 100 + *n*; one that does not let others use permission *n* holds byte 200 + *n*. Whoever wants to use *n* therefore
//! looks whether anyone holds 200 + *n*, and whoever wants to forbid *n* looks at 100 + *n*. All locks are shared
//! ("read") locks, so they also work on files opened read-only; looking is `F_OFD_GETLK` for an exclusive lock.

use std::fs::File;
use std::path::Path;

use crate::error::{BlockError, ErrorKind};
use crate::sys;

/// First byte of "used", first byte of "not shared".
const USED: u64 = 100;
const UNSHARED: u64 = 200;
/// Names by number, as messages show them.
const NAMES: [&str; 4] = ["consistent read", "write", "write unchanged", "resize"];
const READ: u8 = 1 << 0;
const WRITE: u8 = 1 << 1;
const WRITE_UNCHANGED: u8 = 1 << 2;
const RESIZE: u8 = 1 << 3;
const ALL: u8 = READ | WRITE | WRITE_UNCHANGED | RESIZE;

/// How an image is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read; nobody may write.
    Read,
    /// Read, whoever writes (`force-share`, `-U`).
    ReadShared,
    /// Write; others may only read what they know to be in motion.
    Write,
    /// Write beside other writers (`share-rw=on`).
    WriteShared,
}

impl Access {
    /// The same towards others, without writing.
    #[must_use]
    pub fn reading(self) -> Self {
        match self {
            Self::Read | Self::Write => Self::Read,
            Self::ReadShared | Self::WriteShared => Self::ReadShared,
        }
    }

    /// The same, with others who write.
    #[must_use]
    pub fn shared(self) -> Self {
        match self {
            Self::Read | Self::ReadShared => Self::ReadShared,
            Self::Write | Self::WriteShared => Self::WriteShared,
        }
    }

    /// Both at once: what either uses, and only what both leave to others.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let uses = |access: Self| matches!(access, Self::Write | Self::WriteShared);
        let shares = |access: Self| access == access.shared();
        let access = if uses(self) || uses(other) { Self::Write } else { Self::Read };
        if shares(self) && shares(other) { access.shared() } else { access }
    }

    /// Permissions used, permissions left to others.
    fn permissions(self) -> (u8, u8) {
        match self {
            Self::Read => (READ, READ | WRITE_UNCHANGED),
            Self::ReadShared => (READ, ALL),
            Self::Write => (READ | WRITE | RESIZE, READ | WRITE_UNCHANGED),
            Self::WriteShared => (READ | WRITE, ALL),
        }
    }
}

/// Why a lock was not got.
#[derive(Debug)]
pub(crate) struct Refusal(BlockError);

impl Refusal {
    /// Adds the hint that names the image.
    pub(crate) fn hint(self, path: &Path) -> BlockError {
        if self.0.kind() != ErrorKind::Locked {
            return self.0.within(format!("could not lock '{}'", path.display()));
        }
        self.0.with_hint(format!("Is another process using the image [{}]?", path.display()))
    }
}

/// How often, and after what pause, a taken lock is asked for again. A process that has just started holds copies of
/// its parent's descriptors, and so of locks that the parent has let go of, until it runs its program.
const TRIES: u32 = 10;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// Takes the locks for `access`; `before` is what is held through this open file already.
///
/// True when the locks are held; false where the file system has none and they are not `required`.
pub(crate) fn acquire(file: &File, before: Option<Access>, access: Access, required: bool) -> Result<bool, Refusal> {
    let mut result = try_acquire(file, access);
    for _ in 0..TRIES {
        if !matches!(result, Err(Failure::Taken(_))) {
            break;
        }
        std::thread::sleep(PAUSE);
        result = try_acquire(file, access);
    }
    match result {
        Ok(()) => Ok(true),
        Err(Failure::Unsupported) if !required => Ok(false),
        Err(failure) => {
            let (used, shared) = before.map_or((0, ALL), Access::permissions);
            for (byte, wanted) in bytes(used, shared) {
                // Nothing was let go yet, so this only takes back what came on top.
                let _ = set(file, byte, wanted);
            }
            Err(Refusal(match failure {
                Failure::Unsupported => {
                    BlockError::new(ErrorKind::Unsupported, "the file system does not support locks (locking=on)")
                }
                Failure::Taken(text) => BlockError::new(ErrorKind::Locked, text),
                Failure::Host(e) => BlockError::io("could not take a lock", e),
            }))
        }
    }
}

enum Failure {
    Unsupported,
    Taken(String),
    Host(std::io::Error),
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        match e.raw_os_error() {
            Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOLCK | libc::ENOSYS) => Self::Unsupported,
            _ => Self::Host(e),
        }
    }
}

fn bytes(used: u8, shared: u8) -> impl Iterator<Item = (u64, bool)> {
    (0..NAMES.len() as u64)
        .flat_map(move |n| [(USED + n, used & (1 << n) != 0), (UNSHARED + n, shared & (1 << n) == 0)].into_iter())
}

fn try_acquire(file: &File, access: Access) -> Result<(), Failure> {
    let (used, shared) = access.permissions();
    // Take first, look second: of two programs that do this at once, at least one sees the other.
    for (byte, wanted) in bytes(used, shared) {
        if wanted {
            set(file, byte, true)?;
        }
    }
    for (n, name) in NAMES.iter().enumerate() {
        let n = n as u64;
        if used & (1 << n) != 0 && is_held_elsewhere(file, UNSHARED + n)? {
            return Err(Failure::Taken(format!("Failed to get \"{name}\" lock")));
        }
        if shared & (1 << n) == 0 && is_held_elsewhere(file, USED + n)? {
            return Err(Failure::Taken(format!("Failed to get shared \"{name}\" lock")));
        }
    }
    for (byte, wanted) in bytes(used, shared) {
        if !wanted {
            set(file, byte, false)?;
        }
    }
    Ok(())
}

fn set(file: &File, byte: u64, hold: bool) -> std::io::Result<()> {
    let kind = if hold { libc::F_RDLCK } else { libc::F_UNLCK };
    sys::ofd_lock(file, libc::F_OFD_SETLK, kind, byte).map(drop)
}

fn is_held_elsewhere(file: &File, byte: u64) -> std::io::Result<bool> {
    let found = sys::ofd_lock(file, libc::F_OFD_GETLK, libc::F_WRLCK, byte)?;
    Ok(i32::from(found.l_type) != libc::F_UNLCK)
}

#[cfg(test)]
mod tests;
