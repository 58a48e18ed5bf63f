//! Limits on how fast disks are used, shared by the disks of a group.
//!
//! The rules are those of QEMU's `docs/throttle.txt`: leaky buckets. Each limit is a bucket that leaks at the limit's
//! rate and that every request fills by its bytes or by one; while a bucket is over its brim, requests wait. A burst
//! limit makes the bucket larger, and a second bucket keeps the burst itself to its rate.
//!
//! ```text
//!   Member (a disk, or a node) ── asks ──> Group: buckets, and a line of waiting members for each direction
//!            ^─────────────────────────── woken when it is its turn, or when the bucket has leaked enough
//! ```

mod bucket;
mod group;
#[cfg(test)]
mod tests;
mod timer;

pub use bucket::{Limits, Rate};
pub use group::Group;

pub(crate) use group::Member;

/// Which way a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl Direction {
    /// Both, in the order of their numbers.
    pub(crate) const ALL: [Self; 2] = [Self::Read, Self::Write];
}
