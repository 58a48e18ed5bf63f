//! Time that moves only when told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Clock, Expiry, Timer};

#[derive(Default)]
struct State {
    now: u64,
    next_id: u64,
    timers: BTreeMap<u64, (Arc<Expiry>, Option<u64>)>,
}

impl State {
    fn next(&self) -> Option<(u64, u64)> {
        self.timers.iter().filter_map(|(id, (_, deadline))| Some(((*deadline)?, *id))).min()
    }
}

/// A clock for tests and for `clock_step`; expiries run on the thread that moves it.
#[derive(Default)]
pub struct ManualClock {
    wall_base: Duration,
    state: Arc<Mutex<State>>,
}

impl ManualClock {
    /// A clock at 0; its wall clock shows `wall` (since 1970) then, and moves along.
    #[must_use]
    pub fn new(wall: Duration) -> Self {
        Self { wall_base: wall, state: Arc::default() }
    }

    /// The nearest deadline of all timers, in nanoseconds.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        lock(&self.state).next().map(|(deadline, _)| deadline)
    }

    /// Moves to the nearest deadline and runs what expires there; false if no timer is armed.
    pub fn step(&self) -> bool {
        let next = self.next_deadline();
        next.map(|deadline| self.advance_to(deadline)).is_some()
    }

    /// Moves on by `nanoseconds`, running on the way what expires, in order.
    pub fn advance(&self, nanoseconds: u64) {
        self.advance_to(self.now().saturating_add(nanoseconds));
    }

    /// Moves on to `to`, running on the way what expires, in order. Never back.
    pub fn advance_to(&self, to: u64) {
        loop {
            let mut state = lock(&self.state);
            let Some((deadline, id)) = state.next().filter(|(deadline, _)| *deadline <= to) else {
                state.now = state.now.max(to);
                return;
            };
            state.now = state.now.max(deadline);
            let expiry = state.timers.get_mut(&id).map(|(expiry, armed)| {
                *armed = None;
                Arc::clone(expiry)
            });
            drop(state);
            if let Some(expiry) = expiry {
                expiry();
            }
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> u64 {
        lock(&self.state).now
    }

    fn wall(&self) -> Duration {
        self.wall_base.saturating_add(Duration::from_nanos(self.now()))
    }

    fn real(&self) -> u64 {
        self.now()
    }

    fn timer(&self, expiry: Expiry) -> Box<dyn Timer> {
        let mut state = lock(&self.state);
        let id = state.next_id;
        state.next_id += 1;
        state.timers.insert(id, (Arc::new(expiry), None));
        Box::new(ManualTimer { state: Arc::clone(&self.state), id })
    }
}

struct ManualTimer {
    state: Arc<Mutex<State>>,
    id: u64,
}

impl ManualTimer {
    fn set(&self, deadline: Option<u64>) {
        if let Some((_, armed)) = lock(&self.state).timers.get_mut(&self.id) {
            *armed = deadline;
        }
    }
}

impl Timer for ManualTimer {
    /// A deadline that has passed expires with the next move of the clock, however small: arming happens under the
    /// device's lock, which its expiry takes.
    fn arm(&self, deadline: u64) {
        self.set(Some(deadline));
    }

    fn disarm(&self) {
        self.set(None);
    }
}

impl Drop for ManualTimer {
    fn drop(&mut self) {
        let timer = lock(&self.state).timers.remove(&self.id);
        drop(timer);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
