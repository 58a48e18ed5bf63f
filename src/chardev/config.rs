//! What can be asked for, checked: names resolved to kinds, contradictions refused before this.

use std::path::PathBuf;
use std::time::Duration;

/// A character device to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The `id=`.
    pub label: String,
    /// What is at the host's end.
    pub backend: Backend,
    /// `logfile=`: a copy of all output.
    pub logfile: Option<PathBuf>,
    /// `logappend=on`: the copy goes behind what is in that file.
    pub logappend: bool,
    /// `mux=on`: several front ends share it.
    pub mux: bool,
}

impl Config {
    /// A device without a log or mux.
    pub fn new(label: impl Into<String>, backend: Backend) -> Self {
        Self { label: label.into(), backend, logfile: None, logappend: false, mux: false }
    }
}

/// The kinds of host ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// Nothing.
    Null,
    /// This process's standard input and output.
    Stdio {
        /// Ctrl-C signals this process rather than going to the guest.
        signal: bool,
    },
    /// A pseudo terminal.
    Pty,
    /// A file.
    File {
        /// Written to; may be `/dev/fdset/N`.
        path: PathBuf,
        /// Behind what is in it.
        append: bool,
        /// Read from.
        input: Option<PathBuf>,
    },
    /// The named pipes `PATH.in` and `PATH.out`, or `PATH` for both.
    Pipe {
        /// The name.
        path: PathBuf,
    },
    /// A socket.
    Socket(SocketConfig),
    /// The last bytes, in memory.
    Ringbuf {
        /// How many: a power of two; 64 KiB without.
        size: Option<usize>,
    },
}

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketConfig {
    /// Where.
    pub address: SocketAddress,
    /// Others connect to us.
    pub server: bool,
    /// A server waits for the first connection before the machine starts.
    pub wait: bool,
    /// Speaks telnet: options are negotiated and escaped.
    pub telnet: bool,
    /// Small packets are sent at once.
    pub nodelay: bool,
    /// A client tries again after this time; no time is never.
    pub reconnect: Duration,
}

/// Where a socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketAddress {
    /// A name in the file system.
    Unix {
        /// The name.
        path: PathBuf,
        /// Not in the file system but in the kernel's name space.
        is_abstract: bool,
        /// An abstract name is exactly as long as it is, not padded with zeroes.
        tight: bool,
    },
    /// A host and a port.
    Inet {
        /// Name or address; empty for all of this host.
        host: String,
        /// The port's number or service name.
        port: String,
        /// A server takes the first free port up to this one.
        to: Option<u16>,
        /// Only, or not, IPv4.
        ipv4: Option<bool>,
        /// Only, or not, IPv6.
        ipv6: Option<bool>,
    },
    /// A descriptor that this process was started with, or that `getfd` gave a name.
    Fd(String),
}

impl Backend {
    /// The names of the kinds, as `-chardev` takes them.
    pub const NAMES: &'static [&'static str] =
        &["null", "stdio", "pty", "file", "pipe", "socket", "ringbuf", "memory", "mux"];
}
