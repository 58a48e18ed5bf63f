//! Stream sockets of either family behind one type.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::BlockError;
use crate::sys;

/// A connection.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// How long one wait for the other end may take; `None` for ever.
    pub(crate) fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.set_read_timeout(patience).and_then(|()| s.set_write_timeout(patience)),
            Self::Unix(s) => s.set_read_timeout(patience).and_then(|()| s.set_write_timeout(patience)),
        }
    }

    /// Whether the other end has closed the connection, or will send no more.
    pub(crate) fn has_left(&self) -> bool {
        let fd = match self {
            Self::Tcp(s) => s.as_fd(),
            Self::Unix(s) => s.as_fd(),
        };
        sys::is_hung_up(fd)
    }

    /// Ends the connection: who waits on it, on any thread, is woken.
    pub(crate) fn shut_down(&self) {
        // Already gone is as good.
        let _ = match self {
            Self::Tcp(s) => s.shutdown(Shutdown::Both),
            Self::Unix(s) => s.shutdown(Shutdown::Both),
        };
    }
}

impl Read for &Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(s) => (&mut &*s).read(into),
            Socket::Unix(s) => (&mut &*s).read(into),
        }
    }
}

impl Write for &Socket {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(s) => (&mut &*s).write(from),
            Socket::Unix(s) => (&mut &*s).write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection until something has to be over, however little the other end sends at a time.
pub(super) struct Timed<'a> {
    socket: &'a Socket,
    until: Instant,
}

impl<'a> Timed<'a> {
    /// `socket` for so long. Its patience is another afterwards.
    pub(super) fn within(time: Duration, socket: &'a Socket) -> Self {
        Self { socket, until: Instant::now() + time }
    }

    fn hurry(&self) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_patience(Some(left))
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.hurry()?;
        (&mut &*self.socket).read(into)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.hurry()?;
        (&mut &*self.socket).write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket that waits for clients. A Unix socket's file is removed with it.
#[derive(Debug)]
pub enum Listener {
    /// On TCP.
    Tcp(TcpListener),
    /// On a path, which is ours to remove.
    Unix(UnixListener, Option<PathBuf>),
}

/// Where clients find a server.
#[derive(Debug)]
pub enum Place {
    /// A path for a Unix socket.
    Unix(String),
    /// Name or address of this machine, and a port.
    Inet(String, u16),
    /// A socket that listens already.
    Passed(OwnedFd),
}

impl Place {
    /// Listens there.
    ///
    /// # Errors
    /// When the place cannot be had.
    pub fn listen(self) -> Result<Listener, BlockError> {
        let (name, listener) = match self {
            Self::Unix(path) => (format!("'{path}'"), Listener::unix(Path::new(&path))),
            Self::Inet(host, port) => {
                (format!("'{host}:{port}'"), TcpListener::bind((host.as_str(), port)).map(Listener::Tcp))
            }
            Self::Passed(fd) => ("the socket that was passed".to_owned(), Listener::listening(fd)),
        };
        listener.map_err(|error| BlockError::io(format!("Failed to listen on {name}"), error))
    }
}

impl Listener {
    /// Listens on `path`; the file of a server that is gone is removed first.
    ///
    /// # Errors
    /// When another server listens there, or the path cannot be had.
    pub fn unix(path: &Path) -> io::Result<Self> {
        let old = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
        if old {
            if UnixStream::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            fs::remove_file(path)?;
        }
        Ok(Self::Unix(UnixListener::bind(path)?, Some(path.to_owned())))
    }

    /// A socket that listens already; whoever made it removes its file.
    ///
    /// # Errors
    /// When it is no stream socket of a family that is served.
    pub fn listening(fd: OwnedFd) -> io::Result<Self> {
        let tcp = TcpListener::from(fd);
        match tcp.local_addr() {
            Ok(_) => Ok(Self::Tcp(tcp)),
            // `std` knows two families, and this is the other one if it is any.
            Err(_) => {
                let unix = UnixListener::from(OwnedFd::from(tcp));
                unix.local_addr().map(|_| Self::Unix(unix, None))
            }
        }
    }

    pub(super) fn accept(&self) -> io::Result<Socket> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                // Requests and replies are small and awaited.
                stream.set_nodelay(true)?;
                stream.set_nonblocking(false)?;
                Socket::Tcp(stream)
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                Socket::Unix(stream)
            }
        })
    }

    pub(super) fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => listener.set_nonblocking(true),
            Self::Unix(listener, _) => listener.set_nonblocking(true),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, Some(path)) = self {
            // Somebody may have removed it before.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests;
