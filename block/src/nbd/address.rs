//! Where a server is, and the ways to say so in a file name.
//!
//! `nbd://HOST[:PORT][/EXPORT]` and `nbd+unix:///[EXPORT]?socket=PATH` (the NBD project's `doc/uri.md`), and QEMU's
//! older `nbd:HOST:PORT[:exportname=NAME]` and `nbd:unix:PATH[:exportname=NAME]`.

use std::fmt;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use super::socket::Socket;
use crate::error::{BlockError, ErrorKind};

/// The port registered for NBD.
const PORT: &str = "10809";
/// How long a TCP connection may take to come up.
const CONNECT: Duration = Duration::from_secs(10);

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// TCP: host (name or number) and port (name or number).
    Inet(String, String),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    pub(super) fn connect(&self) -> io::Result<Socket> {
        match self {
            Self::Unix(path) => UnixStream::connect(path).map(Socket::Unix),
            Self::Inet(host, port) => {
                let port = if port.is_empty() { PORT } else { port };
                let number = port.parse::<u16>().map_err(|_| {
                    io::Error::new(io::ErrorKind::InvalidInput, format!("port '{port}' is not a number to 65535"))
                })?;
                let mut last = io::Error::new(io::ErrorKind::NotFound, format!("host '{host}' has no address"));
                for address in (host.as_str(), number).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, CONNECT) {
                        Ok(stream) => {
                            // Requests are small and awaited.
                            stream.set_nodelay(true)?;
                            return Ok(Socket::Tcp(stream));
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(host, port) => write!(f, "{host}:{}", if port.is_empty() { PORT } else { port }),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A file name that means an export of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdName {
    /// The server.
    pub address: Address,
    /// The export; empty is the default one.
    pub export: String,
}

impl NbdName {
    /// What `name` means; `None` when it is not of NBD.
    ///
    /// # Errors
    /// When it is, but makes no sense or needs TLS.
    pub fn parse(name: &str) -> Result<Option<Self>, BlockError> {
        let bad = |why: &str| BlockError::new(ErrorKind::Invalid, format!("'{name}' is no NBD address: {why}"));
        let parsed = if let Some(rest) = name.strip_prefix("nbd+unix://") {
            unix_uri(rest)
        } else if let Some(rest) = name.strip_prefix("nbd://").or_else(|| name.strip_prefix("nbd+tcp://")) {
            inet_uri(rest)
        } else if name.starts_with("nbds:") || name.starts_with("nbds+") {
            let text = format!("'{name}' asks for TLS, which NBD has not here: use a tunnel and nbd:// or nbd+unix://");
            return Err(BlockError::new(ErrorKind::Unsupported, text));
        } else if let Some(rest) = name.strip_prefix("nbd:") {
            legacy(rest)
        } else {
            return Ok(None);
        };
        parsed.map(Some).map_err(bad)
    }
}

/// As a name that means the same, the way QEMU shows it.
impl fmt::Display for NbdName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(path) => write!(f, "nbd+unix:///{}?socket={}", self.export, path.display()),
            Address::Inet(..) if self.export.is_empty() => write!(f, "nbd://{}", self.address),
            Address::Inet(..) => write!(f, "nbd://{}/{}", self.address, self.export),
        }
    }
}

fn unix_uri(rest: &str) -> Result<NbdName, &'static str> {
    let (path, query) = rest.split_once('?').ok_or("it has no ?socket=PATH")?;
    let path = path.strip_prefix('/').ok_or("a host has no place before the export: write nbd+unix:///EXPORT")?;
    let socket = query.strip_prefix("socket=").filter(|s| !s.is_empty() && !s.contains('&'));
    let socket = unescape(socket.ok_or("its query must be socket=PATH and nothing else")?)?;
    Ok(NbdName { address: Address::Unix(socket.into()), export: unescape(path)? })
}

fn inet_uri(rest: &str) -> Result<NbdName, &'static str> {
    let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
    if export.contains('?') || authority.contains('?') || authority.contains('@') {
        return Err("users and queries mean nothing here");
    }
    let (host, port) = host_and_port(authority)?;
    let host = if host.is_empty() { "localhost" } else { host };
    Ok(NbdName { address: Address::Inet(unescape(host)?, port.to_owned()), export: unescape(export)? })
}

fn legacy(rest: &str) -> Result<NbdName, &'static str> {
    let (place, export) = match rest.split_once(":exportname=") {
        Some((place, export)) => (place, export.to_owned()),
        None => (rest, String::new()),
    };
    if let Some(path) = place.strip_prefix("unix:") {
        let path = Some(path).filter(|path| !path.is_empty()).ok_or("it names no socket")?;
        return Ok(NbdName { address: Address::Unix(path.into()), export });
    }
    let (host, port) = host_and_port(place)?;
    if port.is_empty() {
        return Err("it names no port");
    }
    let host = if host.is_empty() { "localhost" } else { host };
    Ok(NbdName { address: Address::Inet(host.to_owned(), port.to_owned()), export })
}

/// `HOST:PORT`, `HOST`, `[IPV6]:PORT`.
fn host_and_port(text: &str) -> Result<(&str, &str), &'static str> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("a bracket is not closed")?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, port)),
            None if rest.is_empty() => Ok((host, "")),
            None => Err("only a port may follow the bracket"),
        };
    }
    match text.rsplit_once(':') {
        Some((host, _)) if host.contains(':') => Err("write numbers of IPv6 in brackets"),
        Some((host, port)) => Ok((host, port)),
        None => Ok((text, "")),
    }
}

/// `%41` is `A`.
fn unescape(text: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        bytes.push(byte.and_then(|d| u8::from_str_radix(d, 16).ok()).ok_or("% is not followed by two digits")?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8")
}

#[cfg(test)]
mod tests;
