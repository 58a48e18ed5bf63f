//! Worker threads for what would make a disk's thread wait: cold metadata, allocating writes, `aio=threads`.
//!
//! One pool serves the process. Threads start when there is work and end when they had none for a while. A job may
//! wait for another job only if that one already runs (an allocation of the same cluster does), so the bound cannot
//! lead to a deadlock.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::thread::{self, ThreadKind};

/// Most threads at once.
const MOST: usize = 32;
/// How long an idle thread stays.
const LINGER: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

struct Work {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

static WORK: Mutex<Work> = Mutex::new(Work { jobs: VecDeque::new(), threads: 0, idle: 0 });
static MORE: Condvar = Condvar::new();

fn work() -> MutexGuard<'static, Work> {
    WORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `job` on a worker, or here when the host gives no thread at all.
pub(crate) fn run(job: Job) {
    let mut state = work();
    state.jobs.push_back(job);
    if state.idle >= state.jobs.len() || state.threads >= MOST {
        drop(state);
        MORE.notify_one();
        return;
    }
    state.threads += 1;
    let alone = state.threads == 1;
    drop(state);
    if thread::spawn(ThreadKind::Disk, "disk-worker", serve).is_err() {
        work().threads -= 1;
        let job = if alone { work().jobs.pop_back() } else { None };
        if let Some(job) = job {
            job();
        }
    }
}

fn serve() {
    let mut state = work();
    loop {
        if let Some(job) = state.jobs.pop_front() {
            drop(state);
            job();
            state = work();
            continue;
        }
        state.idle += 1;
        let (next, waited) = MORE.wait_timeout(state, LINGER).unwrap_or_else(PoisonError::into_inner);
        state = next;
        state.idle -= 1;
        if waited.timed_out() && state.jobs.is_empty() {
            state.threads -= 1;
            return;
        }
    }
}
