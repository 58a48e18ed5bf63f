//! SIGINT, SIGTERM and SIGHUP as events of the main thread: a clean end, disks flushed. Some others are without effect.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::{fs, mem, ptr};

use rustix::event::{PollFd, PollFlags, poll};

const SIGNALS: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
/// What QEMU uses for itself and therefore lives through, when someone else sends it.
const DEAF_TO: [i32; 3] = [libc::SIGUSR1, libc::SIGALRM, libc::SIGIO];

/// The descriptor that signals arrive on.
pub(super) struct Signals(OwnedFd);

/// A signal that arrived.
pub(super) struct Arrived {
    pub(super) number: i32,
    sender: u32,
}

/// Blocks the signals in the calling thread and those it makes later, so that only the descriptor sees some of them and
/// nobody the others. Called before the first thread starts.
///
/// # Errors
/// When the kernel refuses the mask.
pub fn block() -> io::Result<()> {
    block_all(SIGNALS.into_iter().chain(DEAF_TO))
}

/// Has a write past the size that a file may come to (`ulimit -f`) fail with EFBIG, as a program that does not live by
/// SIGXFSZ sees it; that would end the process. For every program here, before its first thread starts. Programs that are
/// started from it have the signal again.
///
/// # Errors
/// When the kernel refuses the mask.
pub fn outlive_file_limit() -> io::Result<()> {
    block_all([libc::SIGXFSZ])
}

#[expect(unsafe_code, reason = "signal masks have no safe wrapper")]
fn block_all(signals: impl IntoIterator<Item = i32>) -> io::Result<()> {
    // SAFETY: `set` is a valid mask; the old one is not asked for.
    let refused = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set(signals), ptr::null_mut()) };
    if refused == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(refused)) }
}

/// Waits for one of the blocked signals, for programs that have nothing else to do.
///
/// # Errors
/// When the kernel gives no descriptor.
pub fn wait() -> io::Result<()> {
    let signals = Signals::new()?;
    let mut fds = [PollFd::new(&signals.0, PollFlags::IN)];
    while signals.take().is_none() {
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => {}
            polled => drop(polled?),
        }
    }
    Ok(())
}

#[expect(unsafe_code, reason = "signal sets have no safe wrapper")]
fn set(signals: impl IntoIterator<Item = i32>) -> libc::sigset_t {
    // SAFETY: sigset_t is plain data; sigemptyset then gives it its proper value.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: a valid set and valid signal numbers: neither call can fail.
    unsafe {
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, signal);
        }
    }
    set
}

impl Signals {
    #[expect(unsafe_code, reason = "signalfd has no safe wrapper")]
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: a valid mask; the result is checked.
        let fd = unsafe { libc::signalfd(-1, &set(SIGNALS), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor just made, owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    #[expect(unsafe_code, reason = "reads a C struct")]
    pub(super) fn take(&self) -> Option<Arrived> {
        // SAFETY: plain data, for which zero is valid.
        let mut info: libc::signalfd_siginfo = unsafe { mem::zeroed() };
        let size = size_of_val(&info);
        // SAFETY: the buffer is exactly the size given.
        let got = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), size) };
        let number = i32::try_from(info.ssi_signo).unwrap_or(0);
        (got == size as isize).then_some(Arrived { number, sender: info.ssi_pid })
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Arrived {
    /// Says who ended the process, in QEMU's words, which logs are searched for.
    pub(super) fn announce(&self) {
        let line = fs::read(format!("/proc/{}/cmdline", self.sender)).unwrap_or_default();
        let name = String::from_utf8_lossy(line.split(|byte| *byte == 0).next().unwrap_or_default());
        let name = if name.is_empty() { "<unknown process>" } else { &name };
        log::error!("terminating on signal {} from pid {} ({name})", self.number, self.sender);
    }
}
