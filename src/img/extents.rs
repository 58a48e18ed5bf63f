//! What an image and those beneath it say of their bytes, run by run: for `map`, `compare`, `commit` and `rebase`.

use std::path::PathBuf;
use std::sync::Arc;

use rhea_block::BlockError;
use rhea_block::format::raw::Raw;
use rhea_block::graph::Node;

/// A run of bytes of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) start: u64,
    pub(super) len: u64,
    /// How many images above the one that decides.
    pub(super) depth: u64,
    /// Some image of the chain decides; without, it is zero because none does.
    pub(super) present: bool,
    /// It is zero because the image beneath has ended.
    pub(super) past_end: bool,
    pub(super) zero: bool,
    pub(super) data: bool,
    pub(super) compressed: bool,
    /// Where the bytes are in `file`, if they are there as they are.
    pub(super) offset: Option<u64>,
    /// The host file with the bytes.
    pub(super) file: PathBuf,
}

impl Extent {
    /// No bytes at `start`.
    pub(super) fn empty(start: u64) -> Self {
        let file = PathBuf::new();
        let (len, depth, offset, past_end) = (0, 0, None, false);
        Self { start, len, depth, present: false, past_end, zero: false, data: false, compressed: false, offset, file }
    }

    /// Whether `next` goes on where this ends, alike in all.
    fn continues(&self, next: &Self) -> bool {
        let follows = match (self.offset, next.offset) {
            (Some(here), Some(there)) => here.checked_add(self.len) == Some(there),
            (None, None) => true,
            _ => false,
        };
        follows
            && (self.depth, self.present, self.zero, self.data, self.compressed)
                == (next.depth, next.present, next.zero, next.data, next.compressed)
            && self.file == next.file
    }
}

/// The run at `start`, at most `len` bytes (not 0).
pub(super) fn extent_at(top: &Arc<Node>, start: u64, len: u64) -> Result<Extent, BlockError> {
    let mut node = top.clone();
    let mut depth = 0;
    let mut len = len;
    loop {
        // What a filter shows is its image's.
        while let Some(image) = node.filtered() {
            node = image;
        }
        let status = node.layer().status(start, len)?;
        len = status.len.clamp(1, len);
        let below = node.child("backing").filter(|_| !status.allocated);
        if let Some(below) = below.clone().filter(|below| start < below.layer().size()) {
            len = len.min(below.layer().size() - start);
            node = below;
            depth += 1;
            continue;
        }
        // A raw image's holes have a place too.
        let raw = node.layer().as_any().downcast_ref::<Raw>();
        let offset = raw.map_or(status.offset, |raw| raw.offset().checked_add(start));
        let holder = node.child("data-file").unwrap_or(node);
        return Ok(Extent {
            start,
            len,
            depth,
            present: status.allocated,
            past_end: below.is_some(),
            zero: status.zero,
            data: status.data,
            compressed: status.compressed,
            offset,
            file: holder.filename().to_path_buf(),
        });
    }
}

/// Calls `each` for every run of `start..end`, runs that are alike joined.
pub(super) fn for_each<E: From<BlockError>>(
    top: &Arc<Node>,
    start: u64,
    end: u64,
    mut each: impl FnMut(&Extent) -> Result<(), E>,
) -> Result<(), E> {
    let mut pending: Option<Extent> = None;
    let mut at = start;
    while at < end {
        let next = extent_at(top, at, end - at)?;
        at += next.len;
        match &mut pending {
            Some(run) if run.continues(&next) => run.len += next.len,
            _ => {
                if let Some(run) = pending.replace(next) {
                    each(&run)?;
                }
            }
        }
    }
    pending.map_or(Ok(()), |run| each(&run))
}
