//! A drive on a channel: what it is made of and what it remembers between commands.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use rhea_block::{Image, ImageInfo};
use thiserror::Error;

use super::regs::{TaskFile, device, error, status};
use super::smart::SelfTests;
use crate::block_errors::ErrorPolicy;
use crate::block_sizes::{BlockSizeError, BlockSizes};
use crate::block_stats::BlockStats;
use crate::geometry::{Geometry, Translation};
use crate::pci::config::ConfigError;
use crate::scsi::{LogicalUnit, Medium, UnitKind};

/// Bytes of a sector.
pub(super) const SECTOR: u64 = 512;
/// Most sectors of one block of READ MULTIPLE.
pub(super) const MAX_MULTIPLE: u8 = 16;
/// Requests of a drive in flight: one at a time.
pub(super) const DEPTH: u32 = 4;

/// Properties of an ATA disk (`ide-hd`). Texts are cut to what their fields take.
#[derive(Debug, Clone)]
pub struct IdeDisk {
    /// Name in logs.
    pub id: String,
    /// `serial`: 20 bytes.
    pub serial: String,
    /// `model`: 40 bytes.
    pub model: String,
    /// `ver`: 8 bytes.
    pub version: String,
    /// `wwn`: a 64-bit NAA name; 0 for none.
    pub wwn: u64,
    /// Block sizes; sectors have 512 bytes.
    pub sizes: BlockSizes,
    /// `rotation_rate`: 0 for untold, 1 for no rotation, else turns in a minute.
    pub rotation_rate: u16,
    /// Offer TRIM.
    pub discard: bool,
    /// `write-cache`; `None` (auto) for as the image does.
    pub write_cache: Option<bool>,
    /// `cyls`, `heads`, `secs`; `None` for a guess.
    pub geometry: Option<Geometry>,
    /// `bios-chs-trans`; `None` (auto) for what suits the geometry.
    pub translation: Option<Translation>,
}

impl IdeDisk {
    /// QEMU's defaults; `number` counts the machine's IDE drives from 1 and makes the serial number.
    #[must_use]
    pub fn new(id: impl Into<String>, number: u32) -> Self {
        Self {
            id: id.into(),
            serial: format!("QM{number:05}"),
            model: "QEMU HARDDISK".to_owned(),
            version: "2.5+".to_owned(),
            wwn: 0,
            sizes: BlockSizes::of(SECTOR as u32),
            rotation_rate: 0,
            discard: true,
            write_cache: None,
            geometry: None,
            translation: None,
        }
    }
}

/// What to put on a channel.
pub enum IdeDrive {
    /// An ATA disk.
    Disk {
        /// Properties.
        config: IdeDisk,
        /// The disk.
        image: Arc<dyn Image>,
        /// What it counts.
        stats: Arc<BlockStats>,
        /// What to do when the host fails a request.
        errors: ErrorPolicy,
    },
    /// An ATAPI CD drive; serial number, product (as model) and version are the unit's.
    Cd {
        /// The drive.
        unit: Arc<LogicalUnit>,
        /// What it counts.
        stats: Arc<BlockStats>,
        /// What to do when the host fails a request.
        errors: ErrorPolicy,
    },
}

/// An IDE function that cannot be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IdeError {
    /// A disk behind ATAPI.
    #[error("\"{0}\" is not a CD drive")]
    NotCd(String),
    /// `cyls`, `heads`, `secs`.
    #[error("geometry of \"{id}\" must have 1 to 65535 cylinders, 1 to 16 heads and 1 to 255 sectors")]
    Geometry {
        /// Name of the drive.
        id: String,
    },
    /// The block sizes.
    #[error(transparent)]
    Sizes(#[from] BlockSizeError),
    /// `logical_block_size`.
    #[error("logical_block_size must be 512 for IDE, not {0}")]
    Sector(u32),
    /// Configuration space cannot be laid out.
    #[error("cannot lay out configuration space")]
    Layout(#[from] ConfigError),
    /// There is no memory for a buffer.
    #[error("no memory for the buffer of an IDE channel")]
    Memory,
}

/// What a disk is and remembers.
pub(super) struct Disk {
    pub(super) config: IdeDisk,
    pub(super) image: Arc<dyn Image>,
    pub(super) medium: Arc<Medium>,
    /// Size in bytes; a resize shows at the next IDENTIFY, as nothing can tell the guest.
    pub(super) size: Arc<AtomicU64>,
    /// Geometry at power-on.
    pub(super) default_geometry: Geometry,
    /// Geometry that INITIALIZE DEVICE PARAMETERS set.
    pub(super) geometry: Geometry,
    /// Sectors of a block of READ MULTIPLE; 0 when off.
    pub(super) multiple: u8,
    pub(super) write_cache: bool,
    pub(super) look_ahead: bool,
    pub(super) smart: bool,
    /// They outlive power and resets, as on a real drive; not the process.
    pub(super) self_tests: SelfTests,
}

impl Disk {
    fn new(config: IdeDisk, image: Arc<dyn Image>) -> Self {
        let info = image.info();
        let size = Arc::new(AtomicU64::new(info.size));
        let listener: Weak<AtomicU64> = Arc::downgrade(&size);
        image.on_change(Box::new(move |info: ImageInfo| {
            if let Some(size) = listener.upgrade() {
                size.store(info.size, Ordering::Release);
            }
        }));
        let default_geometry = config.geometry.unwrap_or_else(|| Geometry::guess(info.size));
        let mut disk = Self {
            config,
            medium: Medium::unopened(Arc::clone(&image)),
            image,
            size,
            default_geometry,
            geometry: default_geometry,
            multiple: 0,
            write_cache: false,
            look_ahead: true,
            smart: true,
            self_tests: SelfTests::default(),
        };
        disk.power_on();
        disk
    }

    pub(super) fn power_on(&mut self) {
        self.geometry = self.default_geometry;
        self.multiple = MAX_MULTIPLE;
        self.write_cache = self.config.write_cache.unwrap_or_else(|| self.image.info().write_cache);
        self.look_ahead = true;
        self.smart = true;
    }

    /// Whether TRIM is offered; a granularity of 0 takes it back, as on other buses.
    pub(super) fn trims(&self) -> bool {
        self.config.discard && self.config.sizes.discard_granularity != Some(0)
    }

    pub(super) fn sectors(&self) -> u64 {
        self.size.load(Ordering::Acquire) / SECTOR
    }
}

/// The two kinds of drive.
pub(super) enum Kind {
    Disk(Box<Disk>),
    Cd(Arc<LogicalUnit>),
}

/// How data was agreed to be transferred (SET FEATURES 03h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Modes {
    /// Selected multiword DMA mode, as a bit.
    pub(super) multiword: u8,
    /// Selected Ultra DMA mode, as a bit.
    pub(super) ultra: u8,
}

impl Default for Modes {
    /// Ultra DMA 5.
    fn default() -> Self {
        Self { multiword: 0, ultra: 0x20 }
    }
}

/// One drive.
pub(super) struct Drive {
    pub(super) kind: Kind,
    pub(super) stats: Arc<BlockStats>,
    pub(super) errors: ErrorPolicy,

    pub(super) regs: TaskFile,
    pub(super) modes: Modes,
}

impl Drive {
    pub(super) fn new(drive: IdeDrive) -> Result<Self, IdeError> {
        let (kind, stats, errors) = match drive {
            IdeDrive::Disk { config, image, stats, errors } => {
                check(&config)?;
                (Kind::Disk(Box::new(Disk::new(config, image))), stats, errors)
            }
            IdeDrive::Cd { unit, stats, errors } => {
                if unit.config().kind != UnitKind::Cd {
                    return Err(IdeError::NotCd(unit.config().id.clone()));
                }
                unit.forget_power_on();
                (Kind::Cd(unit), stats, errors)
            }
        };
        let mut drive = Self { kind, stats, errors, regs: TaskFile::default(), modes: Modes::default() };
        drive.sign();
        Ok(drive)
    }

    pub(super) fn is_cd(&self) -> bool {
        matches!(self.kind, Kind::Cd(_))
    }

    /// Where its bytes are; `None` in an empty drive.
    pub(super) fn medium(&self) -> Option<Arc<Medium>> {
        match &self.kind {
            Kind::Disk(disk) => Some(Arc::clone(&disk.medium)),
            Kind::Cd(unit) => unit.medium(),
        }
    }

    /// Back to power-on.
    pub(super) fn power_on(&mut self) {
        match &mut self.kind {
            Kind::Disk(disk) => disk.power_on(),
            Kind::Cd(unit) => {
                unit.power_on();
                unit.forget_power_on();
            }
        }
        self.regs = TaskFile::default();
        self.modes = Modes::default();
        self.sign();
    }

    /// Shows what kind it is (ATA8-ACS, table 8), with the diagnostic code.
    pub(super) fn sign(&mut self) {
        let (mid, high, ready) = if self.is_cd() { (0x14, 0xeb, 0) } else { (0, 0, status::DRDY | status::DSC) };
        self.regs.count.set(1);
        self.regs.low.set(1);
        self.regs.mid.set(mid);
        self.regs.high.set(high);
        self.regs.device = device::FIXED;
        self.regs.error = error::PASSED;
        self.regs.status = ready;
    }
}

fn check(config: &IdeDisk) -> Result<(), IdeError> {
    let id = || config.id.clone();
    if config.geometry.is_some_and(|g| g.cylinders == 0 || g.heads == 0 || g.heads > 16 || g.sectors == 0) {
        return Err(IdeError::Geometry { id: id() });
    }
    config.sizes.check()?;
    let logical = config.sizes.logical;
    if u64::from(logical) == SECTOR { Ok(()) } else { Err(IdeError::Sector(logical)) }
}
