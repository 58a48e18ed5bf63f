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

/// Where those wait who come through one node.
#[derive(Default)]
struct Gate {
    /// Counts how often the member was woken.
    woken: Mutex<u64>,
    changed: Condvar,
    /// How many [`Lifted`] there are of this node.
    lifted: AtomicUsize,
}

impl Gate {
    fn wake(&self) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_all();
    }
}

/// How many [`Lifted`] there are of all nodes.
static LIFTED: AtomicUsize = AtomicUsize::new(0);
/// What wakes those who wait in any node.
static NODES: Mutex<Vec<Weak<Gate>>> = Mutex::new(Vec::new());

/// While it is there, nothing waits in the methods of a node, or of any: for somebody who waits until what has begun is
/// over, such as a drain, which limits could hold up for hours. What queues hold back has not begun.
pub struct Lifted(Option<Arc<Gate>>);

impl Lifted {
    /// The limits of all nodes, for somebody who goes on soon: what a disk does may come to any of them, beneath it or where
    /// a job has it copied to.
    #[must_use]
    pub fn everywhere() -> Self {
        LIFTED.fetch_add(1, Ordering::SeqCst);
        let nodes: Vec<Arc<Gate>> = nodes().iter().filter_map(Weak::upgrade).collect();
        nodes.iter().for_each(|gate| gate.wake());
        Self(None)
    }

    fn of(gate: &Arc<Gate>) -> Self {
        gate.lifted.fetch_add(1, Ordering::SeqCst);
        gate.wake();
        Self(Some(gate.clone()))
    }
}

impl Drop for Lifted {
    fn drop(&mut self) {
        self.0.as_ref().map_or(&LIFTED, |gate| &gate.lifted).fetch_sub(1, Ordering::SeqCst);
    }
}

fn nodes() -> MutexGuard<'static, Vec<Weak<Gate>>> {
    NODES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A node under limits.
pub struct Throttle {
    inner: Arc<dyn Layer>,
    member: RwLock<Arc<Member>>,
    gate: Arc<Gate>,
}

impl Throttle {
    /// `inner` under the limits of `group`.
    #[must_use]
    pub fn new(inner: Arc<dyn Layer>, group: &Arc<Group>) -> Self {
        let gate = Arc::new(Gate::default());
        let mut nodes = nodes();
        nodes.retain(|node| node.strong_count() > 0);
        nodes.push(Arc::downgrade(&gate));
        drop(nodes);
        Self { inner, member: RwLock::new(join(group, &gate)), gate }
    }

    /// Lifts the limits of this node.
    #[must_use]
    pub fn lift(&self) -> Lifted {
        Lifted::of(&self.gate)
    }

    /// Puts it under the limits of another group. Who waits for the former one goes by that one's.
    pub fn set_group(&self, group: &Arc<Group>) {
        if !Arc::ptr_eq(self.member().group(), group) {
            *self.member.write().unwrap_or_else(PoisonError::into_inner) = join(group, &self.gate);
        }
    }

    fn member(&self) -> Arc<Member> {
        self.member.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a request may go.
    fn wait(&self, direction: Direction, bytes: u64) {
        let (Gate { woken: count, changed, lifted }, member) = (&*self.gate, self.member());
        loop {
            let before = *count.lock().unwrap_or_else(PoisonError::into_inner);
            if LIFTED.load(Ordering::SeqCst) > 0 || lifted.load(Ordering::SeqCst) > 0 {
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

/// A new member of `group`, which is woken at `gate`.
fn join(group: &Arc<Group>, gate: &Arc<Gate>) -> Arc<Member> {
    let waking = gate.clone();
    group.join(Box::new(move || waking.wake()))
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
