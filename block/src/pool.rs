//! Worker threads for what would make a disk's thread wait: cold metadata, allocating writes, `aio=threads`.
//!
//! One pool serves the process's disks, another its NBD clients, so that these never take the guest's workers. Threads
//! start when there is work and end when they had none for a while. A job may wait for another job of its pool only if
//! that one already runs (an allocation of the same cluster does), so the bound cannot lead to a deadlock.

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

/// Workers of one purpose.
pub(crate) struct Pool {
    name: &'static str,
    work: Mutex<Work>,
    more: Condvar,
}

/// For the requests of queues.
pub(crate) static DISKS: Pool = Pool::new("disk-worker");
/// For the requests of the NBD server's clients.
pub(crate) static EXPORTS: Pool = Pool::new("export-worker");

impl Pool {
    const fn new(name: &'static str) -> Self {
        let work = Mutex::new(Work { jobs: VecDeque::new(), threads: 0, idle: 0 });
        Self { name, work, more: Condvar::new() }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `job` on a worker, or here when the host gives no thread at all.
    pub(crate) fn run(&'static self, job: Job) {
        let mut state = self.work();
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() || state.threads >= MOST {
            drop(state);
            self.more.notify_one();
            return;
        }
        state.threads += 1;
        let alone = state.threads == 1;
        drop(state);
        if thread::spawn(ThreadKind::Disk, self.name, || self.serve()).is_err() {
            self.work().threads -= 1;
            let job = if alone { self.work().jobs.pop_back() } else { None };
            if let Some(job) = job {
                job();
            }
        }
    }

    fn serve(&self) {
        let mut state = self.work();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.work();
                continue;
            }
            state.idle += 1;
            let (next, waited) = self.more.wait_timeout(state, LINGER).unwrap_or_else(PoisonError::into_inner);
            state = next;
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}
