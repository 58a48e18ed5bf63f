//! The interface of virtio 0.9, in I/O ports (section 4.1.4.8), for drivers older than virtio 1 and for firmware.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::control::Control;
use super::core::Core;
use super::interrupts::NO_VECTOR;
use super::layout::{LEGACY_HEADER, LEGACY_HEADER_MSIX};
use crate::bus::{BusDevice, BusFault, Effect};
use crate::virtio::device::RingLayout;

/// Offsets and widths of the legacy header.
mod reg {
    pub(super) const DEVICE_FEATURES: u64 = 0;
    pub(super) const DRIVER_FEATURES: u64 = 4;
    pub(super) const QUEUE_ADDRESS: u64 = 8;
    pub(super) const QUEUE_SIZE: u64 = 12;
    pub(super) const QUEUE_SELECT: u64 = 14;
    pub(super) const QUEUE_NOTIFY: u64 = 16;
    pub(super) const STATUS: u64 = 18;
    pub(super) const ISR: u64 = 19;
    pub(super) const CONFIG_VECTOR: u64 = 20;
    pub(super) const QUEUE_VECTOR: u64 = 22;

    pub(super) fn width(offset: u64) -> Option<usize> {
        Some(match offset {
            DEVICE_FEATURES | DRIVER_FEATURES | QUEUE_ADDRESS => 4,
            QUEUE_SIZE | QUEUE_SELECT | QUEUE_NOTIFY | CONFIG_VECTOR | QUEUE_VECTOR => 2,
            STATUS | ISR => 1,
            _ => return None,
        })
    }
}

/// Offset of the register whose writes say which queue has something.
pub(super) const NOTIFY_OFFSET: u64 = reg::QUEUE_NOTIFY;
/// Unit of the queue address register, and alignment of the used ring, in bytes (section 2.7.2).
const PAGE: u64 = 4096;

/// The legacy BAR.
pub(super) struct LegacyBar(pub(super) Arc<Core>);

impl LegacyBar {
    /// The header grows by two registers while MSI-X is enabled; the device's configuration follows it.
    fn header(&self) -> u64 {
        let msix = self.0.interrupts.msix.as_ref().is_some_and(|msix| msix.enabled());
        if msix { LEGACY_HEADER_MSIX } else { LEGACY_HEADER }
    }
}

impl BusDevice for LegacyBar {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        if let Some(at) = offset.checked_sub(self.header()) {
            self.0.config.read(usize::try_from(at).unwrap_or(usize::MAX), data);
            return Ok(());
        }
        check(offset, data.len())?;
        let value = read(&self.0, offset).to_le_bytes();
        data.copy_from_slice(value.get(..data.len()).unwrap_or_default());
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        if let Some(at) = offset.checked_sub(self.header()) {
            self.0.config.write(usize::try_from(at).unwrap_or(usize::MAX), data);
            return Ok(Effect::None);
        }
        check(offset, data.len())?;
        let value = data.iter().rev().fold(0, |value, &byte| (value << 8) | u32::from(byte));
        if offset == reg::QUEUE_NOTIFY {
            self.0.ring(value.into());
        } else {
            write(&self.0, &mut self.0.control(), offset, value);
        }
        Ok(Effect::None)
    }
}

fn check(offset: u64, len: usize) -> Result<(), BusFault> {
    if reg::width(offset) == Some(len) { Ok(()) } else { Err(BusFault { offset, len }) }
}

fn read(core: &Core, offset: u64) -> u32 {
    if offset == reg::ISR {
        return core.interrupts.take_isr().into();
    }
    let mut control = core.control();
    let select = control.queue_select;
    match offset {
        reg::DEVICE_FEATURES => control.offered as u32,
        reg::DRIVER_FEATURES => control.driver_features as u32,
        reg::QUEUE_ADDRESS => {
            control.queue().filter(|queue| queue.enabled).map_or(0, |queue| (queue.layout.desc / PAGE) as u32)
        }
        reg::QUEUE_SIZE => control.queue().map_or(0, |queue| queue.max_size.into()),
        reg::QUEUE_SELECT => select.into(),
        reg::STATUS => control.status().into(),
        reg::CONFIG_VECTOR => core.interrupts.config_vector.load(Ordering::Acquire).into(),
        reg::QUEUE_VECTOR => core.queue_vector(select).map_or(NO_VECTOR, |v| v.load(Ordering::Acquire)).into(),
        _ => 0,
    }
}

fn write(core: &Core, control: &mut Control, offset: u64, value: u32) {
    if offset == reg::STATUS {
        return control.set_status(value as u8, true);
    }
    control.settle_reset();
    let select = control.queue_select;
    match offset {
        reg::DRIVER_FEATURES => control.set_legacy_features(value),
        reg::QUEUE_SELECT => control.queue_select = value as u16,
        reg::QUEUE_ADDRESS => set_address(control, value),
        reg::CONFIG_VECTOR => core.set_config_vector(value as u16),
        reg::QUEUE_VECTOR => core.set_queue_vector(select, value as u16),
        _ => {}
    }
}

/// A legacy queue is one block, its parts one after the other (section 2.7.2); address 0 gives it up.
fn set_address(control: &mut Control, page: u32) {
    if page == 0 {
        control.drop_queue();
        return;
    }
    let Some(queue) = control.queue() else { return };
    let size = queue.max_size;
    let Some(layout) = queue.layout_mut() else { return };
    let count = u64::from(size);
    let desc = u64::from(page) * PAGE;
    let avail = desc + 16 * count;
    let used = (avail + 2 * (3 + count)).next_multiple_of(PAGE);
    *layout = RingLayout { size, desc, avail, used };
    control.enable_queue();
}
