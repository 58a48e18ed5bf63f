//! Saved state of the firmware configuration device: where the guest is in reading. The items come from the
//! configuration, which a restored machine shares.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{FwCfg, Regs};
use crate::lifecycle::{DeviceError, Lifecycle, SaveRestore, decode, encode};

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "version")]
enum Saved {
    #[serde(rename = "1")]
    V1(FwCfgState),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FwCfgState {
    selected: u16,
    offset: u32,
    dma_high: u32,
}

impl SaveRestore for FwCfg {
    fn save(&self) -> Result<Value, DeviceError> {
        let Regs { selected, offset, dma_high } = self.lock().regs.clone();
        encode(self.name(), &Saved::V1(FwCfgState { selected, offset, dma_high }))
    }

    fn restore(&self, state: Value) -> Result<(), DeviceError> {
        let Saved::V1(FwCfgState { selected, offset, dma_high }) = decode(self.name(), state)?;
        self.lock().regs = Regs { selected, offset, dma_high };
        Ok(())
    }
}
