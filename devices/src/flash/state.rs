//! Saved state of a chip: its registers. What it holds is in its image, which a restored machine shares.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Flash;
use super::chip::{Mode, Regs};
use crate::lifecycle::{DeviceError, Lifecycle, SaveRestore, decode, encode, unfit};

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "version")]
enum Saved {
    #[serde(rename = "1")]
    V1(FlashState),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlashState {
    mode: SavedMode,
    status: u8,
    buffer_start: u64,
    buffer: Vec<u8>,
    locked: BTreeSet<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SavedMode {
    Array,
    Status,
    Identity,
    Query,
    Program,
    Erase,
    Lock,
    Count,
    Fill(usize),
    Confirm,
}

impl From<&Mode> for SavedMode {
    fn from(mode: &Mode) -> Self {
        match *mode {
            Mode::Array => Self::Array,
            Mode::Status => Self::Status,
            Mode::Identity => Self::Identity,
            Mode::Query => Self::Query,
            Mode::Program => Self::Program,
            Mode::Erase => Self::Erase,
            Mode::Lock => Self::Lock,
            Mode::Count => Self::Count,
            Mode::Fill(left) => Self::Fill(left),
            Mode::Confirm => Self::Confirm,
        }
    }
}

impl From<SavedMode> for Mode {
    fn from(mode: SavedMode) -> Self {
        match mode {
            SavedMode::Array => Self::Array,
            SavedMode::Status => Self::Status,
            SavedMode::Identity => Self::Identity,
            SavedMode::Query => Self::Query,
            SavedMode::Program => Self::Program,
            SavedMode::Erase => Self::Erase,
            SavedMode::Lock => Self::Lock,
            SavedMode::Count => Self::Count,
            SavedMode::Fill(left) => Self::Fill(left),
            SavedMode::Confirm => Self::Confirm,
        }
    }
}

impl SaveRestore for Flash {
    fn save(&self) -> Result<Value, DeviceError> {
        let Regs { mode, status, buffer: (buffer_start, buffer), locked } = self.lock().chip.regs.clone();
        let state = FlashState { mode: SavedMode::from(&mode), status, buffer_start, buffer, locked };
        encode(self.name(), &Saved::V1(state))
    }

    fn restore(&self, state: Value) -> Result<(), DeviceError> {
        let Saved::V1(state) = decode(self.name(), state)?;
        let FlashState { mode, status, buffer_start, buffer, locked } = state;
        let regs = Regs { mode: mode.into(), status, buffer: (buffer_start, buffer), locked };
        let mut inner = self.lock();
        if !inner.chip.fits(&regs) {
            return Err(unfit(self.name(), "a block or the write buffer lies outside of the chip"));
        }
        inner.chip.regs = regs;
        Ok(())
    }
}
