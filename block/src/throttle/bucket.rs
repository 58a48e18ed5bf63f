//! The arithmetic: buckets that leak.

use std::time::Duration;

use super::Direction;
use crate::error::{BlockError, ErrorKind};

/// Largest limit ("THROTTLE_VALUE_MAX" of QEMU's schema): keeps sums of buckets exact enough.
const MOST: u64 = 1_000_000_000_000_000;
/// What a bucket without a burst limit holds, as a part of a second: short bursts are let through.
const SHORT: f64 = 0.1;

/// One limit; all zero is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// Bytes or requests a second; 0 for no limit.
    pub average: u64,
    /// The same during a burst; 0 where bursts are not allowed.
    pub burst: u64,
    /// How many seconds a burst may last; 0 means 1.
    pub length: u64,
}

/// All limits of a group: for both directions together, for reads, for writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// In bytes a second.
    pub bytes: [Rate; 3],
    /// In requests a second.
    pub requests: [Rate; 3],
    /// Bytes that count as one request; longer ones count as several. 0: every request counts as one.
    pub request_size: u64,
}

impl Limits {
    /// There is a limit.
    #[must_use]
    pub fn any(&self) -> bool {
        self.bytes.iter().chain(&self.requests).any(|rate| rate.average > 0)
    }

    /// Refuses what contradicts itself, in QEMU's words.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self) -> Result<(), BlockError> {
        let wrong = |text: String| Err(BlockError::new(ErrorKind::Invalid, text));
        for [total, read, write] in [self.bytes, self.requests] {
            let both = |of: fn(Rate) -> u64| of(total) > 0 && (of(read) > 0 || of(write) > 0);
            if both(|rate| rate.average) || both(|rate| rate.burst) {
                let text = "bps/iops/max total values and read/write values cannot be used at the same time";
                return wrong(text.to_owned());
            }
        }
        if self.request_size > 0 && self.requests.iter().all(|rate| rate.average == 0) {
            return wrong("iops size requires an iops value to be set".to_owned());
        }
        for rate in self.bytes.iter().chain(&self.requests) {
            if rate.average > MOST || rate.burst > MOST {
                return wrong(format!("bps/iops/max values must be within [0, {MOST}]"));
            }
            if rate.burst > 0 && rate.average == 0 {
                return wrong("bps_max/iops_max require corresponding bps/iops values".to_owned());
            }
            if rate.burst > 0 && rate.burst < rate.average {
                return wrong("bps_max/iops_max cannot be lower than bps/iops".to_owned());
            }
            if rate.length > 1 && rate.burst == 0 {
                return wrong("burst length set without burst rate".to_owned());
            }
            if rate.length > 1 && rate.length > MOST / rate.burst {
                return wrong("burst length too high for this burst rate".to_owned());
            }
        }
        Ok(())
    }
}

/// What one limit has let through lately, in bytes or requests.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    level: f64,
    /// Of the bucket that keeps a burst to its rate.
    burst: f64,
}

impl Bucket {
    fn leak(&mut self, rate: Rate, seconds: f64) {
        self.level = (self.level - rate.average as f64 * seconds).max(0.0);
        self.burst = (self.burst - rate.burst as f64 * seconds).max(0.0);
    }

    fn fill(&mut self, amount: f64) {
        self.level += amount;
        self.burst += amount;
    }

    /// Seconds until the bucket is no longer over its brim.
    fn wait(self, rate: Rate) -> f64 {
        if rate.average == 0 {
            return 0.0;
        }
        let average = rate.average as f64;
        if rate.burst == 0 {
            return (self.level - average * SHORT).max(0.0) / average;
        }
        let (burst, length) = (rate.burst as f64, rate.length.max(1) as f64);
        let long = (self.level - burst * length).max(0.0) / average;
        // A burst of one second is what the bucket holds; only longer ones need their rate kept.
        let short = if rate.length > 1 { (self.burst - burst * SHORT).max(0.0) / burst } else { 0.0 };
        long.max(short)
    }
}

/// The buckets of a group, and when they last leaked.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    bytes: [Bucket; 3],
    requests: [Bucket; 3],
    leaked: Duration,
}

impl Buckets {
    /// Empty ones at the time `now`.
    pub(super) fn new(now: Duration) -> Self {
        Self { leaked: now, ..Self::default() }
    }

    /// Lets leak what has leaked until `now`.
    pub(super) fn leak(&mut self, limits: &Limits, now: Duration) {
        let seconds = now.saturating_sub(self.leaked).as_secs_f64();
        self.leaked = self.leaked.max(now);
        let pairs = self.bytes.iter_mut().zip(&limits.bytes).chain(self.requests.iter_mut().zip(&limits.requests));
        pairs.for_each(|(bucket, rate)| bucket.leak(*rate, seconds));
    }

    /// How long a request that goes this way has to wait.
    pub(super) fn wait(&self, limits: &Limits, direction: Direction) -> Duration {
        let kinds = [0, 1 + direction as usize];
        let waits = kinds.into_iter().flat_map(|kind| {
            let bytes = self.bytes[kind].wait(limits.bytes[kind]);
            [bytes, self.requests[kind].wait(limits.requests[kind])]
        });
        let seconds = waits.fold(0.0, f64::max);
        // Up, so that who waits this long need not wait again.
        if seconds > 0.0 { Duration::from_secs_f64(seconds) + Duration::from_nanos(1) } else { Duration::ZERO }
    }

    /// Counts a request of `bytes`.
    pub(super) fn count(&mut self, limits: &Limits, direction: Direction, bytes: u64) {
        let requests = match limits.request_size {
            0 => 1.0,
            size => (bytes as f64 / size as f64).max(1.0),
        };
        for kind in [0, 1 + direction as usize] {
            self.bytes[kind].fill(bytes as f64);
            self.requests[kind].fill(requests);
        }
    }
}
