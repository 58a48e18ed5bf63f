//! SMART, as far as a healthy drive needs it (ATA8-ACS, 7.53).

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

/// Logs (7.53.7): the directory, no errors, no self-tests.
fn log(number: u8) -> Option<Vec<u8>> {
    match number {
        0x00 => {
            let mut block = vec![0; BLOCK];
            for (at, value) in [(0, 1), (2, 1), (12, 1)] {
                *block.get_mut(at)? = value;
            }
            Some(block)
        }
        0x01 | 0x06 => Some(summed(vec![1])),
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
            sub::READ_LOG if regs.count.now == 1 => self.reply(&log(regs.low.now).ok_or(error::ABRT)?),
            // Self-tests are over at once; attributes are never lost.
            sub::OFFLINE if matches!(regs.low.now, 0..=2 | 0x7f | 0x81 | 0x82) => self.succeed(),
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
