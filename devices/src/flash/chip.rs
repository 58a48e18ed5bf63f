//! The command state machine (Intel "Scalable Command Set"; JESD68 as cited in [`super::cfi`]).
//!
//! A command is the low byte of a write, at any address of the chip; programming takes all bytes of a wider one.

use std::collections::BTreeSet;

use super::BLOCK;
use super::cfi::{self, BUFFER};
use super::store::Store;

/// Commands, first cycle.
mod command {
    pub(super) const PROGRAM: [u8; 2] = [0x10, 0x40];
    pub(super) const ERASE: [u8; 2] = [0x20, 0x28];
    pub(super) const CLEAR_STATUS: u8 = 0x50;
    pub(super) const LOCK: u8 = 0x60;
    pub(super) const READ_STATUS: u8 = 0x70;
    pub(super) const READ_ID: u8 = 0x90;
    pub(super) const QUERY: u8 = 0x98;
    pub(super) const BUFFERED: u8 = 0xe8;
}

/// Second cycles.
const CONFIRM: u8 = 0xd0;
const SET_LOCK: u8 = 0x01;
const READ_ARRAY: u8 = 0xff;

/// Status bits.
mod status {
    pub(super) const READY: u8 = 1 << 7;
    pub(super) const ERASE_ERROR: u8 = 1 << 5;
    pub(super) const PROGRAM_ERROR: u8 = 1 << 4;
    /// Both errors: the sequence of commands makes no sense.
    pub(super) const SEQUENCE_ERROR: u8 = ERASE_ERROR | PROGRAM_ERROR;
    pub(super) const LOCKED: u8 = 1 << 1;
}

/// What a read shows, or which cycle of a command comes next (reads then show the status).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Mode {
    #[default]
    Array,
    Status,
    Identity,
    Query,
    Program,
    Erase,
    Lock,
    /// The count less one of a buffered write comes next.
    Count,
    /// This many bytes come next, into the buffer.
    Fill(usize),
    /// The buffer is full.
    Confirm,
}

/// Registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Regs {
    pub(super) mode: Mode,
    pub(super) status: u8,
    /// The write buffer: where its first byte goes, and its bytes, in ascending order without gaps.
    pub(super) buffer: (u64, Vec<u8>),
    /// Numbers of the blocks that are locked.
    pub(super) locked: BTreeSet<u64>,
}

impl Default for Regs {
    fn default() -> Self {
        Self { mode: Mode::Array, status: status::READY, buffer: (0, Vec::new()), locked: BTreeSet::new() }
    }
}

/// The state machine of a chip.
pub(super) struct Chip {
    size: u64,
    read_only: bool,
    pub(super) regs: Regs,
}

impl Chip {
    pub(super) fn new(size: u64, read_only: bool) -> Self {
        Self { size, read_only, regs: Regs::default() }
    }

    pub(super) fn reset(&mut self) {
        self.regs = Regs::default();
    }

    pub(super) fn shows_array(&self) -> bool {
        self.regs.mode == Mode::Array
    }

    /// Whether `regs` can be those of this chip.
    pub(super) fn fits(&self, regs: &Regs) -> bool {
        let (start, bytes) = &regs.buffer;
        let room = if let Mode::Fill(left) = regs.mode { left } else { 0 };
        let whole = bytes.len().saturating_add(room);
        whole <= BUFFER
            && (bytes.is_empty() || start.checked_add(whole as u64).is_some_and(|end| end <= self.size))
            && regs.locked.iter().all(|block| *block < self.size / BLOCK)
    }

    /// What a read shows where it does not show the array.
    pub(super) fn register(&self, offset: u64) -> u8 {
        let [at, ..] = offset.to_le_bytes();
        match self.regs.mode {
            // Neither a manufacturer nor a device, as QEMU's chip on a PC; then whether the block is locked.
            Mode::Identity => u8::from(offset % BLOCK == 2 && self.regs.locked.contains(&(offset / BLOCK))),
            Mode::Query => cfi::query(self.size, at),
            _ => self.regs.status,
        }
    }

    /// The image did not take what was programmed.
    pub(super) fn failed_to_program(&mut self) {
        self.regs.status |= status::PROGRAM_ERROR;
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8], store: &mut Store) {
        let Some(&low) = data.first() else { return };
        match self.regs.mode {
            Mode::Array | Mode::Status | Mode::Identity | Mode::Query => self.command(low),
            Mode::Program => {
                self.program(offset, data, store);
                self.done(0);
            }
            Mode::Erase if low == CONFIRM => self.erase(offset, store),
            Mode::Lock if matches!(low, CONFIRM | SET_LOCK) => self.lock(offset, low == SET_LOCK),
            Mode::Count => {
                self.regs.buffer.1.clear();
                self.regs.mode = Mode::Fill(usize::from(low) + 1);
            }
            Mode::Fill(left) => self.fill(offset, data, left),
            Mode::Confirm if low == CONFIRM => {
                let (start, bytes) = std::mem::take(&mut self.regs.buffer);
                self.program(start, &bytes, store);
                self.done(0);
            }
            Mode::Erase | Mode::Lock if low == READ_ARRAY => self.regs.mode = Mode::Array,
            Mode::Erase | Mode::Lock | Mode::Confirm => self.done(status::SEQUENCE_ERROR),
        }
    }

    fn command(&mut self, command: u8) {
        self.regs.mode = match command {
            command if command::PROGRAM.contains(&command) => Mode::Program,
            command if command::ERASE.contains(&command) => Mode::Erase,
            command::LOCK => Mode::Lock,
            command::READ_STATUS => Mode::Status,
            command::READ_ID => Mode::Identity,
            command::QUERY => Mode::Query,
            command::BUFFERED => Mode::Count,
            command::CLEAR_STATUS => {
                // Also the ready bit, and the array shows: OVMF knows QEMU's flash from memory and ROM by that.
                self.regs.status = 0;
                Mode::Array
            }
            _ => Mode::Array,
        };
    }

    /// The command is over; reads show the status.
    fn done(&mut self, errors: u8) {
        self.regs.status |= status::READY | errors;
        self.regs.mode = Mode::Status;
    }

    fn lock(&mut self, offset: u64, locked: bool) {
        let block = offset / BLOCK;
        if locked {
            self.regs.locked.insert(block);
        } else {
            self.regs.locked.remove(&block);
        }
        self.done(0);
    }

    fn fill(&mut self, offset: u64, data: &[u8], left: usize) {
        let (start, bytes) = &mut self.regs.buffer;
        if bytes.is_empty() {
            *start = offset;
        }
        // One block, without gaps: a driver fills its buffer from one end to the other.
        let expected = *start + bytes.len() as u64;
        let last = offset + data.len() as u64 - 1;
        if offset != expected || last / BLOCK != *start / BLOCK || data.len() > left {
            bytes.clear();
            return self.done(status::SEQUENCE_ERROR);
        }
        bytes.extend_from_slice(data);
        let left = left - data.len();
        self.regs.mode = if left == 0 { Mode::Confirm } else { Mode::Fill(left) };
    }

    /// What is told, beside the error, of a block at `offset` that cannot be changed: whether it is locked. The whole
    /// chip is not, where its image is read-only, as QEMU has it.
    fn protection(&self, offset: u64) -> Option<u8> {
        match self.regs.locked.contains(&(offset / BLOCK)) {
            true => Some(status::LOCKED),
            false => self.read_only.then_some(0),
        }
    }

    /// Bytes take their new values, also where a real chip would need an erasure first, as in QEMU's.
    fn program(&mut self, offset: u64, data: &[u8], store: &mut Store) {
        match self.protection(offset) {
            None => store.write(offset, data),
            Some(protection) => self.regs.status |= protection | status::PROGRAM_ERROR,
        }
    }

    fn erase(&mut self, offset: u64, store: &mut Store) {
        match self.protection(offset) {
            None => {
                store.write(offset - offset % BLOCK, &[0xff; BLOCK as usize]);
                self.done(0);
            }
            Some(protection) => self.done(protection | status::ERASE_ERROR),
        }
    }
}
