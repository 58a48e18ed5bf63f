//! Saved state of the keyboard controller.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::lifecycle::{DeviceError, Lifecycle, SaveRestore, decode, encode, unfit};

use super::keyboard::Keyboard;
use super::mouse::Mouse;
use super::{I8042, QUEUE, Regs, Source, port};

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "version")]
enum Saved {
    #[serde(rename = "1")]
    V1(ChipState),
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SourceState {
    Keyboard,
    Aux,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChipState {
    mode: u8,
    output_port: u8,
    command: u8,
    last_was_command: bool,
    output: u8,
    full: Option<SourceState>,
    answers: Vec<(u8, SourceState)>,
    keyboard: KeyboardState,
    mouse: MouseState,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyboardState {
    queue: Vec<u8>,
    pending: u8,
    scan_set: u8,
    leds: u8,
    enabled: bool,
    last_sent: u8,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MouseState {
    queue: Vec<u8>,
    pending: u8,
    flags: u8,
    wrap: bool,
    resolution: u8,
    sample_rate: u8,
    knock: [u8; 3],
    identity: u8,
    last_sent: u8,
}

impl From<Source> for SourceState {
    fn from(source: Source) -> Self {
        match source {
            Source::Keyboard => Self::Keyboard,
            Source::Aux => Self::Aux,
        }
    }
}

impl From<SourceState> for Source {
    fn from(source: SourceState) -> Self {
        match source {
            SourceState::Keyboard => Self::Keyboard,
            SourceState::Aux => Self::Aux,
        }
    }
}

/// A queue within its bound.
fn bounded<T>(queue: Vec<T>) -> Option<VecDeque<T>> {
    (queue.len() <= QUEUE).then(|| queue.into())
}

impl ChipState {
    pub(super) fn of(regs: &Regs) -> Self {
        let (k, m) = (&regs.keyboard, &regs.mouse);
        Self {
            mode: regs.mode,
            output_port: regs.output_port,
            command: regs.command,
            last_was_command: regs.last_was_command,
            output: regs.output,
            full: regs.full.map(Into::into),
            answers: regs.answers.iter().map(|(byte, source)| (*byte, (*source).into())).collect(),
            keyboard: KeyboardState {
                queue: k.queue.iter().copied().collect(),
                pending: k.pending,
                scan_set: k.scan_set,
                leds: k.leds,
                enabled: k.enabled,
                last_sent: k.last_sent,
            },
            mouse: MouseState {
                queue: m.queue.iter().copied().collect(),
                pending: m.pending,
                flags: m.flags,
                wrap: m.wrap,
                resolution: m.resolution,
                sample_rate: m.sample_rate,
                knock: m.knock,
                identity: m.identity,
                last_sent: m.last_sent,
            },
        }
    }

    fn regs(self) -> Option<Regs> {
        let (k, m) = (self.keyboard, self.mouse);
        let answers = bounded(self.answers)?;
        Some(Regs {
            mode: self.mode,
            output_port: (self.output_port & port::A20) | port::NOT_RESET,
            command: self.command,
            last_was_command: self.last_was_command,
            output: self.output,
            full: self.full.map(Into::into),
            answers: answers.into_iter().map(|(byte, source)| (byte, source.into())).collect(),
            keyboard: Keyboard {
                queue: bounded(k.queue)?,
                pending: k.pending,
                scan_set: k.scan_set,
                leds: k.leds,
                enabled: k.enabled,
                last_sent: k.last_sent,
            },
            mouse: Mouse {
                queue: bounded(m.queue)?,
                pending: m.pending,
                flags: m.flags,
                wrap: m.wrap,
                resolution: m.resolution,
                sample_rate: m.sample_rate,
                knock: m.knock,
                identity: m.identity,
                last_sent: m.last_sent,
            },
        })
    }
}

impl SaveRestore for I8042 {
    fn save(&self) -> Result<Value, DeviceError> {
        encode(self.name(), &Saved::V1(self.snapshot()))
    }

    fn restore(&self, state: Value) -> Result<(), DeviceError> {
        let Saved::V1(state) = decode(self.name(), state)?;
        let regs = state.regs().ok_or_else(|| unfit(self.name(), format!("a queue of more than {QUEUE} bytes")))?;
        self.adopt(regs);
        Ok(())
    }
}
