//! The SMBus host controller (82371AB data sheet, 7.3.4), with no device on its bus: every transaction ends at once
//! with a device error, as one to an address that no one acknowledges does.

use serde::{Deserialize, Serialize};

/// Status: the transaction ended with a device error.
const DEVICE_ERROR: u8 = 1 << 2;
/// Status bits that clear where ones are written.
const CLEARABLE: u8 = 0x1e;
/// Control: start the transaction.
const START: u8 = 1 << 6;

/// Registers; also their saved form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SmBus {
    status: u8,
    control: u8,
    command: u8,
    address: u8,
    data: [u8; 2],
}

impl SmBus {
    pub(super) fn read(&self, at: u64) -> u8 {
        let [data0, data1] = self.data;
        match at {
            0 => self.status,
            2 => self.control,
            3 => self.command,
            4 => self.address,
            5 => data0,
            6 => data1,
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, at: u64, value: u8) {
        match at {
            0 => self.status &= !(value & CLEARABLE),
            2 => {
                // START is write-only (82371AB, 7.3.4.3).
                self.control = value & !START;
                if value & START != 0 {
                    self.status |= DEVICE_ERROR;
                }
            }
            3 => self.command = value,
            4 => self.address = value,
            5 => self.data = [value, self.data[1]],
            6 => self.data = [self.data[0], value],
            _ => {}
        }
    }
}
