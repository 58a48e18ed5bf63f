//! Internal snapshots ("Snapshots" in the specification): list, create, apply, delete.
//!
//! A snapshot is a second L1 table. Its clusters are counted once more, and an entry whose cluster has a count above
//! one loses its copied flag, so that the next write goes elsewhere. Each operation here runs alone: nothing is in
//! flight, nothing is dirty in memory.

use super::entry::{COPIED, Entry, OFFSET};
use super::header::{Header, corrupt};
use super::overlap::{Kind, Kinds};
use super::refcount::{Freed, Taken};
use super::{Alloc, Qcow2, lock};
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Layer, read_vec, write_all};

/// One internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number, as text.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made: seconds and nanoseconds since 1970.
    pub date: (u32, u32),
    /// The guest's clock then, in nanoseconds.
    pub vm_clock: u64,
    /// Bytes of machine state.
    pub vm_state_size: u64,
    /// Size of the disk then, in bytes.
    pub disk_size: u64,
    /// Instructions executed then; all ones when not counted.
    pub icount: u64,
    /// Its number and name as the image has them, where they are no UTF-8: shown changed, and kept as they are.
    stored: Option<(Vec<u8>, Vec<u8>)>,
    pub(super) l1_offset: u64,
    pub(super) l1_size: u32,
    /// The entry has the extra data that version 3 asks for: the large size of the machine state, and that of the disk.
    pub(super) complete: bool,
    /// Extra data past what we know.
    unknown: Vec<u8>,
}

/// Most bytes of a snapshot's name: longer ones are cut, as by QEMU, though never within a character.
const MOST_NAME: usize = 255;

/// What an image says that has no such snapshot.
pub const NO_SNAPSHOT: &str = "Failed to load snapshot";

/// Which snapshot is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotRef {
    /// The one of that number, or else of that name.
    Either(String),
    /// The one of that number and name, where they are given.
    Both {
        /// Its number.
        id: Option<String>,
        /// Its name.
        name: Option<String>,
    },
}

/// Bounds of one entry: text and extra data.
const MOST_EXTRA: u32 = 1024;
/// Largest L1 table, in entries.
const MOST_L1: u64 = 4 << 20;
/// Largest snapshot table, in bytes.
const MOST_TABLE: usize = 64 << 20;

/// Reads the snapshot table; also how many bytes it has.
pub(super) fn read_table(file: &dyn Layer, header: &Header) -> Result<(Vec<Snapshot>, u64), BlockError> {
    let mut list = Vec::new();
    let mut at = header.snapshots_offset;
    for n in 0..header.snapshots {
        let head = read_vec(file, at, 40)?;
        let be = |from: usize, len: usize| head[from..from + len].iter().fold(0u64, |v, b| v << 8 | u64::from(*b));
        let (id_len, name_len, extra_len) = (be(12, 2) as usize, be(14, 2) as usize, be(36, 4) as u32);
        if extra_len > MOST_EXTRA {
            return Err(corrupt(format!("snapshot {n} has {extra_len} bytes of extra data")));
        }
        let extra_len = extra_len as usize;
        let tail = read_vec(file, at + 40, extra_len + id_len + name_len)?;
        let word = |from: usize| {
            tail[..extra_len].get(from..from + 8).map(|b| b.iter().fold(0, |v, b| v << 8 | u64::from(*b)))
        };
        let (id, name) = (&tail[extra_len..extra_len + id_len], &tail[extra_len + id_len..]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let is_text = std::str::from_utf8(id).is_ok() && std::str::from_utf8(name).is_ok();
        let snapshot = Snapshot {
            id: text(id),
            name: text(name),
            stored: (!is_text).then(|| (id.to_vec(), name.to_vec())),
            date: (be(16, 4) as u32, be(20, 4) as u32),
            vm_clock: be(24, 8),
            vm_state_size: word(0).unwrap_or(be(32, 4)),
            disk_size: word(8).unwrap_or(header.size),
            icount: word(16).unwrap_or(u64::MAX),
            l1_offset: be(0, 8),
            l1_size: be(8, 4) as u32,
            complete: header.version < 3 || extra_len >= 16,
            unknown: tail[..extra_len].get(24..).unwrap_or(&[]).to_vec(),
        };
        let cluster = header.cluster_size();
        if !snapshot.l1_offset.is_multiple_of(cluster)
            || u64::from(snapshot.l1_size) > MOST_L1
            || snapshot.l1_offset >> 56 != 0
        {
            return Err(corrupt(format!("snapshot {n} has an impossible L1 table")));
        }
        list.push(snapshot);
        at += (40 + tail.len() as u64).next_multiple_of(8);
        if at - header.snapshots_offset > MOST_TABLE as u64 {
            return Err(corrupt("the snapshot table is too large"));
        }
    }
    Ok((list, at - header.snapshots_offset))
}

fn encode(list: &[Snapshot]) -> Vec<u8> {
    let mut out = Vec::new();
    for s in list {
        let (id, name) = match &s.stored {
            Some((id, name)) => (id.as_slice(), name.as_slice()),
            None => (s.id.as_bytes(), s.name.as_bytes()),
        };
        out.extend(s.l1_offset.to_be_bytes());
        out.extend(s.l1_size.to_be_bytes());
        out.extend((id.len() as u16).to_be_bytes());
        out.extend((name.len() as u16).to_be_bytes());
        out.extend(s.date.0.to_be_bytes());
        out.extend(s.date.1.to_be_bytes());
        out.extend(s.vm_clock.to_be_bytes());
        out.extend(u32::try_from(s.vm_state_size).unwrap_or(u32::MAX).to_be_bytes());
        out.extend((24 + s.unknown.len() as u32).to_be_bytes());
        out.extend(s.vm_state_size.to_be_bytes());
        out.extend(s.disk_size.to_be_bytes());
        out.extend(s.icount.to_be_bytes());
        out.extend(&s.unknown);
        out.extend(id);
        out.extend(name);
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out
}

fn find<'a>(list: &'a [Snapshot], which: &str) -> Result<&'a Snapshot, BlockError> {
    let found = list.iter().find(|s| s.id == which).or_else(|| list.iter().find(|s| s.name == which));
    found.ok_or_else(|| BlockError::new(ErrorKind::NotFound, format!("Can't find the snapshot '{which}'")))
}

/// The header as it would be if the disk were what it was at a snapshot. The L1 table may be shorter than the disk:
/// what it does not reach is not allocated.
pub(super) fn at_snapshot(file: &dyn Layer, header: Header, which: &SnapshotRef) -> Result<Header, BlockError> {
    let (list, _) = read_table(file, &header)?;
    let fits = |asked: &Option<String>, has: &str| asked.as_deref().is_none_or(|asked| asked == has);
    let found = match which {
        SnapshotRef::Either(which) => find(&list, which).ok(),
        SnapshotRef::Both { id, name } => list.iter().find(|s| fits(id, &s.id) && fits(name, &s.name)),
    };
    let found = found.ok_or_else(|| BlockError::new(ErrorKind::NotFound, "Can't find snapshot").within(NO_SNAPSHOT))?;
    if header.l1_needed(found.disk_size) > MOST_L1 {
        return Err(corrupt("the snapshot's disk is too large"));
    }
    Ok(Header { size: found.disk_size, l1_offset: found.l1_offset, l1_size: found.l1_size, ..header })
}

impl Qcow2 {
    /// The snapshots, in the order of the image.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, BlockError> {
        let alloc = lock(&self.alloc);
        read_table(self.file.as_ref(), &alloc.header).map(|(list, _)| list)
    }

    /// Makes a snapshot of the disk as it is, as one without a machine, named `name` (its first 255 bytes), dated `date`
    /// (seconds and nanoseconds since 1970).
    ///
    /// # Errors
    /// When there is no room, or metadata cannot be read or written.
    pub fn snapshot_create(&self, name: &str, date: (u32, u32)) -> Result<(), BlockError> {
        self.snapshot_of_machine(name, date, 0, 0).map(drop)
    }

    /// The same of a disk that a guest has, whose clock is at `vm_clock` nanoseconds and which has run `icount`
    /// instructions, all ones where nobody counts. Gives the new snapshot's number.
    ///
    /// # Errors
    /// When there is no room, or metadata cannot be read or written.
    pub fn snapshot_of_machine(
        &self,
        name: &str,
        date: (u32, u32),
        vm_clock: u64,
        icount: u64,
    ) -> Result<String, BlockError> {
        self.writable()?;
        if self.geometry.external {
            let text = "snapshots need an image without an external data file";
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        let name = &name[..name.floor_char_boundary(MOST_NAME)];
        self.exclusively(|alloc| {
            let (mut list, _) = read_table(self.file.as_ref(), &alloc.header)?;
            let l1 = self.maps().l1.clone();
            let id = list.iter().filter_map(|s| s.id.parse::<u64>().ok()).max().unwrap_or(0) + 1;
            list.push(Snapshot {
                id: id.to_string(),
                name: name.to_owned(),
                stored: None,
                date,
                vm_clock,
                vm_state_size: 0,
                disk_size: alloc.header.size,
                icount,
                l1_offset: 0,
                l1_size: l1.len() as u32,
                complete: true,
                unknown: Vec::new(),
            });
            let old = self.or_undone(alloc, |begun, alloc| self.list_anew(list, l1, begun, alloc))?;
            self.free_list(alloc, old)?;
            Ok(id.to_string())
        })
    }

    /// Puts `list`, whose last snapshot is to have the map `l1`, in the place of the old one; gives that.
    fn list_anew(
        &self,
        mut list: Vec<Snapshot>,
        l1: Vec<u64>,
        begun: &mut Begun,
        alloc: &mut Alloc,
    ) -> Result<(u64, u64), BlockError> {
        // What takes room first. A crash before the header is written only leaks.
        let copy: Vec<u64> = l1.iter().map(|entry| entry & !COPIED).collect();
        let l1_offset = self.begin_table(alloc, &words(&copy), begun)?;
        if let Some(new) = list.last_mut() {
            new.l1_offset = l1_offset;
        }
        let place = self.begin_table(alloc, &encode(&list), begun)?;
        self.write_counts(alloc)?;
        self.count_again(l1, begun, alloc)?;
        self.write_counts(alloc)?;
        self.file.flush()?;
        self.refresh_copied(alloc)?;
        self.switch_list(alloc, list.len(), place)
    }

    /// Makes the disk what it was when the snapshot (by number or name) was made.
    ///
    /// # Errors
    /// When there is no such snapshot, the image has dirty bitmaps (nobody would know what changed), or metadata cannot
    /// be read or written.
    pub fn snapshot_apply(&self, which: &str) -> Result<(), BlockError> {
        self.writable()?;
        // Broken ones are lost with the first write.
        if self.bitmaps().is_ok_and(|bitmaps| !bitmaps.is_empty()) || !lock(&self.tracked).live.is_empty() {
            return Err(BlockError::new(ErrorKind::Invalid, "Device has active dirty bitmaps"));
        }
        self.exclusively(|alloc| {
            let file = self.file.as_ref();
            let (list, _) = read_table(file, &alloc.header)?;
            let snapshot = find(&list, which)?;
            let mut l1 = super::open::read_words(file, snapshot.l1_offset, u64::from(snapshot.l1_size))?;
            let needed = alloc.header.l1_needed(snapshot.disk_size);
            if needed > MOST_L1 {
                return Err(corrupt("the snapshot's disk is too large"));
            }
            l1.resize(l1.len().max(needed as usize), 0);
            let new = self.or_undone(alloc, |begun, alloc| {
                let new = self.begin_table(alloc, &words(&l1), begun)?;
                self.write_counts(alloc)?;
                self.count_again(l1.clone(), begun, alloc)?;
                self.write_counts(alloc)?;
                file.flush().map(|()| new)
            })?;
            // One write turns the disk over: size, encryption method, L1 size and offset lie together.
            let mut fields = snapshot.disk_size.to_be_bytes().to_vec();
            fields.extend(alloc.header.crypt_method.to_be_bytes());
            fields.extend((l1.len() as u32).to_be_bytes());
            fields.extend(new.to_be_bytes());
            self.switch_header(alloc, 24, &fields)?;
            let old = std::mem::replace(&mut self.maps_mut().l1, l1);
            let (old_at, old_size) = (alloc.header.l1_offset, u64::from(alloc.header.l1_size));
            alloc.header.size = snapshot.disk_size;
            alloc.header.l1_size = self.maps().l1.len() as u32;
            alloc.header.l1_offset = new;
            self.guard.metadata.replace(Kind::ActiveL1, new..new + 8 * u64::from(alloc.header.l1_size));
            self.size.store(snapshot.disk_size, std::sync::atomic::Ordering::Release);
            self.release_map(alloc, &old, (old_at, old_size * 8), false)
        })
    }

    /// Deletes the snapshot (by number or name).
    ///
    /// # Errors
    /// When there is no such snapshot, or metadata cannot be read or written.
    pub fn snapshot_delete(&self, which: &str) -> Result<(), BlockError> {
        self.writable()?;
        self.exclusively(|alloc| {
            let file = self.file.as_ref();
            let (mut list, _) = read_table(file, &alloc.header)?;
            let gone = find(&list, which)?.clone();
            list.retain(|s| *s != gone);
            let l1 = super::open::read_words(file, gone.l1_offset, u64::from(gone.l1_size))?;
            self.replace_list(alloc, &list)?;
            let place = (gone.l1_offset, u64::from(gone.l1_size) * 8);
            self.release_map(alloc, &l1, place, self.discard.snapshot())
        })
    }

    /// Gives back everything under `l1`, which nothing leads to any more, and the table itself, at `place` (offset and
    /// bytes).
    fn release_map(&self, alloc: &mut Alloc, l1: &[u64], place: (u64, u64), discard: bool) -> Result<(), BlockError> {
        let release = |counts: &mut super::Refcounts, file: &dyn Layer, run: Freed| {
            counts.release(file, Freed { discard, ..run })
        };
        let released = self
            .for_each_run(l1, release, alloc)
            .and_then(|()| self.free_table(alloc, place.0, place.1))
            .and_then(|()| self.write_counts(alloc))
            .and_then(|()| self.file.flush());
        // The flags fit the counts however far these came.
        self.refresh_copied(alloc).and(released)
    }

    /// Writes the table of snapshots anew, with all that version 3 asks for in each entry.
    pub(super) fn complete_snapshots(&self) -> Result<(), BlockError> {
        self.exclusively(|alloc| {
            let (list, _) = read_table(self.file.as_ref(), &alloc.header)?;
            self.replace_list(alloc, &list)
        })
    }

    /// Counts everything under `l1` once more, or nothing where a count has no room.
    fn count_again(&self, l1: Vec<u64>, begun: &mut Begun, alloc: &mut Alloc) -> Result<(), BlockError> {
        self.for_each_run(&l1, |counts, file, run| counts.check_room(file, run), alloc)?;
        let counted = &mut begun.counted;
        let result = self.for_each_run(
            &l1,
            |counts, file, run| {
                each_cluster(run, counts.cluster()).try_for_each(|offset| {
                    counts.add(file, offset, 1)?;
                    *counted += 1;
                    Ok(())
                })
            },
            alloc,
        );
        begun.l1 = l1;
        result
    }

    /// Does `work`; where it fails, what it had begun is taken back.
    fn or_undone<T>(
        &self,
        alloc: &mut Alloc,
        work: impl FnOnce(&mut Begun, &mut Alloc) -> Result<T, BlockError>,
    ) -> Result<T, BlockError> {
        let mut begun = Begun::default();
        let result = work(&mut begun, alloc);
        if result.is_err() && !alloc.lost && !self.guard.is_dead() {
            self.undo(begun, alloc)
                .unwrap_or_else(|e| log::warn!("qcow2: what failed leaves leaked clusters: {}", e.sentence()));
        }
        result
    }

    fn undo(&self, begun: Begun, alloc: &mut Alloc) -> Result<(), BlockError> {
        begun.tables.into_iter().for_each(|taken| alloc.counts.untake(taken));
        if begun.counted == 0 {
            return Ok(());
        }
        let mut left = begun.counted;
        let lowered = self.for_each_run(
            &begun.l1,
            |counts, file, run| {
                let cluster = counts.cluster();
                each_cluster(run, cluster).take(left as usize).try_for_each(|offset| {
                    left -= 1;
                    counts.release(file, Freed { offset, clusters: 1, discard: false })
                })
            },
            alloc,
        );
        let written = lowered.and_then(|()| self.write_counts(alloc)).and_then(|()| self.file.flush());
        self.refresh_copied(alloc).and(written)
    }

    /// Calls `each` with every L2 table and every data cluster under `l1`, tables last, so that they can be freed.
    fn for_each_run(
        &self,
        l1: &[u64],
        mut each: impl FnMut(&mut super::Refcounts, &dyn Layer, Freed) -> Result<(), BlockError>,
        alloc: &mut Alloc,
    ) -> Result<(), BlockError> {
        let g = self.geometry;
        let file = self.file.as_ref();
        let run = |offset, clusters| Freed { offset, clusters, discard: false };
        for entry in l1 {
            let table = self.checked_table(*entry)?;
            if table == 0 {
                continue;
            }
            for entry in self.table_entries(table)? {
                if entry.is_compressed() {
                    let (offset, len) = entry.packed(g.cluster_bits);
                    let first = offset & !(g.cluster() - 1);
                    let end = (offset + len).next_multiple_of(g.cluster());
                    each(&mut alloc.counts, file, run(first, (end - first) >> g.cluster_bits))?;
                } else if let Some(host) = entry.host() {
                    if entry.fault(g.cluster_bits, g.extended).is_some() {
                        return Err(corrupt(format!("L2 table {table:#x} has a broken entry {:#x}", entry.word)));
                    }
                    each(&mut alloc.counts, file, run(host, 1))?;
                }
            }
            each(&mut alloc.counts, file, run(table, 1))?;
        }
        Ok(())
    }

    pub(super) fn table_entries(&self, table: u64) -> Result<Vec<Entry>, BlockError> {
        let g = self.geometry;
        let words = super::open::read_words(self.file.as_ref(), table, g.cluster() / 8)?;
        let step = if g.extended { 2 } else { 1 };
        Ok(words.chunks_exact(step).map(|w| Entry { word: w[0], bitmap: w[step - 1] }).collect())
    }

    /// Sets the copied flag of each active entry to what the counts say, on disk.
    fn refresh_copied(&self, alloc: &mut Alloc) -> Result<(), BlockError> {
        let mut l1 = self.maps().l1.clone();
        let refreshed = self.refresh_tables(&mut l1, alloc).and_then(|()| self.file.flush());
        // What is on the disk now, also where it came half-way.
        self.maps_mut().l1 = l1;
        refreshed
    }

    fn refresh_tables(&self, l1: &mut [u64], alloc: &mut Alloc) -> Result<(), BlockError> {
        let g = self.geometry;
        let file = self.file.as_ref();
        let step = if g.extended { 2 } else { 1 };
        for (index, l1_entry) in l1.iter_mut().enumerate() {
            let table = self.checked_table(*l1_entry)?;
            if table == 0 {
                continue;
            }
            let mut bytes = read_vec(file, table, g.cluster() as usize)?;
            let mut changed = false;
            for (n, entry) in self.table_entries(table)?.into_iter().enumerate() {
                let Some(host) = entry.host() else { continue };
                let single = alloc.counts.get(file, host >> g.cluster_bits)? == 1;
                let word = if single { entry.word | COPIED } else { entry.word & !COPIED };
                changed |= word != entry.word;
                bytes[n * step * 8..][..8].copy_from_slice(&word.to_be_bytes());
            }
            if changed {
                self.guard.write(Kinds::ANY_L2, &bytes, table)?;
            }
            let single = alloc.counts.get(file, table >> g.cluster_bits)? == 1;
            let new = if single { *l1_entry | COPIED } else { *l1_entry & OFFSET };
            if new != *l1_entry {
                self.guard.write(Kinds::L1, &new.to_be_bytes(), alloc.header.l1_offset + 8 * index as u64)?;
                *l1_entry = new;
            }
        }
        Ok(())
    }

    /// Writes bytes to clusters of their own; where. No bytes are nowhere.
    pub(super) fn write_table(&self, alloc: &mut Alloc, bytes: &[u8]) -> Result<u64, BlockError> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let cluster = self.geometry.cluster();
        let clusters = (bytes.len() as u64).div_ceil(cluster);
        let taken = alloc.counts.take_run(self.file.as_ref(), clusters)?;
        let mut whole = bytes.to_vec();
        whole.resize((clusters * cluster) as usize, 0);
        write_all(self.file.as_ref(), &whole, taken.offset).inspect_err(|_| alloc.counts.untake(taken))?;
        Ok(taken.offset)
    }

    /// The same, to be given back if the whole comes to nothing.
    fn begin_table(&self, alloc: &mut Alloc, bytes: &[u8], begun: &mut Begun) -> Result<u64, BlockError> {
        let offset = self.write_table(alloc, bytes)?;
        let clusters = (bytes.len() as u64).div_ceil(self.geometry.cluster());
        begun.tables.extend((clusters > 0).then_some(Taken { offset, clusters, fresh: false }));
        Ok(offset)
    }

    fn free_table(&self, alloc: &mut Alloc, offset: u64, bytes: u64) -> Result<(), BlockError> {
        let clusters = bytes.div_ceil(self.geometry.cluster());
        alloc.counts.release(self.file.as_ref(), Freed { offset, clusters, discard: false })
    }

    /// Points the header at a new snapshot table and frees the old one.
    fn replace_list(&self, alloc: &mut Alloc, list: &[Snapshot]) -> Result<(), BlockError> {
        let old = self.or_undone(alloc, |begun, alloc| {
            let new = self.begin_table(alloc, &encode(list), begun)?;
            self.write_counts(alloc)?;
            self.file.flush()?;
            self.switch_list(alloc, list.len(), new)
        })?;
        self.free_list(alloc, old)
    }

    /// Points the header at the snapshot table at `new`, of `count` snapshots, which is on the disk; gives offset and
    /// bytes of the old one.
    fn switch_list(&self, alloc: &mut Alloc, count: usize, new: u64) -> Result<(u64, u64), BlockError> {
        let (_, old_bytes) = read_table(self.file.as_ref(), &alloc.header)?;
        let old = (alloc.header.snapshots_offset, old_bytes);
        let mut fields = (count as u32).to_be_bytes().to_vec();
        fields.extend(new.to_be_bytes());
        self.switch_header(alloc, 60, &fields)?;
        alloc.header.snapshots = count as u32;
        alloc.header.snapshots_offset = new;
        Ok(old)
    }

    fn free_list(&self, alloc: &mut Alloc, old: (u64, u64)) -> Result<(), BlockError> {
        self.free_table(alloc, old.0, old.1)?;
        self.write_counts(alloc)
    }
}

/// What an operation has done that nothing in the file leads to yet.
#[derive(Default)]
struct Begun {
    tables: Vec<Taken>,
    /// Of what is under this L1 table, so many clusters are counted once more, in its order.
    l1: Vec<u64>,
    counted: u64,
}

/// The offset of each cluster of a run.
fn each_cluster(run: Freed, cluster: u64) -> impl Iterator<Item = u64> {
    (0..run.clusters).map(move |n| run.offset + n * cluster)
}

fn words(table: &[u64]) -> Vec<u8> {
    table.iter().flat_map(|w| w.to_be_bytes()).collect()
}
