//! What a disk has done, counted where it happens: the figures of `query-blockstats`, for every kind of front end.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::moment::Moment;

/// Kinds of request that are counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Reads.
    Read,
    /// Writes, zero writes included.
    Write,
    /// Flushes.
    Flush,
    /// Discards.
    Unmap,
    /// Zone appends.
    ZoneAppend,
}

/// Counters of one kind of request. They only grow, and wrap at 2^64.
#[derive(Debug, Default)]
pub struct OpStats {
    bytes: AtomicU64,
    operations: AtomicU64,
    merged: AtomicU64,
    failed: AtomicU64,
    invalid: AtomicU64,
    total_time_ns: AtomicU64,
}

/// [`OpStats`] at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpTotals {
    /// Bytes of successful requests.
    pub bytes: u64,
    /// Successful requests.
    pub operations: u64,
    /// Requests merged into another one.
    pub merged: u64,
    /// Requests that the host failed.
    pub failed: u64,
    /// Requests that made no sense and never reached the host.
    pub invalid: u64,
    /// Time spent in requests that reached the host, in nanoseconds.
    pub total_time_ns: u64,
}

impl OpStats {
    fn totals(&self) -> OpTotals {
        OpTotals {
            bytes: self.bytes.load(Relaxed),
            operations: self.operations.load(Relaxed),
            merged: self.merged.load(Relaxed),
            failed: self.failed.load(Relaxed),
            invalid: self.invalid.load(Relaxed),
            total_time_ns: self.total_time_ns.load(Relaxed),
        }
    }
}

/// Counters of one disk, shared by its queues' threads and by whoever answers `query-blockstats`.
#[derive(Debug)]
pub struct BlockStats {
    read: OpStats,
    write: OpStats,
    flush: OpStats,
    unmap: OpStats,
    zone_append: OpStats,
    born: Moment,
    /// Nanoseconds from `born` to the last request's end, plus one; 0 before the first.
    last_access: AtomicU64,
}

impl Default for BlockStats {
    fn default() -> Self {
        Self {
            read: OpStats::default(),
            write: OpStats::default(),
            flush: OpStats::default(),
            unmap: OpStats::default(),
            zone_append: OpStats::default(),
            born: Moment::now(),
            last_access: AtomicU64::new(0),
        }
    }
}

impl BlockStats {
    fn of(&self, kind: Counted) -> &OpStats {
        match kind {
            Counted::Read => &self.read,
            Counted::Write => &self.write,
            Counted::Flush => &self.flush,
            Counted::Unmap => &self.unmap,
            Counted::ZoneAppend => &self.zone_append,
        }
    }

    /// A request of `bytes` bytes that began at `began` has succeeded at `now`.
    pub fn done(&self, kind: Counted, bytes: u64, began: Moment, now: Moment) {
        let stats = self.of(kind);
        stats.bytes.fetch_add(bytes, Relaxed);
        stats.operations.fetch_add(1, Relaxed);
        self.took(stats, began, now);
    }

    /// A request that began at `began` has failed at `now`.
    pub fn failed(&self, kind: Counted, began: Moment, now: Moment) {
        let stats = self.of(kind);
        stats.failed.fetch_add(1, Relaxed);
        self.took(stats, began, now);
    }

    /// A request was refused before it reached the host.
    pub fn invalid(&self, kind: Counted) {
        self.of(kind).invalid.fetch_add(1, Relaxed);
        self.touch(Moment::now());
    }

    /// `count` requests were merged into others.
    pub fn merged(&self, kind: Counted, count: u64) {
        self.of(kind).merged.fetch_add(count, Relaxed);
    }

    /// The counters of one kind.
    #[must_use]
    pub fn totals(&self, kind: Counted) -> OpTotals {
        self.of(kind).totals()
    }

    /// How long ago the last request ended; `None` if there was none yet.
    #[must_use]
    pub fn idle(&self) -> Option<Duration> {
        let last = self.last_access.load(Relaxed).checked_sub(1)?;
        Some(Duration::from_nanos(Moment::now().nanos_since(self.born).saturating_sub(last)))
    }

    fn took(&self, stats: &OpStats, began: Moment, now: Moment) {
        stats.total_time_ns.fetch_add(now.nanos_since(began), Relaxed);
        self.touch(now);
    }

    fn touch(&self, now: Moment) {
        self.last_access.store(now.nanos_since(self.born).saturating_add(1), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_kind_apart_and_adds_up_time() {
        let stats = BlockStats::default();
        let began = Moment::now();
        stats.done(Counted::Read, 4096, began, began + Duration::from_nanos(100));
        stats.done(Counted::Read, 512, began, began + Duration::from_nanos(50));
        stats.failed(Counted::Write, began, began + Duration::from_nanos(7));
        stats.invalid(Counted::Unmap);
        let read = stats.totals(Counted::Read);
        assert_eq!((read.bytes, read.operations, read.total_time_ns, read.failed), (4608, 2, 150, 0));
        let write = stats.totals(Counted::Write);
        assert_eq!((write.operations, write.failed, write.total_time_ns), (0, 1, 7));
        assert_eq!(stats.totals(Counted::Unmap).invalid, 1);
    }

    #[test]
    fn idle_time_starts_with_the_first_request() {
        let stats = BlockStats::default();
        assert_eq!(stats.idle(), None);
        stats.done(Counted::Flush, 0, Moment::now(), Moment::now());
        assert!(stats.idle().is_some());
    }
}
