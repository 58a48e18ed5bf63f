//! Configuration mechanism #1 (PCI 3.0, 3.2.2.3.2) and the table of functions behind it.
//!
//! Ports 0xcf8 to 0xcff, relative here: a dword access at 0 is the address register; any access at 4 to 7 reaches the
//! function it names. Port 0xcf9 taken alone belongs to the ISA bridge: its reset control register.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::bus::{BusDevice, BusFault, Effect};
use crate::lifecycle::{DeviceError, Lifecycle, SaveRestore, Saver, decode, encode};

use super::config::reg;
use super::{Bdf, PciFunction};

/// First port of the mechanism.
pub const CONFIG_PORTS: u64 = 0xcf8;
/// Number of ports.
pub const CONFIG_PORT_COUNT: u64 = 8;

/// Address register bit 31: data accesses are configuration cycles.
const ENABLE: u32 = 1 << 31;
/// Bits 30 to 24 read as zero. So should bits 1 and 0 by the specification, but other monitors keep them and add them to
/// the byte lane, and there is software that selects a register by them.
const ADDRESS_MASK: u32 = 0x80ff_ffff;
/// Where the reset control register lies.
const RESET_CONTROL: u64 = 1;
/// Header type bit 7.
const MULTIFUNCTION: u8 = 0x80;

/// A function cannot go where it should.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PciError {
    /// Someone is there.
    #[error("PCI slot {slot:#x} function {function} is taken by {by}", slot = .bdf.device(), function = .bdf.function())]
    Taken {
        /// The address.
        bdf: Bdf,
        /// Name of the function there.
        by: String,
    },
    /// Function 0 of the slot does not say that there are more functions.
    #[error("PCI slot {0:#x}: function 0 is not multifunction, so there can be no others", .bdf.device())]
    SingleFunction {
        /// The address.
        bdf: Bdf,
    },
    /// There is only bus 0.
    #[error("there is no PCI bus {0}")]
    NoBus(u8),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "version")]
enum Saved {
    #[serde(rename = "1")]
    V1(HostState),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostState {
    address: u32,
}

/// The configuration ports and the functions of bus 0.
pub struct PciHost {
    reset_control: Arc<dyn BusDevice>,

    functions: RwLock<BTreeMap<Bdf, Arc<dyn PciFunction>>>,
    address: AtomicU32,
}

impl PciHost {
    /// An empty bus. `reset_control` answers byte accesses to port 0xcf9 at its offset 0.
    #[must_use]
    pub fn new(reset_control: Arc<dyn BusDevice>) -> Self {
        Self { reset_control, functions: RwLock::default(), address: AtomicU32::new(0) }
    }

    /// Puts `function` at `bdf`.
    ///
    /// # Errors
    /// [`PciError`]; the table is then as it was.
    pub fn insert(&self, bdf: Bdf, function: Arc<dyn PciFunction>) -> Result<(), PciError> {
        if bdf.bus() != 0 {
            return Err(PciError::NoBus(bdf.bus()));
        }
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = functions.get(&bdf) {
            return Err(PciError::Taken { bdf, by: there.name().to_owned() });
        }
        // PCI 3.0, 6.2.1: software looks for functions 1 to 7 only where function 0 says that there are some.
        let zero = Bdf::new(0, bdf.device(), 0);
        let hidden = if bdf == zero {
            !is_multifunction(&*function) && functions.keys().any(|other| other.device() == bdf.device())
        } else {
            functions.get(&zero).is_some_and(|zero| !is_multifunction(&**zero))
        };
        if hidden {
            return Err(PciError::SingleFunction { bdf });
        }
        functions.insert(bdf, function);
        Ok(())
    }

    /// Takes the function at `bdf` away.
    pub fn remove(&self, bdf: Bdf) -> Option<Arc<dyn PciFunction>> {
        self.functions.write().unwrap_or_else(PoisonError::into_inner).remove(&bdf)
    }

    /// The function at `bdf`.
    #[must_use]
    pub fn get(&self, bdf: Bdf) -> Option<Arc<dyn PciFunction>> {
        self.functions.read().unwrap_or_else(PoisonError::into_inner).get(&bdf).cloned()
    }

    /// All functions, in order of address.
    #[must_use]
    pub fn functions(&self) -> Vec<(Bdf, Arc<dyn PciFunction>)> {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        functions.iter().map(|(bdf, function)| (*bdf, Arc::clone(function))).collect()
    }

    /// The lowest device number from `first` on that has no function at all.
    #[must_use]
    pub fn free_slot(&self, first: u8) -> Option<u8> {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        (first..32).find(|slot| functions.keys().all(|bdf| bdf.device() != *slot))
    }

    /// The function and register that a data access at port 0xcfc + `lane` reaches.
    fn target(&self, lane: u8) -> Option<(Arc<dyn PciFunction>, u8)> {
        let address = self.address.load(Ordering::Acquire);
        let [register, devfn, bus, _] = address.to_le_bytes();
        let function = self.get(Bdf::new(bus, devfn >> 3, devfn & 7))?;
        (address & ENABLE != 0).then_some((function, register | lane))
    }
}

fn is_multifunction(function: &dyn PciFunction) -> bool {
    let mut header = [0];
    function.config_read(reg::HEADER_TYPE, &mut header);
    header[0] & MULTIFUNCTION != 0
}

/// The byte lane within the data register, for an access that does not leave it.
fn data_lane(offset: u64, len: usize) -> Option<u8> {
    let lane = u8::try_from(offset.checked_sub(4)?).ok()?;
    (matches!(len, 1 | 2 | 4) && usize::from(lane) + len <= 4).then_some(lane)
}

impl BusDevice for PciHost {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        let len = data.len();
        match (offset, len) {
            (0, 4) => data.copy_from_slice(&self.address.load(Ordering::Acquire).to_le_bytes()),
            (RESET_CONTROL, 1) => return self.reset_control.read(0, data),
            _ => {
                let lane = data_lane(offset, len).ok_or(BusFault { offset, len })?;
                match self.target(lane) {
                    Some((function, register)) => function.config_read(register, data),
                    // A master abort reads as ones (PCI 3.0, 3.2.2.3.4).
                    None => data.fill(0xff),
                }
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        let fault = BusFault { offset, len: data.len() };
        match (offset, data) {
            (0, [a, b, c, d]) => {
                let address = u32::from_le_bytes([*a, *b, *c, *d]) & ADDRESS_MASK;
                self.address.store(address, Ordering::Release);
                Ok(Effect::None)
            }
            (RESET_CONTROL, [_]) => self.reset_control.write(0, data),
            _ => {
                let lane = data_lane(offset, data.len()).ok_or(fault)?;
                Ok(self.target(lane).map_or(Effect::None, |(function, register)| function.config_write(register, data)))
            }
        }
    }
}

impl Lifecycle for PciHost {
    fn name(&self) -> &str {
        "pcihost"
    }
    fn reset(&self) {
        self.address.store(0, Ordering::Release);
    }
    fn saver(&self) -> Saver<'_> {
        Saver::Saves(self)
    }
}

impl SaveRestore for PciHost {
    fn save(&self) -> Result<Value, DeviceError> {
        encode(self.name(), &Saved::V1(HostState { address: self.address.load(Ordering::Acquire) }))
    }
    fn restore(&self, state: Value) -> Result<(), DeviceError> {
        let Saved::V1(state) = decode(self.name(), state)?;
        self.address.store(state.address & ADDRESS_MASK, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
