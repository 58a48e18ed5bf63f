//! Worker threads for what would make a disk's thread wait: cold metadata, allocating writes, `aio=threads`.
//!
//! One pool serves the process's disks, another its NBD clients, so that these never take the guest's workers, and a
//! thread that serves queues may have one of its own ([`Pool::adopt`]). Threads start when there is work and end when they
//! had none for a while. A job may wait for another job only if that one already runs (an allocation of the same cluster
//! does), so the bound cannot lead to a deadlock.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::thread::{self, ThreadKind};

/// Most threads of a pool of the process at once.
const MOST: usize = 32;
/// How long an idle thread stays.
const LINGER: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

struct Work {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    /// As many stay though they are idle.
    least: usize,
    most: usize,
    closed: bool,
}

struct Inner {
    name: &'static str,
    work: Mutex<Work>,
    more: Condvar,
}

/// Workers of one purpose. When the pool is dropped its threads end with their last job.
pub struct Pool(Arc<Inner>);

/// For the requests of queues whose thread has no pool of its own.
static DISKS: LazyLock<Pool> = LazyLock::new(|| Pool::named("disk-worker", 0, MOST));
/// For the requests of the NBD server's clients.
pub(crate) static EXPORTS: LazyLock<Pool> = LazyLock::new(|| Pool::named("export-worker", 0, MOST));

thread_local! {
    static ADOPTED: RefCell<Option<Arc<Inner>>> = const { RefCell::new(None) };
}

/// Runs `job` on a worker of the calling thread's pool.
pub(crate) fn run(job: Job) {
    let adopted = ADOPTED.with_borrow(Clone::clone);
    adopted.as_ref().unwrap_or(&DISKS.0).run(job);
}

impl Pool {
    /// A pool of `threads`: the first number stays when there is nothing to do, the last is the most there are at once
    /// (at least 1).
    #[must_use]
    pub fn new(threads: RangeInclusive<usize>) -> Self {
        let pool = Self::named("disk-worker", 0, 1);
        pool.set_threads(threads);
        pool
    }

    fn named(name: &'static str, least: usize, most: usize) -> Self {
        let work = Mutex::new(Work { jobs: VecDeque::new(), threads: 0, idle: 0, least, most, closed: false });
        Self(Arc::new(Inner { name, work, more: Condvar::new() }))
    }

    /// Changes the numbers of [`Pool::new`]. Threads that are too many end when their job does.
    pub fn set_threads(&self, threads: RangeInclusive<usize>) {
        let mut work = self.0.work();
        (work.least, work.most) = (*threads.start(), (*threads.end()).max(1));
        let missing = work.least.min(work.most).saturating_sub(work.threads);
        work.threads += missing;
        drop(work);
        self.0.more.notify_all();
        for started in 0..missing {
            if let Err(error) = self.0.start() {
                log::warn!("only {started} of {missing} worker threads are kept ready: {error}");
                self.0.work().threads -= missing - started;
                return;
            }
        }
    }

    /// Has the calling thread's queues hand to this pool what they do not do themselves.
    pub fn adopt(&self) {
        ADOPTED.set(Some(Arc::clone(&self.0)));
    }

    /// Runs `job` on a worker, or here when the host gives no thread at all.
    pub(crate) fn run(&self, job: Job) {
        self.0.run(job);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.work().closed = true;
        self.0.more.notify_all();
    }
}

impl Inner {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread that is counted already.
    fn start(self: &Arc<Self>) -> std::io::Result<()> {
        let this = Arc::clone(self);
        thread::spawn(ThreadKind::Disk, self.name, move || this.serve()).map(drop)
    }

    fn run(self: &Arc<Self>, job: Job) {
        let mut work = self.work();
        work.jobs.push_back(job);
        if work.idle >= work.jobs.len() || work.threads >= work.most {
            drop(work);
            self.more.notify_one();
            return;
        }
        work.threads += 1;
        drop(work);
        if self.start().is_err() {
            let mut work = self.work();
            work.threads -= 1;
            let job = if work.threads == 0 { work.jobs.pop_back() } else { None };
            drop(work);
            if let Some(job) = job {
                job();
            }
        }
    }

    fn serve(&self) {
        let mut work = self.work();
        loop {
            if work.threads > work.most {
                break;
            }
            if let Some(job) = work.jobs.pop_front() {
                drop(work);
                job();
                work = self.work();
                continue;
            }
            if work.closed {
                break;
            }
            work.idle += 1;
            let (next, waited) = self.more.wait_timeout(work, LINGER).unwrap_or_else(PoisonError::into_inner);
            work = next;
            work.idle -= 1;
            if waited.timed_out() && work.jobs.is_empty() && work.threads > work.least {
                break;
            }
        }
        work.threads -= 1;
        // One that is too many may have been woken for a job.
        let others = !work.jobs.is_empty();
        drop(work);
        if others {
            self.more.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn threads(pool: &Pool) -> usize {
        pool.0.work().threads
    }

    fn wait_for(what: impl Fn() -> bool) {
        let begun = Instant::now();
        while !what() {
            assert!(begun.elapsed() < PATIENCE, "in time");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Jobs that tell when they begin and end when they are let.
    fn give_jobs(pool: &Pool, count: usize) -> (std::sync::mpsc::Receiver<()>, std::sync::mpsc::Sender<()>) {
        let (begin, begun) = channel();
        let (go, gate) = channel();
        let gate = Arc::new(Mutex::new(gate));
        for _ in 0..count {
            let (begin, gate) = (begin.clone(), Arc::clone(&gate));
            pool.run(Box::new(move || {
                begin.send(()).unwrap();
                let _ = gate.lock().unwrap().recv();
            }));
        }
        (begun, go)
    }

    #[test]
    fn no_more_jobs_run_at_once_than_there_may_be_threads() {
        let pool = Pool::new(0..=2);

        let (begun, go) = give_jobs(&pool, 3);

        for _ in 0..2 {
            begun.recv_timeout(PATIENCE).unwrap();
        }
        assert_eq!(threads(&pool), 2);
        assert!(begun.try_recv().is_err());
        go.send(()).unwrap();
        begun.recv_timeout(PATIENCE).unwrap();
    }

    #[test]
    fn least_threads_are_there_before_any_job_and_go_with_the_pool() {
        let pool = Pool::new(3..=4);
        assert_eq!(threads(&pool), 3);
        wait_for(|| pool.0.work().idle == 3);

        pool.set_threads(0..=1);
        wait_for(|| threads(&pool) == 1);

        let inner = Arc::clone(&pool.0);
        drop(pool);
        wait_for(|| inner.work().threads == 0);
    }

    #[test]
    fn pool_that_is_dropped_still_does_what_it_was_given() {
        let pool = Pool::new(0..=1);
        let (begun, go) = give_jobs(&pool, 3);
        begun.recv_timeout(PATIENCE).unwrap();

        drop(pool);

        for _ in 0..2 {
            go.send(()).unwrap();
            begun.recv_timeout(PATIENCE).unwrap();
        }
    }

    #[test]
    fn jobs_of_a_thread_go_to_the_pool_that_it_adopted() {
        let pool = Pool::new(0..=1);
        let inner = Arc::clone(&pool.0);
        std::thread::spawn(move || {
            pool.adopt();
            let (tell, told) = channel();
            run(Box::new(move || tell.send(()).unwrap()));
            told.recv_timeout(PATIENCE).unwrap();
            assert_eq!(inner.work().threads, 1);
        })
        .join()
        .unwrap();
    }
}
