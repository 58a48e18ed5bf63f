//! What `-machine none` has: no register and no memory.

use rhea_devices::bus::Effect;
use rhea_devices::pci::Bdf;

use crate::vcpu::Platform;

/// Nobody answers.
pub struct Nothing;

impl Platform for Nothing {
    fn read_port(&self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write_port(&self, _: u16, _: &[u8]) -> Effect {
        Effect::None
    }

    fn read_memory(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write_memory(&self, _: u64, _: &[u8]) -> Effect {
        Effect::None
    }

    fn remap(&self, _: Bdf) {}

    fn remap_memory(&self) {}

    fn eject(&self, _: u32) {}
}
