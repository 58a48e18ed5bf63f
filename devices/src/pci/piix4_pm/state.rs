//! Saved state of the power management function. The PM timer itself is the machine's clock, which the machine saves.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::lifecycle::{DeviceError, Lifecycle, SaveRestore, decode, encode, unfit};
use crate::pci::config::ConfigState;

use super::regs::sleep;
use super::smbus::SmBus;
use super::{Piix4Pm, Regs};

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "version")]
enum Saved {
    #[serde(rename = "1")]
    V1(PmState),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PmState {
    config: ConfigState,
    pm1_status: u16,
    pm1_enable: u16,
    pm1_control: u16,
    overflow_at: u64,
    gpe_status: u16,
    gpe_enable: u16,
    apm_control: u8,
    apm_status: u8,
    smbus: SmBus,
}

impl SaveRestore for Piix4Pm {
    fn save(&self) -> Result<Value, DeviceError> {
        let regs = self.chip.lock();
        let state = PmState {
            config: regs.config.save(),
            pm1_status: regs.pm1_status,
            pm1_enable: regs.pm1_enable,
            pm1_control: regs.pm1_control,
            overflow_at: regs.overflow_at,
            gpe_status: regs.gpe_status,
            gpe_enable: regs.gpe_enable,
            apm_control: regs.apm_control,
            apm_status: regs.apm_status,
            smbus: regs.smbus.clone(),
        };
        encode(self.name(), &Saved::V1(state))
    }

    fn restore(&self, state: Value) -> Result<(), DeviceError> {
        let Saved::V1(state) = decode(self.name(), state)?;
        let mut regs = self.chip.lock();
        let mut config = regs.config.clone();
        config.restore(&state.config).map_err(|why| unfit(self.name(), why))?;
        *regs = Regs {
            config,
            pm1_status: state.pm1_status,
            pm1_enable: state.pm1_enable,
            pm1_control: state.pm1_control & !sleep::ENABLE,
            overflow_at: state.overflow_at,
            gpe_status: state.gpe_status,
            gpe_enable: state.gpe_enable,
            apm_control: state.apm_control,
            apm_status: state.apm_status,
            smbus: state.smbus,
        };
        self.chip.update(&mut regs);
        Ok(())
    }
}
