//! An option ROM with which SeaBIOS starts the kernel that fw_cfg holds (BIOS Boot Specification 1.01, 3.3 and appendix
//! A: a boot entry vector). OVMF reads the same items by itself.
//!
//! The kernel's parts lie in fw_cfg; the ROM has them copied to their places by fw_cfg's DMA, which reaches all memory
//! from real mode, and jumps to the kernel's own real-mode code (Documentation/arch/x86/boot.rst of the kernel, "Running
//! the kernel").

use rhea_arch::x86_64::boot::handover::{CMDLINE_ADDRESS, HEAP_END, Handover, KERNEL_ADDRESS, SETUP_ADDRESS};
use rhea_devices::fw_cfg::key;

/// Bytes of the ROM: one unit of its length field.
const SIZE: usize = 512;
/// Places in the ROM.
const PNP_HEADER: u16 = 0x20;
const PRODUCT: u16 = 0x40;
const RETURN: u16 = 0x50;
const ENTRY: u16 = 0x60;
const TRANSFERS: u16 = 0xc0;
/// Where the transfers' descriptors are copied to, as fw_cfg writes each result into its descriptor.
const DESCRIPTORS: u16 = 0x7000;
const DESCRIPTOR_BYTES: u16 = 16;
/// fw_cfg: select the key in the high half, then read.
const SELECT_AND_READ: u32 = 1 << 3 | 1 << 1;

/// Segment of the kernel's real-mode part; its code begins behind the 512 bytes of the boot sector.
const SETUP_SEGMENT: u16 = (SETUP_ADDRESS >> 4) as u16;
const CODE_SEGMENT: u16 = SETUP_SEGMENT + 0x20;

/// The ROM that loads `kernel`.
pub(super) fn image(kernel: &Handover) -> Vec<u8> {
    let transfers = transfers(kernel);
    let code = code(transfers.len() as u16);
    let mut rom = vec![0; SIZE];
    let mut put = |at: u16, bytes: &[u8]| {
        let at = usize::from(at);
        rom[at..at + bytes.len()].copy_from_slice(bytes);
    };
    // Signature, units of length, and what initialization runs: a jump to the return below.
    put(0, &[0x55, 0xaa, 1, 0xe9]);
    put(4, &(RETURN - 6).to_le_bytes());
    put(0x1a, &PNP_HEADER.to_le_bytes());
    put(PNP_HEADER, &pnp_header());
    put(PRODUCT, b"Linux kernel\0");
    // xor ax, ax; retf: a device that may be started from.
    put(RETURN, &[0x31, 0xc0, 0xcb]);
    put(ENTRY, &code);
    put(TRANSFERS, &transfers.concat());
    let sum = rom.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(last) = rom.last_mut() {
        *last = sum.wrapping_neg();
    }
    rom
}

/// The expansion header: version 1.0, 32 bytes, one boot entry vector.
fn pnp_header() -> [u8; 32] {
    let mut header = [0; 32];
    header[..6].copy_from_slice(b"$PnP\x01\x02");
    header[0x10..0x12].copy_from_slice(&PRODUCT.to_le_bytes());
    header[0x1a..0x1c].copy_from_slice(&ENTRY.to_le_bytes());
    let sum = header.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    header[9] = sum.wrapping_neg();
    header
}

/// fw_cfg's descriptors, big endian: control, length, address.
fn transfers(kernel: &Handover) -> Vec<[u8; DESCRIPTOR_BYTES as usize]> {
    let parts = [
        (key::SETUP_DATA, &kernel.setup, SETUP_ADDRESS),
        (key::CMDLINE_DATA, &kernel.cmdline, CMDLINE_ADDRESS),
        (key::KERNEL_DATA, &kernel.kernel, KERNEL_ADDRESS),
        (key::INITRD_DATA, &kernel.initrd, kernel.initrd_address),
    ];
    let descriptor = |(key, bytes, address): (u16, &Vec<u8>, u32)| {
        let control = u32::from(key) << 16 | SELECT_AND_READ;
        let mut descriptor = [0; 16];
        descriptor[..4].copy_from_slice(&control.to_be_bytes());
        descriptor[4..8].copy_from_slice(&(bytes.len() as u32).to_be_bytes());
        descriptor[8..].copy_from_slice(&u64::from(address).to_be_bytes());
        descriptor
    };
    parts.into_iter().filter(|(_, bytes, _)| !bytes.is_empty()).map(descriptor).collect()
}

/// What the boot entry vector runs, in real mode.
fn code(transfers: u16) -> Vec<u8> {
    let bytes = transfers * DESCRIPTOR_BYTES;
    let [source, target, count, end] = [TRANSFERS, DESCRIPTORS, bytes, DESCRIPTORS + bytes].map(u16::to_le_bytes);
    let [segment, heap, code] = [SETUP_SEGMENT, HEAP_END, CODE_SEGMENT].map(u16::to_le_bytes);
    let mut run = Vec::new();
    let mut put = |parts: [&[u8]; 2]| run.extend(parts.concat());
    put([&[0xfa], &[0xfc]]); // cli; cld
    put([&[0x0e], &[0x1f]]); // push cs; pop ds
    put([&[0x31, 0xc0], &[0x8e, 0xc0]]); // xor ax, ax; mov es, ax
    put([&[0xbe], &source]); // mov si, TRANSFERS
    put([&[0xbf], &target]); // mov di, DESCRIPTORS
    put([&[0xb9], &count]); // mov cx, bytes
    put([&[0xf3, 0xa4], &[]]); // rep movsb
    put([&[0xbf], &target]); // mov di, DESCRIPTORS
    // next: the descriptor's address goes to fw_cfg, high half first, big endian; then the transfer is done.
    put([&[0x66], &[0x31, 0xc0]]); // xor eax, eax
    put([&[0xba], &[0x14, 0x05]]); // mov dx, 0x514
    put([&[0x66], &[0xef]]); // out dx, eax
    put([&[0x89], &[0xf8]]); // mov ax, di
    put([&[0x66], &[0x0f, 0xc8]]); // bswap eax
    put([&[0xba], &[0x18, 0x05]]); // mov dx, 0x518
    put([&[0x66], &[0xef]]); // out dx, eax
    put([&[0x26, 0x66], &[0x83, 0x3d, 0x00]]); // cmp dword [es:di], 0
    put([&[0x75], &[0x1e]]); // jne failed
    put([&[0x83], &[0xc7, 0x10]]); // add di, 16
    put([&[0x81, 0xff], &end]); // cmp di, end
    put([&[0x72], &[0xde]]); // jb next
    put([&[0xb8], &segment]); // mov ax, SETUP_SEGMENT
    put([&[0x8e, 0xd8, 0x8e, 0xc0], &[0x8e, 0xe0, 0x8e, 0xe8]]); // mov ds, ax; mov es, ax; mov fs, ax; mov gs, ax
    put([&[0x8e], &[0xd0]]); // mov ss, ax
    put([&[0xbc], &heap]); // mov sp, HEAP_END
    put([&[0xea, 0x00, 0x00], &code]); // jmp CODE_SEGMENT:0
    // failed:
    put([&[0xcd, 0x18], &[0xf4]]); // int 0x18, firmware tries the next device; hlt
    run
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handover() -> Handover {
        Handover {
            setup: vec![1; 1024],
            kernel: vec![2; 5000],
            initrd: Vec::new(),
            initrd_address: 0,
            cmdline: b"console=ttyS0\0".to_vec(),
        }
    }

    #[test]
    fn rom_and_its_header_sum_to_zero() {
        let rom = image(&handover());
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));

        assert_eq!((rom.len(), sum(&rom), sum(&rom[0x20..0x40])), (512, 0, 0));
    }

    #[test]
    fn each_part_that_is_there_is_transferred() {
        let all = transfers(&handover());

        assert_eq!(all.len(), 3);
        assert_eq!(all[2], [0, 0x11, 0, 0x0a, 0, 0, 0x13, 0x88, 0, 0, 0, 0, 0, 0x10, 0, 0]);
    }

    #[test]
    fn code_lies_between_the_header_and_the_transfers() {
        assert!(code(4).len() <= usize::from(TRANSFERS - ENTRY));
    }

    #[test]
    fn jumps_lead_where_they_are_meant_to() {
        let code = code(3);
        let at = |pattern: &[u8]| code.windows(pattern.len()).position(|window| window == pattern).unwrap();
        let target = |jump: usize| (jump + 2).wrapping_add_signed(isize::from(code[jump + 1] as i8));

        assert_eq!(target(at(&[0x72])), at(&[0x66, 0x31, 0xc0]));
        assert_eq!(target(at(&[0x75])), at(&[0xcd, 0x18]));
    }
}
