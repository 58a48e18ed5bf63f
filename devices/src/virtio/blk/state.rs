//! What is saved of a block device: its cache switch. Its size is the image's, its rings are the transport's.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::Shared;
use crate::lifecycle::DeviceError;

/// Version of [`BlkState`].
const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BlkState {
    version: u32,
    write_cache: bool,
}

impl BlkState {
    pub(super) fn of(shared: &Shared) -> Self {
        Self { version: VERSION, write_cache: shared.write_cache() }
    }

    pub(super) fn to_value(&self) -> Value {
        json!({ "version": self.version, "write_cache": self.write_cache })
    }

    pub(super) fn from_value(state: Value, device: &str) -> Result<Self, DeviceError> {
        let unfit = |why: String| DeviceError::State { device: device.to_owned(), why };
        let state: Self = serde_json::from_value(state).map_err(|error| unfit(error.to_string()))?;
        if state.version != VERSION {
            return Err(unfit(format!("version {} where {VERSION} is known", state.version)));
        }
        Ok(state)
    }

    pub(super) fn apply(&self, shared: &Shared) {
        shared.restore(self.write_cache);
    }
}
