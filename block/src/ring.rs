//! An io_uring as a disk's queue uses it: whole reads, writes and syncs, and one event descriptor that wakes it.
//!
//! The ring's own descriptor is the queue's notifier: it is readable while completions wait. Worker threads cannot put
//! completions there, so a read of their event descriptor is always pending in the ring; when a worker signals, that
//! read completes and makes the ring readable too.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use io_uring::{IoUring, opcode, squeue, types};

use crate::disk::Meeting;

/// Completion key of the event descriptor's read.
const WAKE: u64 = u64::MAX;

/// What the ring does with a range of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Move {
    Read,
    Write,
    Sync,
}

/// One ring.
pub(crate) struct Ring {
    ring: IoUring,
    /// Has the event descriptor, and where its pending read puts the count. That read may outlive the ring for a moment;
    /// whoever can still complete it by a signal keeps the meeting.
    meeting: Arc<Meeting>,
}

impl Ring {
    /// A ring for `depth` requests, woken through `meeting`, whose event descriptor must be a blocking one.
    pub(crate) fn new(depth: u32, meeting: Arc<Meeting>) -> io::Result<Self> {
        let ring = IoUring::builder().setup_clamp().build((depth + 1).next_power_of_two())?;
        let mut this = Self { ring, meeting };
        this.arm()?;
        this.kick()?;
        Ok(this)
    }

    fn arm(&mut self) -> io::Result<()> {
        let target = self.meeting.count.as_ptr();
        let wake = types::Fd(self.meeting.wake.as_raw_fd());
        let entry = opcode::Read::new(wake, target.cast(), 8).build().user_data(WAKE);
        self.push(&entry)
    }

    #[expect(unsafe_code, reason = "io_uring's submission queue cannot check what an entry points to")]
    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: entries point to the meeting's count, which lives as long as anybody has the event descriptor that a
        // read fills it from, or to memory that `submit`'s caller keeps until the completion is reaped.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.ring.submit()?;
        }
        Ok(())
    }

    /// Queues one operation; `key` comes back with its result.
    ///
    /// The caller keeps the list and the memory it names in place until [`Ring::reap`] gives `key` back.
    pub(crate) fn submit(
        &mut self,
        what: Move,
        fd: RawFd,
        iovecs: &[libc::iovec],
        offset: u64,
        key: u32,
    ) -> io::Result<()> {
        let fd = types::Fd(fd);
        let entry = match (what, iovecs) {
            (Move::Sync, _) => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            (Move::Read, [one]) => match u32::try_from(one.iov_len) {
                Ok(len) => opcode::Read::new(fd, one.iov_base.cast(), len).offset(offset).build(),
                Err(_) => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
            },
            (Move::Write, [one]) => match u32::try_from(one.iov_len) {
                Ok(len) => opcode::Write::new(fd, one.iov_base.cast(), len).offset(offset).build(),
                Err(_) => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
            },
            (Move::Read, many) => opcode::Readv::new(fd, many.as_ptr(), many.len() as u32).offset(offset).build(),
            (Move::Write, many) => opcode::Writev::new(fd, many.as_ptr(), many.len() as u32).offset(offset).build(),
        };
        self.push(&entry.user_data(u64::from(key)))
    }

    /// Operations that the kernel was not handed yet.
    pub(crate) fn queued(&mut self) -> usize {
        self.ring.submission().len()
    }

    /// Hands what is queued to the kernel.
    pub(crate) fn kick(&mut self) -> io::Result<()> {
        // The kernel may stop at an entry that it refuses: what is behind it is still to be handed over.
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Ok(_) => {}
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR)) => {}
                // Out of resources for a moment, or completions must be taken first: the next call tries again.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Whether [`Ring::reap`] has something; costs no system call.
    pub(crate) fn is_ready(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Takes one completion: the key and the kernel's result. `None` as key says that a worker signalled.
    pub(crate) fn reap(&mut self) -> Option<(Option<u32>, i32)> {
        let entry = self.ring.completion().next()?;
        if entry.user_data() != WAKE {
            return Some((Some(entry.user_data() as u32), entry.result()));
        }
        // Arming fails only when the kernel takes no submissions at all; requests then fail one by one.
        if self.arm().and_then(|()| self.kick()).is_err() {
            log::error!("io_uring takes no more submissions");
        }
        Some((None, 0))
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

    use super::*;

    #[test]
    fn what_a_signal_writes_lands_where_it_outlives_the_ring() {
        if crate::queue::ring_available().is_err() {
            return;
        }
        let meeting = Meeting::new(EventFd::new(EFD_CLOEXEC).unwrap());
        let mut ring = Ring::new(1, meeting.clone()).unwrap();

        meeting.wake();
        while !ring.is_ready() {
            std::thread::yield_now();
        }

        assert_eq!((ring.reap(), meeting.count.load(Ordering::SeqCst)), (Some((None, 0)), 1));
        drop(ring);
        meeting.wake();
    }
}
