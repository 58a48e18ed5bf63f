//! Saved state of a serial port.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vm_superio::serial::SerialState;

use crate::lifecycle::{DeviceError, Lifecycle, SaveRestore, decode, encode, unfit};

use super::Serial;
use super::port::{FIFO, Regs, core_from};

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "version")]
enum Saved {
    #[serde(rename = "1")]
    V1(PortState),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PortState {
    divisor: u16,
    enables: u8,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    line_errors: u8,
    transmit_pending: bool,
    received: Vec<u8>,
    unsent: Vec<u8>,
}

impl PortState {
    fn of(regs: &Regs) -> Self {
        let core = regs.core.state();
        Self {
            divisor: u16::from_le_bytes([core.baud_divisor_low, core.baud_divisor_high]),
            enables: regs.enables,
            fifo_control: regs.fifo_control,
            line_control: core.line_control,
            modem_control: core.modem_control,
            scratch: core.scratch,
            line_errors: regs.line_errors,
            transmit_pending: regs.transmit_pending,
            received: core.in_buffer,
            unsent: regs.unsent.iter().copied().collect(),
        }
    }

    fn regs(self) -> Option<Regs> {
        if self.received.len() > FIFO || self.unsent.len() > FIFO {
            return None;
        }
        let [baud_divisor_low, baud_divisor_high] = self.divisor.to_le_bytes();
        let fresh = SerialState::default();
        let core = SerialState {
            baud_divisor_low,
            baud_divisor_high,
            line_control: self.line_control,
            line_status: fresh.line_status | u8::from(!self.received.is_empty()),
            modem_control: self.modem_control & 0x1f,
            scratch: self.scratch,
            in_buffer: self.received,
            ..fresh
        };
        Some(Regs {
            core: core_from(&core)?,
            enables: self.enables & 0xf,
            fifo_control: self.fifo_control & 0xc1,
            transmit_pending: self.transmit_pending,
            line_errors: self.line_errors & 0x1e,
            unsent: self.unsent.into(),
        })
    }
}

impl SaveRestore for Serial {
    fn save(&self) -> Result<Value, DeviceError> {
        encode(self.name(), &Saved::V1(self.port.with(|regs| PortState::of(regs))))
    }

    fn restore(&self, state: Value) -> Result<(), DeviceError> {
        let Saved::V1(state) = decode(self.name(), state)?;
        let regs = state.regs().ok_or_else(|| unfit(self.name(), format!("a queue of more than {FIFO} bytes")))?;
        self.port.replace(regs);
        Ok(())
    }
}
