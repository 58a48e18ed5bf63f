//! Packets for IDE CD drives.

use std::fmt;

use anyhow::Result;

use super::ata::{DATA, DATA_LEN, DRQ, SEEK, describe, enable, look, master, reset, settle};
use super::machine::Machine;
use super::{Seen, Step, note, note_bytes};
use crate::dice::Dice;

/// Command blocks to begin with: what is 0xff is random. The tray stays closed, as each tells of a medium in its own
/// order, and what QEMU does not know or does by an older document is left out.
#[rustfmt::skip]
const PACKETS: &[&[u8]] = &[
    &[0x00], &[0x12, 0, 0, 0, 36], 
    &[0x1b, 0, 0, 0, 1],
    &[0x1e, 0, 0, 0, 1], &[0x1e, 0, 0, 0, 0], &[0x25], &[0x28, 0, 0, 0, 0, 0xff, 0, 0, 2],
    &[0x28, 0, 0, 0, 0xff, 0xff, 0, 0, 1], &[0xa8, 0, 0, 0, 0, 0xff, 0, 0, 0, 3], &[0xbe, 0, 0, 0, 0, 3, 0, 0, 2, 0x10],
    &[0xbe, 0, 0, 0, 0, 4, 0, 0, 1, 0x10], &[0x43, 0, 0, 0, 0, 0, 0, 1, 0, 0], &[0x43, 2, 0, 0, 0, 0, 0, 1, 0, 0],
    &[0x43, 2, 0, 0, 0, 0, 0xff, 1, 0, 0], &[0x46, 0, 0, 0, 0, 0, 0, 0, 8],
    &[0x4a, 0, 0, 0, 0x10, 0, 0, 0, 8], &[0x51, 0, 0, 0, 0, 0, 0, 0, 64],
    &[0xad, 0, 0, 0, 0, 0, 0, 1, 0, 8], &[0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8], &[0xbb, 0, 0xff, 0xff], &[0x0b], &[0xd8, 1, 2, 3],
];

/// Bytes that are taken by programmed I/O: each two are a line of text both ways.
const MOST_DATA: usize = 0x2_0000;

/// A block of `len` bytes after one of these, now and then with another byte.
pub(super) fn block(dice: &mut Dice, from: &[&[u8]], len: usize) -> Vec<u8> {
    let template = from[dice.roll(from.len() as u64) as usize];
    let mut block: Vec<u8> = template.iter().map(|&byte| if byte == 0xff { any(dice) } else { byte }).collect();
    block.resize(len, 0);
    if dice.roll(24) == 0 {
        let at = 2 + dice.roll(len as u64 - 2) as usize;
        block[at] = any(dice);
    }
    block
}

fn any(dice: &mut Dice) -> u8 {
    let any = dice.roll(256) as u8;
    match dice.roll(3) {
        0 => any,
        1 => any & 0x0f,
        _ => [0, 1, 2, 0x10, 0x2a, 0x3f, 0x80, 0xff][usize::from(any & 7)],
    }
}

/// One packet, and what asks why it failed.
pub(super) struct PacketStep {
    base: u16,
    dma: bool,
    limit: u16,
    packet: Vec<u8>,
    table: Vec<(u32, u32)>,
    sense: bool,
}

/// A packet of which both make the same.
fn told_alike(mut packet: Vec<u8>) -> Vec<u8> {
    match packet[0] {
        // On IDE, QEMU does not look at the address.
        0x25 => packet[2..6].fill(0),
        // Features come in other lengths after the header, and QEMU tells them only from the first on.
        0x46 => {
            packet[2..4].fill(0);
            packet[7..9].copy_from_slice(&[0, 8]);
        }
        // One has no sub-channels, the other does not look.
        0xbe => packet[10] = 0,
        _ => {}
    }
    packet
}

impl PacketStep {
    pub(super) fn random(dice: &mut Dice) -> Self {
        Self {
            base: if dice.roll(4) == 0 { 0x170 } else { 0x1f0 },
            dma: dice.roll(4) == 0,
            limit: [0xfffe, 0x800, 8, 7, 0xffff, 32, 4096, 2050][dice.roll(8).min(dice.roll(8)) as usize],
            packet: told_alike(block(dice, PACKETS, 12)),
            table: vec![(0, 0)],
            sense: dice.roll(4) > 0,
        }
    }
}

impl fmt::Display for PacketStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { base, dma, limit, packet, table, sense } = self;
        write!(f, "{base:#x} packet {packet:02x?} dma {dma} limit {limit:#x} table {table:x?} sense {sense}")
    }
}

/// What is told by both: docs/qtests.md has the rest.
fn plain(packet: &[u8], mut data: Vec<u8>) -> Vec<u8> {
    match (packet[0], data.as_mut_slice()) {
        // VALID and the block that it is for, and which "no medium" it is.
        (0x03, [code, rest @ ..]) => {
            *code &= 0x7f;
            rest.iter_mut().skip(2).take(4).for_each(|byte| *byte = 0);
            if let Some([0x3a | 0x53 | 0x30, which]) = rest.get_mut(11..13) {
                *which = 0;
            }
        }
        // Version, format, queuing, and the model, which is "QEMU DVD-ROM" with QEMU whatever its name.
        (0x12, [_, _, version, format, _, _, _, queuing, rest @ ..]) if packet[1] & 1 == 0 => {
            (*version, *format, *queuing) = (0, 0, 0);
            rest.iter_mut().take(24).for_each(|byte| *byte = 0);
        }
        (0x43, data) => lead_out(data),
        // How long all features are: QEMU says how long what it sends is.
        (0x46, [_, _, _, len, ..]) => *len = 0,
        _ => {}
    }
    data
}

/// Forgets of what kind the lead-out track is: a data track as the one before it, or one that may be copied.
pub(super) fn lead_out(toc: &mut [u8]) {
    if let Some(at) = toc.windows(2).position(|track| track[0] & !2 == 0x14 && track[1] == 0xaa) {
        toc[at] &= !2;
    }
    let len = toc.first_chunk::<2>().map_or(0, |len| usize::from(u16::from_be_bytes(*len)) + 2);
    toc.iter_mut().skip(len).for_each(|byte| *byte = 0);
}

/// Sends a packet and takes what comes.
fn send(machine: &mut Machine, base: u16, packet: &[u8], dma: bool, limit: u16, seen: &mut Seen) -> Result<()> {
    machine.output('b', base + 6, 0xb0)?;
    machine.output('b', base + 1, dma.into())?;
    machine.output('b', base + 4, (limit & 0xff).into())?;
    machine.output('b', base + 5, (limit >> 8).into())?;
    machine.output('b', base + 7, 0xa0)?;
    settle(machine, base)?;
    look(machine, base, seen, "after PACKET", false)?;
    machine.feed(base, packet)?;
    if dma {
        machine.output('b', master(base), 9)?;
        machine.wait(|machine| {
            let status = machine.input('b', master(base) + 2)?;
            Ok(status & 1 == 0 || status & 6 != 0 || machine.input('b', base + 0x206)? & 0x89 == 1)
        })?;
    }
    let (mut blocks, mut data) = (0, Vec::new());
    let mut status = settle(machine, base)?;
    look(machine, base, seen, "after the packet", false)?;
    while status & DRQ != 0 && blocks < 300 && data.len() < MOST_DATA && !dma {
        note(seen, "status", format!("{:#04x}", machine.input('b', base + 7)? & !SEEK));
        let len = machine.input('b', base + 4)? | machine.input('b', base + 5)? << 8;
        if machine.input('b', base + 2)? & 2 != 0 {
            data.extend(machine.words(base, (len as usize).div_ceil(2))?);
        } else {
            machine.feed(base, &vec![0; len as usize])?;
        }
        blocks += 1;
        status = settle(machine, base)?;
        look(machine, base, seen, &format!("after block {blocks}"), false)?;
    }
    note_bytes(seen, "data", &plain(packet, data));
    note(seen, "status", format!("{:#04x}", machine.input('b', base + 7)? & !SEEK));
    Ok(())
}

impl Step for PacketStep {
    fn kind(&self) -> String {
        format!("PACKET {:#04x} {}", self.packet[0], self.dma)
    }

    fn play(&self, machine: &mut Machine) -> Result<Seen> {
        let (base, mut seen) = (self.base, Seen::new());
        enable(machine)?;
        machine.output('b', base + 0x206, 0x08)?;
        machine.fill(DATA, DATA_LEN, 0xa5)?;
        describe(machine, base, &self.table)?;
        send(machine, base, &self.packet, self.dma, self.limit, &mut seen)?;
        if self.dma {
            note_bytes(&mut seen, "memory", &plain(&self.packet, machine.read(DATA, DATA_LEN)?));
            machine.output('b', master(base), 0)?;
        }
        if machine.input('b', base + 0x206)? & 0x88 != 0 {
            machine.output('b', base + 7, 0x08)?;
            settle(machine, base)?;
            reset(machine, base)?;
        }
        // QEMU tells the sense of some earlier command after one that went well.
        if self.sense && machine.input('b', base + 7)? & 1 != 0 {
            send(machine, base, &[0x03, 0, 0, 0, 18, 0, 0, 0, 0, 0, 0, 0], false, 0xfffe, &mut seen)?;
        }
        Ok(seen)
    }
}
