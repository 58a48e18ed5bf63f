//! Descriptors that another program opened: the sets behind `/dev/fdset/N`, and those with names.
//!
//! A manager that confines us opens files itself and passes them: with `-add-fd` or `add-fd` into a set, of which
//! `/dev/fdset/N` then takes the member whose access mode fits, or with `getfd` under a name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;

use crate::qmp::QmpError;
use crate::qmp::reply::monitor::{AddfdInfo, FdsetFdInfo, FdsetInfo};

/// Members of all sets together, and names: more than any manager uses, few enough to bound us.
const LIMIT: usize = 4096;

/// The sets and the names.
#[derive(Debug)]
pub struct FdTable {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    sets: BTreeMap<i64, Vec<Member>>,
    named: BTreeMap<String, OwnedFd>,
    /// Those we were started with and nobody has claimed.
    inherited: BTreeSet<RawFd>,
}

#[derive(Debug)]
struct Member {
    fd: OwnedFd,
    opaque: Option<String>,
}

/// How a file is to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Write only.
    Write,
    /// Both.
    ReadWrite,
}

impl Inner {
    fn len(&self) -> usize {
        self.named.len() + self.sets.values().map(Vec::len).sum::<usize>()
    }
}

impl FdTable {
    /// An empty one. What is open now counts as passed to us: to be made before the program opens anything itself.
    pub fn new() -> Self {
        Self { inner: Mutex::new(Inner { inherited: open_now(), ..Inner::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a descriptor to a set, a new one without `set`.
    ///
    /// # Errors
    ///
    /// The set's number is negative, or there are too many descriptors.
    pub fn add(&self, set: Option<i64>, fd: OwnedFd, opaque: Option<String>) -> Result<AddfdInfo, QmpError> {
        let mut inner = self.lock();
        if inner.len() >= LIMIT {
            return Err(QmpError::generic("Too many file descriptors"));
        }
        let set = match set {
            Some(set) if set < 0 => return Err(QmpError::expects("fdset-id", "a non-negative value")),
            Some(set) => set,
            None => (0..).find(|number| !inner.sets.contains_key(number)).unwrap_or_default(),
        };
        let number = fd.as_raw_fd();
        inner.sets.entry(set).or_default().push(Member { fd, opaque });
        Ok(AddfdInfo { fdset_id: set, fd: number.into() })
    }

    /// Removes a descriptor, or all of a set.
    ///
    /// # Errors
    ///
    /// There is none such.
    pub fn remove(&self, set: i64, fd: Option<i64>) -> Result<(), QmpError> {
        let mut inner = self.lock();
        let name = fd.map_or(format!("fdset-id:{set}"), |fd| format!("fdset-id:{set}, fd:{fd}"));
        let missing = || QmpError::generic(format!("File descriptor named '{name}' not found"));
        let members = inner.sets.get_mut(&set).ok_or_else(missing)?;
        let before = members.len();
        members.retain(|member| fd.is_some_and(|fd| i64::from(member.fd.as_raw_fd()) != fd));
        if members.len() == before {
            return Err(missing());
        }
        if members.is_empty() {
            inner.sets.remove(&set);
        }
        Ok(())
    }

    /// `query-fdsets`.
    pub fn query(&self) -> Vec<FdsetInfo> {
        let member = |member: &Member| FdsetFdInfo { fd: member.fd.as_raw_fd().into(), opaque: member.opaque.clone() };
        let sets = &self.lock().sets;
        sets.iter()
            .map(|(set, members)| FdsetInfo { fdset_id: *set, fds: members.iter().map(member).collect() })
            .collect()
    }

    /// Gives a descriptor a name; one that had it before is closed.
    ///
    /// # Errors
    ///
    /// The name begins with a digit (it would be taken for a number where names are used), or there are too many.
    pub fn name(&self, name: &str, fd: OwnedFd) -> Result<(), QmpError> {
        if name.starts_with(|first: char| first.is_ascii_digit()) {
            return Err(QmpError::expects("fdname", "a name not starting with a digit"));
        }
        let mut inner = self.lock();
        if inner.len() >= LIMIT {
            return Err(QmpError::generic("Too many file descriptors"));
        }
        inner.named.insert(name.to_owned(), fd);
        Ok(())
    }

    /// Takes the descriptor of this name.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn take(&self, name: &str) -> Result<OwnedFd, QmpError> {
        let missing = || QmpError::generic(format!("File descriptor named '{name}' not found"));
        self.lock().named.remove(name).ok_or_else(missing)
    }

    /// Makes a descriptor that this process was started with the caller's: `fd=28` on the command line.
    ///
    /// # Errors
    ///
    /// It was not open when this table was made, has been claimed before, or [`FdTable::close_inheritance`] was called.
    #[expect(unsafe_code, reason = "a number from the command line becomes an owned descriptor")]
    pub fn claim(&self, number: RawFd) -> Result<OwnedFd, QmpError> {
        let missing = || QmpError::generic(format!("file descriptor {number} was not passed to this process"));
        let mut inner = self.lock();
        if !inner.inherited.contains(&number) {
            return Err(missing());
        }
        // SAFETY: F_SETFD on any number is harmless; it fails for one that is not open.
        if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            return Err(missing());
        }
        inner.inherited.remove(&number);
        // SAFETY: the descriptor is open since before we opened any, was not claimed before, and who names it on the
        // command line gives it away.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }

    /// From now on numbers name nothing: who speaks to a monitor has `getfd`.
    pub fn close_inheritance(&self) {
        self.lock().inherited.clear();
    }

    /// Opens the member of a set that `path` names and `access` fits; `None` when the path names no set.
    ///
    /// # Errors
    ///
    /// The set is not there, or none of its members fits.
    pub fn open(&self, path: &Path, access: Access) -> Option<std::io::Result<File>> {
        let number = path.to_str()?.strip_prefix("/dev/fdset/")?.parse::<i64>().ok()?;
        let inner = self.lock();
        let member = inner.sets.get(&number).and_then(|set| set.iter().find(|member| fits(&member.fd, access)));
        Some(match member {
            Some(member) => member.fd.try_clone().map(File::from),
            None => Err(rustix::io::Errno::ACCESS.into()),
        })
    }
}

impl Default for FdTable {
    fn default() -> Self {
        Self::new()
    }
}

/// The numbers of open descriptors but the three standard ones, which belong to the process as a whole. Nothing where
/// `/proc` is not mounted.
fn open_now() -> BTreeSet<RawFd> {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    let mut numbers: BTreeSet<RawFd> = numbers.filter(|number| *number > libc::STDERR_FILENO).collect();
    // The one that the list was read through was open too.
    numbers.retain(|number| Path::new(&format!("/proc/self/fd/{number}")).symlink_metadata().is_ok());
    numbers
}

fn fits(fd: &OwnedFd, access: Access) -> bool {
    let wanted = match access {
        Access::Read => OFlags::RDONLY,
        Access::Write => OFlags::WRONLY,
        Access::ReadWrite => OFlags::RDWR,
    };
    rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags & OFlags::RWMODE == wanted)
}
