//! Which image of a chain decides what a run shows.

use std::sync::Arc;

use crate::error::BlockError;
use crate::graph::Node;

/// Who decides what a run shows.
pub(super) enum Decides {
    /// None of the images looked at.
    Nobody,
    /// One of them, which holds data.
    Data,
    /// One of them, which holds zeroes.
    Zero,
}

/// The nodes of a chain above `base`, or all of them.
pub(super) fn down_to(
    chain: impl Iterator<Item = Arc<Node>>,
    base: Option<&Arc<Node>>,
) -> impl Iterator<Item = Arc<Node>> {
    chain.take_while(move |node| base.is_none_or(|base| !Arc::ptr_eq(base, node)))
}

/// Who of `nodes`, from the top down, decides what the run at `at` shows, and how long that run is (at most `len`).
///
/// # Errors
/// When metadata cannot be read.
pub(super) fn decides(nodes: impl Iterator<Item = Arc<Node>>, at: u64, len: u64) -> Result<(u64, Decides), BlockError> {
    let mut len = len;
    for node in nodes {
        let left = node.layer().size().saturating_sub(at);
        if left == 0 {
            // Past its end this image shows zeroes, whatever lies beneath it.
            return Ok((len, Decides::Zero));
        }
        let status = node.layer().status(at, len.min(left))?;
        len = status.len.clamp(1, len.min(left));
        if status.allocated {
            return Ok((len, if status.zero { Decides::Zero } else { Decides::Data }));
        }
    }
    Ok((len, Decides::Nobody))
}
