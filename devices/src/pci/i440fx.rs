//! The i440FX host bridge as a PCI function (82441FX data sheet): at 00:00.0, it holds the registers that say which
//! parts of 0xc0000 to 0xfffff are RAM (PAM) and where system management memory is (SMRAM).
//!
//! It changes no memory map: a write that moves something is answered with [`Effect::Remap`] of this function, and
//! the board asks [`I440fx::pam`].

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bus::Effect;
use crate::lifecycle::{DeviceError, Lifecycle, SaveRestore, Saver, decode, encode, unfit};

use super::config::{ConfigSpace, ConfigState, Identity, SUBSYSTEM, SUBSYSTEM_VENDOR, command, status};
use super::{Bdf, PciFunction, Region};

/// PAM0 to PAM6.
const PAM: u8 = 0x59;
const PAM_REGISTERS: u8 = 7;
/// System management RAM control.
const SMRAM: u8 = 0x72;
/// SMRAM bit 4: once set, bits 6 (open) and 4 can no longer be written until reset.
const SMRAM_LOCK: u8 = 1 << 4;

/// Where reads and writes of one part of 0xc0000 to 0xfffff go (82441FX, 3.2.16, table 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PamSegment {
    /// First guest-physical address.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
    /// Reads see RAM; else what is on the PCI bus (the ROM).
    pub read_ram: bool,
    /// Writes reach RAM; else the PCI bus, where a ROM drops them.
    pub write_ram: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "version")]
enum Saved {
    #[serde(rename = "1")]
    V1(BridgeState),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BridgeState {
    config: ConfigState,
}

/// The host bridge.
pub struct I440fx {
    bdf: Bdf,
    config: Mutex<ConfigSpace>,
}

impl I440fx {
    /// The bridge at 00:00.0, all of 0xc0000 to 0xfffff leading to the PCI bus.
    #[must_use]
    pub fn new() -> Self {
        let identity = Identity {
            vendor: 0x8086,
            device: 0x1237,
            revision: 2,
            class: 0x06_00_00,
            subsystem_vendor: SUBSYSTEM_VENDOR,
            subsystem: SUBSYSTEM,
        };
        let config = ConfigSpace::type0(&identity)
            .with_command(command::MEMORY | command::MASTER, command::SERR)
            .with_status(status::FAST_BACK | status::DEVSEL_MEDIUM)
            // PAM0 has its upper nibble only.
            .with_field(PAM, &[0; PAM_REGISTERS as usize], &[0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33])
            .with_field(SMRAM, &[0x02], &[0x78]);
        Self { bdf: Bdf::new(0, 0, 0), config: Mutex::new(config) }
    }

    /// Where accesses to 0xc0000 to 0xfffff go now, in order of address.
    #[must_use]
    pub fn pam(&self) -> [PamSegment; 13] {
        let config = self.lock();
        std::array::from_fn(|i| {
            // 0xc0000 to 0xeffff in twelve parts, two a register from PAM1 on; then 0xf0000 by PAM0.
            let (register, shift, base, len) = match u8::try_from(i) {
                Ok(i @ 0..=11) => (PAM + 1 + i / 2, (i % 2) * 4, 0xc_0000 + u64::from(i) * 0x4000, 0x4000),
                _ => (PAM, 4, 0xf_0000, 0x1_0000),
            };
            let bits = config.get8(register) >> shift;
            PamSegment { base, len, read_ram: bits & 1 != 0, write_ram: bits & 2 != 0 }
        })
    }

    /// The SMRAM register (82441FX, 3.2.19).
    #[must_use]
    pub fn smram(&self) -> u8 {
        self.lock().get8(SMRAM)
    }

    fn lock(&self) -> MutexGuard<'_, ConfigSpace> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for I440fx {
    fn default() -> Self {
        Self::new()
    }
}

impl PciFunction for I440fx {
    fn config_read(&self, offset: u8, data: &mut [u8]) {
        self.lock().read(offset, data);
    }

    fn config_write(&self, offset: u8, data: &[u8]) -> Effect {
        let mut config = self.lock();
        let routing = |c: &ConfigSpace| [c.get32(PAM & !3), c.get32(0x5c), u32::from(c.get8(SMRAM))];
        let (before, smram) = (routing(&config), config.get8(SMRAM));
        let _ = config.write(offset, data);
        if smram & SMRAM_LOCK != 0 {
            // Bit 6, D_OPEN, is forced to 0 by the lock; bit 5, D_CLS, and 3, G_SMRAME, keep their rules.
            let new = config.get8(SMRAM);
            config.set(SMRAM, &[(new & 0x20) | (smram & !0x60)]);
        }
        if routing(&config) == before { Effect::None } else { Effect::Remap(self.bdf) }
    }

    fn regions(&self) -> Vec<Region> {
        Vec::new()
    }
}

impl Lifecycle for I440fx {
    fn name(&self) -> &str {
        "i440FX"
    }
    fn reset(&self) {
        let _ = self.lock().reset();
    }
    fn saver(&self) -> Saver<'_> {
        Saver::Saves(self)
    }
}

impl SaveRestore for I440fx {
    fn save(&self) -> Result<Value, DeviceError> {
        encode(self.name(), &Saved::V1(BridgeState { config: self.lock().save() }))
    }
    fn restore(&self, state: Value) -> Result<(), DeviceError> {
        let Saved::V1(state) = decode(self.name(), state)?;
        self.lock().restore(&state.config).map_err(|why| unfit(self.name(), why))
    }
}

#[cfg(test)]
mod tests;
