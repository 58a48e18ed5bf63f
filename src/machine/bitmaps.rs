//! Dirty bitmaps of nodes: `block-dirty-bitmap-*`.
//!
//! qcow2 images have them, in their file or beside it; other nodes have none.

use std::sync::Arc;

use rhea_block::format::qcow2::{BitmapChange, Bits, FormerBitmap, NewBitmap, Qcow2};
use rhea_block::graph::Node;
use rhea_block::{BlockError, ErrorKind};

use super::Machine;
use crate::qmp::QmpError;
use crate::qmp::command::args::{DirtyBitmap, DirtyBitmapAdd, DirtyBitmapMerge, DirtyBitmapOrStr};

/// The image that has the bitmaps of `node`.
///
/// # Errors
/// Nodes of its driver have none.
pub(super) fn keeper(node: &Node) -> Result<&Qcow2, QmpError> {
    node.layer().as_any().downcast_ref().ok_or_else(|| {
        let (name, driver) = (node.name(), node.layer().driver());
        QmpError::generic(format!("node '{name}' is of driver '{driver}': only qcow2 images have bitmaps here"))
    })
}

/// The node whose content shows where `node` has none of its own.
fn shows_through(node: &Arc<Node>) -> Option<Arc<Node>> {
    node.child(match node.layer().driver() {
        "throttle" | "copy-on-read" => "file",
        "blkdebug" => "image",
        _ => "backing",
    })
}

/// Refuses a change of what the file has, where nothing is written to the file.
fn check_writable(node: &Node, name: &str, change: &BitmapChange) -> Result<(), QmpError> {
    if !node.is_read_only() {
        return Ok(());
    }
    let stored = match change {
        BitmapChange::Add(new) => new.persistent,
        _ => {
            let stored = keeper(node)?.bitmaps().map_err(|error| QmpError::from_error(&error))?;
            stored.iter().any(|bitmap| bitmap.name == name)
        }
    };
    if stored {
        return Err(QmpError::generic(format!("Bitmap '{name}' is readonly and cannot be modified")));
    }
    Ok(())
}

/// A bitmap as it was before a change.
pub(super) struct Undo {
    node: Arc<Node>,
    name: String,
    former: FormerBitmap,
}

impl Undo {
    /// Takes the change back, but not what the disk has changed since.
    pub(super) fn run(self) {
        if let Ok(image) = keeper(&self.node) {
            image.put_bitmap_back(&self.name, self.former);
        }
    }
}

impl Machine {
    /// `block-dirty-bitmap-add`.
    pub(super) fn add_bitmap(&self, args: &DirtyBitmapAdd) -> Result<Undo, QmpError> {
        let granularity_bits = match args.granularity {
            None => None,
            Some(bytes) if bytes.is_power_of_two() && bytes >= 512 => Some(bytes.trailing_zeros()),
            Some(_) => return Err(QmpError::generic("Granularity must be power of 2 and at least 512")),
        };
        let new = NewBitmap {
            granularity_bits,
            persistent: args.persistent.unwrap_or(false),
            enabled: !args.disabled.unwrap_or(false),
        };
        self.change_bitmap(&args.node, &args.name, &BitmapChange::Add(new))
    }

    /// `block-dirty-bitmap-merge`.
    pub(super) fn merge_bitmaps(&self, args: &DirtyBitmapMerge) -> Result<Undo, QmpError> {
        let target = self.node_of(&args.node)?;
        let target = keeper(&target)?;
        let mut all: Option<Bits> = None;
        for source in &args.bitmaps {
            let bits = self.bits_of(&args.node, source)?;
            target.check_merge(&bits).map_err(|error| QmpError::from_error(&error))?;
            all = Some(match all {
                Some(others) => others.join(bits),
                None => bits,
            });
        }
        // At once: all of them, or none.
        self.change_bitmap(&args.node, &args.target, &BitmapChange::Merge(all.unwrap_or_default()))
    }

    /// Refuses a bitmap that could not be removed.
    pub(super) fn check_bitmap(&self, bitmap: &DirtyBitmap) -> Result<(), QmpError> {
        let node = self.node_of(&bitmap.node)?;
        keeper(&node)?.check_bitmap(&bitmap.name).map_err(|error| QmpError::from_error(&error))?;
        check_writable(&node, &bitmap.name, &BitmapChange::Remove)
    }

    /// Changes the bitmap `name` of `node`.
    ///
    /// # Errors
    /// When one of the two is not there, or the change cannot be made.
    pub(super) fn change_bitmap(&self, node: &str, name: &str, change: &BitmapChange) -> Result<Undo, QmpError> {
        let node = self.node_of(node)?;
        check_writable(&node, name, change)?;
        let former = keeper(&node)?.change_bitmap(name, change).map_err(|error| QmpError::from_error(&error))?;
        Ok(Undo { node, name: name.to_owned(), former })
    }

    /// The node and the name that `bitmap` means, said for `node`.
    pub(super) fn place_of<'a>(
        &self,
        node: &str,
        bitmap: &'a DirtyBitmapOrStr,
    ) -> Result<(Arc<Node>, &'a str), QmpError> {
        match bitmap {
            DirtyBitmapOrStr::Local(name) => Ok((self.node_of(node)?, name)),
            DirtyBitmapOrStr::External(other) => Ok((self.node_of(&other.node)?, &other.name)),
        }
    }

    /// The same of one that an export of `node` shows: one said by its name alone may be of any image that shows through.
    pub(super) fn place_behind<'a>(
        &self,
        node: &str,
        bitmap: &'a DirtyBitmapOrStr,
    ) -> Result<(Arc<Node>, &'a str), QmpError> {
        let (top, name) = self.place_of(node, bitmap)?;
        if matches!(bitmap, DirtyBitmapOrStr::External(_)) {
            return Ok((top, name));
        }
        let has = |node: &Arc<Node>| {
            let unknown = |error: BlockError| error.kind() == ErrorKind::NotFound;
            keeper(node).is_ok_and(|image| !image.check_bitmap(name).is_err_and(unknown))
        };
        let found = std::iter::successors(Some(top), shows_through).find(has);
        let found = found.ok_or_else(|| QmpError::generic(format!("Bitmap '{name}' is not found")))?;
        Ok((found, name))
    }

    fn bits_of(&self, node: &str, bitmap: &DirtyBitmapOrStr) -> Result<Bits, QmpError> {
        let (node, name) = self.place_of(node, bitmap)?;
        let image = keeper(&node)?;
        // The bits of one that somebody has in his hands are not all there.
        image.check_bitmap(name).and_then(|()| image.bitmap_bits(name)).map_err(|error| QmpError::from_error(&error))
    }
}
