//! A PS/2 keyboard as its host sees it (IBM PS/2 Hardware Interface Technical Reference, "Keyboards"): it answers
//! commands; it has no keys.

use std::collections::VecDeque;

use super::QUEUE;

pub(super) const ACKNOWLEDGE: u8 = 0xfa;
pub(super) const RESEND: u8 = 0xfe;
pub(super) const SELF_TEST_PASSED: u8 = 0xaa;
const ECHO: u8 = 0xee;

/// Registers and the bytes on their way to the controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keyboard {
    pub(super) queue: VecDeque<u8>,
    /// The command that the next byte belongs to, 0 for none.
    pub(super) pending: u8,
    pub(super) scan_set: u8,
    pub(super) leds: u8,
    pub(super) enabled: bool,
    /// What a resend repeats.
    pub(super) last_sent: u8,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self { queue: VecDeque::new(), pending: 0, scan_set: 2, leds: 0, enabled: true, last_sent: 0 }
    }
}

impl Keyboard {
    fn send(&mut self, bytes: &[u8]) {
        self.queue.extend(bytes.iter().take(QUEUE - self.queue.len().min(QUEUE)));
    }

    fn defaults(&mut self) {
        (self.scan_set, self.leds) = (2, 0);
    }

    /// A byte from the host. A command drops what is still waiting, as the keyboard does.
    pub(super) fn command(&mut self, value: u8) {
        let pending = std::mem::take(&mut self.pending);
        match (pending, value) {
            (0xed, 0..=7) => {
                self.leds = value;
                self.send(&[ACKNOWLEDGE]);
            }
            (0xf0, 0) => self.send(&[ACKNOWLEDGE, self.scan_set]),
            (0xf0, 1..=3) => {
                self.scan_set = value;
                self.send(&[ACKNOWLEDGE]);
            }
            // Repeat rate, and keys of set 3 by code: there are no keys that it could matter to.
            (0xf3, 0..=0x7f) | (0xfb..=0xfd, 0..=0xec) => self.send(&[ACKNOWLEDGE]),
            _ => self.fresh_command(value),
        }
    }

    fn fresh_command(&mut self, value: u8) {
        if value != RESEND {
            self.queue.clear();
        }
        match value {
            0xed | 0xf0 | 0xf3 | 0xfb..=0xfd => {
                self.pending = value;
                self.send(&[ACKNOWLEDGE]);
            }
            ECHO => self.send(&[ECHO]),
            0xf2 => self.send(&[ACKNOWLEDGE, 0xab, 0x83]),
            0xf4 => {
                self.enabled = true;
                self.send(&[ACKNOWLEDGE]);
            }
            0xf5 => {
                self.defaults();
                self.enabled = false;
                self.send(&[ACKNOWLEDGE]);
            }
            0xf6 => {
                self.defaults();
                self.send(&[ACKNOWLEDGE]);
            }
            0xf7..=0xfa => self.send(&[ACKNOWLEDGE]),
            RESEND => self.send(&[self.last_sent]),
            0xff => {
                *self = Self::default();
                self.send(&[ACKNOWLEDGE, SELF_TEST_PASSED]);
            }
            _ => self.send(&[RESEND]),
        }
    }

    /// The next byte for the controller, which translates set 2 into set 1 if told to.
    pub(super) fn next(&mut self, translate: bool) -> Option<u8> {
        let byte = self.queue.pop_front()?;
        self.last_sent = byte;
        Some(if translate { translated(byte) } else { byte })
    }
}

/// What the controller's translation makes of the bytes that this keyboard sends. Answers pass; what looks like a
/// scan code, such as the second byte of the identity and the numbers of the scan code sets, is translated like one.
const fn translated(byte: u8) -> u8 {
    match byte {
        0x83 => 0x41,
        0x01 => 0x43,
        0x02 => 0x41,
        0x03 => 0x3f,
        other => other,
    }
}
