//! A PS/2 mouse as its host sees it (IBM PS/2 Hardware Interface Technical Reference, "Auxiliary devices"), with the
//! wheel and five-button extensions that drivers unlock by a sequence of sample rates. It never moves.

use std::collections::VecDeque;

use super::QUEUE;
use super::keyboard::{ACKNOWLEDGE, RESEND, SELF_TEST_PASSED};

const RESET: u8 = 0xff;
const RESET_WRAP: u8 = 0xec;

const STREAM_ENABLED: u8 = 1 << 5;
const REMOTE: u8 = 1 << 6;
const SCALING_2_TO_1: u8 = 1 << 4;

/// Registers and the bytes on their way to the controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mouse {
    pub(super) queue: VecDeque<u8>,
    /// The command that the next byte belongs to, 0 for none.
    pub(super) pending: u8,
    /// Enabled, remote and scaling bits, as a status request shows them.
    pub(super) flags: u8,
    pub(super) wrap: bool,
    pub(super) resolution: u8,
    pub(super) sample_rate: u8,
    /// The last three sample rates, oldest first: the key to the extensions.
    pub(super) knock: [u8; 3],
    /// 0 for three buttons, 3 with a wheel, 4 with five buttons.
    pub(super) identity: u8,
    pub(super) last_sent: u8,
}

impl Default for Mouse {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            pending: 0,
            flags: 0,
            wrap: false,
            resolution: 2,
            sample_rate: 100,
            knock: [0; 3],
            identity: 0,
            last_sent: 0,
        }
    }
}

impl Mouse {
    fn send(&mut self, bytes: &[u8]) {
        self.queue.extend(bytes.iter().take(QUEUE - self.queue.len().min(QUEUE)));
    }

    fn defaults(&mut self) {
        (self.flags, self.resolution, self.sample_rate) = (0, 2, 100);
    }

    fn set_rate(&mut self, rate: u8) {
        self.sample_rate = rate;
        let [_, b, c] = self.knock;
        self.knock = [b, c, rate];
        match (self.knock, self.identity) {
            ([200, 100, 80], 0) => self.identity = 3,
            ([200, 200, 80], 3) => self.identity = 4,
            _ => {}
        }
    }

    /// A byte from the host.
    pub(super) fn command(&mut self, value: u8) {
        if self.wrap && value != RESET && value != RESET_WRAP {
            return self.send(&[value]);
        }
        match std::mem::take(&mut self.pending) {
            0xe8 => {
                self.resolution = value & 3;
                self.send(&[ACKNOWLEDGE]);
            }
            0xf3 => {
                self.set_rate(value);
                self.send(&[ACKNOWLEDGE]);
            }
            _ => self.fresh_command(value),
        }
    }

    fn fresh_command(&mut self, value: u8) {
        if value != RESEND {
            self.queue.clear();
        }
        match value {
            0xe6 => self.flag(SCALING_2_TO_1, false),
            0xe7 => self.flag(SCALING_2_TO_1, true),
            0xe8 | 0xf3 => {
                self.pending = value;
                self.send(&[ACKNOWLEDGE]);
            }
            0xe9 => self.send(&[ACKNOWLEDGE, self.flags, self.resolution, self.sample_rate]),
            0xea => self.flag(REMOTE, false),
            // Data: no button, no movement; wheel mice add a byte.
            0xeb if self.identity == 0 => self.send(&[ACKNOWLEDGE, 0x08, 0, 0]),
            0xeb => self.send(&[ACKNOWLEDGE, 0x08, 0, 0, 0]),
            RESET_WRAP => self.set_wrap(false),
            0xee => self.set_wrap(true),
            0xf0 => self.flag(REMOTE, true),
            0xf2 => self.send(&[ACKNOWLEDGE, self.identity]),
            0xf4 => self.flag(STREAM_ENABLED, true),
            0xf5 => self.flag(STREAM_ENABLED, false),
            0xf6 => {
                self.defaults();
                self.send(&[ACKNOWLEDGE]);
            }
            RESEND => self.send(&[self.last_sent]),
            RESET => {
                *self = Self::default();
                self.send(&[ACKNOWLEDGE, SELF_TEST_PASSED, 0x00]);
            }
            _ => self.send(&[RESEND]),
        }
    }

    fn flag(&mut self, bit: u8, on: bool) {
        self.flags = if on { self.flags | bit } else { self.flags & !bit };
        self.send(&[ACKNOWLEDGE]);
    }

    fn set_wrap(&mut self, wrap: bool) {
        self.wrap = wrap;
        self.send(&[ACKNOWLEDGE]);
    }

    /// The next byte for the controller.
    pub(super) fn next(&mut self) -> Option<u8> {
        let byte = self.queue.pop_front()?;
        self.last_sent = byte;
        Some(byte)
    }
}
