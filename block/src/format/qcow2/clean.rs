//! `cache-clean-interval`: what was not looked up for a while is dropped from memory.
//!
//! One thread serves all images. It starts with the first and ends when none is left.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::{Qcow2, lock};
use crate::error::BlockError;
use crate::sys;
use crate::thread::{self, ThreadKind};

/// Seconds between two cleanings without a wish, as QEMU has on Linux.
pub const CLEAN_INTERVAL: u64 = 600;
/// The longest time between two cleanings: more seconds than a clock can add are never.
const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);

/// An image, and when its turn is.
struct Due {
    at: Instant,
    every: Duration,
    image: Weak<Qcow2>,
}

struct Images {
    due: Vec<Due>,
    running: bool,
}

static IMAGES: Mutex<Images> = Mutex::new(Images { due: Vec::new(), running: false });
static CHANGED: Condvar = Condvar::new();

impl Qcow2 {
    /// Drops slices of L2 tables and blocks of counts that were not used for `seconds`, until the image is gone.
    ///
    /// # Errors
    /// When the host gives no thread.
    pub fn clean_every(image: &Arc<Self>, seconds: u64) -> Result<(), BlockError> {
        let every = Duration::from_secs(seconds).min(LONGEST);
        let mut images = lock(&IMAGES);
        images.due.retain(|due| due.image.strong_count() > 0);
        images.due.push(Due { at: Instant::now() + every, every, image: Arc::downgrade(image) });
        CHANGED.notify_one();
        if images.running {
            return Ok(());
        }
        // Of the kind that may write images: if this thread is the last to hold one, it closes it.
        let started = thread::spawn(ThreadKind::Disk, "qcow2-clean", serve);
        images.running = started.is_ok();
        started.map(drop).map_err(|e| BlockError::io("could not start the thread for cache-clean-interval", e))
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
        let Some(next) = images.due.iter_mut().min_by_key(|due| due.at) else {
            images.running = false;
            return;
        };
        if next.at > now {
            let wait = next.at - now;
            images = wait_for(images, wait);
            continue;
        }
        next.at = now + next.every;
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
