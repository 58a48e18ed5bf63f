//! Character devices: one type for `-chardev`, `-serial`, `-monitor`, `-qmp` and `chardev-add`.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::describe::{DescribeUnion, Variant};
use super::error::{Shown, SpecError, Words, listed};
use super::number::ByteSize;
use super::read::{self, Source};

mod wire;

spec_union! {
    /// A character device and its properties.
    pub enum ChardevSpec by "backend" {
        /// Nothing.
        Null(NullSpec) = "null",
        /// Standard input and output.
        Stdio(StdioSpec) = "stdio",
        /// A pseudo terminal.
        Pty(PtySpec) = "pty",
        /// A file.
        File(FileSpec) = "file",
        /// Named pipes.
        Pipe(PipeSpec) = "pipe",
        /// A socket.
        Socket(SocketSpec) = "socket",
        /// The last bytes, in memory.
        Ringbuf(RingbufSpec) = "ringbuf" | "memory",
        /// Several front ends on another character device.
        Mux(MuxSpec) = "mux",
    }
}

spec_struct! {
    /// What every character device has.
    pub part ChardevCommon as "chardev" {
        /// Name of the character device.
        pub id: String,
        /// Several front ends share it; Ctrl-a c goes from one to the next.
        pub mux: bool = false,
        /// A file that gets a copy of all output.
        pub logfile: Option<PathBuf>,
        /// Write the copy behind what is in that file.
        pub logappend: bool = false,
    }
}

spec_struct! {
    /// Nothing: output is dropped.
    pub struct NullSpec as "null" with common: ChardevCommon {}
}

spec_struct! {
    /// Standard input and output of this process.
    pub struct StdioSpec as "stdio" with common: ChardevCommon {
        /// Ctrl-C ends this process rather than going to the guest.
        pub signal: bool = true,
    }
}

spec_struct! {
    /// A new pseudo terminal of the host.
    pub struct PtySpec as "pty" with common: ChardevCommon {}
}

spec_struct! {
    /// A file.
    pub struct FileSpec as "file" with common: ChardevCommon {
        /// Written to.
        pub path: PathBuf,
        /// Read from.
        pub input_path: Option<PathBuf>,
        /// Write behind what is in the file.
        pub append: bool = false,
    }
}

spec_struct! {
    /// The named pipes PATH.in and PATH.out, or PATH for both.
    pub struct PipeSpec as "pipe" with common: ChardevCommon {
        /// Their name.
        pub path: PathBuf,
    }
}

spec_struct! {
    /// A socket: unix with path, TCP with port, or one that is open already with fd.
    pub struct SocketSpec as "socket" with common: ChardevCommon {
        /// Host name or address.
        pub host: Option<String>,
        /// Port number or name of a service.
        pub port: Option<String>,
        /// A server takes the first free port up to this one.
        pub to: Option<u16>,
        /// Use IPv4.
        pub ipv4: Option<bool>,
        /// Use IPv6.
        pub ipv6: Option<bool>,
        /// Path of a unix socket.
        pub path: Option<PathBuf>,
        /// The path is a name in the kernel, not in the file system.
        pub r#abstract: bool as "abstract" = false,
        /// The abstract name is just as long as it is, not padded with zeroes.
        pub tight: bool = true,
        /// Number of an open descriptor, or its name from getfd.
        pub fd: Option<String>,
        /// Wait for others to connect, rather than connect.
        pub server: bool = false,
        /// A server waits at start until a client is there; on for a server when not given.
        pub wait: Option<bool>,
        /// Seconds after which a client connects again; 0 for never.
        pub reconnect: u32 = 0,
        /// Send small packets at once; off when not given.
        pub nodelay: Option<bool>,
        /// Speak telnet.
        pub telnet: bool = false,
        /// Speak telnet as an IBM 3270 terminal; only off here.
        pub tn3270: bool = false,
        /// Speak WebSocket; only off here.
        pub websocket: bool = false,
        /// Encrypt; not here.
        pub tls_creds: Option<String>,
        /// Whom to let in; not here.
        pub tls_authz: Option<String>,
    }
}

spec_struct! {
    /// The last bytes written, in memory.
    pub struct RingbufSpec as "ringbuf" with common: ChardevCommon {
        /// How many bytes: a power of two.
        pub size: ByteSize = ByteSize(65_536),
    }
}

spec_struct! {
    /// Several front ends on another character device.
    pub struct MuxSpec as "mux" with common: ChardevCommon {
        /// The other character device.
        pub chardev: String,
    }
}

/// Where a socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketAddress {
    /// A name in the file system, or in the kernel.
    Unix {
        /// The name.
        path: PathBuf,
        /// In the kernel's name space.
        is_abstract: bool,
        /// Not padded with zeroes.
        tight: bool,
    },
    /// A host and a port.
    Inet {
        /// Name or address; empty for all of this host.
        host: String,
        /// Number, or name of a service.
        port: String,
        /// A server takes the first free port up to this one.
        to: Option<u16>,
        /// Only, or not, IPv4.
        ipv4: Option<bool>,
        /// Only, or not, IPv6.
        ipv6: Option<bool>,
    },
    /// An open descriptor: its number, or its name from `getfd`.
    Fd(String),
}

impl SocketSpec {
    /// Where the socket is.
    ///
    /// # Errors
    /// None or more than one of `path`, `port` and `fd` is given, or what the other kinds need.
    pub fn address(&self) -> Result<SocketAddress, SpecError> {
        match (&self.path, &self.port, &self.fd) {
            (Some(path), None, None) => {
                Ok(SocketAddress::Unix { path: path.clone(), is_abstract: self.r#abstract, tight: self.tight })
            }
            (None, Some(port), None) => Ok(SocketAddress::Inet {
                host: self.host.clone().unwrap_or_default(),
                port: port.clone(),
                to: self.to,
                ipv4: self.ipv4,
                ipv6: self.ipv6,
            }),
            (None, None, Some(fd)) => Ok(SocketAddress::Fd(fd.clone())),
            (None, None, None) if self.host.is_some() => Err(SpecError::new("chardev: socket: no port given")),
            (None, None, None) => Err(SpecError::new("chardev: socket: give one of 'path', 'port' and 'fd'")),
            _ => Err(SpecError::new("None or one of 'path', 'host' or 'fd' option required")),
        }
    }

    /// A server waits for its first client before the machine starts.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.server && self.wait.unwrap_or(true)
    }

    fn check(&self) -> Result<(), SpecError> {
        self.address()?;
        let tls = "leave it out and use a unix socket, or a tunnel such as ssh";
        if self.websocket {
            Err(SpecError::refused("'websocket=on'", "use telnet=on or neither"))
        } else if self.tn3270 {
            Err(SpecError::refused("'tn3270=on'", "use telnet=on or neither"))
        } else if self.tls_creds.is_some() || self.tls_authz.is_some() {
            Err(SpecError::refused("TLS on a character device", tls))
        } else if self.server && self.reconnect != 0 {
            Err(SpecError::new("'reconnect' option is incompatible with socket in server listen mode"))
        } else if !self.server && self.wait.is_some() {
            Err(SpecError::new("'wait' option is incompatible with socket in client connect mode"))
        } else {
            Ok(())
        }
    }
}

/// Kinds that QEMU has and this program has not, and what would do.
const REFUSED: &[(&str, &str)] = &[
    ("vc", "there is no window to show it in; use pty or socket"),
    ("serial", "use file with the terminal's path, or pty"),
    ("tty", "use file with the terminal's path, or pty"),
    ("parallel", "there is no parallel port"),
    ("parport", "there is no parallel port"),
    ("udp", "use socket"),
    ("spicevmc", "there is no SPICE"),
    ("spiceport", "there is no SPICE"),
    ("qemu-vdagent", "there is no display"),
    ("dbus", "use socket"),
    ("braille", "use pty or socket"),
    ("msmouse", "use pty or socket"),
    ("wctablet", "use pty or socket"),
    ("testdev", "use the device isa-debug-exit"),
];

impl ChardevSpec {
    /// Reads the options of `-chardev`, with `backend` among them, and checks those that depend on each other.
    ///
    /// # Errors
    /// One sentence, in the words of `-chardev`.
    pub fn read(object: Map<String, Value>, source: Source) -> Result<Self, SpecError> {
        if !object.contains_key("backend") {
            return Err(SpecError::new(format!("chardev: no backend given; there are {}", listed(&Self::names()))));
        }
        if !object.contains_key("id") {
            return Err(SpecError::new("chardev: no id specified"));
        }
        let spec: Self = read::read_union(object, source, |_| Words::Options, Self::variant)?;
        super::check_id(&spec.common().id)?;
        spec.check()?;
        Ok(spec)
    }

    /// Reads the arguments of `chardev-add`, where the options are under `backend` in objects of their own.
    ///
    /// # Errors
    /// One sentence.
    pub fn read_wire(arguments: Map<String, Value>) -> Result<Self, SpecError> {
        Self::read(wire::flatten(arguments)?, Source::Json)
    }

    /// The kind of this name or alias.
    ///
    /// # Errors
    /// There is none, or QEMU has it and this program has not.
    pub fn variant(name: &str) -> Result<&'static Variant, SpecError> {
        if let Some(found) = Self::UNION.find(name) {
            return Ok(found);
        }
        Err(match REFUSED.iter().find(|(refused, _)| *refused == name) {
            Some((_, instead)) => SpecError::refused(format_args!("chardev: '{name}'"), instead),
            None => SpecError::new(format!(
                "'{}' is not a valid char driver name; there are {}",
                Shown(name),
                listed(&Self::names())
            )),
        })
    }

    /// The name of every kind.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        Self::UNION.names()
    }

    /// What every kind has.
    #[must_use]
    pub fn common(&self) -> &ChardevCommon {
        match self {
            Self::Null(spec) => &spec.common,
            Self::Stdio(spec) => &spec.common,
            Self::Pty(spec) => &spec.common,
            Self::File(spec) => &spec.common,
            Self::Pipe(spec) => &spec.common,
            Self::Socket(spec) => &spec.common,
            Self::Ringbuf(spec) => &spec.common,
            Self::Mux(spec) => &spec.common,
        }
    }

    fn check(&self) -> Result<(), SpecError> {
        match self {
            Self::Socket(spec) => spec.check(),
            Self::Ringbuf(spec) if !spec.size.0.is_power_of_two() => {
                Err(SpecError::new("size of ringbuf chardev must be power of two"))
            }
            Self::Ringbuf(spec) if spec.size.0 > MAX_RINGBUF => {
                Err(SpecError::new(format!("size of ringbuf chardev must be at most {MAX_RINGBUF}")))
            }
            _ => Ok(()),
        }
    }
}

/// Most bytes that a ring buffer keeps: enough for any log, not enough to starve the host.
const MAX_RINGBUF: u64 = 64 << 20;
