//! Commands of IDE disks, by programmed I/O and by the bus master.

use std::fmt;

use anyhow::Result;

use super::machine::Machine;
use super::{Seen, Step, note, note_bytes};
use crate::dice::Dice;

/// Where the bus master is put.
pub(super) const BUS_MASTER: u16 = 0xc000;
/// Where PRD tables and data are in memory.
pub(super) const TABLE: u64 = 0x1000;
pub(super) const DATA: u64 = 0x10_0000;
/// Bytes of data that are looked at.
pub(super) const DATA_LEN: usize = 0x1_0000;

pub(super) const BSY: u32 = 0x80;
pub(super) const DRQ: u32 = 0x08;

/// The PIIX3's IDE function.
const FUNCTION: u8 = 1 << 3 | 1;

const NO_DATA: &[u8] = &[
    0x00, 0x10, 0x1f, 0x27, 0x40, 0x41, 0x42, 0x70, 0x90, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0xc6, 0xe0, 0xe1, 0xe2,
    0xe3, 0xe5, 0xe6, 0xe7, 0xea, 0xef, 0xef, 0xef, 0xf8, 0xf9, 0x37, 0xb0, 0xde, 0xf1, 0xe4, 0x92,
];
const PROGRAMMED: &[u8] = &[0x20, 0x21, 0x24, 0x29, 0xc4, 0x30, 0x31, 0x34, 0x39, 0xc5, 0xec, 0xa1, 0xb0, 0xb0];
const MASTERED: &[u8] = &[0xc8, 0xc9, 0x25, 0xca, 0xcb, 0x35, 0x06];

/// Words of IDENTIFY DEVICE that differ: single word DMA, which is obsolete; features that QEMU has and does not tell;
/// blocks of ranges in a TRIM; that a physical sector is as long as a logical one; the checksum.
const UNLIKE: [usize; 6] = [62, 82, 85, 105, 106, 255];

/// A region of a PRD table: offset into the data, and length.
type Region = (u32, u32);

/// One command.
pub(super) struct AtaStep {
    base: u16,
    device: u8,
    /// Features, count and address, each twice: the bytes for 48-bit commands first.
    registers: [[u8; 5]; 2],
    command: u8,
    control: u8,
    table: Vec<Region>,
    to_memory: bool,
    fill: u8,
    reset: bool,
}

fn byte(dice: &mut Dice) -> u8 {
    dice.roll(256) as u8
}

impl AtaStep {
    pub(super) fn random(dice: &mut Dice) -> Self {
        let base = if dice.roll(3) == 0 { 0x170 } else { 0x1f0 };
        let list = [NO_DATA, PROGRAMMED, MASTERED][dice.roll(3) as usize];
        // Now and then one that nobody knows.
        let command =
            if dice.roll(30) == 0 { 0x43 + dice.roll(0x2d) as u8 } else { list[dice.roll(list.len() as u64) as usize] };
        // 48-bit commands have no other address; and a drive may refuse data before or after it came.
        let programmed_write = matches!(command, 0x30 | 0x31 | 0x34 | 0x39 | 0xc5);
        let lba = dice.roll(3) > 0 || programmed_write || Self::is_long(command);
        let of_cd = dice.roll(12) == 0 && matches!(command, 0x00 | 0x08 | 0x20 | 0xa1 | 0xec);
        let mut device = 0xa0 | if lba { 0x40 } else { 0 } | if of_cd { 0x10 } else { 0 };
        // One looks at the address of these, the other does not; or one takes data first.
        let near = programmed_write || matches!(command, 0x40..=0x42 | 0x70);
        if dice.roll(10) == 0 && !near {
            device |= dice.roll(if lba { 16 } else { 4 }) as u8;
        }
        let mut registers = [[0; 5], [0; 5]];
        // Features, count, low, mid, high.
        registers[1] = [byte(dice), 1 + dice.roll(8) as u8, byte(dice), dice.roll(8) as u8, 0];
        match command {
            0xef => {
                registers[1][0] = [0x02, 0x82, 0x03, 0x55, 0xaa, 0x03, 0x66, 0x66, 0x03, 0x10][dice.roll(10) as usize];
                registers[1][1] = [0, 1, 8, 0xc, 0x20, 0x22, 0x40, 0x45, 0x46, byte(dice)][dice.roll(10) as usize];
            }
            0xb0 => {
                registers[1] = [
                    [0xd0, 0xd1, 0xd5, 0xd8, 0xd9, 0xda][dice.roll(6) as usize],
                    1,
                    [1, 1, 6, 6, 1, 1, 9][dice.roll(7) as usize],
                    0x4f,
                    0xc2,
                ];
            }
            0x06 => registers[1][..2].copy_from_slice(&[1, 1]),
            // A software reset may forget other numbers, or not.
            0xc6 => registers[1][1] = [3, 16, 17, 32, 128][dice.roll(5) as usize],
            _ if !lba => registers[1][2..].copy_from_slice(&[1 + dice.roll(32) as u8, dice.roll(2) as u8, 0]),
            _ => {}
        }
        // Where the address may be past the end.
        let mut far = device & 0xf != 0 || registers[1][3] >= 7;
        if dice.roll(8) == 0 && !near && command != 0x06 {
            // No sector beyond the track: one finds none, the other counts on.
            let at = if lba { dice.roll(5) } else { [0, 1, 3, 4][dice.roll(4) as usize] };
            registers[1][at as usize] = [0, 0xff, 0x80, byte(dice)][dice.roll(4) as usize];
            far = true;
        }
        if dice.roll(12) == 0 && !near {
            registers[0] = [byte(dice), dice.roll(2) as u8, dice.roll(2) as u8, 0, 0];
            far = true;
        }
        let writes = matches!(command, 0x06 | 0x35 | 0xca | 0xcb);
        if list == PROGRAMMED && lba && registers[1][3] >= 7 {
            // Not across the end: one refuses, the other shows the sectors before it.
            registers[1][2] &= 0x7f;
        }
        let mut table = table(dice);
        if (writes || far) && too_short(&table, registers) {
            // One writes what there is, the other nothing; and both look for the address in their own order.
            table = vec![(0, 0)];
            registers[0][1] = 0;
            registers[1][1] = registers[1][1] & 0x7f | 1;
        }
        if command == 0xb0 && registers[1][0] == 0xd5 {
            // One has a directory of logs.
            registers[1][2] = registers[1][2].max(1);
        }
        if command == 0xef && registers[1][0] == 0x03 && !is_told_alike(registers[1][1]) {
            registers[1][1] = 0x45;
        }
        Self {
            base,
            device,
            registers,
            command,
            control: [0x08, 0x08, 0x08, 0x0a][dice.roll(4) as usize],
            table,
            to_memory: if dice.roll(20) == 0 { writes } else { !writes },
            fill: byte(dice),
            reset: dice.roll(20) == 0,
        }
    }

    fn is_long(command: u8) -> bool {
        matches!(command, 0x24 | 0x25 | 0x27 | 0x29 | 0x34 | 0x35 | 0x39 | 0x42)
    }

    fn uses_dma(&self) -> bool {
        MASTERED.contains(&self.command)
    }
}

/// Whether a table has less than the count of sectors asks for.
fn too_short(table: &[Region], registers: [[u8; 5]; 2]) -> bool {
    let there: u32 = table.iter().map(|(_, len)| if *len == 0 { 0x1_0000 } else { *len }).sum();
    let count = u32::from(registers[0][1]) << 8 | u32::from(registers[1][1]);
    count == 0 || there < 512 * count
}

/// Whether both know a transfer mode, or neither does: one takes no number that IDENTIFY DEVICE does not offer.
fn is_told_alike(mode: u8) -> bool {
    match (mode >> 3, mode & 7) {
        (0, number) => number <= 1,
        (1, number) => number <= 4,
        (4, number) => number <= 2,
        (8, number) => number <= 5,
        (kind, _) => kind != 2,
    }
}

/// Regions: mostly one that is long enough.
pub(super) fn table(dice: &mut Dice) -> Vec<Region> {
    if dice.roll(3) > 0 {
        return vec![(0, 0)];
    }
    let lens = [512, 1024, 2048, 4096, 2, 510, 0xfffe];
    (0..1 + dice.roll(4)).map(|n| (n as u32 * 0x2000, lens[dice.roll(7) as usize])).collect()
}

impl fmt::Display for AtaStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { base, device, registers, command, control, table, to_memory, fill, reset } = self;
        write!(
            f,
            "{base:#x} command {command:#04x} device {device:#04x} registers {registers:02x?} control {control:#x}"
        )?;
        write!(f, " table {table:x?} to memory {to_memory} fill {fill:#x} reset {reset}")
    }
}

/// Enables the function's ports and its bus master.
pub(super) fn enable(machine: &mut Machine) -> Result<()> {
    machine.set_config(FUNCTION, 0x40, 'l', 0x8000_8000)?;
    machine.set_config(FUNCTION, 0x20, 'l', BUS_MASTER.into())?;
    machine.set_config(FUNCTION, 0x04, 'w', 5)
}

/// The half of the bus master that goes with a channel.
pub(super) fn master(base: u16) -> u16 {
    BUS_MASTER + if base == 0x170 { 8 } else { 0 }
}

/// The interrupt pin of a channel.
fn pin(base: u16) -> u32 {
    if base == 0x170 { 15 } else { 14 }
}

/// Writes a PRD table.
pub(super) fn describe(machine: &mut Machine, base: u16, table: &[Region]) -> Result<()> {
    for (n, (offset, len)) in table.iter().enumerate() {
        let last = if n + 1 == table.len() { 0x8000_0000 } else { 0 };
        machine.poke('l', TABLE + 8 * n as u64, DATA + u64::from(*offset))?;
        machine.poke('l', TABLE + 8 * n as u64 + 4, u64::from(len & 0xffff | last))?;
    }
    machine.output('b', master(base), 0)?;
    machine.output('b', master(base) + 2, 6)?;
    machine.output('l', master(base) + 4, TABLE as u32)
}

/// Obsolete since ATA-4, and read by nobody: seek complete.
pub(super) const SEEK: u32 = 0x10;

/// Looks at the drive's registers and at what it wants. After a reset, QEMU interrupts, and drives do not.
pub(super) fn look_after_reset(machine: &mut Machine, base: u16, seen: &mut Seen, when: &str) -> Result<()> {
    for at in 1..8 {
        let value = machine.input('b', base + at)? & if at == 7 { !SEEK } else { 0xff };
        note(seen, &format!("{when}: {at}"), format!("{value:#04x}"));
    }
    machine.output('b', master(base) + 2, 6)
}

/// Looks at all registers, without changing anything. A command that moves sectors may leave any count and address,
/// unless it fails (ATA8-ACS, 7.25.5).
pub(super) fn look(machine: &mut Machine, base: u16, seen: &mut Seen, when: &str, moves: bool) -> Result<()> {
    // The pin's level comes along with any answer.
    let status = machine.input('b', base + 0x206)?;
    note(seen, &format!("{when}: interrupt"), machine.pin(pin(base)));
    note(seen, &format!("{when}: alternate status"), format!("{:#04x}", status & !SEEK));
    for (name, at) in [("error", 1), ("count", 2), ("low", 3), ("mid", 4), ("high", 5), ("device", 6)] {
        let value = machine.input('b', base + at)?;
        if moves && at > 1 && at < 6 {
            continue;
        }
        let value = if moves && at == 6 { value & 0xf0 } else { value };
        // No such address: one says so, the other that the command was aborted.
        let value = if moves && at == 1 && value == 0x10 { 4 } else { value };
        note(seen, &format!("{when}: {name}"), format!("{value:#04x}"));
    }
    for (name, at) in [("bus master command", 0), ("bus master status", 2)] {
        // After an error, and for CD drives, whether it is still active says nothing.
        let mask = if moves && status & 1 == 0 { 0xff } else { 0xfe };
        note(seen, &format!("{when}: {name}"), format!("{:#04x}", machine.input('b', master(base) + at)? & mask));
    }
    Ok(())
}

/// Waits until the drive is not busy.
pub(super) fn settle(machine: &mut Machine, base: u16) -> Result<u32> {
    let mut status = 0;
    machine.wait(|machine| {
        status = machine.input('b', base + 0x206)?;
        Ok(status & BSY == 0)
    })?;
    Ok(status)
}

/// Waits for the end of what the bus master does.
pub(super) fn finish(machine: &mut Machine, base: u16) -> Result<()> {
    machine.wait(|machine| {
        let status = machine.input('b', master(base) + 2)?;
        Ok(status & 1 == 0 || status & 6 != 0 || machine.input('b', base + 0x206)? & (DRQ | BSY) == 0)
    })?;
    settle(machine, base).map(drop)
}

/// A software reset, with no interrupt pending.
pub(super) fn reset(machine: &mut Machine, base: u16) -> Result<()> {
    machine.input('b', base + 7)?;
    machine.output('b', base + 0x206, 0x0c)?;
    machine.output('b', base + 0x206, 0x08)?;
    settle(machine, base).map(drop)
}

impl Step for AtaStep {
    fn kind(&self) -> String {
        format!("ATA {:#04x}", self.command)
    }

    fn play(&self, machine: &mut Machine) -> Result<Seen> {
        let (base, mut seen) = (self.base, Seen::new());
        enable(machine)?;
        machine.output('b', base + 6, self.device.into())?;
        machine.output('b', base + 0x206, self.control.into())?;
        machine.fill(DATA, DATA_LEN, self.fill)?;
        if self.command == 0x06 {
            // What is not offered, one refuses and the other does.
            machine.output('b', base + 7, 0xec)?;
            settle(machine, base)?;
            if machine.words(base, 256)?[2 * 169] & 1 == 0 {
                return Ok(Seen::new());
            }
            let [_, count, low, mid, _] = self.registers[1];
            machine.write(DATA, &vec![0; DATA_LEN])?;
            machine.write(DATA, &[low, mid & 7, 0, 0, 0, 0, count, 0])?;
        }
        describe(machine, base, &self.table)?;
        for (n, names) in self.registers.iter().enumerate() {
            // 48-bit commands take two writes; leave the others' first bytes as they are now and then.
            if n == 0 && names == &[0; 5] && !Self::is_long(self.command) {
                continue;
            }
            for (at, value) in (1..).zip(names) {
                machine.output('b', base + at, (*value).into())?;
            }
        }
        machine.output('b', base + 7, self.command.into())?;
        if self.uses_dma() {
            settle(machine, base)?;
            machine.output('b', master(base), 1 | if self.to_memory { 8 } else { 0 })?;
            finish(machine, base)?;
        }
        let mut moved = 0;
        let mut status = settle(machine, base)?;
        let moves = matches!(self.command, 0x06 | 0x20..=0x26 | 0x28..=0x42 | 0xa1 | 0xb0 | 0xc4 | 0xc5 | 0xc8..=0xcb | 0xec | 0xf8);
        look(machine, base, &mut seen, "after the command", moves)?;
        let reads = matches!(self.command, 0x20 | 0x21 | 0x24 | 0x29 | 0xc4 | 0xec | 0xa1 | 0xb0);
        while status & DRQ != 0 && moved < 16 && !self.uses_dma() {
            note(&mut seen, "status", format!("{:#04x}", machine.input('b', base + 7)? & !SEEK));
            if reads {
                let data = machine.words(base, 256)?;
                if matches!(self.command, 0xa1 | 0xec) {
                    let told = |n: usize| !UNLIKE.contains(&n) && (self.command == 0xec || !matches!(n, 83 | 87 | 93));
                    for (n, word) in data.chunks(2).enumerate().filter(|(n, _)| told(*n)) {
                        // Which transfer mode is selected: a software reset may forget it, or not.
                        let high = if matches!(n, 63 | 88) { 0 } else { word[1] };
                        note(&mut seen, &format!("word {n}"), format!("{high:02x}{:02x}", word[0]));
                    }
                } else if self.command != 0xb0 {
                    note_bytes(&mut seen, "data", &data);
                }
            } else {
                machine.feed(base, &vec![self.fill ^ moved; 512])?;
            }
            moved += 1;
            status = settle(machine, base)?;
            look(machine, base, &mut seen, &format!("after sector {moved}"), moves)?;
        }
        note(&mut seen, "status", format!("{:#04x}", machine.input('b', base + 7)? & !SEEK));
        note(&mut seen, "interrupt", machine.pin(pin(base)));
        machine.output('b', base + 0x206, 0x88)?;
        for at in (2..6).filter(|_| self.command == 0x27) {
            note(&mut seen, "before", format!("{:#04x}", machine.input('b', base + at)?));
        }
        machine.output('b', base + 0x206, 0x08)?;
        if self.uses_dma() {
            // One fills the regions that are there, the other none.
            if !too_short(&self.table, self.registers) {
                note_bytes(&mut seen, "memory", &machine.read(DATA, DATA_LEN)?);
            }
            machine.output('b', master(base), 0)?;
        }
        // Nothing may be left for the next step.
        if self.reset || machine.input('b', base + 0x206)? & (DRQ | BSY) != 0 {
            reset(machine, base)?;
            if self.device & 0x10 != 0 {
                // One goes on with the second drive.
                machine.output('b', base + 6, 0xa0)?;
            }
            look_after_reset(machine, base, &mut seen, "after reset")?;
            machine.output('b', base + 6, 0xb0)?;
            look_after_reset(machine, base, &mut seen, "after reset, second")?;
        }
        Ok(seen)
    }
}
