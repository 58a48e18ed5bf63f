//! The modern registers: common configuration, ISR, device configuration and notification, each in its part of the
//! BAR (section 4.1.4).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::control::Control;
use super::core::Core;
use super::interrupts::NO_VECTOR;
use super::layout::{COMMON, DEVICE, ISR, MODERN_LEN, NOTIFY, NOTIFY_MULTIPLIER, PART};
use crate::bus::{BusDevice, BusFault, Effect};
use crate::virtio::device::RingLayout;
use crate::virtio::features;

/// `struct virtio_pci_common_cfg` (section 4.1.4.3): offsets.
mod reg {
    pub(super) const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub(super) const DEVICE_FEATURE: u64 = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(super) const DRIVER_FEATURE: u64 = 0x0c;
    pub(super) const CONFIG_VECTOR: u64 = 0x10;
    pub(super) const NUM_QUEUES: u64 = 0x12;
    pub(super) const STATUS: u64 = 0x14;
    pub(super) const GENERATION: u64 = 0x15;
    pub(super) const QUEUE_SELECT: u64 = 0x16;
    pub(super) const QUEUE_SIZE: u64 = 0x18;
    pub(super) const QUEUE_VECTOR: u64 = 0x1a;
    pub(super) const QUEUE_ENABLE: u64 = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub(super) const QUEUE_DESC: u64 = 0x20;
    pub(super) const QUEUE_DESC_HIGH: u64 = 0x24;
    pub(super) const QUEUE_DRIVER: u64 = 0x28;
    pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x2c;
    pub(super) const QUEUE_DEVICE: u64 = 0x30;
    pub(super) const QUEUE_DEVICE_HIGH: u64 = 0x34;
    pub(super) const QUEUE_NOTIFY_DATA: u64 = 0x38;
    pub(super) const QUEUE_RESET: u64 = 0x3a;

    /// Width of the access that a field takes (section 4.1.3.1: drivers use the field's own, and two of 32 bits for
    /// the 64-bit ones).
    pub(super) fn width(offset: u64) -> Option<usize> {
        Some(match offset {
            STATUS | GENERATION => 1,
            CONFIG_VECTOR | NUM_QUEUES | QUEUE_SELECT | QUEUE_SIZE | QUEUE_VECTOR | QUEUE_ENABLE | QUEUE_NOTIFY_OFF
            | QUEUE_NOTIFY_DATA | QUEUE_RESET => 2,
            DEVICE_FEATURE_SELECT
            | DEVICE_FEATURE
            | DRIVER_FEATURE_SELECT
            | DRIVER_FEATURE
            | QUEUE_DESC
            | QUEUE_DESC_HIGH
            | QUEUE_DRIVER
            | QUEUE_DRIVER_HIGH
            | QUEUE_DEVICE
            | QUEUE_DEVICE_HIGH => 4,
            _ => return None,
        })
    }
}

/// The modern BAR.
pub(super) struct ModernBar(pub(super) Arc<Core>);

impl BusDevice for ModernBar {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        match part(offset, data.len())? {
            (COMMON, at) => read_common(&self.0, at, data),
            (ISR, 0) => {
                data.fill(0);
                if let Some(first) = data.first_mut() {
                    *first = self.0.interrupts.take_isr();
                }
                Ok(())
            }
            (DEVICE, at) => {
                self.0.config.read(usize::try_from(at).unwrap_or(usize::MAX), data);
                Ok(())
            }
            // Notification addresses are written only.
            _ => {
                data.fill(0);
                Ok(())
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        match part(offset, data.len())? {
            (COMMON, at) => write_common(&self.0, at, data)?,
            (DEVICE, at) => self.0.config.write(usize::try_from(at).unwrap_or(usize::MAX), data),
            // The queue is known from the address; the value need not be looked at (section 4.1.5.2).
            (NOTIFY, at) => self.0.ring(at / u64::from(NOTIFY_MULTIPLIER)),
            _ => {}
        }
        Ok(Effect::None)
    }
}

/// Which part an access falls in, and where in it.
fn part(offset: u64, len: usize) -> Result<(u64, u64), BusFault> {
    let at = offset % PART;
    let whole = at.checked_add(len as u64).is_some_and(|end| end <= PART);
    if offset >= MODERN_LEN || len == 0 || len > 8 || !whole {
        return Err(BusFault { offset, len });
    }
    Ok((offset - at, at))
}

/// Splits a naturally aligned access of 8 bytes to the 64-bit fields into two of 4.
fn fields(at: u64, len: usize) -> Result<usize, BusFault> {
    let width = reg::width(at).ok_or(BusFault { offset: at, len })?;
    let pair = matches!(at, reg::QUEUE_DESC | reg::QUEUE_DRIVER | reg::QUEUE_DEVICE) && len == 8;
    if len == width || pair { Ok(width) } else { Err(BusFault { offset: at, len }) }
}

fn read_common(core: &Core, at: u64, data: &mut [u8]) -> Result<(), BusFault> {
    // Linux reads the structure up to where the device says it ends: what no field covers reads as zero.
    if reg::width(at).is_none() {
        data.fill(0);
        return Ok(());
    }
    let width = fields(at, data.len())?;
    let mut control = core.control();
    for (offset, field) in (at..).step_by(width).zip(data.chunks_exact_mut(width)) {
        let value = read_field(core, &mut control, offset).to_le_bytes();
        field.copy_from_slice(value.get(..width).unwrap_or_default());
    }
    Ok(())
}

fn read_field(core: &Core, control: &mut Control, at: u64) -> u32 {
    let select = control.queue_select;
    match at {
        reg::DEVICE_FEATURE_SELECT => control.device_feature_select,
        reg::DEVICE_FEATURE => dword(control.offered & !features::ANY_LAYOUT, control.device_feature_select),
        reg::DRIVER_FEATURE_SELECT => control.driver_feature_select,
        reg::DRIVER_FEATURE => dword(control.driver_features, control.driver_feature_select),
        reg::CONFIG_VECTOR => core.interrupts.config_vector.load(Ordering::Acquire).into(),
        reg::NUM_QUEUES => u32::try_from(control.queues.len()).unwrap_or(0),
        reg::STATUS => control.status().into(),
        reg::GENERATION => core.config.generation().into(),
        reg::QUEUE_SELECT => select.into(),
        reg::QUEUE_VECTOR => core.queue_vector(select).map_or(NO_VECTOR, |v| v.load(Ordering::Acquire)).into(),
        reg::QUEUE_RESET => control.queue_resetting().into(),
        _ => control.queue().map_or(0, |queue| {
            let RingLayout { size, desc, avail, used } = queue.layout;
            match at {
                reg::QUEUE_SIZE => size.into(),
                reg::QUEUE_ENABLE => queue.enabled.into(),
                reg::QUEUE_NOTIFY_OFF | reg::QUEUE_NOTIFY_DATA => select.into(),
                reg::QUEUE_DESC => dword(desc, 0),
                reg::QUEUE_DESC_HIGH => dword(desc, 1),
                reg::QUEUE_DRIVER => dword(avail, 0),
                reg::QUEUE_DRIVER_HIGH => dword(avail, 1),
                reg::QUEUE_DEVICE => dword(used, 0),
                reg::QUEUE_DEVICE_HIGH => dword(used, 1),
                _ => 0,
            }
        }),
    }
}

fn write_common(core: &Core, at: u64, data: &[u8]) -> Result<(), BusFault> {
    let width = fields(at, data.len())?;
    let mut control = core.control();
    for (offset, field) in (at..).step_by(width).zip(data.chunks_exact(width)) {
        let value = field.iter().rev().fold(0, |value, &byte| (value << 8) | u32::from(byte));
        write_field(core, &mut control, offset, value);
    }
    Ok(())
}

fn write_field(core: &Core, control: &mut Control, at: u64, value: u32) {
    if at == reg::STATUS {
        return control.set_status(value as u8, false);
    }
    control.settle_reset();
    let select = control.queue_select;
    match at {
        reg::DEVICE_FEATURE_SELECT => control.device_feature_select = value,
        reg::DRIVER_FEATURE_SELECT => control.driver_feature_select = value,
        reg::DRIVER_FEATURE => control.set_driver_features(control.driver_feature_select, value),
        reg::CONFIG_VECTOR => core.set_config_vector(value as u16),
        reg::QUEUE_SELECT => control.queue_select = value as u16,
        reg::QUEUE_VECTOR => core.set_queue_vector(select, value as u16),
        reg::QUEUE_ENABLE if value == 1 => control.enable_queue(),
        reg::QUEUE_RESET if value == 1 => control.reset_queue(),
        _ => {
            if let Some(queue) = control.queue() {
                let max = queue.max_size;
                if let Some(layout) = queue.layout_mut() {
                    write_layout(layout, max, at, value);
                }
            }
        }
    }
}

fn write_layout(layout: &mut RingLayout, max: u16, at: u64, value: u32) {
    match at {
        reg::QUEUE_SIZE => {
            let size = value as u16;
            if size.is_power_of_two() && size <= max {
                layout.size = size;
            }
        }
        reg::QUEUE_DESC => set_dword(&mut layout.desc, 0, value),
        reg::QUEUE_DESC_HIGH => set_dword(&mut layout.desc, 1, value),
        reg::QUEUE_DRIVER => set_dword(&mut layout.avail, 0, value),
        reg::QUEUE_DRIVER_HIGH => set_dword(&mut layout.avail, 1, value),
        reg::QUEUE_DEVICE => set_dword(&mut layout.used, 0, value),
        reg::QUEUE_DEVICE_HIGH => set_dword(&mut layout.used, 1, value),
        _ => {}
    }
}

/// 32 of 64 bits; beyond them zero.
fn dword(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_dword(value: &mut u64, half: u32, new: u32) {
    let shift = 32 * half;
    *value = (*value & !(0xffff_ffff << shift)) | (u64::from(new) << shift);
}
