//! Images whose file has no more space.

use std::sync::Arc;

use crate::ErrorKind;
use crate::format::qcow2::{CreateOptions, OpenOptions, Qcow2, check, create};
use crate::format::raw::Raw;
use crate::layer::{Layer, read_vec, write_all};
use crate::protocol::memory::Memory;

/// The smallest.
const CLUSTER: u64 = 512;
/// What one block of counts is for.
const REGION: u64 = 256 * CLUSTER;

/// A slice of `size` bytes with a new image in it.
fn slice(size: u64) -> Arc<dyn Layer> {
    let made: Arc<dyn Layer> = Arc::new(Memory::new(Vec::new()));
    let options = CreateOptions { size: 1 << 20, cluster_size: CLUSTER, ..CreateOptions::default() };
    drop(create(&made, None, &options).unwrap());
    let file = Arc::new(Memory::new(vec![0; size as usize + 4096]));
    write_all(file.as_ref(), &read_vec(made.as_ref(), 0, made.size() as usize).unwrap(), 0).unwrap();
    Arc::new(Raw::new(file, 0, Some(size)).unwrap())
}

fn open(slice: &Arc<dyn Layer>) -> Qcow2 {
    Qcow2::open(slice.clone(), &OpenOptions { discard: true, ..OpenOptions::default() }).unwrap()
}

fn write(disk: &Qcow2, cluster: u64, clusters: u64, byte: u8) -> Result<(), ErrorKind> {
    write_all(disk, &vec![byte; (clusters * CLUSTER) as usize], cluster * CLUSTER).map_err(|e| e.kind())
}

/// Writes cluster after cluster from `first` on until there is no space; how many could be written.
fn fill(disk: &Qcow2, first: u64) -> u64 {
    (0..).find(|n| write(disk, first + n, 1, 2) == Err(ErrorKind::NoSpace)).unwrap()
}

#[test]
fn image_that_fills_all_that_a_block_of_counts_is_for_can_still_be_flushed() {
    for regions in [1, 2] {
        let slice = slice(regions * REGION);
        let disk = open(&slice);

        let written = fill(&disk, 0);
        assert!(written > 200, "{written}");
        disk.flush().unwrap();
        write(&disk, 0, 1, 7).unwrap();
        disk.close().unwrap();
        drop(disk);

        let disk = open(&slice);
        assert_eq!(read_vec(&disk, 0, 512).unwrap(), [7; 512]);
        assert_eq!(read_vec(&disk, (written - 1) * CLUSTER, 512).unwrap(), [2; 512]);
        drop(disk);
        assert_eq!(check(&slice).unwrap().corruptions, 0);
    }
}
