//! What is to be made: a [`ChardevSpec`] with its contradictions refused and its defaults filled in.

use std::path::PathBuf;
use std::time::Duration;

pub use crate::spec::chardev::SocketAddress;
use crate::spec::chardev::{ChardevSpec, SocketSpec};

use super::ChardevError;

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
    /// What a checked spec asks for.
    ///
    /// # Errors
    ///
    /// Only for a spec that its own check would refuse.
    pub fn from_spec(spec: &ChardevSpec) -> Result<Self, ChardevError> {
        let common = spec.common();
        let backend = match spec {
            ChardevSpec::Null(_) => Backend::Null,
            ChardevSpec::Stdio(spec) => Backend::Stdio { signal: spec.signal },
            ChardevSpec::Pty(_) => Backend::Pty,
            ChardevSpec::File(spec) => {
                Backend::File { path: spec.path.clone(), append: spec.append, input: spec.input_path.clone() }
            }
            ChardevSpec::Pipe(spec) => Backend::Pipe { path: spec.path.clone() },
            ChardevSpec::Socket(spec) => Backend::Socket(SocketConfig::from_spec(spec)?),
            ChardevSpec::Ringbuf(spec) => Backend::Ringbuf { size: usize::try_from(spec.size.0).ok() },
            ChardevSpec::Mux(spec) => Backend::Mux { chardev: spec.chardev.clone() },
        };
        Ok(Self {
            label: common.id.clone(),
            backend,
            logfile: common.logfile.clone(),
            logappend: common.logappend,
            mux: common.mux,
        })
    }

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
    /// Several front ends on a device that is there already.
    Mux {
        /// That device.
        chardev: String,
    },
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

impl SocketConfig {
    fn from_spec(spec: &SocketSpec) -> Result<Self, ChardevError> {
        Ok(Self {
            address: spec.address()?,
            server: spec.server,
            wait: spec.waits(),
            telnet: spec.telnet,
            nodelay: spec.nodelay.unwrap_or(false),
            reconnect: Duration::from_secs(spec.reconnect.into()),
        })
    }
}
