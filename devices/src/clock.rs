//! Time as a device sees it, and the timers it arms.
//!
//! A device never asks the host what time it is: it holds a [`Clock`]. [`HostClock`] follows the host and stops while
//! the machine is stopped; [`ManualClock`] moves only when told, for tests and for `clock_step`.

mod host;
mod manual;

use std::sync::Arc;
use std::time::Duration;

pub use host::HostClock;
pub use manual::ManualClock;

/// What a timer does when it expires. Called without locks held, from the clock's thread; it must not wait.
pub type Expiry = Box<dyn Fn() + Send + Sync>;

/// A source of time.
pub trait Clock: Send + Sync {
    /// Nanoseconds of the machine's life: monotonic, and at rest while the machine is stopped.
    fn now(&self) -> u64;
    /// Time since 1970-01-01 00:00:00 UTC as the host has it; may jump.
    fn wall(&self) -> Duration;
    /// Nanoseconds that pass even while the machine is stopped.
    fn real(&self) -> u64;
    /// A disarmed timer. `expiry` should hold its device weakly: the device holds the timer.
    fn timer(&self, expiry: Expiry) -> Box<dyn Timer>;
}

/// One alarm on a [`Clock`]; dropping it disarms it.
pub trait Timer: Send + Sync {
    /// Expires once, when [`Clock::now`] reaches `deadline` (nanoseconds), and at once if it has. Replaces an earlier
    /// deadline.
    fn arm(&self, deadline: u64);
    /// Forgets the deadline. An expiry that is being delivered may still arrive: the device has to check its own
    /// state.
    fn disarm(&self);
}

/// A clock that several devices share.
pub type SharedClock = Arc<dyn Clock>;

/// Ticks of a counter of `hertz` that started at nanosecond 0.
#[must_use]
pub fn ticks_of(nanoseconds: u64, hertz: u32) -> u64 {
    let ticks = u128::from(nanoseconds) * u128::from(hertz) / 1_000_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// The first nanosecond at which a counter of `hertz` shows `ticks`; `u64::MAX` if beyond the clock.
#[must_use]
pub fn nanoseconds_of(ticks: u64, hertz: u32) -> u64 {
    let nanoseconds = (u128::from(ticks) * 1_000_000_000).div_ceil(u128::from(hertz.max(1)));
    u64::try_from(nanoseconds).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
