//! Chains and rings against a driver that keeps to the rules, and one that does not.

use std::sync::Arc;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::virtio::testing::{Buf, DriverRing, RecordedEvents, ram};

struct Rig {
    driver: DriverRing,
    queue: VirtQueue,
    events: Arc<RecordedEvents>,
}

fn parts(driver: &DriverRing, event_idx: bool, events: &Arc<RecordedEvents>) -> QueueParts {
    QueueParts {
        index: 0,
        ring: driver.layout,
        event_idx,
        ready: true,
        memory: Arc::clone(&driver.ram),
        doorbell: Arc::new(EventFd::new(0).unwrap()),
        events: Arc::clone(events) as _,
    }
}

fn rig_at(event_idx: bool, at: &RingPosition) -> Rig {
    let driver = DriverRing::new(&ram(1 << 20), 0x1000, 8);
    let events = Arc::<RecordedEvents>::default();
    let queue = VirtQueue::new(parts(&driver, event_idx, &events), at).unwrap();
    Rig { driver, queue, events }
}

fn rig() -> Rig {
    rig_at(true, &RingPosition::default())
}

impl Rig {
    fn take(&mut self) -> Vec<u16> {
        let mut heads = Vec::new();
        self.queue.take(usize::MAX, &mut heads).unwrap();
        heads
    }

    fn walk(&mut self) -> Result<Chain, ChainError> {
        let head = self.take()[0];
        let mut chain = Chain::default();
        self.queue.walk(head, &mut chain).map(|()| chain)
    }
}

fn ranges(ranges: impl Iterator<Item = GuestRange>) -> Vec<(u64, u32)> {
    ranges.map(|range| (range.addr, range.len)).collect()
}

#[test]
fn chain_yields_its_buffers_in_order() {
    let mut rig = rig();
    rig.driver.post(&[Buf::readable(0x8000, 16), Buf::readable(0x9000, 4), Buf::writable(0xa000, 1)]);
    let chain = rig.walk().unwrap();
    assert_eq!((chain.readable_len(), chain.writable_len()), (20, 1));
    assert_eq!(ranges(chain.readable(0, 20)), [(0x8000, 16), (0x9000, 4)]);
    assert_eq!(ranges(chain.readable(15, 3)), [(0x800f, 1), (0x9000, 2)]);
    assert_eq!(ranges(chain.writable(0, 100)), [(0xa000, 1)]);
}

#[test]
fn indirect_chain_equals_a_direct_one() {
    let mut rig = rig();
    let bufs = [Buf::readable(0x8000, 16), Buf::writable(0x9000, 512), Buf::writable(0xa000, 1)];
    rig.driver.post_indirect(0x1_0000, &bufs);
    let chain = rig.walk().unwrap();
    assert_eq!(ranges(chain.readable(0, 16)), [(0x8000, 16)]);
    assert_eq!(ranges(chain.writable(0, 513)), [(0x9000, 512), (0xa000, 1)]);
}

#[test]
fn indirect_table_may_be_longer_than_the_queue() {
    let mut rig = rig();
    let bufs: Vec<Buf> = (0..100).map(|n| Buf::writable(0x2_0000 + n * 0x100, 0x100)).collect();
    rig.driver.post_indirect(0x1_0000, &bufs);
    assert_eq!(rig.walk().unwrap().writable_len(), 25600);
}

#[test]
fn direct_descriptors_may_lead_to_an_indirect_table() {
    let mut rig = rig();
    let layout = rig.driver.layout;
    rig.driver.write_desc(layout.desc, 0, 0x8000, 16, 1, 1);
    rig.driver.write_desc(layout.desc, 1, 0x1_0000, 16, 4, 0);
    rig.driver.write_desc(0x1_0000, 0, 0x9000, 1, 2, 0);
    rig.driver.offer(0);
    let chain = rig.walk().unwrap();
    assert_eq!((chain.readable_len(), chain.writable_len()), (16, 1));
}

#[test]
fn empty_buffers_are_passed_over() {
    let mut rig = rig();
    rig.driver.post(&[Buf::readable(u64::MAX, 0), Buf::readable(0x8000, 4), Buf::writable(0, 0)]);
    let chain = rig.walk().unwrap();
    assert_eq!((ranges(chain.readable(0, 9)), chain.writable_len()), (vec![(0x8000, 4)], 0));
}

#[test]
fn buffer_may_end_where_ram_ends_and_not_behind() {
    let end = 1 << 20;
    for (addr, len, fits) in [(end - 8, 8, true), (end - 8, 9, false), (end, 1, false), (u64::MAX - 3, 8, false)] {
        let mut rig = rig();
        rig.driver.post(&[Buf::writable(addr, len)]);
        assert_eq!(rig.walk().is_ok(), fits, "{addr:#x}+{len}");
    }
}

#[test]
fn loop_of_descriptors_is_refused() {
    let mut rig = rig();
    let desc = rig.driver.layout.desc;
    rig.driver.write_desc(desc, 0, 0x8000, 1, 1, 1);
    rig.driver.write_desc(desc, 1, 0x8000, 1, 1, 0);
    rig.driver.offer(0);
    assert_eq!(rig.walk().unwrap_err(), ChainError::Loop);
}

#[test]
fn long_table_of_buffers_without_bytes_is_not_followed_to_its_end() {
    let mut rig = rig();
    rig.driver.write_desc(rig.driver.layout.desc, 0, 0x1_0000, 0xffff_fff0, 4, 0);
    rig.driver.write_desc(0x1_0000, 0, 0x8000, 0, 1, 0);
    rig.driver.offer(0);
    assert_eq!(rig.walk().unwrap_err(), ChainError::TooMany);
}

#[test]
fn link_out_of_the_table_is_refused() {
    let mut rig = rig();
    rig.driver.write_desc(rig.driver.layout.desc, 0, 0x8000, 1, 1, 8);
    rig.driver.offer(0);
    assert_eq!(rig.walk().unwrap_err(), ChainError::Index { index: 8, count: 8 });
}

#[test]
fn indirect_table_within_one_is_refused() {
    let mut rig = rig();
    rig.driver.write_desc(rig.driver.layout.desc, 0, 0x1_0000, 16, 4, 0);
    rig.driver.write_desc(0x1_0000, 0, 0x1_0000, 16, 4, 0);
    rig.driver.offer(0);
    assert_eq!(rig.walk().unwrap_err(), ChainError::IndirectMisplaced);
}

#[test]
fn indirect_table_of_a_bad_length_is_refused() {
    for len in [0, 15, 17] {
        let mut rig = rig();
        rig.driver.write_desc(rig.driver.layout.desc, 0, 0x1_0000, len, 4, 0);
        rig.driver.offer(0);
        assert_eq!(rig.walk().unwrap_err(), ChainError::IndirectLength(len));
    }
}

#[test]
fn indirect_table_outside_of_ram_is_refused() {
    let mut rig = rig();
    rig.driver.write_desc(rig.driver.layout.desc, 0, 1 << 40, 32, 4, 0);
    rig.driver.offer(0);
    assert_eq!(rig.walk().unwrap_err(), ChainError::Table { addr: 1 << 40 });
}

#[test]
fn readable_after_writable_is_refused() {
    let mut rig = rig();
    rig.driver.post(&[Buf::writable(0x8000, 1), Buf::readable(0x9000, 1)]);
    assert_eq!(rig.walk().unwrap_err(), ChainError::Order);
}

#[test]
fn chain_of_too_many_descriptors_is_refused() {
    let mut rig = rig();
    let bufs: Vec<Buf> = (0..=MAX_DESCRIPTORS).map(|_| Buf::readable(0x8000, 1)).collect();
    rig.driver.post_indirect(0x1_0000, &bufs);
    assert_eq!(rig.walk().unwrap_err(), ChainError::TooMany);
}

#[test]
fn read_beyond_the_chain_reads_nothing() {
    let mut rig = rig();
    rig.driver.post(&[Buf::readable(0x8000, 4)]);
    let chain = rig.walk().unwrap();
    let mut bytes = [7; 5];
    assert!(chain.read(rig.queue.ram(), 0, &mut bytes).is_err());
    assert!(chain.read(rig.queue.ram(), u32::MAX, &mut bytes).is_err());
    assert_eq!(bytes, [7; 5]);
}

#[test]
fn head_that_does_not_exist_breaks_the_ring() {
    let mut rig = rig();
    rig.driver.offer(8);
    let taken = rig.queue.take(9, &mut Vec::new());
    assert!(matches!(taken, Err(QueueError::Head { head: 8, size: 8 })));
}

#[test]
fn more_available_than_the_queue_holds_breaks_the_ring() {
    let mut rig = rig();
    rig.driver.set_avail_index(9);
    assert!(matches!(rig.queue.take(9, &mut Vec::new()), Err(QueueError::Ring(_))));
}

#[test]
fn rings_outside_of_ram_or_misaligned_do_not_start() {
    let rig = rig();
    let mut cases = Vec::new();
    for bad in [1 << 40, (1 << 20) - 16, !15] {
        let layout = rig.driver.layout;
        cases.push(RingLayout { desc: bad, ..layout });
        cases.push(RingLayout { avail: bad + 2, ..layout });
        cases.push(RingLayout { used: bad + 4, ..layout });
    }
    cases.push(RingLayout { desc: 0x1008, ..rig.driver.layout });
    cases.push(RingLayout { avail: 0x2001, ..rig.driver.layout });
    cases.push(RingLayout { used: 0x3002, ..rig.driver.layout });
    cases.push(RingLayout { size: 0, ..rig.driver.layout });
    cases.push(RingLayout { size: 12, ..rig.driver.layout });
    for ring in cases {
        let parts = QueueParts { ring, ..parts(&rig.driver, true, &rig.events) };
        assert!(VirtQueue::new(parts, &RingPosition::default()).is_err(), "{ring:x?}");
    }
}

#[test]
fn position_with_impossible_chains_does_not_start() {
    let rig = rig();
    for held in [vec![8], vec![0; 9]] {
        let at = RingPosition { held, ..RingPosition::default() };
        assert!(VirtQueue::new(parts(&rig.driver, true, &rig.events), &at).is_err());
    }
}

#[test]
fn used_entries_wrap_around_and_go_on_at_a_position() {
    let mut rig = rig_at(true, &RingPosition { next_avail: u16::MAX, next_used: u16::MAX, held: vec![] });
    rig.driver.set_avail_index(u16::MAX);
    let head = rig.driver.post(&[Buf::writable(0x8000, 4)]);
    // The driver wrote slot 7 of 8: the index before the wrap.
    assert_eq!(rig.take(), [head]);
    rig.queue.push_used(head, 3).unwrap();
    assert_eq!(rig.driver.used_index(), 0);
    assert_eq!(rig.queue.position(vec![]), RingPosition::default());
}

#[test]
fn interrupt_comes_when_the_used_event_is_passed_and_once_for_a_batch() {
    let mut rig = rig();
    for _ in 0..3 {
        rig.driver.post(&[Buf::writable(0x8000, 4)]);
    }
    rig.driver.set_used_event(1);
    let heads = rig.take();
    rig.queue.push_used(heads[0], 0).unwrap();
    rig.queue.interrupt().unwrap();
    assert_eq!(rig.events.used(0), 0);
    rig.queue.push_used(heads[1], 0).unwrap();
    rig.queue.push_used(heads[2], 0).unwrap();
    rig.queue.interrupt().unwrap();
    assert_eq!(rig.events.used(0), 1);
    rig.queue.interrupt().unwrap();
    assert_eq!(rig.events.used(0), 1);
}

#[test]
fn without_event_index_the_flag_keeps_interrupts_away() {
    let mut rig = rig_at(false, &RingPosition::default());
    rig.driver.post(&[Buf::writable(0x8000, 4)]);
    rig.driver.post(&[Buf::writable(0x8000, 4)]);
    let heads = rig.take();
    rig.driver.set_avail_flags(1);
    rig.queue.push_used(heads[0], 0).unwrap();
    rig.queue.interrupt().unwrap();
    assert_eq!(rig.events.used(0), 0);
    rig.driver.set_avail_flags(0);
    rig.queue.push_used(heads[1], 0).unwrap();
    rig.queue.interrupt().unwrap();
    assert_eq!(rig.events.used(0), 1);
}

#[test]
fn doorbell_is_silenced_by_flag_and_asked_for_by_event_index() {
    let mut flags = rig_at(false, &RingPosition::default());
    flags.queue.suppress_doorbell().unwrap();
    assert_eq!(flags.driver.used_flags(), 1);
    assert!(!flags.queue.listen().unwrap());
    assert_eq!(flags.driver.used_flags(), 0);

    let mut events = rig();
    events.driver.post(&[Buf::writable(0x8000, 4)]);
    assert!(events.queue.listen().unwrap());
    assert_eq!(events.take().len(), 1);
    assert!(!events.queue.listen().unwrap());
    assert_eq!(events.driver.avail_event(), 1);
}

#[test]
fn refused_chain_goes_back_with_nothing_written() {
    let mut rig = rig();
    rig.queue.reject(3, &ChainError::Loop).unwrap();
    assert_eq!(rig.driver.take_all_used(), [(3, 0)]);
}

fn any_desc() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let addr = prop_oneof![0u64..0x20_0000, (1u64 << 30)..(1 << 30) + 0x2_0000, any::<u64>()];
    let len = prop_oneof![0u32..0x2000, (0u32..64).prop_map(|n| n * 16), any::<u32>()];
    (addr, len, 0u16..8, prop_oneof![0u16..8, any::<u16>()])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Whatever lies in the table: a chain is refused, or every byte of it is RAM.
    #[test]
    fn random_descriptors_never_lead_out_of_ram(
        table in proptest::collection::vec(any_desc(), 8),
        indirect in proptest::collection::vec(any_desc(), 64),
        head in 0u16..8,
    ) {
        let rig = rig();
        for (index, &(addr, len, flags, next)) in (0..).zip(&table) {
            // Half of the indirect tables are where there is one.
            let addr = if flags & 4 != 0 && addr % 2 == 0 { 0x1_0000 } else { addr };
            rig.driver.write_desc(rig.driver.layout.desc, index, addr, len, flags, next);
        }
        for (index, &(addr, len, flags, next)) in (0..).zip(&indirect) {
            rig.driver.write_desc(0x1_0000, index, addr, len, flags & 3, next % 70);
        }
        let mut chain = Chain::default();
        if rig.queue.walk(head, &mut chain).is_ok() {
            let all = || chain.readable(0, u32::MAX).chain(chain.writable(0, u32::MAX));
            let total: u64 = all().map(|range| u64::from(range.len)).sum();
            prop_assert_eq!(total, u64::from(chain.readable_len()) + u64::from(chain.writable_len()));
            let mut host = rhea_block::IoVecs::new();
            prop_assert!(host_ranges(rig.queue.ram(), all(), &mut host).is_ok());
            for range in all() {
                let mut last = [0];
                let at = GuestAddress(range.addr + u64::from(range.len) - 1);
                prop_assert!(rig.driver.ram.read_slice(&mut last, at).is_ok());
            }
        }
    }
}
