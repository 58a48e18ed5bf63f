//! What the machine asks of every device, and when.
//!
//! ```text
//!            start            pause, drain            resume
//!   (built) ───────▶ running ──────────────▶ paused ─────────▶ running
//!                                              │ ▲
//!                                        reset │ │ save, restore
//!                                              ▼ │
//!                                             paused
//! ```
//!
//! All calls come from the main thread. `pause` comes after the vCPUs have stopped, `resume` before they go on.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

/// Why a device could not start, save or restore.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The host refused something: a thread, a descriptor, an ioctl.
    #[error("{what}")]
    Host {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The request makes no sense for this device.
    #[error("{0}")]
    Invalid(String),
    /// Saved state does not fit this device.
    #[error("saved state of \"{device}\" does not fit: {why}")]
    State {
        /// Name of the device.
        device: String,
        /// What does not fit.
        why: String,
    },
    /// Guest memory, a disk or another library failed underneath.
    #[error("{what}")]
    Below {
        /// What was being done.
        what: String,
        /// The error underneath.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// State that outlives the process: its own versioned type, apart from the runtime type, as JSON.
pub trait SaveRestore {
    /// The device's state; only while paused.
    ///
    /// # Errors
    /// When the state cannot be read out (a kernel object refuses, say).
    fn save(&self) -> Result<Value, DeviceError>;
    /// Takes saved state on; only while paused, before the first resume. The state is a stranger's: every length,
    /// index and version is checked before anything changes.
    ///
    /// # Errors
    /// [`DeviceError::State`] when it does not fit; the device is then as it was.
    fn restore(&self, state: Value) -> Result<(), DeviceError>;
}

/// How a device takes part in snapshots and migration.
pub enum Saver<'a> {
    /// Nothing to save: the device is the same after a reset.
    Stateless,
    /// A running guest with this device cannot be saved, for this reason.
    Refuses(&'a str),
    /// It can.
    Saves(&'a dyn SaveRestore),
}

/// A device's life. Default methods suit a chip that only acts when the guest touches it.
pub trait Lifecycle: Send + Sync {
    /// The name in logs and in saved state; unique in the machine.
    fn name(&self) -> &str;
    /// Once, before the vCPUs first run: threads may be made, descriptors registered.
    ///
    /// # Errors
    /// When the host refuses; the machine then does not start.
    fn start(&self) -> Result<(), DeviceError> {
        Ok(())
    }
    /// Accept work, start none. May be called twice.
    fn pause(&self) {}
    /// Returns with nothing in flight. Only after [`Lifecycle::pause`].
    fn drain(&self) {}
    /// Undoes [`Lifecycle::pause`]; takes up what was accepted meanwhile.
    fn resume(&self) {}
    /// Back to the state after power-on. Only while paused.
    fn reset(&self);
    /// How to save it. Only used while paused and drained.
    fn saver(&self) -> Saver<'_>;
}

/// Writes a saved type as JSON.
///
/// # Errors
/// [`DeviceError::State`] when the type has no JSON form (a map with keys that are no strings, say).
pub fn encode<T: Serialize>(device: &str, state: &T) -> Result<Value, DeviceError> {
    serde_json::to_value(state).map_err(|e| unfit(device, e.to_string()))
}

/// Reads a saved type; versions and fields that it does not know are refused.
///
/// # Errors
/// [`DeviceError::State`].
pub fn decode<T: DeserializeOwned>(device: &str, state: Value) -> Result<T, DeviceError> {
    serde_json::from_value(state).map_err(|e| unfit(device, e.to_string()))
}

/// Saved state that does not fit `device`.
#[must_use]
pub fn unfit(device: &str, why: impl Into<String>) -> DeviceError {
    DeviceError::State { device: device.to_owned(), why: why.into() }
}
