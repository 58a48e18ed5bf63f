//! The ports of a channel: where the guest meets it.

use std::sync::Arc;

use super::bus_master::port as bus_master_port;
use super::channel::{Channel, Shared};
use super::regs::port;
use crate::bus::{BusDevice, BusFault, Effect};

/// The command block: 0x1f0 or 0x170.
pub(super) struct CommandBlock(pub(super) Arc<Shared>);

impl BusDevice for CommandBlock {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        match (offset, &mut *data) {
            (port::DATA, [_, _] | [_, _, _, _]) => self.0.with(|channel| channel.read_data(data)),
            (port::ERROR..port::LEN, [byte]) => *byte = self.0.with(|channel| channel.read(offset)),
            _ => return Err(BusFault { offset, len: data.len() }),
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        match (offset, data) {
            (port::DATA, [_, _] | [_, _, _, _]) => self.0.with(|channel| channel.write_data(data)),
            (port::ERROR..port::LEN, [value]) => self.0.with(|channel| channel.write(offset, *value)),
            _ => return Err(BusFault { offset, len: data.len() }),
        }
        Ok(Effect::None)
    }
}

/// The control block, of which one port is used: 0x3f6 or 0x376.
pub(super) struct ControlBlock(pub(super) Arc<Shared>);

impl BusDevice for ControlBlock {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        let (0, [byte]) = (offset, &mut *data) else { return Err(BusFault { offset, len: data.len() }) };
        *byte = self.0.with(Channel::alternate_status);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        let (0, [value]) = (offset, data) else { return Err(BusFault { offset, len: data.len() }) };
        self.0.with(|channel| channel.write_control(*value));
        Ok(Effect::None)
    }
}

/// The bus masters of both channels: BAR 4.
pub(super) struct BusMasterBlock(pub(super) [Arc<Shared>; 2]);

impl BusMasterBlock {
    fn channel(&self, offset: u64) -> Option<(&Arc<Shared>, u64)> {
        let n = usize::try_from(offset / bus_master_port::LEN).ok()?;
        Some((self.0.get(n)?, offset % bus_master_port::LEN))
    }
}

impl BusDevice for BusMasterBlock {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        let fault = BusFault { offset, len: data.len() };
        let (channel, at) = self.channel(offset).ok_or(fault)?;
        let value = channel.with(|channel| channel.bus_master.read(at, data.len())).ok_or(fault)?;
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        let fault = BusFault { offset, len: data.len() };
        let (channel, at) = self.channel(offset).ok_or(fault)?;
        let value = data.iter().rev().fold(0, |value: u32, byte| value << 8 | u32::from(*byte));
        channel.with(|channel| channel.write_bus_master(at, data.len(), value)).ok_or(fault)?;
        Ok(Effect::None)
    }
}
