//! What a kernel's file is, told from its first bytes.

use super::bzimage::SetupHeader;
use super::elf::ElfImage;
use super::files::Opened;
use super::multiboot::MultibootHeader;
use super::{BootError, bzimage, elf, multiboot};

/// A kernel that can be booted.
#[derive(Debug)]
pub(super) enum Kind {
    BzImage(Box<SetupHeader>),
    Elf(ElfImage),
    Multiboot(MultibootHeader),
}

/// Bytes at a file's start that decide its kind: a multiboot header lies within the first 8192 (Multiboot 0.6.96, 3.1).
const HEAD: usize = 8192;

/// Other files that users hand over as kernels by mistake, and what they are called.
const FOREIGN: &[(usize, &[u8], &str)] = &[
    (0, &[0x1f, 0x8b], "a gzip file"),
    (0, b"\xfd7zXZ\0", "an xz file"),
    (0, &[0x28, 0xb5, 0x2f, 0xfd], "a zstd file"),
    (0, &[0x02, 0x21, 0x4c, 0x18], "an lz4 file (legacy frame)"),
    (0, &[0x04, 0x22, 0x4d, 0x18], "an lz4 file"),
    (0, b"BZh", "a bzip2 file"),
    (0, b"\x89LZO\0", "an lzop file"),
    (0, b"QFI\xfb", "a qcow2 image"),
    (0, b"KDMV", "a vmdk image"),
    (0, b"vhdxfile", "a vhdx image"),
    (0, b"070701", "a cpio archive (an initramfs)"),
    (0, b"070702", "a cpio archive (an initramfs)"),
    (0, b"#!", "a script"),
    (0, b"!<arch>\n", "an ar archive"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, &[0xd0, 0x0d, 0xfe, 0xed], "a flattened device tree"),
    (0, &[0x27, 0x05, 0x19, 0x56], "a U-Boot image"),
    (56, b"ARMd", "a Linux image for aarch64"),
    (56, b"RSC\x05", "a Linux image for RISC-V"),
    (257, b"ustar", "a tar archive"),
    (0, b"MZ", "a PE executable without a Linux boot header"),
    (510, &[0x55, 0xaa], "a disk image with a boot sector"),
];

/// Decides what `kernel` is, in QEMU's order: a Linux setup header, then multiboot, then ELF.
pub(super) fn identify(kernel: &Opened) -> Result<Kind, BootError> {
    let head = kernel.head(HEAD)?;
    let unknown = |found| BootError::Unknown { path: kernel.path.clone(), found };
    if bzimage::is_linux(&head) {
        return SetupHeader::parse(&head, kernel.len).map(|header| Kind::BzImage(Box::new(header))).map_err(unknown);
    }
    if let Some(header) = multiboot::find(&head) {
        return Ok(Kind::Multiboot(header));
    }
    if head.starts_with(elf::MAGIC) {
        let image = ElfImage::parse(&kernel.file, kernel.len)
            .map_err(|source| BootError::Elf { path: kernel.path.clone(), source })?;
        return match image.refusal() {
            Some(found) => Err(unknown(found)),
            None => Ok(Kind::Elf(image)),
        };
    }
    Err(unknown(describe(&head)))
}

fn describe(head: &[u8]) -> String {
    if head.is_empty() {
        return "an empty file".into();
    }
    let foreign = FOREIGN
        .iter()
        .find(|(offset, magic, _)| head.get(*offset..).is_some_and(|rest| rest.starts_with(magic)))
        .map(|(_, _, name)| (*name).to_owned());
    foreign.unwrap_or_else(|| {
        let bytes: Vec<String> = head.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("a file of an unknown kind, beginning with {}", bytes.join(" "))
    })
}
