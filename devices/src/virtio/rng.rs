//! virtio-rng (section 5.4): random bytes from the host, at a bounded rate.

mod handler;

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use self::handler::RngQueue;
use super::device::{DeviceConfig, DriverEvents, Identity, QueueParts, RingPosition, Stopped, VirtioDevice};
use super::features::device_type;
use super::iothread::Placement;
use super::worker::QueueSet;
use crate::lifecycle::DeviceError;

/// Where randomness comes from.
pub enum RngSource {
    /// The kernel's generator (`rng-builtin`).
    Builtin,
    /// A device or pipe (`rng-random,filename=`).
    File(File),
}

impl RngSource {
    /// Opens `path` so that reading never waits.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path).map(Self::File)
    }

    /// Reads up to `data.len()` bytes; `WouldBlock` when there are none yet.
    fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Builtin => {
                let refused = |error: getrandom::Error| match error.raw_os_error() {
                    Some(errno) => io::Error::from_raw_os_error(errno),
                    None => io::Error::other(error.to_string()),
                };
                getrandom::fill(data).map(|()| data.len()).map_err(refused)
            }
            Self::File(file) => match file.read(data)? {
                0 if !data.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
                count => Ok(count),
            },
        }
    }

    /// Readable when there is more.
    fn readable(&self) -> Option<RawFd> {
        match self {
            Self::Builtin => None,
            Self::File(file) => Some(file.as_raw_fd()),
        }
    }
}

/// A bound on what a guest gets (`max-bytes`, `period`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RngRate {
    /// Bytes in one period, at least 1.
    pub max_bytes: u64,
    /// Length of a period, not zero.
    pub period: Duration,
}

/// A rate that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("max-bytes and period must be greater than 0")]
pub struct RngRateError;

/// Properties of a `virtio-rng` device.
#[derive(Debug, Clone)]
pub struct RngConfig {
    /// Name in logs and thread names.
    pub id: String,
    /// How fast it may give; `None` for as fast as it can.
    pub rate: Option<RngRate>,
}

/// Entries of the queue: as QEMU's.
const QUEUE_SIZE: u16 = 8;
/// Version of [`RngState`].
const VERSION: u32 = 1;

/// The device has no state of its own: a restored guest starts a new period.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RngState {
    version: u32,
}

/// A virtio entropy device.
pub struct VirtioRng {
    identity: Identity,
    config: RngConfig,

    placement: Placement,
    source: Option<RngSource>,

    workers: QueueSet,
}

impl VirtioRng {
    /// A device that draws from `source`.
    ///
    /// # Errors
    /// When the rate cannot be.
    pub fn new(config: RngConfig, source: RngSource, placement: Placement) -> Result<Box<Self>, RngRateError> {
        if config.rate.is_some_and(|rate| rate.max_bytes == 0 || rate.period.is_zero()) {
            return Err(RngRateError);
        }
        let identity = Identity {
            device_type: device_type::RNG,
            features: 0,
            queue_sizes: vec![QUEUE_SIZE],
            config_len: 0,
            pci_class: [0x00, 0xff, 0x00],
        };
        Ok(Box::new(Self { identity, config, placement, source: Some(source), workers: QueueSet::default() }))
    }
}

/// There is no configuration (section 5.4.4).
struct NoConfig;

impl DeviceConfig for NoConfig {
    fn read(&self, _offset: usize, data: &mut [u8]) {
        data.fill(0);
    }
    fn write(&self, _offset: usize, _data: &[u8]) {}
    fn generation(&self) -> u8 {
        0
    }
}

impl VirtioDevice for VirtioRng {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn config(&self) -> Arc<dyn DeviceConfig> {
        Arc::new(NoConfig)
    }

    fn connect(&mut self, _events: Arc<dyn DriverEvents>) {}

    fn start(&mut self) -> Result<(), DeviceError> {
        let host = |source| DeviceError::Host { what: format!("cannot start \"{}\"", self.config.id), source };
        let Some(source) = self.source.take() else { return Ok(()) };
        let handler = RngQueue::new(source, self.config.rate).map_err(host)?;
        let thread = self.placement.thread(&self.config.id, 0).map_err(host)?;
        self.workers.add(&thread, Box::new(handler));
        Ok(())
    }

    fn set_features(&mut self, _features: u64) {}

    fn start_queue(&mut self, n: u16, parts: QueueParts, at: RingPosition) -> Result<(), DeviceError> {
        self.workers.start(n, parts, at)
    }

    fn stop_queue(&mut self, n: u16, stopped: Stopped) {
        self.workers.stop(n, stopped);
    }

    fn reset(&mut self) {}

    fn save(&self) -> Value {
        serde_json::json!({ "version": VERSION })
    }

    fn restore(&mut self, state: Value) -> Result<(), DeviceError> {
        let unfit = |why: String| DeviceError::State { device: self.config.id.clone(), why };
        let state: RngState = serde_json::from_value(state).map_err(|error| unfit(error.to_string()))?;
        if state.version == VERSION {
            Ok(())
        } else {
            Err(unfit(format!("version {} where {VERSION} is known", state.version)))
        }
    }
}

#[cfg(test)]
mod tests;
