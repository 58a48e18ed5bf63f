//! The PIIX3 PCI-to-ISA bridge (82371SB data sheet): function 0 of slot 1. Its registers route INTx and reset the
//! machine; what else it holds is remembered for firmware, at the data sheet's defaults.
//!
//! The edge/level control registers (0x4d0, 0x4d1) belong to the interrupt controller and are not here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bus::{BusDevice, BusFault, Effect, PowerRequest};
use crate::lifecycle::{DeviceError, Lifecycle, SaveRestore, Saver, decode, encode, unfit};

use super::config::{ConfigSpace, ConfigState, Identity, SUBSYSTEM, SUBSYSTEM_VENDOR, command, status};
use super::intx::{PIRQS, PirqRouter, ROUTE_OFF};
use super::{PciFunction, Region};

/// PIRQRCA: the first of four route registers (82371SB, 2.2.9).
const PIRQ_ROUTE: u8 = 0x60;

/// Reset control bit 1: the reset is a hard one.
const HARD_RESET: u8 = 1 << 1;
/// Reset control bit 2: reset now.
const RESET_CPU: u8 = 1 << 2;

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
    reset_control: u8,
}

/// The reset control register at port 0xcf9 (82371SB, 2.5.4.2).
struct ResetControl(Mutex<u8>);

impl ResetControl {
    fn lock(&self) -> MutexGuard<'_, u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BusDevice for ResetControl {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        match (offset, data) {
            (0, [byte]) => *byte = *self.lock(),
            (_, data) => return Err(BusFault { offset, len: data.len() }),
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        let (0, [value]) = (offset, data) else { return Err(BusFault { offset, len: data.len() }) };
        *self.lock() = value & HARD_RESET;
        let effect = if value & RESET_CPU != 0 { Effect::Power(PowerRequest::Reset) } else { Effect::None };
        Ok(effect)
    }
}

/// The ISA bridge.
pub struct Piix3 {
    router: Arc<PirqRouter>,
    reset_control: Arc<ResetControl>,
    config: Mutex<ConfigSpace>,
}

impl Piix3 {
    /// The bridge that programs `router`.
    #[must_use]
    pub fn new(router: Arc<PirqRouter>) -> Self {
        let identity = Identity {
            vendor: 0x8086,
            device: 0x7000,
            revision: 0,
            class: 0x06_01_00,
            subsystem_vendor: SUBSYSTEM_VENDOR,
            subsystem: SUBSYSTEM,
        };
        let config = ConfigSpace::type0(&identity)
            .with_multifunction(true)
            .with_command(command::IO | command::MEMORY | command::MASTER, 0)
            .with_status(status::DEVSEL_MEDIUM)
            // ISA recovery timers, X-bus chip select.
            .with_field(0x4c, &[0x4d, 0, 0x03, 0], &[0xff, 0, 0xff, 0xff])
            .with_field(PIRQ_ROUTE, &[ROUTE_OFF; PIRQS], &[0x8f; PIRQS])
            // Top of memory, motherboard device routes, DMA controls, chip select, APIC base, SMI control.
            .with_field(0x69, &[0x02], &[0xfe])
            .with_field(0x70, &[0x80], &[0xef])
            .with_field(0x76, &[0x0c, 0x0c, 0x02], &[0x8f, 0x8f, 0xff])
            .with_field(0x80, &[0], &[0x7f])
            .with_field(0x82, &[0], &[0x0f])
            .with_field(0xa0, &[0x08], &[0x1f]);
        let reset_control = Arc::new(ResetControl(Mutex::new(0)));
        Self { router, reset_control, config: Mutex::new(config) }
    }

    /// What answers at port 0xcf9.
    #[must_use]
    pub fn reset_control(&self) -> Arc<dyn BusDevice> {
        Arc::clone(&self.reset_control) as Arc<dyn BusDevice>
    }

    /// Carries the route registers to the router.
    fn route(&self, config: &ConfigSpace) {
        for (pirq, register) in (PIRQ_ROUTE..).take(PIRQS).enumerate() {
            self.router.set_route(pirq, config.get8(register));
        }
    }

    fn lock(&self) -> MutexGuard<'_, ConfigSpace> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Locks: configuration space, then the router's.
impl PciFunction for Piix3 {
    fn config_read(&self, offset: u8, data: &mut [u8]) {
        self.lock().read(offset, data);
    }

    fn config_write(&self, offset: u8, data: &[u8]) -> Effect {
        let mut config = self.lock();
        let _ = config.write(offset, data);
        self.route(&config);
        Effect::None
    }

    fn regions(&self) -> Vec<Region> {
        Vec::new()
    }
}

impl Lifecycle for Piix3 {
    fn name(&self) -> &str {
        "PIIX3"
    }
    fn reset(&self) {
        let mut config = self.lock();
        let _ = config.reset();
        self.route(&config);
        *self.reset_control.lock() = 0;
    }
    fn saver(&self) -> Saver<'_> {
        Saver::Saves(self)
    }
}

impl SaveRestore for Piix3 {
    fn save(&self) -> Result<Value, DeviceError> {
        let config = self.lock().save();
        encode(self.name(), &Saved::V1(BridgeState { config, reset_control: *self.reset_control.lock() }))
    }
    fn restore(&self, state: Value) -> Result<(), DeviceError> {
        let Saved::V1(state) = decode(self.name(), state)?;
        let mut config = self.lock();
        config.restore(&state.config).map_err(|why| unfit(self.name(), why))?;
        self.route(&config);
        *self.reset_control.lock() = state.reset_control & HARD_RESET;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
