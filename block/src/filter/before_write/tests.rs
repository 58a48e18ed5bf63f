use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::filter::mirror::copy_range;
use crate::filter::units::LEAST_BITS;
use crate::layer::{read_vec, write_all};
use crate::protocol::memory::Memory;

const SIZE: usize = 4 << LEAST_BITS;
const UNIT: u64 = 1 << LEAST_BITS;

/// A disk of ones, what it was, and the filter between.
fn trio() -> (Arc<Memory>, Arc<Memory>, Arc<BeforeWrite>) {
    let (disk, kept) = (Arc::new(Memory::new(vec![1; SIZE])), Arc::new(Memory::new(vec![0; SIZE])));
    let (from, to) = (disk.clone(), kept.clone());
    let keep = move |at, len| copy_range(from.as_ref(), to.as_ref(), at, len).map(|()| len);
    let filter = Arc::new(BeforeWrite::new(disk.clone(), 1, Box::new(keep)));
    (disk, kept, filter)
}

fn byte(layer: &dyn Layer, at: u64) -> u8 {
    read_vec(layer, at, 1).unwrap()[0]
}

#[test]
fn what_a_write_changes_is_kept_first_and_once() {
    let (disk, kept, filter) = trio();

    write_all(filter.as_ref(), &[7; 1024], UNIT - 512).unwrap();
    write_all(filter.as_ref(), &[8; 1024], UNIT - 512).unwrap();
    filter.write_zeroes(2 * UNIT, 512, true).unwrap();

    assert_eq!([byte(disk.as_ref(), UNIT - 1), byte(disk.as_ref(), UNIT)], [8, 8]);
    assert_eq!(read_vec(kept.as_ref(), 0, 3 << LEAST_BITS).unwrap(), vec![1; 3 << LEAST_BITS]);
    assert_eq!(byte(kept.as_ref(), 3 * UNIT), 0, "nobody changed it");
    assert_eq!((0..4).map(|unit| filter.copy(unit).unwrap()).collect::<Vec<_>>(), [0, 0, 0, UNIT]);
    assert_eq!(byte(kept.as_ref(), 3 * UNIT), 1);
}

#[test]
fn write_in_place_is_fast_once_its_unit_is_kept() {
    let (_, _, filter) = trio();
    let slow = |at| matches!(filter.fast(FastOp::Write, at, 512), Fast::Slow);
    // Memory has no fast answer either: what counts is who is asked.
    let asked = |at: u64| filter.done.touched(at, 512).all(|unit| filter.is_done(unit));

    let before = asked(UNIT);
    filter.copy(1).unwrap();

    assert!(!before && asked(UNIT) && !asked(UNIT - 1) && slow(UNIT - 256));
}

#[test]
fn copy_that_fails_is_given_up_and_the_guest_goes_on() {
    let disk = Arc::new(Memory::new(vec![1; SIZE]));
    let kept = Arc::new(Memory::read_only(vec![0; SIZE]));
    let (from, to) = (disk.clone(), kept.clone());
    let keep = move |at, len| copy_range(from.as_ref(), to.as_ref(), at, len).map(|()| len);
    let filter = Arc::new(BeforeWrite::new(disk.clone(), 1, Box::new(keep)));
    let snapshot = Snapshot::new(filter.clone(), kept);

    write_all(filter.as_ref(), &[7; 512], 0).unwrap();

    assert_eq!(byte(disk.as_ref(), 0), 7);
    assert!(filter.check().is_err());
    assert!(filter.copy(2).is_err());
    assert!(read_vec(&snapshot, 0, 512).is_err(), "it would show what is there now");
}

#[test]
fn snapshot_shows_the_moment_while_others_write() {
    let (disk, kept, filter) = trio();
    let snapshot = Snapshot::new(filter.clone(), kept.clone());
    let stop = AtomicBool::new(false);

    std::thread::scope(|scope| {
        for writer in 0..3_u64 {
            let (filter, stop) = (&filter, &stop);
            scope.spawn(move || {
                let mut at = writer * 4096;
                while !stop.load(Ordering::Acquire) {
                    write_all(filter.as_ref(), &[9; 512], at % (SIZE as u64 - 512)).unwrap();
                    at += 37 * 512;
                }
            });
        }
        for round in 0..200_u64 {
            let at = round * 1237 % (SIZE as u64 - 70_000);
            let seen = read_vec(&snapshot, at, 70_000).unwrap();
            assert!(seen.iter().all(|byte| *byte == 1), "round {round}: something newer shows");
        }
        stop.store(true, Ordering::Release);
    });

    assert!((0..SIZE as u64).step_by(512).any(|at| byte(disk.as_ref(), at) == 9));
    assert!(write_all(&snapshot, &[0; 512], 0).is_err());
}

#[test]
fn last_unit_ends_with_the_disk() {
    let disk = Arc::new(Memory::new(vec![1; 3 * 512]));
    let filter = BeforeWrite::new(disk, 1, Box::new(|_, len| Ok(len)));

    assert_eq!(filter.units(), 1);
    assert_eq!(filter.range_of(0), 0..1536);
    assert_eq!(filter.copy(0).unwrap(), 1536);
}
