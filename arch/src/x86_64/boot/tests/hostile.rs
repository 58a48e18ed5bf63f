//! Files made to harm: no panic, and nothing written below 1 MiB but the loader's own tables.

use proptest::prelude::*;
use vm_memory::GuestMemoryMmap;

use super::fixture::{Elf, bzimage, files, memory};
use super::{Images, MIB, load};

/// Loads a file in every way; errors are welcome, panics are not.
fn boot(content: &[u8], mem: &GuestMemoryMmap) {
    let directory = files(&[("kernel", content)]);
    let Ok(images) = Images::open(&directory.path().join("kernel"), None) else { return };
    for unpack in [super::Unpack::Host, super::Unpack::Guest] {
        let _ = load(mem, &images, |options| options.unpack = unpack);
    }
    for entry in [super::ElfEntry::Pvh, super::ElfEntry::Linux64] {
        let _ = load(mem, &images, |options| options.elf_entry = entry);
    }
}

/// Overwrites places of a file's first bytes.
fn mutate(mut content: Vec<u8>, changes: &[(usize, u64, usize)]) -> Vec<u8> {
    for (at, value, width) in changes {
        let end = (at + width).min(content.len());
        content[(*at).min(end)..end].copy_from_slice(&value.to_le_bytes()[..end - (*at).min(end)]);
    }
    content
}

fn changes(within: usize) -> impl Strategy<Value = Vec<(usize, u64, usize)>> {
    let value =
        prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), Just(1 << 31), Just(0x7fff_ffff), Just(MIB), 0..65_536u64];
    prop::collection::vec((0..within, value, 1..=8usize), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn mutated_elf_headers_do_no_harm(changes in changes(0x340), is_64: bool) {
        let elf = Elf { is_64, machine: if is_64 { 62 } else { 3 }, pvh: Some(0x100_0000), ..Elf::small() };
        boot(&mutate(elf.bytes(), &changes), &memory());
    }

    #[test]
    fn mutated_setup_headers_do_no_harm(changes in changes(0x90)) {
        let changes: Vec<_> = changes.into_iter().map(|(at, value, width)| (0x1f1 + at, value, width)).collect();
        boot(&mutate(bzimage(&Elf::small().bytes(), 0x20f), &changes), &memory());
    }

    #[test]
    fn mutated_multiboot_headers_do_no_harm(addresses: [u32; 5], flags in 0..0x2_0000u32) {
        let sum = 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags);
        let words = [0x1bad_b002, flags, sum].into_iter().chain(addresses);
        let mut content: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        content.resize(20_000, 0x90);
        boot(&content, &memory());
    }

    #[test]
    fn random_files_do_no_harm(content in prop::collection::vec(any::<u8>(), 0..10_000)) {
        boot(&content, &memory());
    }
}
