//! Registers of the command and control blocks (ATA8-APT, 7; ATA8-ACS, 6).

/// Offsets in the command block.
pub(super) mod port {
    pub(in super::super) const DATA: u64 = 0;
    /// Error when read, features when written.
    pub(in super::super) const ERROR: u64 = 1;
    pub(in super::super) const COUNT: u64 = 2;
    pub(in super::super) const LBA_LOW: u64 = 3;
    pub(in super::super) const LBA_MID: u64 = 4;
    pub(in super::super) const LBA_HIGH: u64 = 5;
    pub(in super::super) const DEVICE: u64 = 6;
    /// Status when read, command when written.
    pub(in super::super) const STATUS: u64 = 7;
    /// Length of the block.
    pub(in super::super) const LEN: u64 = 8;
}

/// Bits of the status register.
pub(super) mod status {
    pub(in super::super) const ERR: u8 = 0x01;
    pub(in super::super) const DRQ: u8 = 0x08;
    /// Seek complete, which became "deferred write error" and reads as ones all the same.
    pub(in super::super) const DSC: u8 = 0x10;
    pub(in super::super) const DRDY: u8 = 0x40;
    pub(in super::super) const BSY: u8 = 0x80;
}

/// Bits of the error register.
pub(super) mod error {
    pub(in super::super) const ABRT: u8 = 0x04;
    pub(in super::super) const IDNF: u8 = 0x10;
    pub(in super::super) const UNC: u8 = 0x40;
    /// Diagnostic code: device 0 passed, and device 1 did or is not there.
    pub(in super::super) const PASSED: u8 = 0x01;
}

/// Bits of the device register.
pub(super) mod device {
    /// The bits that were always one.
    pub(in super::super) const FIXED: u8 = 0xa0;
    pub(in super::super) const LBA: u8 = 0x40;
    pub(in super::super) const SECOND: u8 = 0x10;
    pub(in super::super) const HEAD: u8 = 0x0f;
}

/// Bits of the device control register.
pub(super) mod control {
    /// No interrupts.
    pub(in super::super) const NIEN: u8 = 0x02;
    pub(in super::super) const SRST: u8 = 0x04;
    /// Reads show the bytes that were written before the last ones.
    pub(in super::super) const HOB: u8 = 0x80;
}

/// Interrupt reason, in the count register of ATAPI drives (ATA/ATAPI-7, 6.5.1).
pub(super) mod reason {
    /// It is about the command, not its data.
    pub(in super::super) const COMMAND: u8 = 0x01;
    /// Towards the host.
    pub(in super::super) const TO_HOST: u8 = 0x02;
}

/// A register of which writes are remembered one deep, for 48-bit addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Deep {
    pub(super) now: u8,
    pub(super) before: u8,
}

impl Deep {
    pub(super) fn write(&mut self, value: u8) {
        self.before = self.now;
        self.now = value;
    }

    pub(super) fn get(self, before: bool) -> u8 {
        if before { self.before } else { self.now }
    }

    pub(super) fn set(&mut self, value: u8) {
        *self = Self { now: value, before: 0 };
    }
}

/// A drive's registers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TaskFile {
    pub(super) features: Deep,
    pub(super) count: Deep,
    pub(super) low: Deep,
    pub(super) mid: Deep,
    pub(super) high: Deep,
    pub(super) device: u8,
    pub(super) status: u8,
    pub(super) error: u8,
}

impl TaskFile {
    /// The number of sectors asked for: 0 means as many as there can be.
    pub(super) fn sectors(&self, lba48: bool) -> u32 {
        let (now, before) = (u32::from(self.count.now), u32::from(self.count.before));
        match (lba48, now | if lba48 { before << 8 } else { 0 }) {
            (false, 0) => 256,
            (true, 0) => 65536,
            (_, count) => count,
        }
    }

    /// The 48-bit address.
    pub(super) fn lba48(&self) -> u64 {
        let bytes = [self.high.before, self.mid.before, self.low.before, self.high.now, self.mid.now, self.low.now];
        bytes.iter().fold(0, |lba, byte| lba << 8 | u64::from(*byte))
    }

    /// The 28-bit address.
    pub(super) fn lba28(&self) -> u64 {
        let bytes = [self.device & device::HEAD, self.high.now, self.mid.now, self.low.now];
        bytes.iter().fold(0, |lba, byte| lba << 8 | u64::from(*byte))
    }

    /// Puts an address where 28-bit commands have it.
    pub(super) fn set_lba28(&mut self, lba: u64) {
        let [low, mid, high, top, ..] = lba.to_le_bytes();
        self.low.set(low);
        self.mid.set(mid);
        self.high.set(high);
        self.device = (self.device & !device::HEAD) | (top & device::HEAD);
    }

    /// Puts an address where 48-bit commands have it.
    pub(super) fn set_lba48(&mut self, lba: u64) {
        let [low, mid, high, low2, mid2, high2, ..] = lba.to_le_bytes();
        self.low = Deep { now: low, before: low2 };
        self.mid = Deep { now: mid, before: mid2 };
        self.high = Deep { now: high, before: high2 };
    }

    /// The byte count of a packet command.
    pub(super) fn byte_count(&self) -> usize {
        usize::from(u16::from_le_bytes([self.mid.now, self.high.now]))
    }

    pub(super) fn set_byte_count(&mut self, count: usize) {
        let [low, high] = u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes();
        self.mid.set(low);
        self.high.set(high);
    }
}
