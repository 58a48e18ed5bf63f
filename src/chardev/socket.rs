//! A socket: a server with one client at a time, or a client that may try again.
//!
//! ```text
//!   server:  Idle (listening) ──accept──> Connected ──gone──> Idle
//!   client:  Connected ──gone──> Idle, or with reconnect= : Waiting ──timer──> Connecting ──> Connected or Waiting
//! ```

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SocketFlags, accept_with};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::timerfd::TimerFd;

use super::config::{SocketAddress, SocketConfig};
use super::fdset::FdTable;
use super::host_end::{Change, HostEnd, Side};
use super::pty::timer_fd;
use super::{ChardevError, socket::telnet::Telnet};
use crate::sentence::to_stderr;

mod address;
mod receive;
mod telnet;

use address::{Destination, connect};

/// Descriptors kept for commands that have not come yet; more are closed.
const KEPT_FDS: usize = 16;

/// A socket's end.
pub(crate) struct Socket {
    label: String,
    config: SocketConfig,
    listener: Option<OwnedFd>,
    destination: Option<Destination>,
    /// Removed from the file system with us.
    bound: Option<PathBuf>,
    timer: TimerFd,
    state: State,
    /// It was said that nobody can be reached: once is enough until someone is.
    complained: bool,
    telnet: Telnet,
    fds: VecDeque<OwnedFd>,
}

enum State {
    Idle,
    Waiting,
    Connecting(OwnedFd),
    Connected(OwnedFd),
}

impl Socket {
    /// Listens or connects; a server that waits has its client when this returns.
    pub(crate) fn open(label: &str, config: &SocketConfig, fds: &FdTable) -> Result<Self, ChardevError> {
        let timer =
            TimerFd::new().map_err(|error| ChardevError::Io { what: "make a timer".into(), source: error.into() })?;
        let mut socket = Self {
            label: label.to_owned(),
            config: config.clone(),
            listener: None,
            destination: None,
            bound: None,
            timer,
            state: State::Idle,
            complained: false,
            telnet: Telnet::default(),
            fds: VecDeque::new(),
        };
        if config.server {
            socket.listen(fds)?;
        } else {
            socket.begin(fds)?;
        }
        Ok(socket)
    }

    fn listen(&mut self, fds: &FdTable) -> Result<(), ChardevError> {
        let failed = |source| ChardevError::Listen { address: address::name(&self.config), source };
        let listener = match &self.config.address {
            SocketAddress::Fd(name) => address::inherited(name, fds)?,
            address => address::listen(address).map_err(failed)?,
        };
        rustix::io::ioctl_fionbio(&listener, true).map_err(|error| failed(error.into()))?;
        if let SocketAddress::Inet { port, .. } = &mut self.config.address {
            // The host may have chosen one: for port 0, and between two with `to`.
            *port = address::port_of(&listener).unwrap_or_else(|| port.clone());
        }
        if let SocketAddress::Unix { path, is_abstract: false, .. } = &self.config.address {
            // -daemonize leaves the directory that the name is seen from.
            self.bound = Some(std::path::absolute(path).unwrap_or_else(|_| path.clone()));
        }
        self.listener = Some(listener);
        if self.config.wait {
            self.wait_for_client()?;
        }
        Ok(())
    }

    fn wait_for_client(&mut self) -> Result<(), ChardevError> {
        // Programs that start us look for these words.
        to_stderr(format!("rhea: info: QEMU waiting for connection on: {}", self.filename()));
        let failed = |source: rustix::io::Errno| ChardevError::Io {
            what: "wait for a connection".into(),
            source: source.into(),
        };
        while !self.is_open() {
            let Some(listener) = &self.listener else { return Ok(()) };
            let mut ready = [PollFd::new(listener, PollFlags::IN)];
            match poll(&mut ready, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error)),
            }
            self.accept();
        }
        Ok(())
    }

    /// A client's first connection: without `reconnect=` it has to work now.
    fn begin(&mut self, fds: &FdTable) -> Result<(), ChardevError> {
        if let SocketAddress::Fd(name) = &self.config.address {
            let connection = address::inherited(name, fds)?;
            let failed =
                |error: rustix::io::Errno| ChardevError::Io { what: format!("use fd={name}"), source: error.into() };
            rustix::io::ioctl_fionbio(&connection, true).map_err(failed)?;
            self.connected(connection);
            return Ok(());
        }
        let failed = |source| ChardevError::Connect { address: address::name(&self.config), source };
        let destination = address::resolve(&self.config.address).map_err(failed)?;
        if self.config.reconnect.is_zero() {
            let connection = connect(&destination, true).map_err(failed)?;
            self.connected(connection);
            return Ok(());
        }
        self.destination = Some(destination);
        self.try_connect();
        Ok(())
    }

    fn accept(&mut self) -> Change {
        let Some(listener) = &self.listener else { return Change::None };
        match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(connection) => self.connected(connection),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Change::None,
            Err(error) => {
                log::warn!("{}: cannot accept: {error}", address::name(&self.config));
                Change::None
            }
        }
    }

    fn connected(&mut self, connection: OwnedFd) -> Change {
        if self.config.nodelay {
            // It fails for a Unix socket, which has no delay.
            let _ = rustix::net::sockopt::set_tcp_nodelay(&connection, true);
        }
        self.telnet = Telnet::begin(self.config.telnet);
        self.complained = false;
        self.state = State::Connected(connection);
        Change::Opened
    }

    fn try_connect(&mut self) -> Change {
        let Some(destination) = &self.destination else { return Change::None };
        match connect(destination, false) {
            Ok(connection) => {
                self.state = State::Connecting(connection);
                self.finish_connecting()
            }
            Err(error) => {
                self.complain(&error);
                self.wait_to_reconnect();
                Change::None
            }
        }
    }

    fn finish_connecting(&mut self) -> Change {
        let State::Connecting(connection) = std::mem::replace(&mut self.state, State::Idle) else {
            return Change::None;
        };
        let mut ready = [PollFd::new(&connection, PollFlags::OUT)];
        let is_done = poll(&mut ready, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|n| n > 0);
        match rustix::net::sockopt::socket_error(&connection) {
            Ok(Ok(())) if is_done => return self.connected(connection),
            Ok(Ok(())) => self.state = State::Connecting(connection),
            Ok(Err(error)) | Err(error) => {
                self.complain(&error.into());
                self.wait_to_reconnect();
            }
        }
        Change::None
    }

    fn complain(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.complained, true) {
            let to = address::name(&self.config);
            log::error!("Unable to connect character device {}: Failed to connect to '{to}': {error}", self.label);
        }
    }

    fn wait_to_reconnect(&mut self) {
        self.state = State::Waiting;
        if let Err(error) = self.timer.reset(self.config.reconnect.max(Duration::from_millis(1)), None) {
            log::error!("{}: will not connect again: {error}", address::name(&self.config));
        }
    }
}

impl HostEnd for Socket {
    fn filename(&self) -> String {
        match &self.state {
            State::Connected(connection) => address::connected_name(&self.config, connection),
            _ => format!("disconnected:{}", address::name(&self.config)),
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Connected(_))
    }

    fn input(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Connected(connection) => Some(connection.as_fd()),
            _ => None,
        }
    }

    fn output(&self) -> Option<BorrowedFd<'_>> {
        self.input()
    }

    fn attention(&self) -> Option<(BorrowedFd<'_>, EventSet)> {
        match &self.state {
            State::Idle => self.listener.as_ref().map(|listener| (listener.as_fd(), EventSet::IN)),
            State::Waiting => Some((timer_fd(&self.timer), EventSet::IN)),
            State::Connecting(connection) => Some((connection.as_fd(), EventSet::OUT)),
            State::Connected(_) => None,
        }
    }

    fn attend(&mut self) -> Change {
        match self.state {
            State::Idle => self.accept(),
            State::Waiting => {
                // The count of expirations does not matter.
                let _ = self.timer.wait();
                self.try_connect()
            }
            State::Connecting(_) => self.finish_connecting(),
            State::Connected(_) => Change::None,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let State::Connected(connection) = &self.state else { return Ok(0) };
        let count = receive::receive(connection, buffer, &mut self.fds, KEPT_FDS)?;
        if count == 0 {
            return Ok(0);
        }
        match self.telnet.decode(buffer.get_mut(..count).unwrap_or_default()) {
            // Only negotiation came, which is not the end.
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }

    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let State::Connected(connection) = &self.state else { return Ok(data.len()) };
        self.telnet.write(data, |bytes| receive::send(connection, bytes))
    }

    fn close(&mut self, _: Side) {
        self.state = State::Idle;
        self.fds.clear();
        if !self.config.server && !self.config.reconnect.is_zero() {
            self.wait_to_reconnect();
        }
    }

    fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front()
    }

    fn owes(&self) -> bool {
        self.telnet.owes()
    }

    fn take_break(&mut self) -> bool {
        self.telnet.take_break()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(path) = &self.bound
            && let Err(error) = std::fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("cannot remove {}: {error}", path.display());
        }
    }
}
