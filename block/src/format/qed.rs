//! QEMU's former format QED: two levels of tables.
//!
//! Source: "QED Image File Format" in QEMU's `docs/interop/qed_spec.txt`.

use std::collections::HashSet;
use std::sync::Arc;

use super::foreign::{Place, Places, ReadOnly, corrupt, le, not_one, read_table, unsupported};
use crate::error::BlockError;
use crate::layer::{Layer, read_vec};

const NAME: &str = "qed";
/// Features: a backing file; the image was not closed; the backing file is raw.
const BACKING: u64 = 1;
const NEED_CHECK: u64 = 2;
const KNOWN: u64 = 7;
/// Entries of a table that are looked at together.
const WINDOW: u64 = 512;

struct Qed {
    cluster: u64,
    entries: u64,
    l1: Vec<u64>,
    size: u64,
}

/// Opens the image in `file`.
///
/// # Errors
/// When it is no QED image, breaks the format's rules, has a backing file, or was not closed.
pub fn open(file: &Arc<dyn Layer>) -> Result<Arc<dyn Layer>, BlockError> {
    let head = read_vec(file.as_ref(), 0, 64)?;
    if !head.starts_with(b"QED\0") {
        return Err(not_one("Image not in QED format"));
    }
    let (cluster, table) = (le::<4>(&head, 4), le::<4>(&head, 8));
    let (features, l1_offset, size) = (le::<8>(&head, 16), le::<8>(&head, 40), le::<8>(&head, 48));
    if features & !KNOWN != 0 {
        return Err(unsupported(NAME, format!("features {:#x}", features & !KNOWN)));
    }
    if features & BACKING != 0 {
        return Err(unsupported(NAME, "the image has a backing file, which is not followed"));
    }
    if features & NEED_CHECK != 0 {
        return Err(unsupported(NAME, "the image was not closed: check it with the program that wrote it"));
    }
    // "cluster_size" is from 4 KiB to 64 MiB, "table_size" from 1 to 16, both powers of two.
    let sound = cluster.is_power_of_two() && (1 << 12..=1 << 26).contains(&cluster);
    if !sound || !table.is_power_of_two() || table > 16 {
        return Err(corrupt(NAME, format!("clusters of {cluster} bytes, tables of {table} clusters")));
    }
    let entries = table * cluster / 8;
    let l1 = read_table::<8>(NAME, file.as_ref(), l1_offset, entries)?;
    let l1: Vec<u64> = l1.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry)).collect();
    let covered = entries.checked_mul(entries).and_then(|clusters| clusters.checked_mul(cluster));
    if covered.is_some_and(|covered| covered < size) || i64::try_from(size).is_err() {
        return Err(corrupt(NAME, format!("the tables do not cover a disk of {size} bytes")));
    }
    let mut seen = HashSet::new();
    for table in l1.iter().filter(|table| **table != 0) {
        let end = table.checked_add(entries * 8);
        if table % cluster != 0 || end.is_none_or(|end| end > file.size()) || !seen.insert(*table) {
            return Err(corrupt(NAME, format!("the table at {table:#x} is out of place")));
        }
    }
    Ok(ReadOnly::layer(file, Qed { cluster, entries, l1, size }))
}

impl Places for Qed {
    const DRIVER: &'static str = NAME;

    fn size(&self) -> u64 {
        self.size
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(self.cluster)
    }

    fn place(&self, file: &dyn Layer, offset: u64) -> Result<(Place, u64), BlockError> {
        let number = offset / self.cluster;
        let within = offset % self.cluster;
        let (first, index) = ((number / self.entries) as usize, number % self.entries);
        let table = self.l1.get(first).copied().unwrap_or(0);
        if table == 0 {
            let rest = self.l1.get(first..).unwrap_or(&[]);
            let empty = rest.iter().take_while(|table| **table == 0).count().max(1) as u64;
            let run = (empty * self.entries - index).saturating_mul(self.cluster);
            return Ok((Place::Zero, run - within));
        }
        let count = (self.entries - index).min(WINDOW);
        let window = read_vec(file, table + index * 8, count as usize * 8)?;
        let hosts: Vec<u64> = window.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry)).collect();
        // 0 is not allocated, 1 is zero.
        let host = hosts[0];
        if host > 1 && (!host.is_multiple_of(self.cluster) || host >= file.size()) {
            return Err(corrupt(
                NAME,
                format!("the cluster at {host:#x} for guest offset {offset:#x} is out of place"),
            ));
        }
        let alike = |n: u64, next: u64| if host <= 1 { next <= 1 } else { next == host + n * self.cluster };
        let run = hosts.iter().enumerate().take_while(|(n, next)| alike(*n as u64, **next)).count() as u64;
        let place = if host <= 1 { Place::Zero } else { Place::At(host + within) };
        Ok((place, run.max(1) * self.cluster - within))
    }
}
