//! What a kind of character device has to say to be served by a [`super::port::Port`].

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use vmm_sys_util::epoll::EventSet;

/// What a look at a listener, a timer or a connection that is being made gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing.
    None,
    /// Someone came.
    Opened,
}

/// Which way ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// There is no more input.
    Input,
    /// Output fails.
    Output,
}

/// What stands at the host's end. Called with the port's lock held: it never waits.
pub(crate) trait HostEnd: Send {
    /// For `query-chardev`: `pty:/dev/pts/3`.
    fn filename(&self) -> String;

    /// Someone is there.
    fn is_open(&self) -> bool;

    /// Where input comes from while open.
    fn input(&self) -> Option<BorrowedFd<'_>>;

    /// Where output goes to while open; may be the same descriptor.
    fn output(&self) -> Option<BorrowedFd<'_>>;

    /// What else to wait for: a listener, a timer, a connection being made.
    fn attention(&self) -> Option<(BorrowedFd<'_>, EventSet)> {
        None
    }

    /// That became ready.
    fn attend(&mut self) -> Change {
        Change::None
    }

    /// Reads what is there; 0 is the end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes what fits.
    fn write(&mut self, data: &[u8]) -> io::Result<usize>;

    /// One way ended. What has one connection for both loses it; what has two may go on with the other.
    fn close(&mut self, side: Side);

    /// A descriptor that came with the input, oldest first.
    fn take_fd(&mut self) -> Option<OwnedFd> {
        None
    }

    /// A break condition came since the last call.
    fn take_break(&mut self) -> bool {
        false
    }

    /// Something of its own is to be written before, or without, any output; [`HostEnd::write`] does it.
    fn owes(&self) -> bool {
        false
    }

    /// Sends a break condition where there is such a thing.
    fn send_break(&mut self) {}
}
