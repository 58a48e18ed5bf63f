//! Commands that one nexus has ended of another: their front end marks them, and whoever asked waits for their end, for a
//! request cannot be called back from an image.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// Waits for aborted commands to end.
pub struct Waiter {
    left: AtomicUsize,
    wake: Arc<EventFd>,
}

impl Waiter {
    /// One that is done when what it counts has ended, and [`Waiter::one_ended`] was called once more: by whoever has
    /// looked for all commands. `wake` tells when.
    #[must_use]
    pub fn new(wake: &Arc<EventFd>) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(1), wake: Arc::clone(wake) })
    }

    /// Nothing is left to wait for.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }

    /// It waits for one command more.
    pub fn one_more(&self) {
        self.left.fetch_add(1, Ordering::AcqRel);
    }

    /// A command ended.
    pub fn one_ended(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            // A full counter is awake already.
            let _ = self.wake.write(1);
        }
    }
}

/// Why another nexus has commands ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// PREEMPT AND ABORT (SPC-5, 5.14.11.2.6).
    Preempted,
    /// LOGICAL UNIT RESET (SAM-6, 7.7).
    Reset,
}

/// Marks all commands of a unit's front end that an image works on, and has the waiter wait for them.
pub type Abort = dyn Fn(Cause, &Arc<Waiter>) + Send + Sync;

/// The front ends whose commands are to end.
#[derive(Clone, Default)]
pub struct Victims(Vec<Arc<Abort>>);

impl Victims {
    /// Ends their commands; the answer is done when they have ended.
    #[must_use]
    pub fn abort(&self, cause: Cause, wake: &Arc<EventFd>) -> Arc<Waiter> {
        let waiter = Waiter::new(wake);
        self.abort_for(cause, &waiter);
        waiter.one_ended();
        waiter
    }

    /// Ends their commands, which `waiter` then waits for, too.
    pub fn abort_for(&self, cause: Cause, waiter: &Arc<Waiter>) {
        self.0.iter().for_each(|abort| abort(cause, waiter));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Arc<Abort>> for Victims {
    fn from_iter<T: IntoIterator<Item = Arc<Abort>>>(all: T) -> Self {
        Self(all.into_iter().collect())
    }
}

impl std::fmt::Debug for Victims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} front ends", self.0.len())
    }
}

impl PartialEq for Victims {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(one, other)| Arc::ptr_eq(one, other))
    }
}

impl Eq for Victims {}
