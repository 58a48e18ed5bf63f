//! Ports for debugging: the exit port of test programs, the text port of firmware, and the ports that POST codes and
//! delays go to.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bus::{BusDevice, BusFault, Effect, PowerRequest};
use crate::chardev::{CharBackend, CharEvent, CharFrontend};
use crate::lifecycle::{DeviceError, Lifecycle, SaveRestore, Saver, decode, encode};

use super::{LegacyChip, PortRange, lock};

/// `isa-debug-exit`: a write of `v` ends the program with exit status `(v << 1) | 1`.
pub struct DebugExit {
    base: u16,
    len: u16,
}

impl DebugExit {
    /// At `iobase`, `iosize` ports wide.
    ///
    /// # Errors
    /// [`DeviceError::Invalid`] when there are no such ports.
    pub fn new(iobase: u16, iosize: u16) -> Result<Self, DeviceError> {
        if iosize == 0 || u32::from(iobase) + u32::from(iosize) > 0x1_0000 {
            return Err(DeviceError::Invalid(format!("isa-debug-exit: no {iosize} ports at {iobase:#x}")));
        }
        Ok(Self { base: iobase, len: iosize })
    }
}

impl BusDevice for DebugExit {
    fn read(&self, _offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        data.fill(0);
        Ok(())
    }

    /// An exit status has eight bits: what lies above is lost, as the system loses it.
    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        let value = *data.first().ok_or(BusFault { offset, len: 0 })?;
        Ok(Effect::Power(PowerRequest::Exit((value << 1) | 1)))
    }
}

impl Lifecycle for DebugExit {
    fn name(&self) -> &str {
        "isa-debug-exit"
    }
    fn reset(&self) {}
    fn saver(&self) -> Saver<'_> {
        Saver::Stateless
    }
}

impl LegacyChip for DebugExit {
    fn ports(self: Arc<Self>) -> Vec<PortRange> {
        vec![PortRange { base: self.base, len: self.len, device: self }]
    }
}

/// `isa-debugcon`: bytes written go to a character device; a read tells that the port is there.
pub struct DebugConsole {
    base: u16,
    readback: u8,
    backend: Arc<dyn CharBackend>,
}

impl DebugConsole {
    /// Where firmware looks for it.
    pub const FIRMWARE_PORT: u16 = 0x402;
    /// Where it is by default.
    pub const DEFAULT_PORT: u16 = 0xe9;
    /// What a read gives by default.
    pub const DEFAULT_READBACK: u8 = 0xe9;

    /// At `iobase`; reads give `readback`.
    #[must_use]
    pub fn new(iobase: u16, readback: u8, backend: Arc<dyn CharBackend>) -> Self {
        Self { base: iobase, readback, backend }
    }
}

impl BusDevice for DebugConsole {
    fn read(&self, _offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        data.fill(self.readback);
        Ok(())
    }

    /// There is no way to tell the guest to wait: what the backend does not take at once is lost.
    fn write(&self, _offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        self.backend.write(data.get(..1).unwrap_or_default());
        Ok(Effect::None)
    }
}

/// The guest's end of a console that has no input.
struct Deaf;

impl CharFrontend for Deaf {
    fn room(&self) -> usize {
        0
    }
    fn receive(&self, _data: &[u8]) {}
    fn event(&self, _event: CharEvent) {}
}

impl Lifecycle for DebugConsole {
    fn name(&self) -> &str {
        "isa-debugcon"
    }

    /// Attaches to the character device.
    fn start(&self) -> Result<(), DeviceError> {
        if self.backend.attach(Some(Arc::new(Deaf))) {
            return Ok(());
        }
        Err(DeviceError::Invalid(format!("character device \"{}\" is in use", self.backend.label())))
    }

    fn reset(&self) {}
    fn saver(&self) -> Saver<'_> {
        Saver::Stateless
    }
}

impl LegacyChip for DebugConsole {
    fn ports(self: Arc<Self>) -> Vec<PortRange> {
        vec![PortRange { base: self.base, len: 1, device: self }]
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "version")]
enum Saved {
    #[serde(rename = "1")]
    V1(PostState),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PostState {
    system_control: u8,
}

/// Ports without a chip of their own: 0x80 takes POST codes, 0xed takes writes that only cost time, and 0x92 is
/// system control port A (fast reset and A20).
#[derive(Default)]
pub struct SystemPorts {
    /// Port 0x92. Address line 20 is always on: only its bit is remembered.
    control: Arc<SystemControl>,
}

#[derive(Default)]
struct SystemControl(Mutex<u8>);

/// Port 0x92 bit 0: reset when it goes from 0 to 1.
const FAST_RESET: u8 = 1 << 0;
/// Bits of port 0x92 that are remembered.
const REMEMBERED: u8 = 0b11;

impl SystemPorts {
    /// After power-on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl BusDevice for SystemControl {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        match (offset, data) {
            (0, [byte]) => *byte = *lock(&self.0),
            (_, data) => return Err(BusFault { offset, len: data.len() }),
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        let (0, [value]) = (offset, data) else { return Err(BusFault { offset, len: data.len() }) };
        let old = std::mem::replace(&mut *lock(&self.0), value & REMEMBERED);
        let rising = value & !old & FAST_RESET != 0;
        Ok(if rising { Effect::Power(PowerRequest::Reset) } else { Effect::None })
    }
}

/// A port that drops what is written and reads as ones.
struct Sink;

impl BusDevice for Sink {
    fn read(&self, _offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        data.fill(0xff);
        Ok(())
    }
    fn write(&self, _offset: u64, _data: &[u8]) -> Result<Effect, BusFault> {
        Ok(Effect::None)
    }
}

impl LegacyChip for SystemPorts {
    fn ports(self: Arc<Self>) -> Vec<PortRange> {
        let control = Arc::clone(&self.control) as Arc<dyn BusDevice>;
        let sink = |base| PortRange { base, len: 1, device: Arc::new(Sink) };
        vec![sink(0x80), PortRange { base: 0x92, len: 1, device: control }, sink(0xed)]
    }
}

impl Lifecycle for SystemPorts {
    fn name(&self) -> &str {
        "system-ports"
    }
    fn reset(&self) {
        *lock(&self.control.0) = 0;
    }
    fn saver(&self) -> Saver<'_> {
        Saver::Saves(self)
    }
}

impl SaveRestore for SystemPorts {
    fn save(&self) -> Result<Value, DeviceError> {
        encode(self.name(), &Saved::V1(PostState { system_control: *lock(&self.control.0) }))
    }
    fn restore(&self, state: Value) -> Result<(), DeviceError> {
        let Saved::V1(state) = decode(self.name(), state)?;
        *lock(&self.control.0) = state.system_control & REMEMBERED;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
