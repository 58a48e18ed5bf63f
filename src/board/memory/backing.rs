//! What is behind guest memory: nothing, an unnamed file, or a file of the user's.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::{Path, PathBuf};

use super::{RamError, RamSource};

/// Where guest memory comes from (`memory-backend-*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// Anonymous memory.
    Anonymous,
    /// A sealed, unnamed file, so that another process can share it.
    Memfd {
        /// Back it with huge pages of this size in bytes; 0 for the host's default huge page size.
        hugetlb: Option<u64>,
    },
    /// A file or a directory on tmpfs or hugetlbfs.
    File(PathBuf),
}

/// A source's file, if it has one, long enough.
pub(super) struct Opened {
    pub(super) file: Option<File>,
    /// Bytes of its pages where they are huge ones, reserved by the administrator.
    pub(super) huge_page: Option<u64>,
}

impl Opened {
    /// Opens or makes the file.
    pub(super) fn new(source: &RamSource) -> Result<Self, RamError> {
        let refused = |path: String| move |error| RamError::Open { id: source.id.clone(), path, source: error };
        let file = match &source.backing {
            Backing::Anonymous if !source.share => return Ok(Self { file: None, huge_page: None }),
            Backing::Anonymous => memfd(None).map_err(refused("an unnamed file".into()))?,
            Backing::Memfd { hugetlb } => memfd(*hugetlb).map_err(|error| match (hugetlb, error.raw_os_error()) {
                (Some(page @ 1..), Some(libc::ENODEV | libc::EINVAL)) => {
                    RamError::NoSuchPages { id: source.id.clone(), page: *page }
                }
                _ => refused("an unnamed file".into())(error),
            })?,
            Backing::File(path) => open_file(path, &source.id).map_err(refused(path.display().to_string()))?,
        };
        let unsized_ = |error| RamError::Size { id: source.id.clone(), size: source.size, source: error };
        let huge_page = huge_page(&file).map_err(unsized_)?;
        if let Some(page) = huge_page.filter(|page| !source.size.is_multiple_of(*page)) {
            return Err(RamError::Pages { id: source.id.clone(), size: source.size, page });
        }
        if file.metadata().map_err(unsized_)?.len() < source.size {
            file.set_len(source.size).map_err(unsized_)?;
        }
        if matches!(source.backing, Backing::Memfd { .. }) {
            seal(&file).map_err(unsized_)?;
        }
        Ok(Self { file: Some(file), huge_page })
    }

    /// For mmap(2): -1 where there is no file.
    pub(super) fn descriptor(&self) -> i32 {
        self.file.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }
}

#[expect(unsafe_code, reason = "memfd_create has no safe wrapper")]
fn memfd(hugetlb: Option<u64>) -> io::Result<File> {
    let mut flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    if let Some(size) = hugetlb {
        flags |= libc::MFD_HUGETLB;
        flags |= if size == 0 { 0 } else { size.trailing_zeros() << libc::MAP_HUGE_SHIFT };
    }
    // SAFETY: the name is a C string; the result is checked.
    let fd = unsafe { libc::memfd_create(c"rhea-ram".as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor just made, owned by nobody else.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Neither this process nor one that gets the file can cut off memory that the guest uses.
#[expect(unsafe_code, reason = "seals have no safe wrapper")]
fn seal(file: &File) -> io::Result<()> {
    let seals = libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
    // SAFETY: a valid descriptor and a number.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Opens or makes the file; in a directory, one that nobody else can find.
fn open_file(path: &Path, id: &str) -> io::Result<File> {
    if !path.is_dir() {
        return OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    }
    // hugetlbfs has no O_TMPFILE.
    let name = path.join(format!("rhea-{id}.{}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&name)?;
    std::fs::remove_file(&name)?;
    Ok(file)
}

/// Bytes in a page of a file on hugetlbfs.
#[expect(unsafe_code, reason = "fstatfs has no safe wrapper here")]
fn huge_page(file: &File) -> io::Result<Option<u64>> {
    // SAFETY: plain data, which the call fills.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a valid descriptor, and room for one structure.
    if unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut about) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let huge = about.f_type == libc::HUGETLBFS_MAGIC;
    Ok(u64::try_from(about.f_bsize).ok().filter(|_| huge))
}
