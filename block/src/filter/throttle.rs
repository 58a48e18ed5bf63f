//! Driver `throttle`: a node whose use is limited by a group.
//!
//! A disk right on this node has its queues ask the group, and no thread waits. Anything else above it (a format, an
//! export) comes through the methods here, and waits in them.

use std::any::Any;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::error::BlockError;
use crate::layer::Layer;
use crate::mem::{Sink, Source};
use crate::throttle::{Direction, Group, Member};

/// Counts how often the member was woken.
type Woken = (Mutex<u64>, Condvar);

/// A node under limits.
pub struct Throttle {
    inner: Arc<dyn Layer>,
    member: Arc<Member>,
    woken: Arc<Woken>,
}

impl Throttle {
    /// `inner` under the limits of `group`.
    #[must_use]
    pub fn new(inner: Arc<dyn Layer>, group: &Arc<Group>) -> Self {
        let woken = Arc::new(Woken::default());
        let waking = woken.clone();
        let member = group.join(Box::new(move || {
            *waking.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            waking.1.notify_all();
        }));
        Self { inner, member, woken }
    }

    /// Waits until a request may go.
    fn wait(&self, direction: Direction, bytes: u64) {
        let (count, changed) = &*self.woken;
        loop {
            let before = *count.lock().unwrap_or_else(PoisonError::into_inner);
            if self.member.ask(direction, bytes) {
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

impl Layer for Throttle {
    forward!(inner: size, limits, flush, sync_failed, status, wants_ring, is_cached, resize, close, allocated_bytes, highest_write);

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
        Some((self.member.group().clone(), self.inner.clone()))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
