use super::*;

fn ram() -> Arc<GuestMemoryMmap<()>> {
    let ranges = [(GuestAddress(0), 0x4000), (GuestAddress(0x10_0000), 0x4000)];
    Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap())
}

#[test]
fn range_within_a_region_is_found_at_its_offset() {
    let ram = ram();
    let whole = HostRange::of_ram(&ram, GuestAddress(0x10_0000), 0x4000).unwrap();

    let part = HostRange::of_ram(&ram, GuestAddress(0x10_1000), 0x3000).unwrap();

    assert_eq!(part.start as usize - whole.start as usize, 0x1000);
    assert_eq!(part.len(), 0x3000);
}

#[test]
fn range_past_its_region_is_refused() {
    let ram = ram();
    let refused = |start, length| HostRange::of_ram(&ram, GuestAddress(start), length).is_err();

    assert!(refused(0x3000, 0x2000));
    assert!(refused(0x8000, 0x1000));
    assert!(refused(0, u64::MAX));
    assert!(refused(0, 0));
}

#[test]
fn range_past_its_mapping_is_refused() {
    let mapping = Arc::new(MmapRegion::new(0x2000).unwrap());

    assert!(HostRange::of_mapping(&mapping, 0x1000, 0x1000).is_ok());
    assert!(HostRange::of_mapping(&mapping, 0x1000, 0x1001).is_err());
    assert!(HostRange::of_mapping(&mapping, u64::MAX, 2).is_err());
}

#[test]
fn range_keeps_its_memory_alive() {
    let mapping = Arc::new(MmapRegion::new(0x1000).unwrap());
    let weak = Arc::downgrade(&mapping);

    let range = HostRange::of_mapping(&mapping, 0, 0x1000).unwrap();
    drop(mapping);
    let alive = weak.upgrade().is_some();
    drop(range);

    assert!(alive && weak.upgrade().is_none());
}
