//! The shape that disks claim to have, for every kind of front end.

/// What firmware calls the shape of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Cylinders.
    pub cylinders: u16,
    /// Heads.
    pub heads: u8,
    /// Sectors of a track.
    pub sectors: u8,
}

impl Geometry {
    /// 16 heads and 63 sectors, and as many of the 16383 cylinders that ATA allows as the disk fills.
    #[must_use]
    pub fn guess(size: u64) -> Self {
        let cylinders = (size / 512 / (16 * 63)).clamp(2, 16383);
        Self { cylinders: u16::try_from(cylinders).unwrap_or(16383), heads: 16, sectors: 63 }
    }

    /// Whether the BIOS shows a programme another shape, because its calls have room for 1024 cylinders only.
    #[must_use]
    pub fn is_translated(self) -> bool {
        self.cylinders > 1024 || self.heads > 16 || self.sectors > 63
    }
}
