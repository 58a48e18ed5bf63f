//! ATA commands (ATA8-ACS, 7).

use std::sync::Arc;

use super::channel::{Channel, Task};
use super::drive::{Drive, Kind, MAX_MULTIPLE, Modes, SECTOR};
use super::identify::{self, MAX_TRIM_BLOCKS};
use super::regs::{device, error};
use super::transfer::{Action, Sectors, Step, Trim, Way};
use crate::block_stats::Counted;

/// What a command that moves sectors is.
struct Move {
    way: Way,
    dma: bool,
    multiple: bool,
    lba48: bool,
}

impl Move {
    fn of(code: u8) -> Self {
        let (way, dma, multiple) = match code {
            0x20 | 0x21 | 0x24 => (Way::Read, false, false),
            0xc4 | 0x29 => (Way::Read, false, true),
            0xc8 | 0xc9 | 0x25 => (Way::Read, true, false),
            0x30 | 0x31 | 0x34 => (Way::Write, false, false),
            0xc5 | 0x39 => (Way::Write, false, true),
            0xca | 0xcb | 0x35 => (Way::Write, true, false),
            _ => (Way::Verify, false, false),
        };
        Self { way, dma, multiple, lba48: matches!(code, 0x24 | 0x25 | 0x29 | 0x34 | 0x35 | 0x39 | 0x42) }
    }
}

impl Channel {
    /// The address in the registers as a sector number: 48 or 28 bits, or by cylinder, head and sector as INITIALIZE
    /// DEVICE PARAMETERS has it (ATA/ATAPI-5, 6.2).
    fn address(&mut self, lba48: bool) -> Result<u64, u8> {
        let geometry = self.disk()?.geometry;
        let regs = self.regs();
        if lba48 {
            return Ok(regs.lba48());
        }
        if regs.device & device::LBA != 0 {
            return Ok(regs.lba28());
        }
        let cylinder = u64::from(u16::from_le_bytes([regs.mid.now, regs.high.now]));
        let (head, sector) = (regs.device & device::HEAD, regs.low.now);
        if sector == 0 || sector > geometry.sectors || head >= geometry.heads {
            return Err(error::IDNF);
        }
        let track = cylinder * u64::from(geometry.heads) + u64::from(head);
        Ok(track * u64::from(geometry.sectors) + u64::from(sector) - 1)
    }

    /// READ, WRITE and READ VERIFY in all their forms.
    pub(super) fn read_write(&mut self, code: u8) -> Result<(), u8> {
        let Move { way, dma, multiple, lba48 } = Move::of(code);
        let count = u64::from(self.regs().sectors(lba48));
        let start = self.address(lba48)?;
        let disk = self.disk()?;
        if multiple && disk.multiple == 0 {
            return Err(error::ABRT);
        }
        let block = if multiple { usize::from(disk.multiple) * SECTOR as usize } else { SECTOR as usize };
        let (sectors, read_only) = (disk.sectors(), disk.image.info().read_only);
        if start.checked_add(count).is_none_or(|end| end > sectors) {
            let counted = if way == Way::Write { Counted::Write } else { Counted::Read };
            if let Some(drive) = self.drive(self.work.drive) {
                drive.stats.invalid(counted);
            }
            return Err(error::IDNF);
        }
        if way == Way::Write && read_only {
            return Err(error::ABRT);
        }
        let (offset, left) = (start * SECTOR, count * SECTOR);
        self.work.task = Task::Sectors(Sectors { way, dma, lba48, offset, left, block });
        self.next_sectors(false);
        Ok(())
    }

    /// FLUSH CACHE and FLUSH CACHE EXT (7.14).
    pub(super) fn flush(&mut self, _code: u8) -> Result<(), u8> {
        self.disk()?;
        self.work.task = Task::Flush;
        self.submit(Step { action: Action::Flush, offset: 0, len: 0, guest: false });
        Ok(())
    }

    /// DATA SET MANAGEMENT (7.10): TRIM.
    pub(super) fn data_set_management(&mut self, _code: u8) -> Result<(), u8> {
        let regs = self.regs();
        // More than a byte holds is never offered; what drivers leave in the high byte (reset sets it to 1) is not read.
        let (features, blocks) = (regs.features.now, regs.sectors(false));
        let disk = self.disk()?;
        let offered = disk.trims() && !disk.image.info().read_only;
        if features != 0x01 || !offered || blocks > MAX_TRIM_BLOCKS {
            return Err(error::ABRT);
        }
        self.work.task = Task::Trim(Trim { blocks, ranges: Vec::new() });
        self.arm();
        Ok(())
    }

    /// READ NATIVE MAX ADDRESS and its EXT form (ATA8-ACS, 7.33): the last sector.
    pub(super) fn read_native_max(&mut self, code: u8) -> Result<(), u8> {
        let last = self.disk()?.sectors().saturating_sub(1);
        let regs = self.regs();
        if code == 0x27 {
            regs.set_lba48(last);
        } else {
            regs.set_lba28(last.min(0x0fff_ffff));
        }
        self.succeed();
        Ok(())
    }

    /// NOP: always aborted (7.18).
    pub(super) fn abort(&mut self, _code: u8) -> Result<(), u8> {
        Err(error::ABRT)
    }

    pub(super) fn recalibrate(&mut self, _code: u8) -> Result<(), u8> {
        self.succeed();
        Ok(())
    }

    /// SEEK (ATA/ATAPI-6, 8.44): only that the address exists.
    pub(super) fn seek(&mut self, _code: u8) -> Result<(), u8> {
        let at = self.address(false)?;
        if at >= self.disk()?.sectors() {
            return Err(error::IDNF);
        }
        self.succeed();
        Ok(())
    }

    /// EXECUTE DEVICE DIAGNOSTIC.
    pub(super) fn diagnostic(&mut self, _code: u8) -> Result<(), u8> {
        self.diagnose();
        Ok(())
    }

    /// INITIALIZE DEVICE PARAMETERS (ATA/ATAPI-5, 8.16): heads and sectors of the addresses that follow.
    pub(super) fn device_parameters(&mut self, _code: u8) -> Result<(), u8> {
        let regs = self.regs();
        let (heads, sectors) = ((regs.device & device::HEAD) + 1, regs.count.now);
        if sectors == 0 {
            return Err(error::ABRT);
        }
        let disk = self.disk()?;
        (disk.geometry.heads, disk.geometry.sectors) = (heads, sectors);
        self.succeed();
        Ok(())
    }

    /// SET MULTIPLE MODE (7.48).
    pub(super) fn set_multiple(&mut self, _code: u8) -> Result<(), u8> {
        let sectors = self.regs().count.now;
        if sectors > MAX_MULTIPLE || (sectors != 0 && !sectors.is_power_of_two()) {
            return Err(error::ABRT);
        }
        self.disk()?.multiple = sectors;
        self.succeed();
        Ok(())
    }

    /// Shows the host `data` (at most the buffer), then ends the command.
    pub(super) fn reply(&mut self, data: &[u8]) {
        self.buffer.put(0, data);
        self.work.task = Task::Reply;
        self.show(data.len());
    }

    /// IDENTIFY DEVICE.
    pub(super) fn identify(&mut self, _code: u8) -> Result<(), u8> {
        let modes = self.modes()?;
        let data = identify::disk(self.disk()?, modes);
        self.reply(&data);
        Ok(())
    }

    /// IDENTIFY PACKET DEVICE.
    pub(super) fn identify_packet(&mut self, _code: u8) -> Result<(), u8> {
        let modes = self.modes()?;
        let Some(Drive { kind: Kind::Cd(unit), .. }) = self.drive(self.work.drive) else { return Err(error::ABRT) };
        let data = identify::packet(&Arc::clone(unit), modes);
        self.reply(&data);
        Ok(())
    }

    fn modes(&mut self) -> Result<Modes, u8> {
        self.drive(self.work.drive).map(|drive| drive.modes).ok_or(error::ABRT)
    }

    /// PACKET.
    pub(super) fn packet_command(&mut self, _code: u8) -> Result<(), u8> {
        self.begin_packet()
    }

    /// DEVICE RESET of a packet drive that is not busy.
    pub(super) fn device_reset(&mut self, _code: u8) -> Result<(), u8> {
        self.reset_one(self.work.drive);
        Ok(())
    }

    /// A disk's command on a packet drive: aborted, with the signature (ATA8-ACS, 7.16.4).
    pub(super) fn not_here(&mut self, _code: u8) -> Result<(), u8> {
        if let Some(drive) = self.drive(self.work.drive) {
            let device = drive.regs.device;
            drive.sign();
            drive.regs.device = device;
        }
        Err(error::ABRT)
    }

    /// Power management (7.6, 7.15, 7.49 to 7.51): the drive is always awake, whatever it is told. CHECK POWER MODE
    /// says so.
    pub(super) fn power(&mut self, code: u8) -> Result<(), u8> {
        if matches!(code, 0x98 | 0xe5) {
            self.regs().count.set(0xff);
        }
        self.succeed();
        Ok(())
    }

    /// SET FEATURES (7.47).
    pub(super) fn set_features(&mut self, _code: u8) -> Result<(), u8> {
        let regs = self.regs();
        let (feature, value) = (regs.features.now, regs.count.now);
        match feature {
            0x02 => self.disk()?.write_cache = true,
            0x82 => {
                // What is in the cache has to reach the disk before it is off.
                self.disk()?.write_cache = false;
                return self.flush(0);
            }
            0x03 => self.set_transfer_mode(value)?,
            0x55 => self.disk()?.look_ahead = false,
            0xaa => self.disk()?.look_ahead = true,
            // Keep or revert settings at a software reset: they are kept, as 66h wants.
            0x66 => {}
            _ => return Err(error::ABRT),
        }
        self.succeed();
        Ok(())
    }

    /// Transfer mode (7.47.4): type in the high five bits, number in the low three.
    fn set_transfer_mode(&mut self, value: u8) -> Result<(), u8> {
        let number = value & 7;
        let modes = match value >> 3 {
            // Programmed I/O needs no choice: DMA stays as it was.
            0 if number <= 1 => return Ok(()),
            1 if number <= 4 => return Ok(()),
            4 if number <= 2 => Modes { multiword: 1 << number, ultra: 0 },
            8 if number <= 5 => Modes { multiword: 0, ultra: 1 << number },
            _ => return Err(error::ABRT),
        };
        self.drive(self.work.drive).ok_or(error::ABRT)?.modes = modes;
        Ok(())
    }
}
