//! `cache-clean-interval`: what was not looked up for a while is dropped from memory.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Qcow2;
use crate::error::BlockError;
use crate::thread::{self, ThreadKind};

/// How often the thread looks whether the image is still there.
const LOOK: Duration = Duration::from_secs(1);

impl Qcow2 {
    /// Drops slices that were not used for `seconds`, until the image is gone.
    ///
    /// # Errors
    /// When the host gives no thread.
    pub fn clean_every(image: &Arc<Self>, seconds: u64) -> Result<(), BlockError> {
        let image = Arc::downgrade(image);
        let work = move || clean(&image, seconds);
        thread::spawn(ThreadKind::Timer, "qcow2-clean", work)
            .map(drop)
            .map_err(|e| BlockError::io("could not start the thread for cache-clean-interval", e))
    }

    /// Drops slices that were not used since the last call.
    pub(super) fn clean_now(&self) {
        self.maps_mut().drop_unused();
    }
}

fn clean(image: &Weak<Qcow2>, seconds: u64) {
    let mut waited = 0;
    while image.strong_count() > 0 {
        std::thread::sleep(LOOK);
        waited += LOOK.as_secs();
        if waited >= seconds {
            waited = 0;
            if let Some(image) = image.upgrade() {
                image.clean_now();
            }
        }
    }
}
