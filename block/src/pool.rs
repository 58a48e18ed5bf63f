//! Worker threads for what would make a disk's thread wait: cold metadata, allocating writes, `aio=threads`.
//!
//! One pool serves the process's disks, another its NBD clients, so that these never take the guest's workers, and a
//! thread that serves queues may have one of its own ([`Pool::adopt`]). Threads start when there is work and end when they
//! had none for a while. A job may wait for another job only if that one already runs (an allocation of the same cluster
//! does), so the bound cannot lead to a deadlock.
//!
//! Jobs of one disk or export stand in a line, and lines take turns. What one waits for (a server that is silent, a
//! limit) may take all threads of a pool: each of the others still gets a few beyond the most that there are otherwise.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::thread::{self, ThreadKind};

/// Most threads of a pool of the process at once, but for what lines have in any case.
const MOST: usize = 32;
/// So many jobs of a line may run however many others do; fewer where the pool has fewer threads.
const OWN: usize = 4;
/// How long an idle thread stays.
const LINGER: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// What has jobs in a line of its own: the address of a disk or an export.
pub(crate) type Owner = usize;

/// The jobs of one owner; there is none without jobs.
struct Line {
    owner: Owner,
    waiting: VecDeque<Job>,
    running: usize,
}

struct Work {
    lines: Vec<Line>,
    /// The line that is asked first for the next job.
    turn: usize,
    threads: usize,
    /// Threads that do a job.
    running: usize,
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

/// Runs `job` of `owner` on a worker of the calling thread's pool.
pub(crate) fn run(owner: Owner, job: Job) {
    let adopted = ADOPTED.with_borrow(Clone::clone);
    adopted.as_ref().unwrap_or(&DISKS.0).run(owner, job);
}

impl Pool {
    /// A pool of `threads`: the first number stays when there is nothing to do, the last is the most there are at once
    /// (at least 1), but for what each disk has when others have taken all.
    #[must_use]
    pub fn new(threads: RangeInclusive<usize>) -> Self {
        let pool = Self::named("disk-worker", 0, 1);
        pool.set_threads(threads);
        pool
    }

    fn named(name: &'static str, least: usize, most: usize) -> Self {
        let work = Work { lines: Vec::new(), turn: 0, threads: 0, running: 0, least, most, closed: false };
        Self(Arc::new(Inner { name, work: Mutex::new(work), more: Condvar::new() }))
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

    /// Runs `job` of `owner` on a worker, or here when the host gives no thread at all.
    pub(crate) fn run(&self, owner: Owner, job: Job) {
        self.0.run(owner, job);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.work().closed = true;
        self.0.more.notify_all();
    }
}

impl Work {
    fn put(&mut self, owner: Owner, job: Job) {
        if let Some(line) = self.lines.iter_mut().find(|line| line.owner == owner) {
            return line.waiting.push_back(job);
        }
        self.lines.push(Line { owner, waiting: VecDeque::from([job]), running: 0 });
    }

    /// How many more jobs of a line may run though the pool has all its threads at work.
    fn owed(&self, line: &Line) -> usize {
        OWN.min(self.most).saturating_sub(line.running).min(line.waiting.len())
    }

    /// How many of the jobs that wait may run now.
    fn startable(&self) -> usize {
        let waiting: usize = self.lines.iter().map(|line| line.waiting.len()).sum();
        let owed = self.lines.iter().map(|line| self.owed(line)).sum();
        self.most.saturating_sub(self.running).max(owed).min(waiting)
    }

    /// The next job that may run, which counts as running from now on.
    fn take(&mut self) -> Option<(Owner, Job)> {
        let count = self.lines.len();
        let is_full = self.running >= self.most;
        let may = |line: &Line| if is_full { self.owed(line) > 0 } else { !line.waiting.is_empty() };
        let at = (0..count).map(|n| (self.turn + n) % count).find(|at| self.lines.get(*at).is_some_and(may))?;
        self.turn = at + 1;
        self.running += 1;
        let line = self.lines.get_mut(at)?;
        line.running += 1;
        line.waiting.pop_front().map(|job| (line.owner, job))
    }

    /// A job of `owner` has ended.
    fn ended(&mut self, owner: Owner) {
        self.running -= 1;
        let Some(at) = self.lines.iter().position(|line| line.owner == owner) else { return };
        self.lines[at].running -= 1;
        if self.lines[at].running == 0 && self.lines[at].waiting.is_empty() {
            self.lines.remove(at);
        }
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

    fn run(self: &Arc<Self>, owner: Owner, job: Job) {
        let mut work = self.work();
        work.put(owner, job);
        if work.startable() <= work.threads.saturating_sub(work.running) {
            drop(work);
            self.more.notify_one();
            return;
        }
        work.threads += 1;
        drop(work);
        if self.start().is_err() {
            let mut work = self.work();
            work.threads -= 1;
            let job = if work.threads == 0 { work.take() } else { None };
            drop(work);
            if let Some((owner, job)) = job {
                job();
                self.work().ended(owner);
            }
        }
    }

    fn serve(&self) {
        let mut work = self.work();
        let mut idled = false;
        loop {
            // More than there may be, and the others suffice.
            let surplus = work.threads > work.most && work.running < work.most;
            if !surplus && let Some((owner, job)) = work.take() {
                drop(work);
                job();
                work = self.work();
                work.ended(owner);
                idled = false;
                continue;
            }
            if surplus || work.closed || (idled && work.threads > work.least) {
                break;
            }
            let (next, waited) = self.more.wait_timeout(work, LINGER).unwrap_or_else(PoisonError::into_inner);
            work = next;
            idled = waited.timed_out();
        }
        work.threads -= 1;
        // One that is too many may have been woken for a job.
        let others = work.startable() > 0;
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
    fn give_jobs(
        pool: &Pool,
        owner: Owner,
        count: usize,
    ) -> (std::sync::mpsc::Receiver<()>, std::sync::mpsc::Sender<()>) {
        let (begin, begun) = channel();
        let (go, gate) = channel();
        let gate = Arc::new(Mutex::new(gate));
        for _ in 0..count {
            let (begin, gate) = (begin.clone(), Arc::clone(&gate));
            pool.run(
                owner,
                Box::new(move || {
                    begin.send(()).unwrap();
                    let _ = gate.lock().unwrap().recv();
                }),
            );
        }
        (begun, go)
    }

    #[test]
    fn no_more_jobs_run_at_once_than_there_may_be_threads() {
        let pool = Pool::new(0..=2);

        let (begun, go) = give_jobs(&pool, 1, 3);

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
        assert_eq!(pool.0.work().running, 0);

        pool.set_threads(0..=1);
        wait_for(|| threads(&pool) == 1);

        let inner = Arc::clone(&pool.0);
        drop(pool);
        wait_for(|| inner.work().threads == 0);
    }

    #[test]
    fn pool_that_is_dropped_still_does_what_it_was_given() {
        let pool = Pool::new(0..=1);
        let (begun, go) = give_jobs(&pool, 1, 3);
        begun.recv_timeout(PATIENCE).unwrap();

        drop(pool);

        for _ in 0..2 {
            go.send(()).unwrap();
            begun.recv_timeout(PATIENCE).unwrap();
        }
    }

    #[test]
    fn jobs_that_wait_for_ever_leave_threads_to_other_lines() {
        let pool = Pool::new(0..=6);
        let (begun, go) = give_jobs(&pool, 1, 20);
        for _ in 0..6 {
            begun.recv_timeout(PATIENCE).unwrap();
        }

        let (others, let_others) = give_jobs(&pool, 2, 7);

        for _ in 0..OWN {
            others.recv_timeout(PATIENCE).unwrap();
        }
        assert_eq!((threads(&pool), begun.try_recv().is_err(), others.try_recv().is_err()), (6 + OWN, true, true));
        // Each that ends makes room for one of its line.
        for _ in OWN..7 {
            let_others.send(()).unwrap();
            others.recv_timeout(PATIENCE).unwrap();
        }
        drop((go, let_others));
        for _ in 6..20 {
            begun.recv_timeout(PATIENCE).unwrap();
        }
        wait_for(|| threads(&pool) <= 6);
    }

    #[test]
    fn jobs_of_a_thread_go_to_the_pool_that_it_adopted() {
        let pool = Pool::new(0..=1);
        let inner = Arc::clone(&pool.0);
        std::thread::spawn(move || {
            pool.adopt();
            let (tell, told) = channel();
            run(1, Box::new(move || tell.send(()).unwrap()));
            told.recv_timeout(PATIENCE).unwrap();
            assert_eq!(inner.work().threads, 1);
        })
        .join()
        .unwrap();
    }
}
