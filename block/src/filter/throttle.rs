//! Driver `throttle`: a node whose use is limited by a group.
//!
//! A disk right on this node has its queues ask the group, and no thread waits. Anything else above it (a format, an
//! export) comes through the methods here, and waits in them, until somebody waits for what has begun.

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use crate::error::BlockError;
use crate::layer::Layer;
use crate::mem::{Sink, Source};
use crate::throttle::{Direction, Group, Member};

/// Counts how often the member was woken.
type Woken = (Mutex<u64>, Condvar);

/// How many [`Lifted`] there are.
static LIFTED: AtomicUsize = AtomicUsize::new(0);
/// What wakes those who wait in any node.
static NODES: Mutex<Vec<Weak<Woken>>> = Mutex::new(Vec::new());

fn wake(woken: &Woken) {
    *woken.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    woken.1.notify_all();
}

/// While it is there, nothing waits in the methods of any node: for somebody who waits until what has begun is over, such
/// as a drain, which limits could hold up for hours. What queues hold back has not begun.
pub(crate) struct Lifted(());

impl Lifted {
    pub(crate) fn new() -> Self {
        LIFTED.fetch_add(1, Ordering::SeqCst);
        let nodes: Vec<Arc<Woken>> = nodes().iter().filter_map(Weak::upgrade).collect();
        nodes.iter().for_each(|woken| wake(woken));
        Self(())
    }
}

impl Drop for Lifted {
    fn drop(&mut self) {
        LIFTED.fetch_sub(1, Ordering::SeqCst);
    }
}

fn nodes() -> MutexGuard<'static, Vec<Weak<Woken>>> {
    NODES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A node under limits.
pub struct Throttle {
    inner: Arc<dyn Layer>,
    member: RwLock<Arc<Member>>,
    woken: Arc<Woken>,
}

impl Throttle {
    /// `inner` under the limits of `group`.
    #[must_use]
    pub fn new(inner: Arc<dyn Layer>, group: &Arc<Group>) -> Self {
        let woken = Arc::new(Woken::default());
        let mut nodes = nodes();
        nodes.retain(|node| node.strong_count() > 0);
        nodes.push(Arc::downgrade(&woken));
        drop(nodes);
        Self { inner, member: RwLock::new(join(group, &woken)), woken }
    }

    /// Puts it under the limits of another group. Who waits for the former one goes by that one's.
    pub fn set_group(&self, group: &Arc<Group>) {
        if !Arc::ptr_eq(self.member().group(), group) {
            *self.member.write().unwrap_or_else(PoisonError::into_inner) = join(group, &self.woken);
        }
    }

    fn member(&self) -> Arc<Member> {
        self.member.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a request may go.
    fn wait(&self, direction: Direction, bytes: u64) {
        let ((count, changed), member) = (&*self.woken, self.member());
        loop {
            let before = *count.lock().unwrap_or_else(PoisonError::into_inner);
            if LIFTED.load(Ordering::SeqCst) > 0 {
                return member.leave();
            }
            if member.ask(direction, bytes) {
                // Another thread may wait behind this one's turn.
                changed.notify_all();
                return;
            }
            let mut now = count.lock().unwrap_or_else(PoisonError::into_inner);
            while *now == before {
                now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// A new member of `group`, for whom `woken` counts.
fn join(group: &Arc<Group>, woken: &Arc<Woken>) -> Arc<Member> {
    let waking = woken.clone();
    group.join(Box::new(move || wake(&waking)))
}

impl Layer for Throttle {
    // Not `is_cached`: what waits here must not wait in a queue's own thread.
    forward!(inner: size, limits, flush, sync_failed, status, wants_ring, resize, close, allocated_bytes, highest_write);

    fn driver(&self) -> &'static str {
        "throttle"
    }

    fn read(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        self.wait(Direction::Read, into.len() as u64);
        self.inner.read(into, offset)
    }

    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        self.wait(Direction::Write, from.len() as u64);
        self.inner.write(from, offset)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.wait(Direction::Write, len);
        self.inner.discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.wait(Direction::Write, len);
        self.inner.write_zeroes(offset, len, unmap)
    }

    fn throttled(&self) -> Option<(Arc<Group>, Arc<dyn Layer>)> {
        Some((self.member().group().clone(), self.inner.clone()))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
