//! Compressed clusters ("Compressed Clusters Descriptor" in the specification).

use std::sync::{Arc, Mutex};

use super::entry::Entry;
use super::header::corrupt;
use super::{Compression, Qcow2, lock};
use crate::error::{BlockError, ErrorKind};
use crate::layer::read_vec;

/// The last unpacked clusters, newest last: guests read one in several requests.
pub(super) struct Cache(Mutex<Vec<(u64, Arc<Vec<u8>>)>>);

/// Bytes of unpacked clusters that are kept.
const KEPT: usize = 1 << 20;

/// Window of deflate, as a power of two ("Compressed Clusters": 12 bits).
const WINDOW_BITS: u8 = 12;

impl Cache {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Forgets all: packed clusters may have been freed and taken again.
    pub(super) fn clear(&self) {
        lock(&self.0).clear();
    }
}

impl Qcow2 {
    /// The content of the cluster that `entry` packs.
    pub(super) fn unpack(&self, entry: Entry) -> Result<Arc<Vec<u8>>, BlockError> {
        let found = lock(&self.unpacked.0).iter().find(|(word, _)| *word == entry.word).map(|(_, c)| c.clone());
        if let Some(cluster) = found {
            return Ok(cluster);
        }
        let (offset, len) = entry.packed(self.geometry.cluster_bits);
        // At most two clusters by the descriptor's width.
        let packed = read_vec(self.file.as_ref(), offset, len as usize)?;
        let cluster =
            Arc::new(unpack(&packed, self.geometry.cluster() as usize, self.compression).ok_or_else(|| {
                corrupt(format!("the compressed cluster at host offset {offset:#x} ({len} bytes) does not unpack"))
            })?);
        let mut cache = lock(&self.unpacked.0);
        if cache.len() >= (KEPT >> self.geometry.cluster_bits).max(1) {
            cache.remove(0);
        }
        cache.push((entry.word, cluster.clone()));
        Ok(cluster)
    }
}

/// Unpacks exactly `len` bytes; what follows in `packed` is padding.
pub(super) fn unpack(packed: &[u8], len: usize, how: Compression) -> Option<Vec<u8>> {
    let mut out = vec![0; len];
    match how {
        Compression::Zlib => {
            let mut inflate = flate2::Decompress::new(false);
            inflate.decompress(packed, &mut out, flate2::FlushDecompress::Finish).ok();
            (inflate.total_out() == len as u64).then_some(out)
        }
        Compression::Zstd => {
            let mut decoder = zstd::stream::raw::Decoder::new().ok()?;
            let (mut from, mut to) = (0, 0);
            while to < len {
                let step =
                    zstd::stream::raw::Operation::run_on_buffers(&mut decoder, &packed[from..], &mut out[to..]).ok()?;
                if step.bytes_read == 0 && step.bytes_written == 0 {
                    return None;
                }
                from += step.bytes_read;
                to += step.bytes_written;
            }
            Some(out)
        }
    }
}

/// Packs a cluster; `None` when that saves nothing.
///
/// # Errors
/// When the library fails, which is a lack of memory.
pub(super) fn pack(cluster: &[u8], how: Compression) -> Result<Option<Vec<u8>>, BlockError> {
    let fail = |e| BlockError::io("could not compress a cluster", e);
    let packed = match how {
        Compression::Zlib => {
            let mut out = vec![0; cluster.len()];
            // Readers need not keep more than 4 KiB of history.
            let mut deflate =
                flate2::Compress::new_with_window_bits(flate2::Compression::default(), false, WINDOW_BITS);
            let status = deflate.compress(cluster, &mut out, flate2::FlushCompress::Finish);
            match status {
                Ok(flate2::Status::StreamEnd) => out.truncate(deflate.total_out() as usize),
                Ok(_) => return Ok(None),
                Err(_) => return Err(BlockError::new(ErrorKind::Io, "could not compress a cluster")),
            }
            out
        }
        Compression::Zstd => zstd::bulk::compress(cluster, 0).map_err(fail)?,
    };
    Ok((packed.len() < cluster.len()).then_some(packed))
}
