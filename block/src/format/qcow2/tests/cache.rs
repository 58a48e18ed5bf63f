//! The caches of metadata: their sizes are QEMU's (docs/qcow2-cache.txt there), and what was not used goes.

use std::sync::Arc;

use super::super::lock;
use crate::ErrorKind;
use crate::format::qcow2::{CreateOptions, OpenOptions, Qcow2, Tuning, create};
use crate::layer::{Layer, read_vec, write_all};
use crate::protocol::memory::Memory;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const CLUSTER: u64 = 64 * KIB;

/// What `cache-size`, `l2-cache-size` and `refcount-cache-size` come to for a disk whose map has `l2_bytes`.
fn sizes(asked: [Option<u64>; 3], l2_bytes: u64) -> Result<(u64, u64), ErrorKind> {
    let [cache_size, l2_cache_size, refcount_cache_size] = asked;
    let tuning = Tuning { cache_size, l2_cache_size, refcount_cache_size, ..Tuning::default() };
    tuning.cache_sizes(CLUSTER, l2_bytes).map_err(|e| e.kind())
}

/// An image of 64 MiB in clusters of 512 bytes that holds 2048 of them, each under another slice of 64 entries.
fn scattered(options: &OpenOptions) -> Qcow2 {
    let file: Arc<dyn Layer> = Arc::new(Memory::new(Vec::new()));
    let layout = CreateOptions { size: 64 * MIB, cluster_size: 512, ..CreateOptions::default() };
    let disk = create(&file, None, &layout).unwrap();
    (0..2048).for_each(|n| write_all(&disk, &[7; 512], n * 32 * KIB).unwrap());
    drop(disk);
    Qcow2::open(file, options).unwrap()
}

fn held(disk: &Qcow2) -> (usize, usize) {
    (disk.maps().held(), lock(&disk.alloc).counts.held())
}

#[test]
fn without_a_wish_l2_slices_have_32_mib_and_counts_four_clusters() {
    assert_eq!(sizes([None; 3], 128 * MIB), Ok((32 * MIB, 4 * CLUSTER)));
    assert_eq!(sizes([None, Some(MIB), None], 128 * MIB), Ok((MIB, 4 * CLUSTER)));
    assert_eq!(sizes([None, None, Some(MIB)], 128 * MIB), Ok((32 * MIB, MIB)));
}

#[test]
fn cache_size_is_for_l2_slices_but_for_the_least_of_counts() {
    assert_eq!(sizes([Some(MIB), None, None], 128 * MIB), Ok((MIB - 4 * CLUSTER, 4 * CLUSTER)));
    assert_eq!(sizes([Some(64 * KIB), None, None], 128 * MIB), Ok((0, 64 * KIB)));
}

#[test]
fn cache_size_above_the_whole_map_leaves_the_rest_to_counts() {
    assert_eq!(sizes([Some(8 * MIB), None, None], MIB), Ok((MIB, 7 * MIB)));
}

#[test]
fn two_of_the_sizes_give_the_third() {
    assert_eq!(sizes([Some(8 * MIB), Some(6 * MIB), None], 128 * MIB), Ok((6 * MIB, 2 * MIB)));
    assert_eq!(sizes([Some(8 * MIB), None, Some(6 * MIB)], 128 * MIB), Ok((2 * MIB, 6 * MIB)));
}

#[test]
fn sizes_that_contradict_each_other_are_refused() {
    for asked in [[8, 9, 0], [8, 0, 9], [8, 4, 4]] {
        let asked = asked.map(|size| (size > 0).then_some(size * MIB));
        assert_eq!(sizes(asked, 128 * MIB), Err(ErrorKind::Invalid), "{asked:?}");
    }
}

#[test]
fn slices_in_memory_stay_within_their_cache() {
    let disk = scattered(&OpenOptions {
        tuning: Tuning { l2_cache_size: Some(64 * 512), ..Tuning::default() },
        ..OpenOptions::default()
    });

    let most = (0..2048).map(|n| {
        assert_eq!(read_vec(&disk, n * 32 * KIB, 512).unwrap(), [7; 512]);
        held(&disk).0
    });

    assert_eq!(most.max(), Some(64));
}

#[test]
fn cleaning_drops_what_was_not_used_since_the_last_one_and_keeps_the_rest() {
    let tuning = Tuning { refcount_cache_size: Some(64 * 512), ..Tuning::default() };
    let disk = scattered(&OpenOptions { discard: true, tuning, ..OpenOptions::default() });
    (0..100).for_each(|n| drop(read_vec(&disk, n * 32 * KIB, 512).unwrap()));
    (0..40).for_each(|n| disk.discard(n * 32 * KIB, 512).unwrap());
    disk.flush().unwrap();
    // Frees what the flush left without a name, so that nothing is dirty.
    disk.close().unwrap();
    let (slices, blocks) = held(&disk);
    assert!(slices == 100 && blocks > 0, "{slices} {blocks}");

    assert!(!disk.clean_now(), "all of that was just used");
    read_vec(&disk, 0, 512).unwrap();
    read_vec(&disk, 32 * 99 * KIB, 512).unwrap();
    // A slice that comes new must not make those that were read before it look old.
    read_vec(&disk, 32 * 200 * KIB, 512).unwrap();
    assert!(disk.clean_now());

    assert_eq!(held(&disk), (3, 0));
}
