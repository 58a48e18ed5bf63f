//! Host ends of one or two descriptors that are there from the start: stdio, files, pipes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::host_end::{HostEnd, Side};
use super::terminal::RawTerminal;

/// Something to read from and something to write to; either may be missing or end.
pub(crate) struct Streams {
    filename: &'static str,
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    /// Restored when the device goes.
    _terminal: Option<RawTerminal>,
}

impl Streams {
    pub(crate) fn new(filename: &'static str, input: Option<OwnedFd>, output: Option<OwnedFd>) -> Self {
        Self { filename, input, output, _terminal: None }
    }

    pub(crate) fn on_terminal(mut self, terminal: Option<RawTerminal>) -> Self {
        self._terminal = terminal;
        self
    }
}

impl HostEnd for Streams {
    fn filename(&self) -> String {
        self.filename.into()
    }

    fn is_open(&self) -> bool {
        self.input.is_some() || self.output.is_some()
    }

    fn input(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().map(AsFd::as_fd)
    }

    fn output(&self) -> Option<BorrowedFd<'_>> {
        self.output.as_ref().map(AsFd::as_fd)
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.input {
            Some(fd) => Ok(rustix::io::read(fd, buffer)?),
            None => Ok(0),
        }
    }

    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match &self.output {
            Some(fd) => Ok(rustix::io::write(fd, data)?),
            // Nobody hears: what is written is gone.
            None => Ok(data.len()),
        }
    }

    fn close(&mut self, side: Side) {
        match side {
            Side::Input => self.input = None,
            Side::Output => self.output = None,
        }
    }
}
