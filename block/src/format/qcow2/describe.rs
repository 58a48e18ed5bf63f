//! What `info` and `query-named-block-nodes` tell of an image, in the order in which QEMU tells it.

use serde_json::{Map, Value, json};

use super::header::{AUTOCLEAR_RAW_DATA, LAZY_REFCOUNTS, incompatible as bit};
use super::{BitmapEntry, Compression, Qcow2, Snapshot, lock};
use crate::graph::ImageDetails;

impl Qcow2 {
    /// Fills in what the header and the tables say; tables that cannot be read are left out.
    pub(super) fn tell(&self, details: &mut ImageDetails) {
        let bitmaps: Vec<Value> = self.bitmaps().unwrap_or_default().iter().map(bitmap_value).collect();
        details.snapshots = self.snapshots().unwrap_or_default().iter().map(snapshot_value).collect();
        let alloc = lock(&self.alloc);
        let header = &alloc.header;
        details.cluster_size = Some(self.geometry.cluster());
        details.dirty_flag = Some(header.incompatible & bit::DIRTY != 0);
        details.backing_filename.clone_from(&header.backing_file);
        details.backing_filename_format.clone_from(&header.backing_format);
        let mut data = Map::new();
        data.insert("compat".into(), if header.version == 2 { "0.10" } else { "1.1" }.into());
        let compression = if header.compression == Compression::Zstd { "zstd" } else { "zlib" };
        data.insert("compression-type".into(), compression.into());
        if header.version == 3 {
            data.insert("lazy-refcounts".into(), (header.compatible & LAZY_REFCOUNTS != 0).into());
        }
        if !bitmaps.is_empty() {
            data.insert("bitmaps".into(), bitmaps.into());
        }
        data.insert("refcount-bits".into(), (1u64 << header.refcount_order).into());
        if let Some(name) = &header.data_file {
            data.insert("data-file".into(), name.clone().into());
        }
        if let Some((encryption, luks)) = self.encryption() {
            details.encrypted = Some(true);
            let mut value = luks.map_or_else(Map::new, |luks| luks.to_map());
            let at = value.keys().position(|key| key == "cipher-mode").unwrap_or(0);
            value.shift_insert(at, "format".into(), encryption.name().into());
            data.insert("encrypt".into(), value.into());
        }
        if header.incompatible & bit::DATA_FILE != 0 {
            data.insert("data-file-raw".into(), (header.autoclear & AUTOCLEAR_RAW_DATA != 0).into());
        }
        if header.version == 3 {
            data.insert("corrupt".into(), (header.incompatible & bit::CORRUPT != 0).into());
            data.insert("extended-l2".into(), self.geometry.extended.into());
        }
        details.format_specific = Some(json!({ "type": "qcow2", "data": data }));
    }
}

/// `SnapshotInfo` of a snapshot.
#[must_use]
pub fn snapshot_value(snapshot: &Snapshot) -> Value {
    let mut value = Map::new();
    if snapshot.icount != u64::MAX {
        value.insert("icount".into(), snapshot.icount.into());
    }
    value.insert("vm-clock-nsec".into(), (snapshot.vm_clock % 1_000_000_000).into());
    value.insert("name".into(), snapshot.name.clone().into());
    value.insert("date-sec".into(), snapshot.date.0.into());
    value.insert("date-nsec".into(), snapshot.date.1.into());
    value.insert("vm-clock-sec".into(), (snapshot.vm_clock / 1_000_000_000).into());
    value.insert("id".into(), snapshot.id.clone().into());
    value.insert("vm-state-size".into(), snapshot.vm_state_size.into());
    Value::Object(value)
}

fn bitmap_value(bitmap: &BitmapEntry) -> Value {
    let flags = [("in-use", bitmap.in_use), ("auto", bitmap.auto)];
    let flags: Vec<_> = flags.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    json!({ "flags": flags, "name": bitmap.name, "granularity": 1u64 << bitmap.granularity_bits.min(63) })
}
