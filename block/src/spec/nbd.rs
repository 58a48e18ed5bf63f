//! Where an NBD server is, in a spec.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Nbd, text};
use crate::error::{BlockError, ErrorKind};
use crate::nbd::{Address, NbdName};

/// `SocketAddress`: the two kinds that a disk can be reached by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum SocketAddress {
    /// TCP.
    Inet {
        /// Host, by name or number.
        host: String,
        /// Port number.
        port: String,
    },
    /// A Unix socket.
    Unix {
        /// Its path.
        path: String,
        /// It has no file: refused.
        #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
        r#abstract: Option<bool>,
    },
}

/// Longest wait that can be asked for, in seconds.
const LONGEST: u64 = u32::MAX as u64;

impl Nbd {
    /// The export that is meant.
    ///
    /// # Errors
    /// When no server is named, or several, or it can only be reached in ways that are not here.
    pub fn name(&self) -> Result<NbdName, BlockError> {
        let invalid = |text: &str| Err(BlockError::new(ErrorKind::Invalid, text));
        let unsupported = |text: &str| Err(BlockError::new(ErrorKind::Unsupported, text));
        if self.tls_creds.is_some() {
            return unsupported("'tls-creds': NBD has no TLS here; use a tunnel to a Unix socket");
        }
        let old = self.host.clone().map(|host| Address::Inet(host, self.port.clone().unwrap_or_default()));
        let address = match (&self.server, old, &self.path) {
            (Some(SocketAddress::Inet { host, port }), None, None) => Address::Inet(host.clone(), port.clone()),
            (Some(SocketAddress::Unix { r#abstract: Some(true), .. }), None, None) => {
                return unsupported("'abstract' sockets are not connected to; use a path");
            }
            (Some(SocketAddress::Unix { path, .. }), None, None) => Address::Unix(path.into()),
            (None, Some(address), None) => address,
            (None, None, Some(path)) => Address::Unix(path.into()),
            (None, None, None) => return invalid("NBD server address missing"),
            _ => return invalid("the NBD server is named twice: use server, or host and port, or path"),
        };
        Ok(NbdName { address, export: self.export.clone().unwrap_or_default() })
    }

    /// How long opening tries, and how long requests wait.
    ///
    /// # Errors
    /// When it is longer than 32 bits of seconds.
    pub(crate) fn waits(&self) -> Result<(Duration, Duration), BlockError> {
        let waits = [self.open_timeout.unwrap_or(0), self.reconnect_delay.unwrap_or(0)];
        if waits.iter().any(|seconds| *seconds > LONGEST) {
            let text = format!("open-timeout and reconnect-delay are at most {LONGEST} seconds");
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        Ok((Duration::from_secs(waits[0]), Duration::from_secs(waits[1])))
    }
}

impl From<&NbdName> for Nbd {
    fn from(name: &NbdName) -> Self {
        let server = match &name.address {
            Address::Inet(host, port) => SocketAddress::Inet { host: host.clone(), port: port.clone() },
            Address::Unix(path) => SocketAddress::Unix { path: path.display().to_string(), r#abstract: None },
        };
        let export = Some(name.export.clone()).filter(|export| !export.is_empty());
        Self { server: Some(server), export, ..Self::default() }
    }
}
