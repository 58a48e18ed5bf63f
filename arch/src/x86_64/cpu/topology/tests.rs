use super::*;

fn topology(sockets: u32, dies: u32, cores: u32, threads: u32) -> Topology {
    Topology::new(sockets, dies, cores, threads).unwrap()
}

#[test]
fn sockets_only_number_through() {
    let topology = topology(4, 1, 1, 1);

    assert_eq!((0..4).map(|n| topology.apic_id(n)).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn fields_are_as_wide_as_their_count_needs() {
    let topology = topology(2, 1, 3, 2);

    // Two bits for three cores leave a hole of two ids before the next socket.
    assert_eq!((0..12).map(|n| topology.apic_id(n)).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
}

#[test]
fn dies_lie_between_cores_and_sockets() {
    let topology = topology(2, 2, 2, 2);

    assert_eq!(topology.place(7), Place { socket: 0, die: 1, core: 1, thread: 1 });
    assert_eq!(topology.place(8), Place { socket: 1, die: 0, core: 0, thread: 0 });
    assert_eq!((topology.core_shift(), topology.die_shift(), topology.socket_shift()), (1, 2, 3));
}

#[test]
fn ids_above_255_are_allowed() {
    let topology = topology(1, 1, 300, 1);

    assert_eq!(topology.apic_id(299), 299);
}

#[test]
fn ids_are_distinct() {
    let topology = topology(3, 3, 5, 3);
    let mut ids: Vec<_> = (0..topology.count()).map(|n| topology.apic_id(n)).collect();

    ids.dedup();

    assert_eq!(ids.len(), 135);
    assert!(ids.is_sorted());
}

#[test]
fn impossible_counts_are_refused() {
    assert_eq!(Topology::new(0, 1, 1, 1), Err(TopologyError::Zero));
    assert!(matches!(Topology::new(5000, 1, 1, 1), Err(TopologyError::TooWide { .. })));
    assert!(matches!(Topology::new(u32::MAX, u32::MAX, u32::MAX, u32::MAX), Err(TopologyError::TooWide { .. })));
}
