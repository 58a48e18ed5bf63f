//! SMART, as far as a healthy drive needs it (ATA8-ACS, 7.53).

use serde::{Deserialize, Serialize};

use super::channel::Channel;
use super::regs::error;

/// What the LBA registers hold in a SMART command, and when all is well.
const KEY: (u8, u8) = (0x4f, 0xc2);

/// Subcommands, in the features register.
mod sub {
    pub(super) const READ_DATA: u8 = 0xd0;
    pub(super) const READ_THRESHOLDS: u8 = 0xd1;
    pub(super) const AUTOSAVE: u8 = 0xd2;
    pub(super) const OFFLINE: u8 = 0xd4;
    pub(super) const READ_LOG: u8 = 0xd5;
    pub(super) const ENABLE: u8 = 0xd8;
    pub(super) const DISABLE: u8 = 0xd9;
    pub(super) const STATUS: u8 = 0xda;
}

/// Attributes that never get worse: number, flags, and the threshold below which the drive fails.
const ATTRIBUTES: [(u8, u8, u8); 5] = [
    // Raw read error rate, reallocated sectors: pre-failure.
    (0x01, 0x03, 0x06),
    (0x05, 0x03, 0x24),
    // Power-on hours, power cycles, uncorrectable sectors.
    (0x09, 0x02, 0x00),
    (0x0c, 0x02, 0x00),
    (0xc6, 0x02, 0x00),
];
const BEST: u8 = 100;
const BLOCK: usize = 512;

/// Makes the bytes of a block add up to 0 (7.53.6.14).
fn summed(mut block: Vec<u8>) -> Vec<u8> {
    block.resize(BLOCK - 1, 0);
    let sum = block.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    block.push(sum.wrapping_neg());
    block
}

fn data() -> Vec<u8> {
    let mut block = vec![0x10, 0];
    for (id, flags, _) in ATTRIBUTES {
        block.extend([id, flags, 0, BEST, BEST, 0, 0, 0, 0, 0, 0, 0]);
    }
    block.resize(362, 0);
    // Offline collection never started; the last self-test passed; both can be run, each within two minutes.
    block.extend([0, 0, 0, 0, 0, 0x11, 0x03, 0, 0x01, 0, 2, 2]);
    summed(block)
}

fn thresholds() -> Vec<u8> {
    let mut block = vec![0x10, 0];
    for (id, _, threshold) in ATTRIBUTES {
        block.extend([id, threshold, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    summed(block)
}

/// Subcommands of EXECUTE OFF-LINE IMMEDIATE (7.53.5.2): collection of data, short and extended self-test, an end to
/// what runs, and both tests with the drive busy.
mod offline {
    pub(super) const COLLECT: u8 = 0x00;
    pub(super) const SHORT: u8 = 0x01;
    pub(super) const EXTENDED: u8 = 0x02;
    pub(super) const ABORT: u8 = 0x7f;
    pub(super) const SHORT_CAPTIVE: u8 = 0x81;
    pub(super) const EXTENDED_CAPTIVE: u8 = 0x82;

    pub(super) fn is_test(kind: u8) -> bool {
        matches!(kind, SHORT | EXTENDED | SHORT_CAPTIVE | EXTENDED_CAPTIVE)
    }
}

/// The self-tests that were run, which all passed: the log has room for the last 21 (ATA8-ACS, A.19).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SelfTests {
    /// Which, by their place in the log.
    kinds: Vec<u8>,
    /// The place of the last one, from 1; 0 for none.
    last: u8,
}

impl SelfTests {
    const MOST: u8 = 21;

    pub(super) fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    fn ran(&mut self, kind: u8) {
        let at = self.last % Self::MOST;
        match self.kinds.get_mut(usize::from(at)) {
            Some(place) => *place = kind,
            None => self.kinds.push(kind),
        }
        self.last = at + 1;
    }

    fn log(&self) -> Vec<u8> {
        let mut block = vec![1, 0];
        for &kind in &self.kinds {
            // Passed, with nothing left to do, in the drive's first hour.
            block.push(kind);
            block.extend([0; 23]);
        }
        block.resize(508, 0);
        block.push(self.last);
        summed(block)
    }

    /// Why a saved log cannot be.
    pub(super) fn check(&self) -> Result<(), String> {
        let full = usize::from(Self::MOST);
        let placed = self.kinds.len() == full || self.kinds.len() == usize::from(self.last);
        if self.kinds.len() > full
            || self.last > Self::MOST
            || !placed
            || !self.kinds.iter().copied().all(offline::is_test)
        {
            return Err("a log of self-tests that cannot be".to_owned());
        }
        Ok(())
    }
}

/// Logs (7.53.7): the directory, no errors, the self-tests.
fn log(number: u8, tests: &SelfTests) -> Option<Vec<u8>> {
    match number {
        0x00 => {
            let mut block = vec![0; BLOCK];
            for (at, value) in [(0, 1), (2, 1), (12, 1)] {
                *block.get_mut(at)? = value;
            }
            Some(block)
        }
        0x01 => Some(summed(vec![1])),
        0x06 => Some(tests.log()),
        _ => None,
    }
}

impl Channel {
    pub(super) fn smart(&mut self, _code: u8) -> Result<(), u8> {
        let regs = *self.regs();
        let subcommand = regs.features.now;
        let enabled = self.disk()?.smart;
        if (regs.mid.now, regs.high.now) != KEY || (!enabled && subcommand != sub::ENABLE) {
            return Err(error::ABRT);
        }
        match subcommand {
            sub::READ_DATA => self.reply(&data()),
            sub::READ_THRESHOLDS => self.reply(&thresholds()),
            sub::READ_LOG if regs.count.now == 1 => {
                let block = log(regs.low.now, &self.disk()?.self_tests).ok_or(error::ABRT)?;
                self.reply(&block);
            }
            // Self-tests are over at once, and so there is never one to abort; attributes are never lost.
            sub::OFFLINE if offline::is_test(regs.low.now) => {
                self.disk()?.self_tests.ran(regs.low.now);
                self.succeed();
            }
            sub::OFFLINE if matches!(regs.low.now, offline::COLLECT | offline::ABORT) => self.succeed(),
            sub::AUTOSAVE if matches!(regs.count.now, 0 | 0xf1) => self.succeed(),
            // The key stays in the registers: no threshold was met.
            sub::STATUS => self.succeed(),
            sub::ENABLE | sub::DISABLE => {
                self.disk()?.smart = subcommand == sub::ENABLE;
                self.succeed();
            }
            _ => return Err(error::ABRT),
        }
        Ok(())
    }
}
