//! `-drive` and its short forms.

use serde_json::{Map, Value};

use super::device::OnError;
use super::error::{SpecError, Words};
use super::object::ThrottleLimits;
use super::read::{self, Source};

spec_enum! {
    /// What kind of device shows the drive to the guest.
    pub enum DriveInterface {
        /// A virtio disk, `virtio-blk-pci`.
        Virtio = "virtio",
        /// None: a `-device` takes it by its id.
        None = "none",
        /// A disk or CD on IDE.
        Ide = "ide",
        /// A disk or CD on SCSI.
        Scsi = "scsi",
        /// A floppy.
        Floppy = "floppy",
        /// A memory card.
        Sd = "sd",
        /// Flash memory on the parallel bus.
        Pflash = "pflash",
        /// Flash memory of a development board.
        Mtd = "mtd",
        /// Xen's disk.
        Xen = "xen",
    }
}

spec_enum! {
    /// Disk or CD.
    pub enum DriveMedia {
        /// Disk.
        Disk = "disk",
        /// CD or DVD.
        Cdrom = "cdrom",
    }
}

spec_enum! {
    /// How the host's page cache and the disk's write cache are used.
    pub enum CacheMode {
        /// Page cache; flushes reach the disk.
        Writeback = "writeback",
        /// No page cache; flushes reach the disk.
        None = "none",
        /// No page cache, for QEMU's other name of `none`.
        Off = "off",
        /// Page cache; each write reaches the disk.
        Writethrough = "writethrough",
        /// No page cache; each write reaches the disk.
        Directsync = "directsync",
        /// Page cache; flushes are ignored.
        Unsafe = "unsafe",
    }
}

spec_enum! {
    /// How bytes are moved.
    pub enum AioMode {
        /// By threads that block.
        Threads = "threads",
        /// By the kernel's ring.
        IoUring = "io_uring",
        /// By Linux AIO, which needs the page cache out of the way.
        Native = "native",
    }
}

spec_enum! {
    /// What a guest's discard does.
    pub enum DiscardMode {
        /// Nothing.
        Ignore = "ignore",
        /// Nothing, for QEMU's other name.
        Off = "off",
        /// Gives the space back to the host.
        Unmap = "unmap",
        /// Gives the space back, for QEMU's other name.
        On = "on",
    }
}

spec_enum! {
    /// What a write of zeroes does.
    pub enum DetectZeroes {
        /// Writes them.
        Off = "off",
        /// Writes them without data where the host can.
        On = "on",
        /// Gives the space back to the host.
        Unmap = "unmap",
    }
}

spec_struct! {
    /// A drive. Names that are not here are options of the block driver, as in -blockdev.
    pub struct DriveOptions as "drive" {
        /// The image.
        pub file: Option<String>,
        /// Format of the image; probed when not given.
        pub format: Option<String>,
        /// What shows it to the guest: ide (the default), virtio, pflash for firmware, or none for a -device.
        pub r#if: Option<DriveInterface> as "if",
        /// Name of the drive; made of interface and index when not given.
        pub id: Option<String>,
        /// Name of the block node.
        pub node_name: Option<String>,
        /// Which drive of the interface, from 0; the next one when not given.
        pub index: Option<u32>,
        /// Which bus of the interface.
        pub bus: Option<u32>,
        /// Which drive of the bus.
        pub unit: Option<u32>,
        /// Disk or CD.
        pub media: DriveMedia = DriveMedia::Disk,
        /// Use of the host's page cache and of the disk's write cache.
        pub cache: Option<CacheMode>,
        /// How bytes are moved.
        pub aio: Option<AioMode>,
        /// What a guest's discard does.
        pub discard: Option<DiscardMode>,
        /// What a guest's writing of zeroes does.
        pub detect_zeroes: Option<DetectZeroes>,
        /// The guest cannot write.
        pub readonly: Option<bool>,
        /// The guest cannot write; the other name.
        pub read_only: Option<bool>,
        /// Throw away at the end what the guest writes.
        pub snapshot: Option<bool>,
        /// Copy what is read from the backing image into this one.
        pub copy_on_read: bool = false,
        /// What a failed write does.
        pub werror: Option<OnError>,
        /// What a failed read does.
        pub rerror: Option<OnError>,
        /// Let other programs write the same image.
        pub force_share: Option<bool>,
        /// Limits of the drive's rates.
        pub throttling: ThrottleLimits = ThrottleLimits::default(),
        /// The group that shares the limits.
        pub throttling_group: Option<String> as "throttling.group",
    }
}

/// A drive as asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct DriveSpec {
    /// The option with its argument, as the user wrote them.
    pub typed: String,
    /// What has a name in `-drive`.
    pub options: DriveOptions,
    /// What shows it to the guest.
    pub interface: DriveInterface,
    /// Options of the block driver, nested as in `-blockdev`, scalars as text: `driver`, `file.driver`,
    /// `l2-cache-size`, `cache.direct`, …
    pub block: Map<String, Value>,
}

impl DriveSpec {
    /// Reads the options of `-drive`, which was `typed` so; those that [`DriveOptions`] does not have are in `block`. `default` is the
    /// machine's interface for a drive that names none.
    ///
    /// # Errors
    /// One sentence, in the words of `-drive`.
    pub fn read(
        typed: String,
        own: Map<String, Value>,
        block: Map<String, Value>,
        default: DriveInterface,
    ) -> Result<Self, SpecError> {
        let options: DriveOptions = read::read(own, Source::Text, Words::Options)?;
        let interface = options.r#if.unwrap_or(default);
        if let Some(id) = &options.id {
            super::check_id(id)?;
        }
        options.check(interface)?;
        Ok(Self { typed, options, interface, block })
    }

    /// The guest cannot write.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.options.readonly.or(self.options.read_only).unwrap_or(self.options.media == DriveMedia::Cdrom)
    }
}

impl DriveOptions {
    fn check(&self, interface: DriveInterface) -> Result<(), SpecError> {
        self.throttling.check()?;
        let only = match interface {
            DriveInterface::Scsi => "use if=none,id=ID with -device virtio-scsi-pci and -device scsi-hd,drive=ID",
            _ => "use if=ide or if=virtio, if=pflash for firmware, or if=none and a -device with drive=ID",
        };
        let here = [DriveInterface::Virtio, DriveInterface::Ide, DriveInterface::Pflash, DriveInterface::None];
        if !here.contains(&interface) {
            return Err(SpecError::refused(format_args!("'if={interface}'"), only));
        }
        let no_cds = matches!(interface, DriveInterface::Virtio | DriveInterface::Pflash);
        if self.media == DriveMedia::Cdrom && no_cds {
            let what = format_args!("'media=cdrom' with if={interface}");
            return Err(SpecError::refused(what, "use media=disk,readonly=on"));
        }
        if self.readonly.is_some() && self.read_only.is_some() {
            return Err(SpecError::new("'read-only' and its alias 'readonly' can't be used at the same time"));
        }
        if self.rerror == Some(OnError::Enospc) {
            return Err(SpecError::new("'enospc' is not a valid read error action; use ignore, stop or report"));
        }
        if self.index.is_some() && (self.bus.is_some() || self.unit.is_some()) {
            return Err(SpecError::new("index cannot be used with bus and unit"));
        }
        let one_place = !matches!(interface, DriveInterface::Ide | DriveInterface::Pflash);
        if one_place && (self.bus.unwrap_or(0) != 0 || self.unit.unwrap_or(0) != 0) {
            return Err(SpecError::refused("a 'bus' or 'unit' other than 0 of a virtio drive", "use 'index'"));
        }
        if self.aio == Some(AioMode::Native) && !self.bypasses_page_cache() {
            return Err(SpecError::new(
                "aio=native was specified, but it requires cache.direct=on, which was not specified.",
            ));
        }
        Ok(())
    }

    fn bypasses_page_cache(&self) -> bool {
        matches!(self.cache, Some(CacheMode::None | CacheMode::Off | CacheMode::Directsync))
    }
}
