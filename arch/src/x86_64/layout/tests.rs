use super::*;

const MIB: u64 = 1 << 20;

#[test]
fn small_memory_lies_wholly_below_4g() {
    let layout = MemoryLayout::new(512 * MIB, 40).unwrap();

    assert_eq!(layout.ram_ranges(), vec![(GuestAddress(0), 512 * MIB)]);
    assert_eq!(layout.pci_window_32(), 512 * MIB..IOAPIC_START);
    assert_eq!(layout.pci_window_64(), FOUR_GIB..FOUR_GIB + 2 * ONE_GIB);
}

#[test]
fn memory_of_3584_mib_and_more_is_split_at_3_gib() {
    let below = MemoryLayout::new(3583 * MIB, 40).unwrap();
    let split = MemoryLayout::new(3584 * MIB, 40).unwrap();

    assert_eq!(below.below_4g(), 3583 * MIB);
    assert_eq!(split.ram_ranges(), vec![(GuestAddress(0), 3072 * MIB), (GuestAddress(FOUR_GIB), 512 * MIB)]);
    assert_eq!(split.pci_window_64().start, 5 * ONE_GIB);
}

#[test]
fn impossible_sizes_are_refused() {
    assert_eq!(MemoryLayout::new(4096, 40), Err(LayoutError::TooSmall(4096)));
    assert_eq!(MemoryLayout::new(MIB + 1, 40), Err(LayoutError::Unaligned(MIB + 1)));
    let ram = 1 << 36;
    assert_eq!(MemoryLayout::new(ram, 36), Err(LayoutError::PastAddressWidth { ram, bits: 36 }));
    assert!(MemoryLayout::new(!4095, 64).is_err());
}

#[test]
fn the_64_bit_window_stays_within_the_address_width() {
    let layout = MemoryLayout::new(60 << 30, 36).unwrap();

    assert_eq!(layout.pci_window_64(), 61 * ONE_GIB..63 * ONE_GIB);
    assert!(MemoryLayout::new(512 * MIB, 32).unwrap().pci_window_64().is_empty());
}

#[test]
fn e820_is_sorted_disjoint_and_holds_the_memory() {
    for mib in [1, 2, 512, 3583, 3584, 65536] {
        let layout = MemoryLayout::new(mib * MIB, 46).unwrap();
        let map = layout.e820();

        assert!(map.windows(2).all(|pair| pair[0].start + pair[0].size <= pair[1].start), "{mib} MiB: {map:x?}");
        assert!(map.iter().all(|entry| entry.size > 0));
        let usable: u64 = map.iter().filter(|entry| entry.kind == E820Kind::Ram).map(|entry| entry.size).sum();
        assert_eq!(usable, mib * MIB - (HIGH_MEMORY_START - EBDA_START));
    }
}

#[test]
fn memory_is_dealt_out_around_the_hole() {
    let layout = MemoryLayout::new(6 << 30, 40).unwrap();

    let shares = layout.deal(&[1 << 30, 0, 4 << 30, 1 << 30]);

    let parts: Vec<_> = shares.iter().map(|share| (share.owner, share.offset, share.range.clone())).collect();
    assert_eq!(
        parts,
        [
            (0, 0, 0..1 << 30),
            (2, 0, 1 << 30..3 << 30),
            (2, 2 << 30, FOUR_GIB..FOUR_GIB + (2 << 30)),
            (3, 0, FOUR_GIB + (2 << 30)..FOUR_GIB + (3 << 30)),
        ]
    );
}
