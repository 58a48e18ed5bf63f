//! The chips of an AT-compatible board, at the ports where every PC has them.
//!
//! The interrupt controllers and the interval timer (with the speaker port 0x61) are the hypervisor's and not here.

pub mod cmos;
pub mod debug;
pub mod i8042;
pub mod pvpanic;
pub mod serial;

use std::sync::{Arc, PoisonError};

use crate::bus::BusDevice;
use crate::lifecycle::Lifecycle;

/// Ports that a chip answers at.
#[derive(Clone)]
pub struct PortRange {
    /// First port.
    pub base: u16,
    /// Number of ports, never 0.
    pub len: u16,
    /// Who answers; offsets are from `base`.
    pub device: Arc<dyn BusDevice>,
}

/// A chip at fixed ports.
pub trait LegacyChip: Lifecycle {
    /// Where it answers; the same for all its life.
    fn ports(self: Arc<Self>) -> Vec<PortRange>;
}

/// Locks a mutex whose data stays sound even if a holder panicked: registers are plain values.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
