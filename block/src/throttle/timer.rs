//! One thread that wakes members when their time has come. It starts with the first and ends when it has nothing to do.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::group::Member;
use crate::thread::{self, ThreadKind};

/// How long it stays without work.
const LINGER: Duration = Duration::from_secs(10);

struct Due {
    at: Instant,
    member: Weak<Member>,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

struct Times {
    /// The next first. Members keep it short: each has few times at once.
    heap: BinaryHeap<Reverse<Due>>,
    running: bool,
}

static TIMES: Mutex<Times> = Mutex::new(Times { heap: BinaryHeap::new(), running: false });
static CHANGED: Condvar = Condvar::new();

fn times() -> MutexGuard<'static, Times> {
    TIMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has `member` woken at `at`.
pub(super) fn wake_at(at: Instant, member: Weak<Member>) {
    let mut times = times();
    times.heap.push(Reverse(Due { at, member }));
    CHANGED.notify_one();
    if !times.running {
        times.running = true;
        drop(times);
        if let Err(error) = thread::spawn(ThreadKind::Timer, "throttle", serve) {
            log::error!("cannot start the thread that keeps limits: {error}");
            self::times().running = false;
        }
    }
}

fn serve() {
    let mut times = times();
    loop {
        let now = Instant::now();
        let next = times.heap.peek().map(|Reverse(due)| due.at);
        if next.is_some_and(|at| at <= now) {
            let due = times.heap.pop();
            drop(times);
            if let Some(member) = due.and_then(|Reverse(due)| due.member.upgrade()) {
                member.wake();
            }
            times = self::times();
            continue;
        }
        let wait = next.map_or(LINGER, |at| at - now);
        let (back, waited) = CHANGED.wait_timeout(times, wait).unwrap_or_else(PoisonError::into_inner);
        times = back;
        if waited.timed_out() && times.heap.is_empty() {
            times.running = false;
            return;
        }
    }
}
