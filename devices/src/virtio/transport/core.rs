//! What the register interfaces share.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::control::{Control, Runs};
use super::interrupts::Interrupts;
use crate::virtio::device::DeviceConfig;

/// The function behind its registers.
pub(super) struct Core {
    pub(super) config: Arc<dyn DeviceConfig>,
    pub(super) doorbells: Vec<Arc<EventFd>>,
    pub(super) interrupts: Arc<Interrupts>,
    pub(super) runs: Arc<Runs>,
    pub(super) control: Mutex<Control>,
}

impl Core {
    pub(super) fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rings the doorbell of queue `n`, where the hypervisor did not.
    pub(super) fn ring(&self, n: u64) {
        let doorbell = usize::try_from(n).ok().and_then(|n| self.doorbells.get(n));
        if let Some(Err(error)) = doorbell.map(|doorbell| doorbell.write(1)) {
            log::debug!("virtio queue {n} cannot be rung: {error}");
        }
    }

    pub(super) fn queue_vector(&self, n: u16) -> Option<&AtomicU16> {
        self.interrupts.queue_vectors.get(usize::from(n))
    }

    pub(super) fn set_queue_vector(&self, n: u16, wanted: u16) {
        if let Some(vector) = self.queue_vector(n) {
            vector.store(self.interrupts.vector(wanted), Ordering::Release);
        }
    }

    pub(super) fn set_config_vector(&self, wanted: u16) {
        self.interrupts.config_vector.store(self.interrupts.vector(wanted), Ordering::Release);
    }
}
