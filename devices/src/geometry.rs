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

    /// What the BIOS does when nobody says: its calls have room for 1024 cylinders only.
    const fn usual_translation(self) -> Translation {
        if self.cylinders > 1024 || self.heads > 16 || self.sectors > 63 { Translation::Lba } else { Translation::None }
    }
}

/// How the BIOS shows programs the shape of a disk: two bits of CMOS memory for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Translation {
    /// As it is.
    None = 0,
    /// As one with up to 255 heads of 63 sectors.
    Lba = 1,
    /// As one with fewer cylinders and as many more heads.
    Large = 2,
    /// As large, from 15 heads.
    Rechs = 3,
}

/// The shape of a disk, and how the BIOS shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The disk's own.
    pub geometry: Geometry,
    /// What becomes of it.
    pub translation: Translation,
}

/// Place of the partition table in the first sector, and of its end mark.
const TABLE: usize = 0x1be;
const MARK: usize = 0x1fe;
/// Length of an entry; there are four.
const ENTRY: usize = 16;

impl Shape {
    /// This geometry, shown as usual.
    #[must_use]
    pub const fn of(geometry: Geometry) -> Self {
        Self { geometry, translation: geometry.usual_translation() }
    }

    /// The shape of a disk of `size` bytes that nobody gave one, as QEMU guesses it: partitions usually end with a
    /// cylinder, so the table in the first sector tells the shape that its maker saw.
    #[must_use]
    pub fn guess(size: u64, first_sector: Option<&[u8; 512]>) -> Self {
        let guessed = Self::of(Geometry::guess(size));
        let Some(seen) = first_sector.and_then(|sector| seen_by_partitions(size, sector)) else { return guessed };
        if seen.heads <= 16 {
            return Self { geometry: seen, translation: Translation::None };
        }
        // A disk has no such shape: the BIOS had translated its own.
        let Geometry { cylinders, heads, .. } = guessed.geometry;
        let fits = u32::from(cylinders) * u32::from(heads) <= 131_072;
        Self { translation: if fits { Translation::Large } else { Translation::Lba }, ..guessed }
    }
}

/// What the first partition with an end says.
fn seen_by_partitions(size: u64, sector: &[u8; 512]) -> Option<Geometry> {
    if sector.get(MARK..) != Some(&[0x55, 0xaa]) {
        return None;
    }
    let of = |entry: &[u8; ENTRY]| {
        let [_, _, _, _, _, last_head, last_sector, _, _, _, _, _, length @ ..] = *entry;
        let sectors = last_sector & 63;
        if u32::from_le_bytes(length) == 0 || last_head == 0 || sectors == 0 {
            return None;
        }
        let cylinders = size / 512 / ((u64::from(last_head) + 1) * u64::from(sectors));
        let cylinders = u16::try_from(cylinders).ok().filter(|count| (1..=16383).contains(count))?;
        Some(Geometry { cylinders, heads: last_head.checked_add(1)?, sectors })
    };
    let (entries, _) = sector.get(TABLE..MARK)?.as_chunks::<ENTRY>();
    entries.iter().find_map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sector whose second entry ends at this head and sector.
    fn sector(head: u8, sector: u8) -> [u8; 512] {
        let mut bytes = [0; 512];
        bytes[MARK..].copy_from_slice(&[0x55, 0xaa]);
        let entry = &mut bytes[TABLE + ENTRY..][..ENTRY];
        (entry[5], entry[6], entry[12]) = (head, sector, 1);
        bytes
    }

    fn shape(cylinders: u16, heads: u8, sectors: u8, translation: Translation) -> Shape {
        Shape { geometry: Geometry { cylinders, heads, sectors }, translation }
    }

    #[test]
    fn table_made_with_the_disks_own_shape_tells_it() {
        assert_eq!(Shape::guess(30 << 20, Some(&sector(7, 32))), shape(240, 8, 32, Translation::None));
        assert_eq!(Shape::guess(4 << 30, Some(&sector(15, 63))), shape(8322, 16, 63, Translation::None));
    }

    #[test]
    fn table_made_with_more_heads_than_a_disk_has_tells_that_the_bios_translated() {
        assert_eq!(Shape::guess(30 << 20, Some(&sector(127, 63))), shape(60, 16, 63, Translation::Large));
        assert_eq!(Shape::guess(4 << 30, Some(&sector(127, 63))), shape(8322, 16, 63, Translation::Lba));
    }

    #[test]
    fn without_a_table_the_size_decides() {
        let unmarked = {
            let mut sector = sector(7, 32);
            sector[MARK] = 0;
            sector
        };
        for first in [None, Some(&[0; 512]), Some(&sector(7, 0)), Some(&sector(0, 63)), Some(&unmarked)] {
            assert_eq!(Shape::guess(30 << 20, first), shape(60, 16, 63, Translation::None));
        }
        assert_eq!(Shape::guess(4 << 30, None), shape(8322, 16, 63, Translation::Lba));
        assert_eq!(Shape::guess(0, Some(&sector(255, 255))), shape(2, 16, 63, Translation::None));
    }
}
