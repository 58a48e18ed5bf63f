//! The host's time: one thread sleeps until the nearest deadline of all timers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rhea_block::thread::{ThreadKind, spawn};

use super::{Clock, Expiry, Timer};

/// Name of the thread that runs the timers, as `debug-threads=on` and seccomp lists show it.
const THREAD_NAME: &str = "timers";

struct State {
    /// Machine time at which the clock last started or stopped.
    base: u64,
    /// When it last started, if it runs.
    running_since: Option<Instant>,
    next_id: u64,
    expiries: BTreeMap<u64, Arc<Expiry>>,
    /// Deadline and timer; at most one entry a timer.
    armed: BTreeSet<(u64, u64)>,
    deadline_of: BTreeMap<u64, u64>,
    thread: Option<JoinHandle<()>>,
    closing: bool,
}

impl State {
    fn now(&self) -> u64 {
        let elapsed = self.running_since.map_or(0, |since| nanoseconds(since.elapsed()));
        self.base.saturating_add(elapsed)
    }

    fn disarm(&mut self, id: u64) {
        if let Some(deadline) = self.deadline_of.remove(&id) {
            self.armed.remove(&(deadline, id));
        }
    }
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The timer thread: delivers what is due, without the lock, then sleeps until the next deadline.
    fn run(&self) {
        let mut state = self.lock();
        while !state.closing {
            let now = state.now();
            let first = state.armed.first().copied();
            match first.filter(|_| state.running_since.is_some()) {
                Some((deadline, id)) if deadline <= now => {
                    state.disarm(id);
                    let expiry = state.expiries.get(&id).map(Arc::clone);
                    drop(state);
                    if let Some(expiry) = expiry {
                        expiry();
                    }
                    state = self.lock();
                }
                Some((deadline, _)) => {
                    let sleep = Duration::from_nanos(deadline - now);
                    state = self.changed.wait_timeout(state, sleep).map_or_else(|e| e.into_inner().0, |(s, _)| s);
                }
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// The host's monotonic clock, stopped while the machine is. Timers expire once [`HostClock::start`] was called.
pub struct HostClock {
    shared: Arc<Shared>,
    origin: Instant,
}

impl HostClock {
    /// A clock at 0 that does not run yet.
    #[must_use]
    pub fn stopped() -> Self {
        Self::at(None)
    }

    /// A clock at 0 that runs.
    #[must_use]
    pub fn running() -> Self {
        Self::at(Some(Instant::now()))
    }

    fn at(running_since: Option<Instant>) -> Self {
        let state = State {
            base: 0,
            running_since,
            next_id: 0,
            expiries: BTreeMap::new(),
            armed: BTreeSet::new(),
            deadline_of: BTreeMap::new(),
            thread: None,
            closing: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        Self { shared, origin: Instant::now() }
    }

    /// Starts the thread that runs the timers, once. Not left to the first armed timer: that may be a vCPU's doing,
    /// whose system call filter knows no new threads.
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub fn start(&self) -> io::Result<()> {
        let mut state = self.shared.lock();
        if state.thread.is_none() {
            let shared = Arc::clone(&self.shared);
            state.thread = Some(spawn(ThreadKind::Timer, THREAD_NAME, move || shared.run())?);
        }
        Ok(())
    }

    /// The machine runs: time passes. Does nothing if it did.
    pub fn go(&self) {
        let mut state = self.shared.lock();
        state.running_since.get_or_insert_with(Instant::now);
        self.shared.changed.notify_all();
    }

    /// The machine stopped: so does time, and no timer expires. Does nothing if it was stopped.
    pub fn stop(&self) {
        let mut state = self.shared.lock();
        state.base = state.now();
        state.running_since = None;
        self.shared.changed.notify_all();
    }

    /// Sets machine time while stopped, after a restore. Timers keep their deadlines.
    pub fn set(&self, now: u64) {
        let mut state = self.shared.lock();
        state.base = now;
        if let Some(since) = &mut state.running_since {
            *since = Instant::now();
        }
        self.shared.changed.notify_all();
    }
}

impl Clock for HostClock {
    fn now(&self) -> u64 {
        self.shared.lock().now()
    }

    fn wall(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn real(&self) -> u64 {
        nanoseconds(self.origin.elapsed())
    }

    fn timer(&self, expiry: Expiry) -> Box<dyn Timer> {
        let mut state = self.shared.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.expiries.insert(id, Arc::new(expiry));
        Box::new(HostTimer { shared: Arc::clone(&self.shared), id })
    }
}

impl Drop for HostClock {
    fn drop(&mut self) {
        let thread = {
            let mut state = self.shared.lock();
            state.closing = true;
            state.thread.take()
        };
        self.shared.changed.notify_all();
        // An expiry may own the last reference to the clock, on the timer thread itself, which cannot join itself.
        if let Some(thread) = thread.filter(|t| t.thread().id() != thread::current().id()) {
            let _ = thread.join();
        }
    }
}

struct HostTimer {
    shared: Arc<Shared>,
    id: u64,
}

impl Timer for HostTimer {
    fn arm(&self, deadline: u64) {
        let mut state = self.shared.lock();
        state.disarm(self.id);
        state.armed.insert((deadline, self.id));
        state.deadline_of.insert(self.id, deadline);
        if state.armed.first() == Some(&(deadline, self.id)) {
            self.shared.changed.notify_all();
        }
    }

    fn disarm(&self) {
        self.shared.lock().disarm(self.id);
    }
}

impl Drop for HostTimer {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.disarm(self.id);
        let expiry = state.expiries.remove(&self.id);
        // The closure may own things whose destructors use the clock.
        drop(state);
        drop(expiry);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
