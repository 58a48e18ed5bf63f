//! Names of sockets, and sockets made of names.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use crate::chardev::ChardevError;
use crate::chardev::config::{SocketAddress, SocketConfig};
use crate::chardev::fdset::FdTable;

/// An abstract name that is not `tight` is padded with zeroes to this.
const ABSTRACT_LENGTH: usize = 107;

/// How long a connection that has to work now may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a client connects to.
pub(super) enum Destination {
    Unix(SocketAddrUnix),
    Inet(Vec<SocketAddr>),
}

/// How `query-chardev` and messages call it.
pub(super) fn name(config: &SocketConfig) -> String {
    let server = if config.server { ",server=on" } else { "" };
    match &config.address {
        SocketAddress::Unix { path, is_abstract, tight } => {
            let kind = if *is_abstract { ",abstract=on" } else { "" };
            let tight = if *is_abstract && *tight { ",tight=on" } else { "" };
            format!("unix:{}{kind}{tight}{server}", path.display())
        }
        SocketAddress::Inet { host, port, .. } => format!("{}:{host}:{port}{server}", scheme(config)),
        SocketAddress::Fd(name) => format!("fd:{name}{server}"),
    }
}

fn scheme(config: &SocketConfig) -> &'static str {
    if config.telnet { "telnet" } else { "tcp" }
}

/// The same for a connection: who is at its two ends.
pub(super) fn connected_name(config: &SocketConfig, connection: &OwnedFd) -> String {
    let server = if config.server { ",server=on" } else { "" };
    let here = rustix::net::getsockname(connection).ok();
    let inet = here.clone().and_then(|here| SocketAddr::try_from(here).ok());
    let there = rustix::net::getpeername(connection).ok().flatten().and_then(|there| SocketAddr::try_from(there).ok());
    if let (Some(here), Some(there)) = (inet, there) {
        return format!("{}:{here}{server} <-> {there}", scheme(config));
    }
    match here.and_then(|here| SocketAddrUnix::try_from(here).ok()) {
        Some(unix) => {
            let path = unix.path().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
            format!("unix:{path}{server}")
        }
        None => name(config),
    }
}

/// The port that a TCP socket is on.
pub(super) fn port_of(socket: &OwnedFd) -> Option<String> {
    let here = rustix::net::getsockname(socket).ok()?;
    SocketAddr::try_from(here).ok().map(|here| here.port().to_string())
}

/// Makes a listener; a socket file that is in the way is removed.
pub(super) fn listen(address: &SocketAddress) -> io::Result<OwnedFd> {
    match address {
        SocketAddress::Unix { path, is_abstract: true, tight } => {
            let name = UnixAddr::from_abstract_name(abstract_name(path, *tight))?;
            Ok(UnixListener::bind_addr(&name)?.into())
        }
        SocketAddress::Unix { path, .. } => {
            remove_old(path)?;
            Ok(UnixListener::bind(path)?.into())
        }
        SocketAddress::Inet { to, .. } => {
            let Destination::Inet(mut addresses) = resolve(address)? else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            loop {
                match TcpListener::bind(addresses.as_slice()) {
                    Ok(listener) => return Ok(listener.into()),
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse && next_port(&mut addresses, *to) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        SocketAddress::Fd(_) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Goes on to the next port up to `to`; false when there is none.
fn next_port(addresses: &mut [SocketAddr], to: Option<u16>) -> bool {
    addresses.iter_mut().all(|address| match address.port().checked_add(1) {
        Some(port) if to.is_some_and(|to| port <= to) => {
            address.set_port(port);
            true
        }
        _ => false,
    })
}

/// Only a socket is removed: a file of that name is somebody's.
fn remove_old(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

fn abstract_name(path: &Path, tight: bool) -> Vec<u8> {
    let mut name = path.as_os_str().as_bytes().to_vec();
    if !tight && name.len() < ABSTRACT_LENGTH {
        name.resize(ABSTRACT_LENGTH, 0);
    }
    name
}

/// Looks a name up. May wait for a name server.
pub(super) fn resolve(address: &SocketAddress) -> io::Result<Destination> {
    match address {
        SocketAddress::Unix { path, is_abstract: true, tight } => {
            Ok(Destination::Unix(SocketAddrUnix::new_abstract_name(&abstract_name(path, *tight))?))
        }
        SocketAddress::Unix { path, .. } => Ok(Destination::Unix(SocketAddrUnix::new(path.as_path())?)),
        SocketAddress::Inet { host, port, ipv4, ipv6, .. } => {
            let found = look_up(host, port)?.into_iter();
            let found: Vec<SocketAddr> = found.filter(|address| is_wanted(address, *ipv4, *ipv6)).collect();
            if found.is_empty() {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no such address"));
            }
            Ok(Destination::Inet(found))
        }
        SocketAddress::Fd(_) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn look_up(host: &str, port: &str) -> io::Result<Vec<SocketAddr>> {
    let number = port.parse::<u16>();
    let number =
        number.map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the port is not a number up to 65535"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    Ok((host, number).to_socket_addrs()?.collect())
}

fn is_wanted(address: &SocketAddr, ipv4: Option<bool>, ipv6: Option<bool>) -> bool {
    let (mine, other) = if address.is_ipv4() { (ipv4, ipv6) } else { (ipv6, ipv4) };
    mine.unwrap_or(other != Some(true))
}

/// Connects: with `wait` until it is done, else it may still be under way.
pub(super) fn connect(destination: &Destination, wait: bool) -> io::Result<OwnedFd> {
    match destination {
        Destination::Unix(name) => {
            let socket = new_socket(AddressFamily::UNIX)?;
            rustix::net::connect(&socket, name)?;
            Ok(socket)
        }
        Destination::Inet(addresses) => {
            let mut last = io::Error::from(io::ErrorKind::NotFound);
            for address in addresses {
                match connect_inet(*address, wait) {
                    Ok(socket) => return Ok(socket),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    }
}

fn connect_inet(address: SocketAddr, wait: bool) -> io::Result<OwnedFd> {
    if wait {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nonblocking(true)?;
        return Ok(stream.into());
    }
    let socket = new_socket(if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 })?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

fn new_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}

/// The descriptor of `fd=`: a number that we were started with, or a name that `getfd` gave.
pub(super) fn inherited(name: &str, fds: &FdTable) -> Result<OwnedFd, ChardevError> {
    let wrong = |why: &str| ChardevError::Fd { name: name.to_owned(), why: why.to_owned() };
    let fd = match name.parse::<RawFd>() {
        Ok(number) => fds.claim(number),
        Err(_) => fds.take(name),
    };
    let fd = fd.map_err(|error| wrong(&error.desc))?;
    match rustix::net::sockopt::socket_type(fd.as_fd()) {
        Ok(SocketType::STREAM) => Ok(fd),
        _ => Err(wrong("it is not a stream socket")),
    }
}
