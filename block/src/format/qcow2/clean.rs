//! `cache-clean-interval`: what was not looked up for a while is dropped from memory.
//!
//! One thread serves all images. It starts with the first and ends when none is left.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::tuning::Tuning;
use super::{Qcow2, lock};
use crate::error::BlockError;
use crate::sys;
use crate::thread::{self, ThreadKind};

/// Seconds between two cleanings without a wish, as QEMU has on Linux.
pub(super) const CLEAN_INTERVAL: u64 = 600;

/// An image, and when its turn is.
struct Due {
    /// Nothing if it is never cleaned.
    next: Option<Instant>,
    /// Seconds between two cleanings, 0 if there are none.
    every: u64,
    image: Weak<Qcow2>,
}

impl Due {
    fn wait(&mut self) {
        self.next = (self.every > 0).then(|| Instant::now() + Duration::from_secs(self.every));
    }
}

struct Images {
    due: Vec<Due>,
    running: bool,
}

static IMAGES: Mutex<Images> = Mutex::new(Images { due: Vec::new(), running: false });
static CHANGED: Condvar = Condvar::new();

impl Qcow2 {
    /// Has `image` cleaned every so many seconds, 600 without a wish: what was not used since the last time goes.
    ///
    /// # Errors
    /// When the host gives no thread.
    pub fn clean(image: &Arc<Self>, tuning: &Tuning) -> Result<(), BlockError> {
        let mut images = lock(&IMAGES);
        images.due.retain(|due| due.image.strong_count() > 0);
        images.due.push(Due { next: None, every: 0, image: Arc::downgrade(image) });
        drop(images);
        image.clean_every(tuning.seconds()).map(drop)
    }

    /// Changes the seconds between two cleanings, at most `u32::MAX`, 0 for none; gives back what they were.
    pub(super) fn clean_every(&self, seconds: u64) -> Result<u64, BlockError> {
        let mut images = lock(&IMAGES);
        let Some(due) = images.due.iter_mut().find(|due| std::ptr::eq(due.image.as_ptr(), self)) else {
            return Ok(0);
        };
        let former = std::mem::replace(&mut due.every, seconds);
        due.wait();
        CHANGED.notify_one();
        if images.running || seconds == 0 {
            return Ok(former);
        }
        // Of the kind that may write images: if this thread is the last to hold one, it closes it.
        let started = thread::spawn(ThreadKind::Disk, "qcow2-clean", serve);
        images.running = started.is_ok();
        started.map_err(|e| BlockError::io("could not start the thread for cache-clean-interval", e))?;
        Ok(former)
    }

    /// Drops what was not used since the last call; whether that was anything.
    pub(super) fn clean_now(&self) -> bool {
        let slices = self.maps_mut().drop_unused();
        let blocks = lock(&self.alloc).counts.drop_unused();
        slices + blocks > 0
    }
}

fn serve() {
    let mut images = lock(&IMAGES);
    loop {
        let now = Instant::now();
        images.due.retain(|due| due.image.strong_count() > 0);
        let waiting = images.due.iter_mut().filter_map(|due| Some((due.next?, due)));
        let Some((at, next)) = waiting.min_by_key(|(at, _)| *at) else {
            images.running = false;
            return;
        };
        if at > now {
            images = wait_for(images, at - now);
            continue;
        }
        next.wait();
        let image = next.image.upgrade();
        drop(images);
        if image.is_some_and(|image| image.clean_now()) {
            sys::trim_heap();
        }
        images = lock(&IMAGES);
    }
}

fn wait_for(images: MutexGuard<'_, Images>, time: Duration) -> MutexGuard<'_, Images> {
    CHANGED.wait_timeout(images, time).unwrap_or_else(PoisonError::into_inner).0
}
