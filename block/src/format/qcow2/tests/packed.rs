//! Compressed clusters side by side with others.

use std::sync::Arc;

use super::rig::Dice;
use crate::format::qcow2::{CreateOptions, Qcow2, check, create};
use crate::layer::{Layer, read_vec, write_all};
use crate::protocol::memory::Memory;

const CLUSTER: u64 = 4096;

fn image() -> (Arc<dyn Layer>, Qcow2) {
    let file: Arc<dyn Layer> = Arc::new(Memory::new(Vec::new()));
    let options = CreateOptions { size: 64 * CLUSTER, cluster_size: CLUSTER, ..CreateOptions::default() };
    let image = create(&file, None, &options).unwrap();
    (file, image)
}

fn half_zero(byte: u8) -> Vec<u8> {
    let mut dice = Dice::new(u64::from(byte) + 1);
    (0..CLUSTER).map(|n| if n < CLUSTER / 4 { dice.roll(256) as u8 } else { byte }).collect()
}

fn pack(image: &Qcow2, bytes: &[u8], offset: u64) {
    let packed = image.pack_cluster(bytes).unwrap().unwrap();
    image.write_packed(offset, &packed).unwrap();
}

#[test]
fn packed_cluster_is_not_put_into_a_cluster_that_was_freed_and_taken_again() {
    let (file, image) = image();
    pack(&image, &half_zero(1), 0);
    // The packed cluster's place becomes free, and then a plain cluster's.
    write_all(&image, &[2; CLUSTER as usize], 0).unwrap();
    image.flush().unwrap();
    image.flush().unwrap();
    let plain = [3; CLUSTER as usize];
    (1..8).for_each(|n| write_all(&image, &plain, n * CLUSTER).unwrap());

    pack(&image, &half_zero(4), 20 * CLUSTER);

    (1..8).for_each(|n| assert_eq!(read_vec(&image, n * CLUSTER, CLUSTER as usize).unwrap(), plain));
    assert_eq!(read_vec(&image, 20 * CLUSTER, CLUSTER as usize).unwrap(), half_zero(4));
    image.close().unwrap();
    let report = check(&file).unwrap();
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{:?}", report.messages);
}

#[test]
fn packed_clusters_share_host_clusters_and_counts() {
    let (file, image) = image();
    (0..32).for_each(|n| pack(&image, &half_zero(n as u8), n * CLUSTER));
    image.close().unwrap();

    let report = check(&file).unwrap();

    assert_eq!((report.corruptions, report.leaks, report.compressed_clusters), (0, 0, 32));
    assert!(report.image_end_offset < 24 * CLUSTER, "{}", report.image_end_offset);
}
