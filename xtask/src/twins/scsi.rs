//! Command blocks for SCSI units, over virtio-scsi.

use std::fmt;

use anyhow::{Result, bail};

use super::atapi::{block, lead_out};
use super::machine::Machine;
use super::{Seen, Step, note, note_bytes, ring};
use crate::dice::Dice;

/// Slot 6.
const FUNCTION: u8 = 6 << 3;
/// Numbers of the control queue and of the request queue.
const CONTROL: u16 = 0;
const QUEUE: u16 = 2;

/// Where things are in memory.
const REQUEST: u64 = 0x5000;
const RESPONSE: u64 = 0x5100;
const OUT: u64 = 0x1_0000;
const IN: u64 = 0x2_0000;

/// The response that tells of a buffer that is too small.
const OVERRUN: u8 = 1;
/// Room for data.
const ROOM: u32 = 4096;
/// Length of a response (virtio 1.2, 5.6.6.1).
const RESPONSE_LEN: usize = 108;

/// Command blocks of disks.
#[rustfmt::skip]
const DISK: &[&[u8]] = &[
    &[0x00], &[0x12, 0, 0, 0, 36], &[0x12, 0, 0, 0, 36], &[0x12, 1, 0, 0, 64], &[0x12, 1, 0x80, 0, 255],
    &[0x12, 1, 0x83, 0, 255], &[0x12, 1, 0xb0, 0, 255], &[0x12, 1, 0xb1, 0, 255], &[0x12, 1, 0xb2, 0, 255],
    &[0x12, 1, 0xff, 0, 255], &[0x1a, 8, 0x08, 0, 255], &[0x1a, 0, 0x04, 0, 255], &[0x1a, 0, 0x08, 0, 255],
    &[0x1a, 0, 0x48, 0, 255], &[0x1a, 0, 0x01, 0, 255], &[0x5a, 0, 0x08, 0, 0, 0, 0, 1, 0],
    &[0x25], &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32],
    &[0x08, 0, 0, 0xff, 1], &[0x0a, 0, 0, 0xff, 1], &[0x28, 0, 0, 0, 0, 0xff, 0, 0, 2],
    &[0x2a, 0, 0, 0, 0, 0xff, 0, 0, 2], &[0x28, 0, 0, 0, 0xff, 0xff, 0, 0, 2], &[0x2a, 0, 0, 0, 0xff, 0xff, 0, 0, 1],
    &[0xa8, 0, 0, 0, 0, 0xff, 0, 0, 0, 2], &[0xaa, 0, 0, 0, 0, 0xff, 0, 0, 0, 2], &[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 2],
    &[0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 2], &[0x88, 0, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 2],
    &[0x2f, 0, 0, 0, 0, 0xff, 0, 0, 2], &[0x8f, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 2], &[0x2e, 0, 0, 0, 0, 0xff, 0, 0, 1],
    &[0xae, 0, 0, 0, 0, 0xff, 0, 0, 0, 1], &[0x8e, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 1], &[0x41, 0, 0, 0, 0, 0xff, 0, 0, 4],
    &[0x41, 8, 0, 0, 0, 0xff, 0, 0, 4], &[0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 4], &[0x42, 0, 0, 0, 0, 0, 0, 0, 24], &[0x35], &[0x1b, 0, 0, 0, 1],
    &[0x1e, 0, 0, 0, 1], &[0x1e], &[0x2b, 0, 0, 0, 0xff, 0xff], &[0x9e, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32],
    &[0x1b, 0, 0, 0, 0x10], &[0x1b, 1, 0, 0, 1], &[0x93, 8, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 4], &[0x35, 2, 0, 0, 0, 0xff, 0, 0, 4],
    &[0x15, 0x10, 0, 0, 24], &[0x55, 0x10, 0, 0, 0, 0, 0, 0, 28], &[0x16], &[0x17], &[0x56], &[0x57], &[0x0b], &[0xd8, 1, 2, 3],
];

/// Command blocks for units that are not there.
const ABSENT: &[&[u8]] = &[&[0x00], &[0x25], &[0x28, 0, 0, 0, 0, 0xff, 0, 0, 2], &[0x0b], &[0xd8, 1, 2, 3]];

/// Command blocks of CD drives.
#[rustfmt::skip]
const DISC: &[&[u8]] = &[
    &[0x00], &[0x12, 0, 0, 0, 36], &[0x12, 1, 0x00, 0, 64], &[0x12, 1, 0x80, 0, 64], &[0x12, 1, 0x83, 0, 64],
    &[0x1b, 0, 0, 0, 1], &[0x1e, 0, 0, 0, 1], &[0x1e, 0, 0, 0, 0], &[0x25], &[0x28, 0, 0, 0, 0, 0xff, 0, 0, 2],
    &[0x28, 0, 0, 0, 0xff, 0xff, 0, 0, 1], &[0xa8, 0, 0, 0, 0, 0xff, 0, 0, 0, 3], &[0x43, 0, 0, 0, 0, 0, 0, 1, 0, 0],
    &[0x43, 2, 0, 0, 0, 0, 0, 1, 0, 0], &[0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8], &[0x51, 0, 0, 0, 0, 0, 0, 0, 64],
    &[0xd8, 1, 2, 3],
];

/// Units: target, unit, and whether it is a CD drive. The last two are not there: they are only asked for what all
/// refuse alike.
const UNITS: [(u8, u16, bool); 7] =
    [(0, 0, false), (0, 0, false), (0, 300, false), (1, 0, true), (2, 1, true), (0, 7, false), (9, 0, false)];

/// A command, or now and then what the control queue takes.
pub(super) fn random(dice: &mut Dice) -> Box<dyn Step> {
    if dice.roll(6) == 0 { Box::new(ControlStep::random(dice)) } else { Box::new(ScsiStep::random(dice)) }
}

/// One command.
struct ScsiStep {
    target: u8,
    lun: u16,
    block: Vec<u8>,
    out: Vec<u8>,
    room: u32,
}

impl ScsiStep {
    fn random(dice: &mut Dice) -> Self {
        let (target, lun, cd) = UNITS[dice.roll(35).min(dice.roll(14)) as usize % 7];
        let there = UNITS[..5].contains(&(target, lun, cd));
        let from = if !there {
            ABSENT
        } else if cd {
            DISC
        } else {
            DISK
        };
        let mut block = block(dice, from, 32);
        if matches!(block[0], 0x41 | 0x93) {
            // Without a block to write, QEMU writes nothing at all.
            block[1] &= !1;
        }
        if matches!(block[0], 0x1a | 0x5a) {
            // Subpages, of which there are none: QEMU does not look.
            block[3] = 0;
        }
        if let (0x2f | 0x8f, 0) = (block[0], block[1] & 2) {
            // Without data to compare, QEMU does not look at the address.
            let address = if block[0] == 0x2f { 2..5 } else { 2..9 };
            block[address].fill(0);
        }
        let mut out = parameters(dice, &block);
        let wants = if cd { None } else { wanted(&block) };
        let (out_len, room) = match wants {
            Some(len) => (len, 0),
            None => (0, ROOM),
        };
        out.resize(out_len.min(0x8000), dice.roll(256) as u8);
        Self { target, lun, block, out, room }
    }
}

/// Parameters for what takes them: a list of ranges, a page.
fn parameters(dice: &mut Dice, block: &[u8]) -> Vec<u8> {
    match block[0] {
        0x42 => {
            let lba = dice.roll(256) as u8;
            vec![0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, 8, 0, 0, 0, 0]
        }
        0x15 | 0x55 => {
            let mut page = vec![0x08, 0x12, if dice.roll(2) == 0 { 4 } else { 0 }];
            page.resize(20, 0);
            let header = if block[0] == 0x15 { 4 } else { 8 };
            [vec![0; header], page].concat()
        }
        _ => Vec::new(),
    }
}

/// How many bytes a command takes from the driver, where it takes any. Blocks have 512 bytes, or 4096.
fn wanted(block: &[u8]) -> Option<usize> {
    let be = |at: usize, len: usize| block[at..at + len].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    match block[0] {
        0x0a => Some(block[4].max(1) as usize * 512),
        0x2a | 0x2e => Some(be(7, 2) * 512),
        0xaa | 0xae => Some(be(6, 4).min(64) * 512),
        0x8a | 0x8e => Some(be(10, 4).min(64) * 512),
        0x2f if block[1] & 2 != 0 => Some(be(7, 2) * 512),
        0x8f if block[1] & 2 != 0 => Some(be(10, 4).min(64) * 512),
        0x41 | 0x93 => Some(512),
        0x42 | 0x55 => Some(be(7, 2)),
        0x15 => Some(block[4].into()),
        _ => None,
    }
}

impl fmt::Display for ScsiStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, lun, block, out, room } = self;
        write!(
            f,
            "{target}:{lun} block {:02x?} out {} bytes {:02x?} room {room}",
            &block[..16],
            out.len(),
            &out[..out.len().min(32)]
        )
    }
}

/// Sets the queues up, if they are not yet.
fn enable(machine: &mut Machine) -> Result<()> {
    if ring::enable(machine, FUNCTION, 0, &[CONTROL, QUEUE])? {
        // Both tell that they were switched on, but not both to a command that is wrong.
        for (target, lun, _) in UNITS {
            send(machine, target, lun, &[0; 32], &[], 0)?;
        }
    }
    Ok(())
}

/// A unit's address (virtio 1.2, 5.6.6.1).
fn address(target: u8, lun: u16) -> [u8; 8] {
    let [high, low] = lun.to_be_bytes();
    [1, target, 0x40 | high, low, 0, 0, 0, 0]
}

/// Sends one command; the response.
fn send(machine: &mut Machine, target: u8, lun: u16, block: &[u8], out: &[u8], room: u32) -> Result<Vec<u8>> {
    let mut request = address(target, lun).to_vec();
    request.resize(19, 0);
    request.extend(block);
    machine.write(REQUEST, &request)?;
    machine.fill(RESPONSE, RESPONSE_LEN, 0)?;
    if !out.is_empty() {
        machine.write(OUT, out)?;
    }
    let parts = [
        (REQUEST, request.len() as u64, false),
        (OUT, out.len() as u64, false),
        (RESPONSE, RESPONSE_LEN as u64, true),
        (IN, u64::from(room), true),
    ];
    ring::send(machine, QUEUE, &parts)?;
    machine.read(RESPONSE, RESPONSE_LEN)
}

/// The sense data of a response, as far as both tell the same.
fn sense(response: &[u8]) -> Result<Vec<u8>> {
    let [a, b, c, d, ..] = *response else { bail!("a short response") };
    let mut sense = response[12..12 + u32::from_le_bytes([a, b, c, d]).min(96) as usize].to_vec();
    if let [code, _, _, information @ .., _] = sense.as_mut_slice()
        && *code & 0x80 != 0
    {
        // Which block it is about, one tells and the other does not.
        *code &= 0x7f;
        information.iter_mut().take(4).for_each(|byte| *byte = 0);
    }
    // Which byte of the block is at fault, one tells and the other does not.
    sense.iter_mut().skip(15).for_each(|byte| *byte = 0);
    if let [.., 0x3a, which, _, _, _, _] | [.., 0x30, which, _, _, _, _] = sense.as_mut_slice() {
        // Whether the tray is open, and why the medium does not fit.
        *which = 0;
    }
    Ok(sense)
}

impl Step for ScsiStep {
    fn kind(&self) -> String {
        format!("SCSI {}:{} {:#04x}", self.target, self.lun, self.block[0])
    }

    fn play(&self, machine: &mut Machine) -> Result<Seen> {
        enable(machine)?;
        let mut seen = Seen::new();
        machine.fill(IN, ROOM as usize, 0xa5)?;
        let response = send(machine, self.target, self.lun, &self.block, &self.out, self.room)?;
        let sense = sense(&response)?;
        if response[11] == OVERRUN {
            // There was not room for all of it; one says so before it looks at anything else.
            return Ok(Seen::new());
        }
        note(&mut seen, "status", format!("{:#04x}", response[10]));
        note(&mut seen, "response", response[11]);
        note_bytes(&mut seen, "sense", &sense);
        if self.room > 0 && response[10] == 0 {
            note_bytes(&mut seen, "data", &self.plain(machine.read(IN, self.room as usize)?));
        }
        Ok(seen)
    }
}

impl ScsiStep {
    /// What both should tell.
    fn plain(&self, mut data: Vec<u8>) -> Vec<u8> {
        match (self.block[0], self.block[1] & 1) {
            // QEMU fills all of a longer buffer with sectors.
            (0x08 | 0x28 | 0x88 | 0xa8, _) => data.truncate(512),
            // As long as there is room for, or as what there is.
            (0x12, 0) => {
                data[4] = 0;
                data.truncate(36);
            }
            // The length, then as much as it says; QEMU sends zeroes after that. COMPARE AND WRITE is ours alone.
            (0x12, _) => {
                data.truncate(usize::from(data[3]) + 4);
                if data[1] == 0xb0 {
                    data[5] = 0;
                    // WRITE SAME of more zeroes than we promise is done all the same.
                    data.iter_mut().skip(36).take(8).for_each(|byte| *byte = 0);
                }
            }
            (0x1a, _) => {
                data.truncate(usize::from(data[0]) + 1);
                uncount(&mut data, 4);
            }
            (0x5a, _) => {
                data.truncate(usize::from(data[1]) + 2);
                uncount(&mut data, 8);
            }
            (0x43, _) => lead_out(&mut data),
            // QEMU fills the rest of a longer allocation with zeroes.
            (0xbd, _) => data.truncate(8),
            (0x51, _) => data.truncate(34),
            _ => {}
        }
        data
    }
}

/// Forgets the number of blocks in a block descriptor: QEMU has 24 bits for it.
fn uncount(data: &mut [u8], at: usize) {
    data.iter_mut().skip(at).take(4).for_each(|byte| *byte = 0);
}

/// Task management, or a query or subscription of events: no command is in progress meanwhile.
struct ControlStep {
    kind: u32,
    function: u32,
    address: [u8; 8],
}

impl ControlStep {
    fn random(dice: &mut Dice) -> Self {
        let kind = [0, 0, 0, 0, 0, 1, 2][dice.roll(7) as usize];
        let function = if dice.roll(12) == 0 { 8 + dice.roll(100) as u32 } else { dice.roll(8) as u32 };
        // Events and nexus of a target that is not there: one refuses them, the other does not look; and each says in
        // its own order what is wrong of two things.
        let looks = kind == 0 && matches!(function, 0 | 1 | 3 | 5..=7);
        let (target, lun, _) = dice.pick(if looks { &UNITS[..] } else { &UNITS[..5] });
        Self { kind, function, address: address(target, lun) }
    }
}

impl fmt::Display for ControlStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, function, address } = self;
        write!(f, "control request {kind} function {function} unit {address:02x?}")
    }
}

impl Step for ControlStep {
    fn kind(&self) -> String {
        format!("SCSI control {} {}", self.kind, self.function)
    }

    fn play(&self, machine: &mut Machine) -> Result<Seen> {
        enable(machine)?;
        let mut seen = Seen::new();
        let mut request = self.kind.to_le_bytes().to_vec();
        let response = if self.kind == 0 {
            request.extend(self.function.to_le_bytes());
            request.extend(self.address);
            request.extend([9, 0, 0, 0, 0, 0, 0, 0]);
            1
        } else {
            request.extend(self.address);
            request.extend(0x3fu32.to_le_bytes());
            5
        };
        machine.write(REQUEST, &request)?;
        machine.fill(RESPONSE, RESPONSE_LEN, 0xa5)?;
        ring::send(machine, CONTROL, &[(REQUEST, request.len() as u64, false), (RESPONSE, response, true)])?;
        note_bytes(&mut seen, "response", &machine.read(RESPONSE, response as usize)?);
        // Who was reset tells so, once.
        for (target, lun, _) in &UNITS[..5] {
            for turn in ["first", "second"] {
                let response = send(machine, *target, *lun, &[0; 32], &[], 0)?;
                note_bytes(&mut seen, &format!("{target}:{lun} {turn}"), &sense(&response)?);
            }
        }
        Ok(seen)
    }
}
