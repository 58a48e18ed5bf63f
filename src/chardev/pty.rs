//! A pseudo terminal that another program opens.
//!
//! The kernel tells the master side nothing when a program opens the other side, only (by a hang-up) that none has it
//! open. So while nobody is there we look now and then, and what the guest writes meanwhile is dropped.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, fcntl_getfl, fcntl_setfl, openat};
use rustix::pty::{grantpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::timerfd::TimerFd;

use super::ChardevError;
use super::host_end::{Change, HostEnd, Side};

/// How often we look whether someone opened the terminal.
const LOOK: Duration = Duration::from_millis(250);

/// The master side.
pub(crate) struct Pty {
    master: OwnedFd,
    path: String,
    timer: TimerFd,
    is_open: bool,
}

impl Pty {
    /// Makes a pseudo terminal.
    pub(crate) fn open() -> Result<Self, ChardevError> {
        let failed = |source: io::Error| ChardevError::Io { what: "make a pseudo terminal".into(), source };
        let (master, path) = make().map_err(|error| failed(error.into()))?;
        let timer = TimerFd::new().map_err(|error| failed(error.into()))?;
        let mut pty = Self { master, path, timer, is_open: false };
        pty.look_later().map_err(failed)?;
        Ok(pty)
    }

    /// What to open on the other side: `/dev/pts/3`.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    fn look_later(&mut self) -> io::Result<()> {
        Ok(self.timer.reset(LOOK, Some(LOOK))?)
    }

    fn someone_is_there(&self) -> bool {
        let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && !fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP))
    }
}

/// The timer has no `AsFd`.
#[expect(unsafe_code, reason = "TimerFd has no AsFd")]
pub(crate) fn timer_fd(timer: &TimerFd) -> BorrowedFd<'_> {
    // SAFETY: the timer keeps its descriptor open as long as the borrow lives.
    unsafe { BorrowedFd::borrow_raw(timer.as_raw_fd()) }
}

/// A raw pseudo terminal and the name of its other side.
fn make() -> rustix::io::Result<(OwnedFd, String)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    // As openpt does, by the call that the filters of system calls have in their lists.
    let master = openat(CWD, "/dev/ptmx", flags, Mode::empty())?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = ptsname(&master, Vec::new())?;
    let peer = openat(CWD, &path, flags, Mode::empty())?;
    let mut modes = tcgetattr(&peer)?;
    modes.make_raw();
    tcsetattr(&peer, OptionalActions::Now, &modes)?;
    fcntl_setfl(&master, fcntl_getfl(&master)? | OFlags::NONBLOCK)?;
    Ok((master, path.to_string_lossy().into_owned()))
}

impl HostEnd for Pty {
    fn filename(&self) -> String {
        format!("pty:{}", self.path)
    }

    fn is_open(&self) -> bool {
        self.is_open
    }

    fn input(&self) -> Option<BorrowedFd<'_>> {
        Some(self.master.as_fd())
    }

    fn output(&self) -> Option<BorrowedFd<'_>> {
        Some(self.master.as_fd())
    }

    fn attention(&self) -> Option<(BorrowedFd<'_>, EventSet)> {
        (!self.is_open).then(|| (timer_fd(&self.timer), EventSet::IN))
    }

    fn attend(&mut self) -> Change {
        // The count of expirations does not matter.
        let _ = self.timer.wait();
        if self.is_open || !self.someone_is_there() {
            return Change::None;
        }
        self.is_open = true;
        if let Err(error) = self.timer.clear() {
            log::warn!("{}: cannot stop its timer: {error}", self.path);
        }
        Change::Opened
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.master, buffer)?)
    }

    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.master, data)?)
    }

    fn close(&mut self, _: Side) {
        self.is_open = false;
        if let Err(error) = self.look_later() {
            log::error!("{}: cannot wait for someone to open it: {error}", self.path);
        }
    }
}
