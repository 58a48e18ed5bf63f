//! Drives on the IDE channels of the PIIX3.

use super::disk::{DiskSpec, ShapeSpec, SizesSpec};
use crate::spec::error::SpecError;

spec_struct! {
    /// What every IDE drive has.
    pub part IdeSpec as "ide-device" {
        /// Name of the device in commands and events.
        pub id: Option<String>,
        /// Channel, ide.0 or ide.1; the first with a free place when not given.
        pub bus: Option<String>,
        /// 0 for the channel's master, 1 for its slave; the first that is free when not given.
        pub unit: Option<u32>,
        /// Model; 40 bytes of it.
        pub model: Option<String>,
        /// Version of its firmware; 8 bytes of it.
        pub ver: Option<String>,
        /// World wide name; none when 0.
        pub wwn: u64 = 0,
    }
}

impl IdeSpec {
    fn check(&self) -> Result<(), SpecError> {
        if self.unit.is_some_and(|unit| unit > 1) {
            return Err(SpecError::new("Can't create IDE unit, bus supports only 2 units"));
        }
        Ok(())
    }
}

spec_enum! {
    /// How the BIOS shows programs the shape of a disk.
    pub enum ChsTranslation as "BiosAtaTranslation" {
        /// As suits the shape.
        Auto = "auto",
        /// As it is.
        None = "none",
        /// With up to 255 heads of 63 sectors.
        Lba = "lba",
        /// With fewer cylinders and as many more heads.
        Large = "large",
        /// As large, from 15 heads.
        Rechs = "rechs",
    }
}

spec_struct! {
    /// A disk on IDE.
    pub struct IdeHdSpec as "ide-hd" with ide: IdeSpec, disk: DiskSpec, sizes: SizesSpec, shape: ShapeSpec {
        /// Node name or drive id of the disk.
        pub drive: String,
        /// Turns in a minute; 0 for untold, 1 for no rotation.
        pub rotation_rate: u16 as "rotation_rate" = 0,
        /// How the BIOS shows programs the shape of the disk.
        pub bios_chs_trans: ChsTranslation = ChsTranslation::Auto,
    }
}

impl IdeHdSpec {
    pub(super) fn check(&self) -> Result<(), SpecError> {
        self.ide.check()?;
        self.disk.check()?;
        self.shape.check()
    }
}

spec_struct! {
    /// A CD drive on IDE.
    pub struct IdeCdSpec as "ide-cd" with ide: IdeSpec, disk: DiskSpec {
        /// Node name or drive id of the disc; empty when not given.
        pub drive: Option<String>,
    }
}

impl IdeCdSpec {
    pub(super) fn check(&self) -> Result<(), SpecError> {
        self.ide.check()?;
        self.disk.check()
    }
}
