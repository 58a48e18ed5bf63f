//! A bzImage in parts for firmware.

use super::fixture::{self, RAM};
use crate::x86_64::boot::BootError;
use crate::x86_64::boot::handover::{CMDLINE_ADDRESS, Handover, is_needed};

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

#[test]
fn parts_make_the_file_again_but_for_what_a_loader_fills_in() {
    let kernel = fixture::bzimage(b"payload", 0x020f);
    let files = fixture::files(&[("kernel", &kernel), ("initrd", &[7; 5000])]);
    let (path, initrd) = (files.path().join("kernel"), files.path().join("initrd"));

    let parts = Handover::read(&path, Some(&initrd), "quiet", RAM).unwrap();

    assert_eq!(parts.setup[..0x1f1], kernel[..0x1f1]);
    assert_eq!(parts.kernel, fixture::code_of(&kernel));
    assert_eq!((parts.cmdline.as_slice(), parts.initrd.len()), (&b"quiet\0"[..], 5000));
    assert_eq!(number(&parts.setup, 0x228), CMDLINE_ADDRESS);
    assert_eq!((number(&parts.setup, 0x218), number(&parts.setup, 0x21c)), (parts.initrd_address, 5000));
    assert!(u64::from(parts.initrd_address) + 5000 <= RAM - (1 << 20));
}

#[test]
fn initrd_larger_than_memory_is_refused_before_it_is_read() {
    let files = fixture::files(&[("kernel", &fixture::bzimage(b"payload", 0x020f)), ("initrd", &[])]);
    let (path, initrd) = (files.path().join("kernel"), files.path().join("initrd"));
    std::fs::File::options().write(true).open(&initrd).unwrap().set_len(1 << 40).unwrap();

    let refused = Handover::read(&path, Some(&initrd), "", RAM);

    assert!(matches!(refused, Err(BootError::NoRoom { size: 0x100_0000_0000, .. })));
}

#[test]
fn elf_kernel_is_not_for_firmware() {
    let files = fixture::files(&[("kernel", &fixture::Elf::like_linux().bytes())]);

    let refused = Handover::read(&files.path().join("kernel"), None, "", RAM);

    assert!(matches!(refused, Err(BootError::NotForFirmware { .. })));
}

#[test]
fn only_a_kernel_without_a_32_bit_entry_needs_firmware() {
    let linux = fixture::bzimage(b"payload", 0x020f);
    let mut real_mode = linux.clone();
    real_mode[0x214..0x218].fill(0);
    let files = fixture::files(&[("linux", &linux), ("ipxe", &real_mode), ("text", b"hello")]);

    assert!(is_needed(&files.path().join("ipxe")));
    assert!(!["linux", "text", "nowhere"].iter().any(|name| is_needed(&files.path().join(name))));
}
