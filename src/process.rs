//! The process itself: going into the background, the pid file, descriptors that must not be inherited.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::spec::process::RunAs;

/// Bytes of a page.
const PAGE: u64 = 4096;

/// Why the process could not be set up.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// fork, setsid, pipe or dup failed.
    #[error("cannot go into the background")]
    Daemonize(#[source] io::Error),
    /// The pid file cannot be made.
    #[error("cannot create PID file {path}")]
    PidFile {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The root directory cannot be changed.
    #[error("-chroot {path}")]
    Chroot {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The user cannot be changed.
    #[error("-runas: cannot become that user; only root may")]
    RunAs(#[source] io::Error),
    /// There is no such user.
    #[error("-runas: there is no user {0} in /etc/passwd; UID:GID in numbers works too")]
    NoUser(String),
    /// Another process holds the pid file.
    #[error("cannot create PID file {path}: another process has it locked; is this guest running already?")]
    PidFileLocked {
        /// Its path.
        path: PathBuf,
    },
}

/// The background process's promise to say when it is ready; the foreground process waits for it.
pub struct Readiness(Option<File>);

/// With `-daemonize`: forks, twice. The last child returns; the parent stays until the child is [`Readiness::ready`], and then
/// exits with 0, or, if the child ends before, with 1 (the child has said why on standard error).
///
/// Called while there is one thread only.
///
/// # Errors
/// When the kernel gives no pipe or process.
pub fn daemonize() -> Result<Readiness, ProcessError> {
    let (mut read, write) = pipe().map_err(ProcessError::Daemonize)?;
    match fork().map_err(ProcessError::Daemonize)? {
        0 => {
            drop(read);
            new_session().map_err(ProcessError::Daemonize)?;
            // The leader of a session without a terminal gets one by opening it, so it goes.
            match fork().map_err(ProcessError::Daemonize)? {
                0 => Ok(Readiness(Some(write))),
                _ => std::process::exit(0),
            }
        }
        _ => {
            drop(write);
            let mut word = [0];
            let ready = read.read_exact(&mut word).is_ok();
            std::process::exit(i32::from(!ready));
        }
    }
}

impl Readiness {
    /// For a process that stays in the foreground.
    #[must_use]
    pub fn foreground() -> Self {
        Self(None)
    }

    /// Everything that can fail at start has not failed: gives the terminal back and lets the parent exit.
    ///
    /// # Errors
    /// When standard input and output cannot be redirected.
    pub fn ready(self) -> Result<(), ProcessError> {
        let Some(mut parent) = self.0 else { return Ok(()) };
        std::env::set_current_dir("/").map_err(ProcessError::Daemonize)?;
        let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(ProcessError::Daemonize)?;
        for standard in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
            duplicate_onto(&null, standard).map_err(ProcessError::Daemonize)?;
        }
        // A parent that was killed meanwhile needs no word.
        let _ = parent.write_all(&[0]);
        Ok(())
    }
}

/// Sets the name that the host's lists show (`-name process=`), cut to 15 bytes as the kernel keeps it.
#[expect(unsafe_code, reason = "prctl has no safe wrapper")]
pub fn set_name(name: Option<&str>) {
    let Some(Ok(name)) = name.map(CString::new) else { return };
    // SAFETY: a C string; the kernel copies at most 16 bytes of it.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Makes `root` the root directory and becomes another user, in this order, for good.
///
/// # Errors
/// There is no such directory or user, or the process may not.
pub fn give_up_privileges(root: Option<&Path>, user: Option<&RunAs>) -> Result<(), ProcessError> {
    let ids = user.map(ids_of).transpose()?;
    if let Some(root) = root {
        let refused = |source| ProcessError::Chroot { path: root.to_owned(), source };
        std::os::unix::fs::chroot(root).map_err(refused)?;
        std::env::set_current_dir("/").map_err(refused)?;
    }
    match ids {
        Some((user, group)) => become_user(user, group).map_err(ProcessError::RunAs),
        None => Ok(()),
    }
}

/// User and group of `-runas`.
fn ids_of(user: &RunAs) -> Result<(u32, u32), ProcessError> {
    match user {
        RunAs::Ids { uid, gid } => Ok((*uid, *gid)),
        RunAs::User(name) => {
            let users = fs::read_to_string("/etc/passwd").map_err(ProcessError::RunAs)?;
            find_user(&users, name).ok_or_else(|| ProcessError::NoUser(name.clone()))
        }
    }
}

/// A line of passwd(5) is name:password:user:group:…
fn find_user(users: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields = users.lines().map(|line| line.split(':')).find(|fields| fields.clone().next() == Some(name))?;
    let user = fields.nth(2)?.parse().ok()?;
    Some((user, fields.next()?.parse().ok()?))
}

/// Groups first: afterwards the process may no longer change them. The calls change all threads' ids, as glibc does.
#[expect(unsafe_code, reason = "changing ids has no safe wrapper")]
fn become_user(user: u32, group: u32) -> io::Result<()> {
    // SAFETY: plain numbers, and an empty list of groups.
    let done =
        unsafe { libc::setgroups(0, std::ptr::null()) == 0 && libc::setgid(group) == 0 && libc::setuid(user) == 0 };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives back the pages of program and libraries that only the start needed. Those in use come back one by one as they
/// are touched, from the host's cache of the files.
#[expect(unsafe_code, reason = "walks the loaded objects and advises the kernel about them")]
pub fn release_startup_pages() {
    // SAFETY: the callback has the right form and does not unwind.
    unsafe { libc::dl_iterate_phdr(Some(release_object), std::ptr::null_mut()) };
}

#[expect(unsafe_code, reason = "called by the C library with its own description of an object")]
unsafe extern "C" fn release_object(object: *mut libc::dl_phdr_info, _: usize, _: *mut libc::c_void) -> i32 {
    // SAFETY: the library passes a description that is valid during the call.
    let object = unsafe { &*object };
    for index in 0..usize::from(object.dlpi_phnum) {
        // SAFETY: `dlpi_phdr` points to `dlpi_phnum` program headers.
        let header = unsafe { &*object.dlpi_phdr.add(index) };
        // What was never writable is as it is in the file; relocated data is not.
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let start = (object.dlpi_addr + header.p_vaddr) & !(PAGE - 1);
        let length = (object.dlpi_addr + header.p_vaddr + header.p_memsz).next_multiple_of(PAGE) - start;
        // SAFETY: whole pages of a file mapping without changes of ours: they read the same when they are brought back.
        // A kernel that refuses leaves them where they are.
        let _ = unsafe { libc::madvise(start as *mut libc::c_void, length as usize, libc::MADV_DONTNEED) };
    }
    0
}

/// A pid file, locked as long as the process lives and removed when it ends.
pub struct PidFile {
    path: PathBuf,
    _file: File,
}

impl PidFile {
    /// Writes the process's number and a newline.
    ///
    /// # Errors
    /// When the file cannot be made, or another living process has it.
    pub fn create(path: &Path) -> Result<Self, ProcessError> {
        let refused = |source| ProcessError::PidFile { path: path.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(refused)?;
        if !lock(&file) {
            return Err(ProcessError::PidFileLocked { path: path.to_owned() });
        }
        file.set_len(0).map_err(refused)?;
        writeln!(file, "{}", std::process::id()).map_err(refused)?;
        let path = fs::canonicalize(path).map_err(refused)?;
        Ok(Self { path, _file: file })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = fs::remove_file(&self.path);
    }
}

#[expect(unsafe_code, reason = "record locks have no safe wrapper")]
fn lock(file: &File) -> bool {
    // SAFETY: plain data; every field that matters is set.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    // SAFETY: a valid descriptor and lock description.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const lock) == 0 }
}

#[expect(unsafe_code, reason = "pipe2 has no safe wrapper")]
fn pipe() -> io::Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: two descriptors just made, owned by nobody else.
    Ok(unsafe { (File::from(OwnedFd::from_raw_fd(ends[0])), File::from(OwnedFd::from_raw_fd(ends[1]))) })
}

#[expect(unsafe_code, reason = "fork is what -daemonize is")]
fn fork() -> io::Result<i32> {
    // SAFETY: there is one thread, so the child may go on using everything.
    let child = unsafe { libc::fork() };
    if child < 0 { Err(io::Error::last_os_error()) } else { Ok(child) }
}

#[expect(unsafe_code, reason = "setsid has no safe wrapper")]
fn new_session() -> io::Result<()> {
    // SAFETY: touches no memory.
    if unsafe { libc::setsid() } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[expect(unsafe_code, reason = "dup2 onto a standard descriptor")]
fn duplicate_onto(file: &File, target: i32) -> io::Result<()> {
    // SAFETY: both are descriptors of this process; the standard ones belong to everyone.
    if unsafe { libc::dup2(file.as_raw_fd(), target) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_file_holds_the_pid_and_goes_with_its_owner() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("vm.pid");

        let file = PidFile::create(&path).expect("a pid file");
        let text = fs::read_to_string(&path).expect("readable");
        drop(file);

        assert_eq!(text, format!("{}\n", std::process::id()));
        assert!(!path.exists());
    }

    #[test]
    fn user_is_found_with_its_group() {
        let users = "root:x:0:0:root:/root:/bin/bash\nqemu:x:64055:108::/:/sbin/nologin\n";

        assert_eq!(find_user(users, "qemu"), Some((64055, 108)));
        assert_eq!(find_user(users, "nobody"), None);
    }

    #[test]
    fn pid_file_in_a_missing_directory_is_refused_with_its_path() {
        let error = PidFile::create(Path::new("/nonexistent/vm.pid")).err().expect("no such directory");

        assert!(error.to_string().contains("/nonexistent/vm.pid"));
    }
}
