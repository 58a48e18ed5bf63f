//! What an image does not hold, asked of those beneath it by a loop: a chain may have more images than a thread's stack
//! has room for.
//!
//! Only images of this driver are walked past; rules that a node has on top of one say nothing of reads.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Qcow2, lock};
use crate::error::BlockError;
use crate::layer::{Fast, FastOp, Layer, Status};
use crate::mem::Sink;

/// What an image says of a range.
pub(super) enum Found<T> {
    /// It decides.
    Here(T),
    /// The one beneath does, for so many bytes from the start on (not 0).
    Beneath(u64, Arc<dyn Layer>),
}

impl Qcow2 {
    /// The layer that is shown where this one holds nothing.
    pub(super) fn backing(&self) -> Option<Arc<dyn Layer>> {
        self.maps().backing.clone()
    }

    /// Whether clusters that are absent may come to show something else than zeroes: what lies beneath, what the header
    /// names though nobody has opened it, or what is said to come.
    #[must_use]
    pub fn stands(&self) -> bool {
        let has_backing = self.maps().backing.is_some();
        has_backing || self.expects.load(Ordering::Relaxed) || lock(&self.alloc).header.backing_file.is_some()
    }

    /// Something will be put beneath, whatever the header names.
    pub fn expect_backing(&self) {
        self.expects.store(true, Ordering::Relaxed);
    }

    /// Whether `what` is true of a layer beneath this one, in whatever depth; of images this asks for what they are on.
    pub(super) fn any_beneath(&self, what: impl Fn(&dyn Layer) -> bool, of_image: impl Fn(&Self) -> bool) -> bool {
        let mut beneath = self.backing();
        while let Some(layer) = beneath {
            let Some(image) = image(&layer) else { return what(layer.as_ref()) };
            if of_image(image) {
                return true;
            }
            beneath = image.backing();
        }
        false
    }
}

fn image(layer: &Arc<dyn Layer>) -> Option<&Qcow2> {
    layer.as_any().downcast_ref()
}

/// Reads what `backing` shows at `offset`, all of which it has.
pub(super) fn read(backing: &Arc<dyn Layer>, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
    let mut done = 0;
    while done < into.len() {
        let at = offset + done as u64;
        done += read_run(backing, into.part(done, into.len() - done), at)?;
    }
    Ok(())
}

/// Reads the start of that, up to where another layer decides; how much that was.
fn read_run(backing: &Arc<dyn Layer>, mut into: Sink<'_>, offset: u64) -> Result<usize, BlockError> {
    let mut layer = backing.clone();
    loop {
        let Some(image) = image(&layer) else {
            layer.read(into, offset)?;
            return Ok(into.len());
        };
        image.guard.alive()?;
        match image.read_here(into, offset)? {
            Found::Here(len) => return Ok(len),
            Found::Beneath(len, beneath) => {
                into = into.part(0, len as usize);
                layer = beneath;
            }
        }
    }
}

/// What the run of `backing` at `offset` is, of at most `len` bytes.
pub(super) fn status(backing: Arc<dyn Layer>, offset: u64, mut len: u64) -> Result<Status, BlockError> {
    let mut layer = backing;
    loop {
        let Some(image) = image(&layer) else { return layer.status(offset, len) };
        image.guard.alive()?;
        match image.status_here(offset, len)? {
            Found::Here(status) => return Ok(status),
            Found::Beneath(shorter, beneath) => {
                len = shorter;
                layer = beneath;
            }
        }
    }
}

/// Where a range that `backing` has all of can be read.
#[cold]
pub(super) fn fast(backing: Arc<dyn Layer>, offset: u64, len: u64) -> Fast {
    let mut layer = backing;
    loop {
        let Some(image) = image(&layer) else { return layer.fast(FastOp::Read, offset, len) };
        let mut beneath = None;
        let fast = image.fast_range(FastOp::Read, offset, len, &mut beneath);
        match beneath {
            None => return fast,
            Some(beneath) => layer = beneath,
        }
    }
}
