//! Requests for a disk on virtio.

use std::fmt;

use anyhow::Result;

use super::machine::Machine;
use super::{Seen, Step, note, note_bytes, ring};
use crate::dice::Dice;

/// Slot 4.
const FUNCTION: u8 = 4 << 3;
/// VIRTIO_BLK_F_FLUSH, _DISCARD and _WRITE_ZEROES.
const FEATURES: u32 = 1 << 9 | 1 << 13 | 1 << 14;

/// Where things are in memory.
const HEADER: u64 = 0x5000;
const STATUS: u64 = 0x5100;
const DATA: u64 = 0x1_0000;
/// Bytes of data that are looked at.
const LOOKED_AT: usize = 0x2000;

/// Reads and writes, flush, identity, discard, zeroes, and erasure, which is not there.
const KINDS: [u32; 13] = [0, 0, 0, 1, 1, 1, 4, 8, 11, 11, 13, 13, 14];

/// One request.
pub(super) struct BlkStep {
    kind: u32,
    sector: u64,
    /// What the driver writes after the header.
    out: Vec<u8>,
    /// Room for data from the device.
    room: u64,
    /// Where header and data are cut in two descriptors.
    cuts: [u64; 2],
}

impl BlkStep {
    pub(super) fn random(dice: &mut Dice) -> Self {
        let kind = if dice.roll(20) == 0 { 16 + dice.roll(200) as u32 * 2 } else { dice.pick(&KINDS) };
        let sector = if dice.roll(16) == 0 { u64::MAX >> dice.roll(60) } else { dice.roll(2056) };
        let len = if dice.roll(10) == 0 { dice.roll(2000) } else { 512 * (1 + dice.roll(8)) };
        let (mut out, mut room) = (Vec::new(), 0);
        match kind {
            1 => out = (0..len).map(|n| (n as u8).wrapping_mul(3) ^ sector as u8).collect(),
            11 | 13 => out = segment(dice, sector),
            8 => room = [20, 20, 20, 64, 512][dice.roll(5) as usize],
            0 => room = len,
            _ => room = dice.roll(2) * 512,
        }
        let cuts = [dice.roll(4).min(1) * 16, 0];
        let data = room.max(out.len() as u64);
        let cuts = if dice.roll(3) == 0 { [[4, 8, 15][dice.roll(3) as usize], dice.roll(data + 1)] } else { cuts };
        Self { kind, sector, out, room, cuts }
    }
}

/// A range to discard or to fill with zeroes: sector, count, flags. One alone: QEMU takes no more.
fn segment(dice: &mut Dice, sector: u64) -> Vec<u8> {
    let sectors: u32 = [8, 1, 16, 0, 2048, u32::MAX][dice.roll(6).min(dice.roll(6)) as usize];
    let flags: u32 = [0, 0, 0, 1, 2][dice.roll(5) as usize];
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

/// The device's registers, but for how many ranges one discard or one write of zeroes may have, and how discards are
/// aligned: one tells the image's unit. With QEMU they end where the last feature has some.
fn registers(machine: &mut Machine, features: u64) -> Result<Vec<u8>> {
    let mut bytes = ring::config(machine, 57)?;
    if features & 1 << 14 == 0 {
        bytes[48..].fill(0);
    }
    [40..48, 52..56].into_iter().for_each(|limits| bytes[limits].fill(0));
    Ok(bytes)
}

impl fmt::Display for BlkStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, sector, out, room, cuts } = self;
        let shown = &out[..out.len().min(32)];
        write!(f, "request {kind} sector {sector} out {} bytes {shown:02x?} room {room} cuts {cuts:?}", out.len())
    }
}

impl Step for BlkStep {
    fn kind(&self) -> String {
        format!("virtio-blk {}", self.kind)
    }

    fn play(&self, machine: &mut Machine) -> Result<Seen> {
        let mut seen = Seen::new();
        if ring::enable(machine, FUNCTION, FEATURES, &[0])? {
            let features = ring::features_of(machine)?;
            note(&mut seen, "features", format!("{features:#x}"));
            note_bytes(&mut seen, "registers", &registers(machine, features)?);
        }
        machine.write(HEADER, &[&self.kind.to_le_bytes()[..], &[0; 4], &self.sector.to_le_bytes()].concat())?;
        machine.fill(STATUS, 1, 0xa5)?;
        machine.fill(DATA, LOOKED_AT, 0xa5)?;
        if !self.out.is_empty() {
            machine.write(DATA, &self.out)?;
        }
        let [header, data] = self.cuts;
        let (len, device_writes) = if self.room > 0 { (self.room, true) } else { (self.out.len() as u64, false) };
        let data = data.min(len);
        let parts = [
            (HEADER, header, false),
            (HEADER + header, 16 - header, false),
            (DATA, data, device_writes),
            (DATA + data, len - data, device_writes),
            (STATUS, 1, true),
        ];
        let written = ring::send(machine, 0, &parts)?;
        note(&mut seen, "status", machine.peek('b', STATUS)?);
        note(&mut seen, "written", written);
        let mut data = machine.read(DATA, LOOKED_AT)?;
        if let (8, Some(end)) = (self.kind, data.iter().position(|byte| *byte == 0)) {
            // Zeroes follow here, and what was there before with QEMU.
            data.truncate(end);
        }
        note_bytes(&mut seen, "data", &data);
        Ok(seen)
    }
}
