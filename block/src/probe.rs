//! What a disk looks like from its first bytes.
//!
//! Asked once, at open, and only where the user gave no format. A guest can write any header into a raw disk, so an
//! answer of "raw" comes with a guard (see [`crate::format::raw::Raw::guarded`]).

/// Bytes that are looked at.
pub const SECTOR: usize = 512;

/// The formats that can be told from their first sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the formats' names say what they are")]
pub enum Probed {
    Qcow,
    Qcow2,
    Qed,
    Vmdk,
    Vdi,
    Vhdx,
    Vpc,
    Parallels,
    Luks,
    Bochs,
    Cloop,
    Dmg,
}

impl Probed {
    /// The driver's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Qcow => "qcow",
            Self::Qcow2 => "qcow2",
            Self::Qed => "qed",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vhdx => "vhdx",
            Self::Vpc => "vpc",
            Self::Parallels => "parallels",
            Self::Luks => "luks",
            Self::Bochs => "bochs",
            Self::Cloop => "cloop",
            Self::Dmg => "dmg",
        }
    }
}

/// The format whose mark `head` (the first bytes of a disk) bears; `None` is raw.
#[must_use]
pub fn format_of(head: &[u8]) -> Option<Probed> {
    let at = |offset: usize, mark: &[u8]| head.get(offset..offset + mark.len()) == Some(mark);
    let word = |offset: usize| head.get(offset..offset + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    if at(0, b"QFI\xfb") {
        return Some(if word(4) == Some(1) { Probed::Qcow } else { Probed::Qcow2 });
    }
    let marks: [(usize, &[u8], Probed); 11] = [
        (0, b"QED\0", Probed::Qed),
        (0, b"KDMV", Probed::Vmdk),
        (0, b"COWD", Probed::Vmdk),
        (0, b"# Disk DescriptorFile", Probed::Vmdk),
        (0x40, &0xbeda_107f_u32.to_le_bytes(), Probed::Vdi),
        (0, b"vhdxfile", Probed::Vhdx),
        (0, b"conectix", Probed::Vpc),
        (0, b"WithoutFreeSpace", Probed::Parallels),
        (0, b"WithouFreSpacExt", Probed::Parallels),
        (0, b"LUKS\xba\xbe", Probed::Luks),
        (0, b"Bochs Virtual HD Image", Probed::Bochs),
    ];
    marks.iter().find(|(offset, mark, _)| at(*offset, mark)).map(|(_, _, format)| *format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qcow_versions_are_told_apart() {
        assert_eq!(format_of(b"QFI\xfb\0\0\0\x03"), Some(Probed::Qcow2));
        assert_eq!(format_of(b"QFI\xfb\0\0\0\x01"), Some(Probed::Qcow));
    }

    #[test]
    fn short_and_plain_heads_are_raw() {
        assert_eq!(format_of(b""), None);
        assert_eq!(format_of(b"QFI"), None);
        assert_eq!(format_of(&[0; SECTOR]), None);
    }

    #[test]
    fn vdi_is_told_by_its_mark_at_0x40() {
        let mut head = [0u8; SECTOR];
        head[0x40..0x44].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe]);
        assert_eq!(format_of(&head), Some(Probed::Vdi));
    }
}
