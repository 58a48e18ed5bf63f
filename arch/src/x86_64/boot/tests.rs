//! Kernels made by hand, loaded into small memories. Mutated headers are in `hostile`.

pub(super) mod fixture;
mod handover;
mod hostile;

use std::fs::File;
use std::path::PathBuf;

use fixture::{Elf, bzimage, code_of, files, memory, read, xorshift};
use linux_loader::loader::bootparam::boot_params;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;

const MIB: u64 = 1 << 20;

fn load(mem: &GuestMemoryMmap, images: &Images, change: impl FnOnce(&mut Options<'_>)) -> Result<Loaded, BootError> {
    let layout = MemoryLayout::new(fixture::RAM, 40).unwrap();
    let mut options = Options::new(&layout, "console=ttyS0");
    options.fresh_memory = true;
    change(&mut options);
    images.load(mem, &options)
}

fn zero_page(mem: &GuestMemoryMmap) -> boot_params {
    mem.read_obj(GuestAddress(0x7000)).unwrap()
}

#[test]
fn bzimage_is_unpacked_by_the_guest_when_asked_for() {
    let directory = files(&[("kernel", &bzimage(&[0x55; 4096], 0x20f))]);
    let images = Images::open(&directory.path().join("kernel"), None).unwrap();
    let mem = memory();

    let loaded = load(&mem, &images, |options| options.unpack = Unpack::Guest).unwrap();

    assert_eq!(loaded.entry, EntryState::Linux64 { rip: fixture::RUN + 0x200, rsi: 0x7000 });
    assert_eq!(read(&mem, fixture::RUN, 16), code_of(&bzimage(&[0x55; 4096], 0x20f))[..16]);
    let params = zero_page(&mem);
    let header = params.hdr;
    assert_eq!(
        ({ header.type_of_loader }, { header.cmd_line_ptr }, { header.code32_start }),
        (0xff, 0x2_0000, fixture::RUN as u32)
    );
    assert_eq!(read(&mem, 0x2_0000, 14), b"console=ttyS0\0");
    assert_eq!(params.e820_entries as usize, MemoryLayout::new(fixture::RAM, 40).unwrap().e820().len());
    assert_eq!(params.screen_info.orig_video_lines, 0);
}

#[test]
fn a_32_bit_kernel_enters_in_protected_mode() {
    let directory = files(&[("kernel", &bzimage(&[0x55; 4096], 0x206))]);
    let images = Images::open(&directory.path().join("kernel"), None).unwrap();

    let loaded = load(&memory(), &images, |_| ()).unwrap();

    assert_eq!(loaded.entry, EntryState::Protected32 { eip: 0x10_0000, eax: 0, ebx: 0, esi: 0x7000 });
}

#[test]
fn initrd_lies_at_the_end_of_memory_and_its_place_is_told() {
    let directory = files(&[("kernel", &bzimage(&[1; 64], 0x20f)), ("initrd", &[0xaa; 5000])]);
    let initrd = directory.path().join("initrd");
    let images = Images::open(&directory.path().join("kernel"), initrd.to_str()).unwrap();
    let mem = memory();

    load(&mem, &images, |_| ()).unwrap();

    let header = zero_page(&mem).hdr;
    assert_eq!({ header.ramdisk_size }, 5000);
    assert_eq!(u64::from(header.ramdisk_image), fixture::RAM - 8192);
    assert_eq!(read(&mem, header.ramdisk_image.into(), 5000), [0xaa; 5000]);
}

#[test]
fn files_that_were_written_to_are_not_loaded_again_but_those_that_were_replaced_are() {
    let kernel = bzimage(&[1; 64], 0x20f);
    let directory = files(&[("kernel", &kernel), ("initrd", &[0xaa; 5000])]);
    let (path, initrd) = (directory.path().join("kernel"), directory.path().join("initrd"));
    let images = Images::open(&path, initrd.to_str()).unwrap();
    let mem = memory();
    let again = || load(&mem, &images, |options| options.fresh_memory = false);
    let old = File::options().write(true).open(&initrd).unwrap();

    std::fs::write(directory.path().join("new"), [0xbb; 100]).unwrap();
    std::fs::rename(directory.path().join("new"), &initrd).unwrap();
    again().unwrap();
    old.set_len(100).unwrap();
    let cut = again().unwrap_err();
    old.set_len(5000).unwrap();
    old.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let touched = again().unwrap_err();

    assert!(matches!(cut, BootError::Changed { what: "initrd", .. }), "{cut}");
    assert!(matches!(touched, BootError::Changed { what: "initrd", .. }), "{touched}");
}

#[test]
fn an_initrd_without_room_is_refused() {
    let directory = files(&[("kernel", &bzimage(&[1; 64], 0x20f)), ("initrd", &[])]);
    let initrd = directory.path().join("initrd");
    File::options().write(true).open(&initrd).unwrap().set_len(fixture::RAM).unwrap();
    let images = Images::open(&directory.path().join("kernel"), initrd.to_str()).unwrap();

    let error = load(&memory(), &images, |_| ()).unwrap_err();

    assert!(matches!(error, BootError::NoRoom { size: fixture::RAM, .. }), "{error}");
}

#[test]
fn a_command_line_is_bound_by_the_kernels_limit() {
    let directory = files(&[("kernel", &bzimage(&[1; 64], 0x20f))]);
    let images = Images::open(&directory.path().join("kernel"), None).unwrap();
    let layout = MemoryLayout::new(fixture::RAM, 40).unwrap();

    let long = "x".repeat(2048);
    let error = images.load(&memory(), &Options::new(&layout, &long)).unwrap_err();
    let zero = images.load(&memory(), &Options::new(&layout, "a\0b")).unwrap_err();

    assert_eq!(error.to_string(), "the kernel command line has 2048 bytes, the kernel takes at most 2047");
    assert!(matches!(zero, BootError::CommandLineZero));
    images.load(&memory(), &Options::new(&layout, &long[..2047])).unwrap();
}

#[test]
fn a_guest_too_small_for_the_kernel_is_refused() {
    let directory = files(&[("kernel", &bzimage(&[1; 64], 0x20f))]);
    let images = Images::open(&directory.path().join("kernel"), None).unwrap();
    let small: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), (8 * MIB) as usize)]).unwrap();

    let error = load(&small, &images, |_| ()).unwrap_err();

    assert!(matches!(error, BootError::DoesNotFit { what: "the kernel", .. }), "{error}");
}

#[test]
fn elf_with_a_pvh_note_enters_by_it() {
    let elf = Elf { pvh: Some(0x100_0100), ..Elf::small() };
    let directory = files(&[("kernel", &elf.bytes()), ("initrd", b"archive")]);
    let initrd = directory.path().join("initrd");
    let images = Images::open(&directory.path().join("kernel"), initrd.to_str()).unwrap();
    let mem = memory();

    let loaded = load(&mem, &images, |options| options.rsdp = Some(GuestAddress(0xe_0000))).unwrap();

    assert_eq!(loaded.entry, EntryState::Protected32 { eip: 0x100_0100, eax: 0, ebx: 0x6000, esi: 0 });
    let info: linux_loader::loader::elf::start_info::hvm_start_info = mem.read_obj(GuestAddress(0x6000)).unwrap();
    assert_eq!((info.magic, info.version, info.nr_modules, info.rsdp_paddr), (0x336e_c578, 1, 1, 0xe_0000));
    let module: u64 = mem.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
    assert_eq!(read(&mem, module, 7), b"archive");
    assert_eq!(read(&mem, info.cmdline_paddr, 14), b"console=ttyS0\0");
    assert_eq!(read(&mem, elf.segments[0].1, 4), elf.content(0)[..4]);
}

#[test]
fn elf_entry_can_be_chosen_and_missing_ones_are_refused() {
    let with = Elf { pvh: Some(0x100_0100), ..Elf::small() };
    let directory = files(&[("with", &with.bytes()), ("without", &Elf::small().bytes())]);
    let with = Images::open(&directory.path().join("with"), None).unwrap();
    let without = Images::open(&directory.path().join("without"), None).unwrap();

    let linux = load(&memory(), &with, |options| options.elf_entry = ElfEntry::Linux64).unwrap();
    let auto = load(&memory(), &without, |_| ()).unwrap();
    let error = load(&memory(), &without, |options| options.elf_entry = ElfEntry::Pvh).unwrap_err();

    assert_eq!(linux.entry, EntryState::Linux64 { rip: 0x100_0000, rsi: 0x7000 });
    assert_eq!(auto.entry, linux.entry);
    assert!(matches!(error, BootError::NoEntry { wanted: "PVH", .. }), "{error}");
}

#[test]
fn bss_is_cleared_when_memory_was_used_before() {
    let elf = Elf::small();
    let directory = files(&[("kernel", &elf.bytes())]);
    let images = Images::open(&directory.path().join("kernel"), None).unwrap();
    let mem = memory();
    let (_, address, file_size, memory_size) = elf.segments[0];
    mem.write_slice(&vec![0xff; memory_size + 1], GuestAddress(address)).unwrap();

    load(&mem, &images, |options| options.fresh_memory = false).unwrap();

    let after = read(&mem, address, memory_size + 1);
    assert_eq!(after[..file_size], elf.content(0));
    assert!(after[file_size..memory_size].iter().all(|byte| *byte == 0));
    assert_eq!(after[memory_size], 0xff);
}

#[test]
fn segments_below_1_mib_or_outside_memory_are_refused() {
    for address in [0x7000, fixture::RAM - 0x1000, 1 << 40] {
        let elf = Elf { segments: vec![(0x1000, address, 0x2000, 0x2000)], ..Elf::small() };
        let directory = files(&[("kernel", &elf.bytes())]);
        let images = Images::open(&directory.path().join("kernel"), None).unwrap();

        let error = load(&memory(), &images, |_| ()).unwrap_err();

        assert!(matches!(error, BootError::DoesNotFit { .. }), "{address:#x}: {error}");
    }
}

#[test]
fn other_files_are_named_and_refused() {
    let cases: [(&[u8], &str); 9] = [
        (b"\x1f\x8b\x08 rest", "a gzip file"),
        (b"QFI\xfb rest", "a qcow2 image"),
        (b"070701 rest", "a cpio archive (an initramfs)"),
        (b"", "an empty file"),
        (b"hello", "a file of an unknown kind, beginning with 68 65 6c 6c 6f"),
        (&Elf { machine: 183, ..Elf::small() }.bytes(), "an ELF image for aarch64"),
        (
            &Elf { is_64: false, machine: 3, ..Elf::small() }.bytes(),
            "a 32-bit ELF image without a PVH note or a multiboot header",
        ),
        (&bzimage(&[], 0x203), "a Linux kernel of boot protocol 2.03"),
        (&bzimage(&[], 0x20f)[..0x300], "a truncated Linux bzImage"),
    ];
    for (content, found) in cases {
        let directory = files(&[("kernel", content)]);

        let error = Images::open(&directory.path().join("kernel"), None).unwrap_err().to_string();

        let expected = format!("is {found}; accepted as a kernel are a Linux bzImage of boot protocol 2.06 or later");
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn missing_files_and_directories_are_told() {
    let directory = files(&[("kernel", &bzimage(&[1], 0x20f))]);
    let kernel = directory.path().join("kernel");

    let missing = Images::open(&PathBuf::from("/nonexistent/kernel"), None).unwrap_err();
    let folder = Images::open(directory.path(), None).unwrap_err();
    let initrd = Images::open(&kernel, Some("/nonexistent/initrd")).unwrap_err();

    assert_eq!(missing.to_string(), "cannot open kernel /nonexistent/kernel");
    assert!(matches!(folder, BootError::NotAFile { what: "kernel", .. }));
    assert_eq!(initrd.to_string(), "cannot open initrd /nonexistent/initrd");
}

#[test]
fn shifting_equals_copy_within() {
    let mut original: Vec<u8> = (0..20_000).map(|n| if n / 3000 % 2 == 0 { 0 } else { n as u8 }).collect();
    original[19_999] = 7;
    for (from, to, len) in [(5000, 3000, 9000), (3000, 5000, 9000), (0, 10_000, 10_000), (1, 0, 19_999), (7, 7, 100)] {
        let (mut ours, mut theirs) = (original.clone(), original.clone());

        direct::shift(&mut ours, from, to, len);
        theirs.copy_within(from..from + len, to);

        assert!(ours == theirs, "{from} to {to}, {len} bytes");
    }
}

#[test]
fn copying_to_fresh_memory_equals_copying() {
    let mut state = 1;
    let from: Vec<u8> = (0..10_000).map(|n| if n < 5000 { 0 } else { xorshift(&mut state) as u8 }).collect();
    let mut to = vec![0; 10_000];

    direct::copy(&from, &mut to, true);

    assert_eq!(from, to);
}
