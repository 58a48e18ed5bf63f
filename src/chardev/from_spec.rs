//! What a user asked for as a character device to be made.

use std::time::Duration;

use super::config::{Backend, Config, SocketAddress, SocketConfig};
use crate::spec::SpecError;
use crate::spec::chardev::{ChardevSpec, SocketAddress as Asked, SocketSpec};

impl TryFrom<&ChardevSpec> for Config {
    type Error = SpecError;

    fn try_from(spec: &ChardevSpec) -> Result<Self, SpecError> {
        let common = spec.common();
        Ok(Self {
            label: common.id.clone(),
            backend: backend(spec)?,
            logfile: common.logfile.clone(),
            logappend: common.logappend,
            mux: common.mux,
        })
    }
}

fn backend(spec: &ChardevSpec) -> Result<Backend, SpecError> {
    Ok(match spec {
        ChardevSpec::Null(_) => Backend::Null,
        ChardevSpec::Stdio(stdio) => Backend::Stdio { signal: stdio.signal },
        ChardevSpec::Pty(_) => Backend::Pty,
        ChardevSpec::File(file) => {
            Backend::File { path: file.path.clone(), append: file.append, input: file.input_path.clone() }
        }
        ChardevSpec::Pipe(pipe) => Backend::Pipe { path: pipe.path.clone() },
        ChardevSpec::Socket(socket) => Backend::Socket(self::socket(socket)?),
        ChardevSpec::Ringbuf(ring) => Backend::Ringbuf { size: usize::try_from(ring.size.0).ok() },
        ChardevSpec::Mux(_) => {
            return Err(SpecError::refused("chardev: 'mux' as a device of its own", "give the other device mux=on"));
        }
    })
}

fn socket(spec: &SocketSpec) -> Result<SocketConfig, SpecError> {
    let address = match spec.address()? {
        Asked::Unix { path, is_abstract, tight } => SocketAddress::Unix { path, is_abstract, tight },
        Asked::Inet { host, port, to, ipv4, ipv6 } => SocketAddress::Inet { host, port, to, ipv4, ipv6 },
        Asked::Fd(fd) => SocketAddress::Fd(fd),
    };
    Ok(SocketConfig {
        address,
        server: spec.server,
        wait: spec.waits(),
        telnet: spec.telnet,
        nodelay: spec.nodelay.unwrap_or(false),
        reconnect: Duration::from_secs(u64::from(spec.reconnect)),
    })
}
