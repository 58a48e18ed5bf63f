//! A group: one set of buckets, and turns among those who wait.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::bucket::{Buckets, Limits};
use super::{Direction, timer};

/// The time that buckets leak by.
pub(super) trait Clock: Send + Sync {
    /// Since some moment.
    fn now(&self) -> Duration;
    /// Has `member` woken once that time has come.
    fn wake_at(&self, time: Duration, member: &Weak<Member>);
}

/// The host's clock, and the thread that waits on it.
struct HostClock(Instant);

impl Clock for HostClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn wake_at(&self, time: Duration, member: &Weak<Member>) {
        timer::wake_at(self.0 + time, member.clone());
    }
}

struct Inner {
    limits: Limits,
    buckets: Buckets,
    /// Who waits, by direction: the first one is asked next, and goes to the end when it has had one request.
    lines: [VecDeque<u64>; 2],
    members: BTreeMap<u64, Weak<Member>>,
    next: u64,
    /// Everything goes, for the time being.
    lifted: bool,
}

/// Limits, and those who share them.
pub struct Group {
    name: String,
    clock: Box<dyn Clock>,
    inner: Mutex<Inner>,
}

impl Group {
    /// A group without members.
    #[must_use]
    pub fn new(name: impl Into<String>, limits: Limits) -> Arc<Self> {
        Self::with_clock(name, limits, Box::new(HostClock(Instant::now())))
    }

    pub(super) fn with_clock(name: impl Into<String>, limits: Limits, clock: Box<dyn Clock>) -> Arc<Self> {
        let buckets = Buckets::new(clock.now());
        let inner =
            Inner { limits, buckets, lines: Default::default(), members: BTreeMap::new(), next: 0, lifted: false };
        Arc::new(Self { name: name.into(), clock, inner: Mutex::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The limits as of now.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.lock().limits
    }

    /// Sets other limits; the buckets are empty again, and who waits asks again.
    pub fn set_limits(&self, limits: Limits) {
        let mut inner = self.lock();
        inner.limits = limits;
        inner.buckets = Buckets::new(self.clock.now());
        Self::wake_all(inner);
    }

    /// Lets everything through that waits or comes, until it is called with false: for a machine that comes to rest.
    pub fn lift(&self, lifted: bool) {
        let mut inner = self.lock();
        inner.lifted = lifted;
        if lifted {
            Self::wake_all(inner);
        }
    }

    fn wake_all(inner: MutexGuard<'_, Inner>) {
        let all: Vec<Arc<Member>> = inner.members.values().filter_map(Weak::upgrade).collect();
        drop(inner);
        all.iter().for_each(|member| member.wake());
    }

    /// One more member; `wake` is called, on any thread and with no lock held, when it should ask again.
    pub(crate) fn join(self: &Arc<Self>, wake: Box<dyn Fn() + Send + Sync>) -> Arc<Member> {
        let mut inner = self.lock();
        let id = inner.next;
        inner.next += 1;
        let member =
            Arc::new_cyclic(|this| Member { id, this: this.clone(), group: self.clone(), wake, due: Mutex::new(None) });
        inner.members.insert(id, Arc::downgrade(&member));
        member
    }
}

impl Inner {
    fn first(&self, direction: Direction) -> Option<Arc<Member>> {
        let first = self.lines[direction as usize].front()?;
        self.members.get(first).and_then(Weak::upgrade)
    }
}

/// Something that shares a group's limits.
pub(crate) struct Member {
    id: u64,
    this: Weak<Self>,
    group: Arc<Group>,
    wake: Box<dyn Fn() + Send + Sync>,
    /// When the clock will wake it, if it will.
    due: Mutex<Option<Duration>>,
}

impl Member {
    /// The group.
    pub(crate) fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Whether a request of `bytes` may go now; then it is counted. If not, the member is woken to ask again.
    pub(crate) fn ask(&self, direction: Direction, bytes: u64) -> bool {
        let mut inner = self.group.lock();
        let inner_ref = &mut *inner;
        let line = &mut inner_ref.lines[direction as usize];
        if inner_ref.lifted {
            line.retain(|id| *id != self.id);
            return true;
        }
        let turn = line.front().is_none_or(|first| *first == self.id);
        if !turn {
            if !line.contains(&self.id) {
                line.push_back(self.id);
            }
            return false;
        }
        let now = self.group.clock.now();
        inner_ref.buckets.leak(&inner_ref.limits, now);
        let wait = inner_ref.buckets.wait(&inner_ref.limits, direction);
        if !wait.is_zero() {
            if line.is_empty() {
                line.push_back(self.id);
            }
            drop(inner);
            self.wake_at(now + wait);
            return false;
        }
        inner_ref.buckets.count(&inner_ref.limits, direction, bytes);
        line.pop_front();
        let next = inner.first(direction);
        drop(inner);
        if let Some(next) = next {
            next.wake();
        }
        true
    }

    fn wake_at(&self, time: Duration) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        if due.is_none_or(|due| time < due) {
            *due = Some(time);
            drop(due);
            self.group.clock.wake_at(time, &self.this);
        }
    }

    /// Has it ask again.
    pub(super) fn wake(&self) {
        *self.due.lock().unwrap_or_else(PoisonError::into_inner) = None;
        (self.wake)();
    }

    /// It waits for nothing any more: the others need not wait for it. Who still waits for it asks again.
    pub(crate) fn leave(&self) {
        self.step_back(false);
        self.wake();
    }

    fn step_back(&self, forget: bool) {
        let mut inner = self.group.lock();
        if forget {
            inner.members.remove(&self.id);
        }
        let mut next = Vec::new();
        for direction in Direction::ALL {
            let line = &mut inner.lines[direction as usize];
            let was_first = line.front() == Some(&self.id);
            line.retain(|id| *id != self.id);
            if was_first {
                next.extend(inner.first(direction));
            }
        }
        drop(inner);
        next.iter().for_each(|member| member.wake());
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.step_back(true);
    }
}
