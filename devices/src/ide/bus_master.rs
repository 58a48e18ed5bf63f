//! The bus master of one channel: its registers, and the walk over physical region descriptors (82371SB, 2.7 and 3.5;
//! "Programming Interface for Bus Master IDE Controller", revision 1.0).

use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

use crate::memory::RamView;
use crate::virtio::queue::GuestRange;

/// Offsets in a channel's half of the block.
pub(super) mod port {
    pub(in super::super) const COMMAND: u64 = 0;
    pub(in super::super) const STATUS: u64 = 2;
    pub(in super::super) const TABLE: u64 = 4;
    /// Length of a half.
    pub(in super::super) const LEN: u64 = 8;
}

const START: u8 = 0x01;
/// Towards memory.
const TO_MEMORY: u8 = 0x08;

const ACTIVE: u8 = 0x01;
const ERROR: u8 = 0x02;
const INTERRUPT: u8 = 0x04;
/// Drives 0 and 1 can do it: for software to remember.
const CAPABLE: u8 = 0x60;

/// Length of a descriptor.
const DESCRIPTOR: u32 = 8;
/// A table lies within 64 KiB.
const MAX_DESCRIPTORS: u32 = (64 << 10) / DESCRIPTOR;
/// Flag of the last descriptor.
const END_OF_TABLE: u32 = 1 << 31;
/// About so many ranges one request gets at most.
const MAX_RANGES: usize = 512;

/// A descriptor that leads outside of RAM, or a table that does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadTable;

/// Where the walk is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    /// Address of the next descriptor.
    next: u32,
    /// Descriptors read.
    read: u32,
    /// What is left of the current region.
    address: u32,
    left: u32,
    /// The current region is the last.
    last: bool,
}

/// Registers and walk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BusMaster {
    command: u8,
    status: u8,
    table: u32,
    cursor: Cursor,
    /// Told to stop while the drive was at work: it is active until the drive is done.
    stopping: bool,
}

impl BusMaster {
    pub(super) fn read(&self, offset: u64, len: usize) -> Option<u32> {
        match (offset, len) {
            (port::COMMAND, 1) => Some(self.command.into()),
            (port::STATUS, 1) => Some(self.status.into()),
            (port::TABLE, 4) => Some(self.table),
            (port::TABLE..port::LEN, 1 | 2) => Some(self.table >> (8 * (offset - port::TABLE))),
            // Reserved bytes, alone or together with their neighbours.
            (1 | 3, 1) => Some(0xff),
            (port::COMMAND, 2 | 4) | (port::STATUS, 2) => {
                let bytes = u32::from_le_bytes([self.command, 0xff, self.status, 0xff]);
                Some(bytes >> (8 * offset))
            }
            _ => None,
        }
    }

    /// Takes a write; says whether it started the bus master. `at_work`: the drive has asked its image for something.
    pub(super) fn write(&mut self, offset: u64, len: usize, value: u32, at_work: bool) -> Option<bool> {
        let [low, _, third, _] = value.to_le_bytes();
        match (offset, len) {
            (port::COMMAND, 1 | 2) => return Some(self.set_command(low, at_work)),
            (port::COMMAND, 4) => {
                self.set_status(third);
                return Some(self.set_command(low, at_work));
            }
            (port::STATUS, 1 | 2) => self.set_status(low),
            (port::TABLE, 4) => self.table = value & !3,
            (port::TABLE..port::LEN, 1 | 2) => {
                let shift = 8 * (offset - port::TABLE);
                let mask = if len == 1 { 0xffu32 } else { 0xffff } << shift;
                self.table = ((self.table & !mask) | (value << shift & mask)) & !3;
            }
            (1 | 3, 1) => {}
            _ => return None,
        }
        Some(false)
    }

    /// What the image was asked for cannot be called back, and no vCPU waits for it. So a stop in the middle of a
    /// command takes effect at its end, as software sees in the active bit.
    fn set_command(&mut self, value: u8, at_work: bool) -> bool {
        let was = self.command & START != 0;
        self.command = value & (START | TO_MEMORY);
        let starts = !was && self.command & START != 0;
        if starts {
            self.status |= ACTIVE;
            self.stopping = false;
            self.cursor = Cursor { next: self.table, ..Cursor::default() };
        } else if self.command & START == 0 && at_work {
            self.stopping = self.active();
        } else if self.command & START == 0 {
            self.stop();
        }
        starts
    }

    fn set_status(&mut self, value: u8) {
        self.status = (value & CAPABLE) | (self.status & ACTIVE) | (self.status & !value & (ERROR | INTERRUPT));
    }

    /// Started and not done.
    pub(super) fn active(&self) -> bool {
        self.status & ACTIVE != 0
    }

    /// The drive asked for an interrupt.
    pub(super) fn note_interrupt(&mut self) {
        self.status |= INTERRUPT;
    }

    /// The drive moved all it had: the bus master goes on if it has more descriptors (82371SB, 3.5).
    pub(super) fn drive_done(&mut self) {
        if self.cursor.left == 0 && self.cursor.last {
            self.status &= !ACTIVE;
        }
    }

    /// It ends before the drive has what it wants.
    pub(super) fn stop(&mut self) {
        self.status &= !ACTIVE;
        self.stopping = false;
    }

    /// The drive is at rest: it stops if it was told to.
    pub(super) fn settle(&mut self) {
        if self.stopping {
            self.stop();
        }
    }

    /// It could not reach memory.
    pub(super) fn fail(&mut self) {
        self.stop();
        self.status |= ERROR;
    }

    /// Collects regions for up to `want` bytes, whole units of `unit` (at most 2048) bytes each; returns how many were
    /// found. Where the regions are many and small, less is found at once: the rest comes next time. Nothing, or what
    /// is no whole unit, means that the table ended too early.
    pub(super) fn gather(
        &mut self,
        ram: &RamView,
        want: u64,
        unit: u64,
        into: &mut Vec<GuestRange>,
    ) -> Result<u64, BadTable> {
        into.clear();
        let mut found = 0;
        while found < want {
            // The last unit is filled up; it has no more pieces than words.
            if into.len() >= MAX_RANGES && found.is_multiple_of(unit) {
                break;
            }
            let want = if into.len() >= MAX_RANGES { found.next_multiple_of(unit) } else { want };
            if self.cursor.left == 0 && !self.next_descriptor(ram)? {
                break;
            }
            let len = u32::try_from(want - found).unwrap_or(u32::MAX).min(self.cursor.left);
            let addr = u64::from(self.cursor.address);
            if !GuestMemory::check_range(ram, GuestAddress(addr), len as usize, Permissions::ReadWrite) {
                return Err(BadTable);
            }
            into.push(GuestRange { addr, len });
            self.cursor.address = self.cursor.address.wrapping_add(len);
            self.cursor.left -= len;
            found += u64::from(len);
        }
        Ok(found)
    }

    /// Reads a descriptor; false at the end of the table, which comes at the latest after 64 KiB.
    fn next_descriptor(&mut self, ram: &RamView) -> Result<bool, BadTable> {
        let cursor = &mut self.cursor;
        if cursor.last || cursor.read >= MAX_DESCRIPTORS {
            return Ok(false);
        }
        let mut bytes = [0; DESCRIPTOR as usize];
        ram.read_slice(&mut bytes, GuestAddress(cursor.next.into())).map_err(|_| BadTable)?;
        let [a0, a1, a2, a3, count @ ..] = bytes;
        let count = u32::from_le_bytes(count);
        cursor.address = u32::from_le_bytes([a0, a1, a2, a3]) & !1;
        // A count of zero means 64 KiB.
        cursor.left = match count & 0xfffe {
            0 => 64 << 10,
            len => len,
        };
        cursor.last = count & END_OF_TABLE != 0;
        cursor.next = cursor.next.wrapping_add(DESCRIPTOR);
        cursor.read += 1;
        Ok(true)
    }
}
