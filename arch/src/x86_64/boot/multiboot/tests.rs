use vm_memory::{Bytes, GuestMemoryMmap};

use super::super::tests::fixture::{Elf, RAM, files, memory, read};
use super::super::{Images, Options};
use super::*;
use crate::x86_64::layout::MemoryLayout;

fn header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let sum = 0u32.wrapping_sub(HEADER_MAGIC).wrapping_sub(flags);
    [HEADER_MAGIC, flags, sum].iter().chain(addresses).flat_map(|word| word.to_le_bytes()).collect()
}

fn boot(mem: &GuestMemoryMmap, kernel: &[u8], modules: &[(&str, &[u8])]) -> Result<(Loaded, String), BootError> {
    let directory = files(&[&[("kernel", kernel)], modules].concat());
    let path = directory.path().join("kernel");
    let list: Vec<String> = modules
        .iter()
        .map(|(name, _)| format!("{} for {name}", directory.path().join(name).display()).replace(',', ",,"))
        .collect();
    let list = (!list.is_empty()).then(|| list.join(","));
    let layout = MemoryLayout::new(RAM, 40).unwrap();
    let loaded = Images::open(&path, list.as_deref())?.load(mem, &Options::new(&layout, "debug=1"))?;
    Ok((loaded, directory.path().display().to_string()))
}

fn word(mem: &GuestMemoryMmap, at: u64) -> u32 {
    mem.read_obj(GuestAddress(at)).unwrap()
}

fn text(mem: &GuestMemoryMmap, at: u64) -> String {
    String::from_utf8(read(mem, at, 200).split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap()
}

#[test]
fn a_flat_image_is_loaded_by_its_headers_addresses() {
    let mut kernel = vec![0x90; 64];
    // The header lies 64 bytes into an image that begins at 2 MiB; 0x200 bytes of it are loaded, bss ends at 0x1000.
    kernel.extend(header(ADDRESS_FIELDS, &[0x20_0040, 0x20_0000, 0x20_0200, 0x20_1000, 0x20_0060]));
    kernel.resize(0x400, 0xcc);
    let mem = memory();
    mem.write_slice(&[0xff; 0x1001], GuestAddress(0x20_0000)).unwrap();

    let (loaded, _) = boot(&mem, &kernel, &[]).unwrap();

    let entry = EntryState::Protected32 { eip: 0x20_0060, eax: LOADER_MAGIC, ebx: INFORMATION as u32, esi: 0 };
    assert_eq!(loaded.entry, entry);
    let image = read(&mem, 0x20_0000, 0x1001);
    assert_eq!(image[..0x200], kernel[..0x200]);
    assert!(image[0x200..0x1000].iter().all(|byte| *byte == 0));
    assert_eq!(image[0x1000], 0xff);
}

/// GNU ld, told to put the text at 1 MiB, makes a segment of the headers below it.
#[test]
fn segment_of_nothing_but_the_files_headers_is_left_out_below_1_mib() {
    let (text, headers) = ((0x1000, 0x10_0000, 0x800, 0x800), (0x2000, 0xf_f000, 128, 128));
    let elf = Elf { is_64: false, machine: 3, entry: 0x10_0000, segments: vec![text, headers], ..Elf::small() };
    let kernel = |offset: u32, size: u32| {
        let mut kernel = elf.bytes();
        kernel[0x380..0x38c].copy_from_slice(&header(0, &[]));
        // p_offset, p_filesz and p_memsz of the second program header (System V ABI, "Program Header").
        for (at, value) in [(4, offset), (16, size), (20, size)] {
            kernel[64 + 32 + at..][..4].copy_from_slice(&value.to_le_bytes());
        }
        kernel
    };
    let mem = memory();
    let before = read(&mem, 0xf_f000, 128);

    boot(&mem, &kernel(0, 128), &[]).unwrap();

    assert_eq!((read(&mem, 0xf_f000, 128), read(&mem, 0x10_0000, 0x800)), (before, elf.content(0)));
    for (offset, size) in [(0, 129), (4, 128)] {
        let error = boot(&memory(), &kernel(offset, size), &[]).unwrap_err();
        assert!(matches!(error, BootError::DoesNotFit { start: 0xf_f000, .. }), "{error}");
    }
}

#[test]
fn an_elf_image_gets_memory_map_command_line_and_modules() {
    let elf = Elf { is_64: false, machine: 3, ..Elf::small() };
    let mut kernel = elf.bytes();
    kernel[0x380..0x38c].copy_from_slice(&header(PAGE_ALIGN | MEMORY_INFO, &[]));
    let mem = memory();

    let (loaded, directory) = boot(&mem, &kernel, &[("a", &[1; 5000]), ("b,c", &[2; 10])]).unwrap();

    let EntryState::Protected32 { eip, ebx, .. } = loaded.entry else { panic!("{loaded:?}") };
    let info = u64::from(ebx);
    assert_eq!(eip, elf.entry as u32);
    assert_eq!(word(&mem, info), INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MAP | INFO_LOADER_NAME);
    assert_eq!((word(&mem, info + 4), word(&mem, info + 8)), (639, (RAM >> 10) as u32 - 1024));
    assert_eq!(text(&mem, word(&mem, info + 16).into()), format!("{directory}/kernel debug=1"));
    assert_eq!(text(&mem, word(&mem, info + 64).into()), LOADER_NAME);
    assert_eq!(word(&mem, info + 20), 2);
    let list = u64::from(word(&mem, info + 24));
    let module = |n: u64| [0, 4, 8].map(|at| u64::from(word(&mem, list + n * 16 + at)));
    let ([a_start, a_end, a_text], [b_start, b_end, b_text]) = (module(0), module(1));
    assert_eq!((a_start % PAGE_SIZE, a_end - a_start, b_start % PAGE_SIZE, b_end - b_start), (0, 5000, 0, 10));
    assert!(a_start >= elf.segments[0].1 + elf.segments[0].3 as u64);
    assert_eq!((read(&mem, a_start, 5000), read(&mem, b_start, 10)), (vec![1; 5000], vec![2; 10]));
    assert_eq!(text(&mem, a_text), format!("{directory}/a for a"));
    assert_eq!(text(&mem, b_text), format!("{directory}/b,c for b,c"));
    let (map_len, map) = (word(&mem, info + 44), u64::from(word(&mem, info + 48)));
    assert_eq!(map_len, 24 * MemoryLayout::new(RAM, 40).unwrap().e820().len() as u32);
    assert_eq!((word(&mem, map), word(&mem, map + 20)), (20, 1));
}

#[test]
fn unknown_features_and_missing_addresses_are_refused() {
    let features = boot(&memory(), &header(1 << 9, &[]), &[]).unwrap_err();
    let addresses = boot(&memory(), &header(0, &[]), &[]).unwrap_err();

    assert!(matches!(features, BootError::Multiboot { source: MultibootError::Features(0x200), .. }), "{features}");
    assert!(matches!(addresses, BootError::Multiboot { source: MultibootError::NoAddresses, .. }), "{addresses}");
}

#[test]
fn contradicting_addresses_are_refused() {
    let base = 0x20_0000;
    for addresses in [
        [base - 1, base, 0, 0, base],
        [base + 1, base, 0, 0, base],
        [base, base, base + 0x1000, 0, base],
        [base, base, base - 1, 0, base],
    ] {
        let error = boot(&memory(), &header(ADDRESS_FIELDS, &addresses), &[]).unwrap_err();

        let addresses_named = matches!(error, BootError::Multiboot { source: MultibootError::Addresses { .. }, .. });
        assert!(addresses_named, "{addresses:x?}: {error}");
    }
}

#[test]
fn a_header_counts_only_with_its_checksum_and_within_8_kib() {
    let mut head = vec![0; 8192];
    head[8180..].copy_from_slice(&header(0, &[]));
    assert!(find(&head).is_some());
    head[8191] ^= 1;
    assert_eq!(find(&head), None);
    head.extend(header(0, &[]));
    assert_eq!(find(&head[..8192]), None);
}

#[test]
fn modules_that_do_not_fit_are_refused() {
    let mut kernel = header(ADDRESS_FIELDS, &[0x20_0000, 0x20_0000, 0, RAM as u32, 0x20_0000]);
    kernel.resize(0x400, 0);

    let error = boot(&memory(), &kernel, &[("a", &[1; 1])]).unwrap_err();

    assert!(matches!(error, BootError::NoRoom { what: "module", .. }), "{error}");
}

#[test]
fn kernel_learns_from_the_data_area_where_low_memory_ends_and_every_vector_leads_to_code() {
    let mut kernel = header(ADDRESS_FIELDS, &[0x20_0000, 0x20_0000, 0, 0, 0x20_0020]);
    kernel.resize(0x100, 0x90);
    let mem = memory();

    boot(&mem, &kernel, &[]).unwrap();

    assert_eq!((word(&mem, 0x40e) & 0xffff, word(&mem, 0x413) & 0xffff), (0x9fc0, 639));
    assert!((0..256).all(|vector| word(&mem, vector * 4) == 0x4f0));
    assert_eq!(read(&mem, 0x4f8, 1), [0xcf]);
}
