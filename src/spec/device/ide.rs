//! Drives on the IDE channels of the PIIX3.

use super::OnError;
use crate::spec::error::SpecError;
use crate::spec::number::ByteSize;
use crate::spec::pci::OnOffAuto;

spec_struct! {
    /// What every IDE drive has.
    pub part IdeSpec as "ide-device" {
        /// Name of the device in commands and events.
        pub id: Option<String>,
        /// Channel, ide.0 or ide.1; the first with a free place when not given.
        pub bus: Option<String>,
        /// 0 for the channel's master, 1 for its slave; the first that is free when not given.
        pub unit: Option<u32>,
        /// Place in the order of booting, from 0.
        pub bootindex: Option<i32>,
        /// Serial number; 20 bytes of it.
        pub serial: Option<String>,
        /// Model; 40 bytes of it.
        pub model: Option<String>,
        /// Version of its firmware; 8 bytes of it.
        pub ver: Option<String>,
        /// World wide name; none when 0.
        pub wwn: u64 = 0,
        /// What a failed write does.
        pub werror: OnError = OnError::Auto,
        /// What a failed read does.
        pub rerror: OnError = OnError::Auto,
        /// Tell the guest of a volatile write cache; auto is as the drive's cache mode says.
        pub write_cache: OnOffAuto = OnOffAuto::Auto,
    }
}

impl IdeSpec {
    fn check(&self) -> Result<(), SpecError> {
        if self.unit.is_some_and(|unit| unit > 1) {
            return Err(SpecError::new("Can't create IDE unit, bus supports only 2 units"));
        }
        if self.rerror == OnError::Enospc {
            return Err(SpecError::refused("'rerror=enospc'", "use rerror=report, ignore or stop"));
        }
        Ok(())
    }
}

spec_struct! {
    /// A disk on IDE.
    pub struct IdeHdSpec as "ide-hd" with ide: IdeSpec {
        /// Node name or drive id of the disk.
        pub drive: String,
        /// Unit that the disk writes in one go, in bytes: a power of two from 512; 512 when not given.
        pub physical_block_size: Option<ByteSize> as "physical_block_size",
        /// Turns in a minute; 0 for untold, 1 for no rotation.
        pub rotation_rate: u16 as "rotation_rate" = 0,
        /// Cylinders that the guest is told of; guessed when not given.
        pub cyls: Option<u16>,
        /// Heads that the guest is told of.
        pub heads: Option<u8>,
        /// Sectors of a track that the guest is told of.
        pub secs: Option<u8>,
    }
}

impl IdeHdSpec {
    pub(super) fn check(&self) -> Result<(), SpecError> {
        self.ide.check()?;
        match (self.cyls, self.heads, self.secs) {
            (None, None, None) | (Some(_), Some(_), Some(_)) => Ok(()),
            _ => Err(SpecError::new("'cyls', 'heads' and 'secs' go together; give all three or none")),
        }
    }
}

spec_struct! {
    /// A CD drive on IDE.
    pub struct IdeCdSpec as "ide-cd" with ide: IdeSpec {
        /// Node name or drive id of the disc; empty when not given.
        pub drive: Option<String>,
    }
}

impl IdeCdSpec {
    pub(super) fn check(&self) -> Result<(), SpecError> {
        self.ide.check()
    }
}
