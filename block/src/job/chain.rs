//! Which image of a chain decides what a run shows.

use std::sync::Arc;

use crate::error::BlockError;
use crate::format::qcow2::Qcow2;
use crate::graph::Node;

/// Asks the image that may stand on another and that `node` is, or that filters on it show; `None` where it is none.
pub(super) fn of_image<T>(node: &Node, ask: impl FnOnce(&Qcow2) -> T) -> Option<T> {
    if let Some(image) = node.layer().as_any().downcast_ref() {
        return Some(ask(image));
    }
    let beneath = node.filtered()?;
    of_image(&beneath, ask)
}

/// Bytes of the smallest piece of `target` that does not show what lies beneath it: whoever writes less of it than this
/// leaves zeroes in the rest, where the target does not know what it is to stand on.
pub(super) fn unit_of(target: &Node) -> u64 {
    of_image(target, Qcow2::cluster_size).unwrap_or(1)
}

/// Who decides what a run shows.
#[derive(Clone, Copy, PartialEq, Eq)]
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

/// The same in whole units of `unit` bytes, a power of two, at one of which `at` begins and at one of which, or with the
/// disk, `at + len` ends. A unit that several decide is data: all of it is to be copied.
///
/// # Errors
/// As [`decides`].
pub(super) fn decides_whole<N: Iterator<Item = Arc<Node>>>(
    nodes: impl Fn() -> N,
    at: u64,
    len: u64,
    unit: u64,
) -> Result<(u64, Decides), BlockError> {
    let (mut done, first) = decides(nodes(), at, len)?;
    let unit = unit.min(len);
    if done == len || done >= unit {
        return Ok((if done == len { len } else { done & !(unit - 1) }, first));
    }
    let mut alike = true;
    while done < unit {
        let (run, next) = decides(nodes(), at + done, unit - done)?;
        (done, alike) = (done + run, alike && next == first);
    }
    Ok((unit, if alike { first } else { Decides::Data }))
}
