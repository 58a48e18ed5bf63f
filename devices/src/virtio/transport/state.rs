//! What is saved of a function: configuration space, MSI-X, registers, ring positions and the device's own state.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::pci::config::ConfigState;
use crate::pci::msix::MsixState;
use crate::virtio::device::{RingLayout, RingPosition};

/// Version of [`VirtioPciState`].
pub(super) const VERSION: u32 = 1;

/// All of a function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VirtioPciState {
    pub(super) version: u32,
    pub(super) config: ConfigState,
    pub(super) msix: Option<MsixState>,
    pub(super) isr: u8,
    pub(super) status: u8,
    pub(super) config_vector: u16,
    pub(super) device_feature_select: u32,
    pub(super) driver_feature_select: u32,
    pub(super) driver_features: u64,
    pub(super) queue_select: u16,
    pub(super) queues: Vec<QueueState>,
    pub(super) device: Value,
}

/// One queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QueueState {
    pub(super) layout: RingLayout,
    pub(super) enabled: bool,
    pub(super) vector: u16,
    pub(super) position: RingPosition,
}
