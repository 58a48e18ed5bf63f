//! Work on images beside a running guest: [`Stream`] pulls what lies beneath an overlay up into it, [`Copying`] writes
//! what an image shows into what lies beneath it, or into another, and [`Backup`] writes what it showed at one moment.
//!
//! A job's work runs on a thread of its own and knows a [`Control`]: how far it is, whether it should pause or end, how
//! fast it may be. Between two steps it asks there. It changes no relation between nodes; whoever started it does that
//! when the work is done, while the disk is held still.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::BlockError;

mod backup;
mod chain;
mod copy;
mod policy;
mod stream;

pub use backup::{Backup, Part};
pub use copy::{Copying, Extent};
pub use policy::{Action, Fault, Forgiven, OnError, Policy, Tell};
pub use stream::Stream;

/// Bytes between two looks at what is asked of a job.
const STEP: u64 = 512 << 10;

/// Why work ended before it was done.
#[derive(Debug)]
pub enum Halt {
    /// Someone asked for it.
    Cancelled,
    /// It could not go on.
    Failed(BlockError),
}

impl From<BlockError> for Halt {
    fn from(error: BlockError) -> Self {
        Self::Failed(error)
    }
}

/// How a job ends that has done its work and follows what is written since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The disk goes on with the copy.
    Pivot,
    /// The disk stays where it is; the copy is left as it is at that moment.
    Leave,
}

#[derive(Debug, Default)]
struct Orders {
    cancelled: bool,
    /// How a job that is ready has to end.
    end: Option<End>,
    paused: bool,
    /// It holds itself, because of an error, until it is let go on.
    stopped: bool,
    /// The work stands still because of one of these.
    resting: bool,
    /// Bytes a second; 0 is as fast as it goes.
    speed: u64,
    /// When the next step may begin.
    next: Option<Instant>,
}

/// What a job is told and tells.
#[derive(Default)]
pub struct Control {
    orders: Mutex<Orders>,
    changed: Condvar,
    done: AtomicU64,
    total: AtomicU64,
    policy: Policy,
    tell: Option<Tell>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("orders", &self.orders).field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// How long an error takes that is ignored.
const IGNORED: Duration = Duration::from_millis(10);

impl Control {
    /// For a job that may move `speed` bytes a second; 0 is as fast as it goes.
    #[must_use]
    pub fn new(speed: u64) -> Self {
        Self { orders: Mutex::new(Orders { speed, ..Orders::default() }), ..Self::default() }
    }

    /// The same for a job that does about errors what `policy` says, and has others told of them.
    #[must_use]
    pub fn with(self, policy: Policy, tell: Tell) -> Self {
        Self { policy, tell: Some(tell), ..self }
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders());
        self.changed.notify_all();
    }

    /// Ends the work at its next step.
    pub fn cancel(&self) {
        self.order(|orders| orders.cancelled = true);
    }

    /// Whether that was asked for.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.orders().cancelled
    }

    /// Holds the work at its next step, or lets it go on, also after an error.
    pub fn set_paused(&self, paused: bool) {
        self.order(|orders| (orders.paused, orders.stopped) = (paused, orders.stopped && paused));
    }

    /// Whether it holds itself because of an error.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.orders().stopped
    }

    /// Whether it is held.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.orders().paused
    }

    /// Whether the work stands still because it is held; until it comes to its next step it moves on.
    #[must_use]
    pub fn is_resting(&self) -> bool {
        self.orders().resting
    }

    /// Sets how many bytes a second it may move; 0 is as fast as it goes.
    pub fn set_speed(&self, speed: u64) {
        self.order(|orders| (orders.speed, orders.next) = (speed, None));
    }

    /// How many bytes a second it may move.
    #[must_use]
    pub fn speed(&self) -> u64 {
        self.orders().speed
    }

    /// Ends a job that is ready.
    pub fn end(&self, how: End) {
        self.order(|orders| orders.end = Some(how));
    }

    /// Waits until someone says how to end, and it is not paused; `look` is called again and again, and ends the job by failing.
    ///
    /// # Errors
    /// That of `look`, or [`Halt::Cancelled`].
    pub fn wait_for_end(&self, look: impl Fn() -> Result<(), Halt>) -> Result<End, Halt> {
        const LOOK: Duration = Duration::from_millis(200);
        loop {
            look()?;
            let orders = self.orders();
            if orders.cancelled {
                return Err(Halt::Cancelled);
            }
            if let Some(end) = orders.end.filter(|_| !orders.paused) {
                return Ok(end);
            }
            drop(self.changed.wait_timeout(orders, LOOK).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// How far it is, and where that ends, in bytes.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    /// How far it will be when it is done.
    pub fn set_total(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    /// It is at `done`, of which `moved` bytes are new and count against the speed. Waits as long as it is paused or
    /// too fast.
    ///
    /// # Errors
    /// [`Halt::Cancelled`] when it has to end.
    pub fn step(&self, done: u64, moved: u64) -> Result<(), Halt> {
        self.done.store(done, Ordering::Relaxed);
        let mut orders = self.orders();
        if orders.speed > 0 && moved > 0 {
            let pause = Duration::from_secs_f64(moved as f64 / orders.speed as f64);
            orders.next = Some(orders.next.unwrap_or_else(Instant::now).max(Instant::now()) + pause);
        }
        self.wait(orders)
    }

    /// Waits until nothing holds the work.
    fn wait_to_go_on(&self) -> Result<(), Halt> {
        self.wait(self.orders())
    }

    /// Waits a moment.
    fn rest(&self) -> Result<(), Halt> {
        let end = Instant::now() + IGNORED;
        let mut orders = self.orders();
        orders.next = Some(orders.next.map_or(end, |next| next.max(end)));
        self.wait(orders)
    }

    fn wait(&self, mut orders: MutexGuard<'_, Orders>) -> Result<(), Halt> {
        loop {
            if orders.cancelled {
                return Err(Halt::Cancelled);
            }
            let wait = orders.next.map(|next| next.saturating_duration_since(Instant::now()));
            orders = match wait.filter(|wait| !wait.is_zero()) {
                _ if orders.paused || orders.stopped => {
                    orders.resting = true;
                    let mut orders = self.changed.wait(orders).unwrap_or_else(PoisonError::into_inner);
                    orders.resting = false;
                    orders
                }
                Some(wait) => self.changed.wait_timeout(orders, wait).unwrap_or_else(PoisonError::into_inner).0,
                None => return Ok(()),
            };
        }
    }
}

#[cfg(test)]
mod tests;
