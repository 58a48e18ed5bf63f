//! What is in a drive: an image, and a path to it for each thread of the front end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rhea_block::{BlockError, Image, ImageInfo, ImageQueue};

/// Numbers media, so that a front end sees that one is another.
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// An image with open queues.
pub struct Medium {
    image: Arc<dyn Image>,
    generation: u64,
    queues: Mutex<Vec<Option<Box<dyn ImageQueue>>>>,
}

impl Medium {
    /// Opens `paths` queues of up to `depth` requests each: on the thread that may, not on that which serves.
    ///
    /// # Errors
    /// When the host has no descriptors or memory left.
    pub fn open(image: Arc<dyn Image>, paths: u16, depth: u32) -> Result<Arc<Self>, BlockError> {
        let queues = (0..paths).map(|_| image.open_queue(depth).map(Some)).collect::<Result<_, _>>()?;
        Ok(Self::with(image, queues))
    }

    /// An image without queues, until a front end says how many it needs.
    pub(crate) fn unopened(image: Arc<dyn Image>) -> Arc<Self> {
        Self::with(image, Vec::new())
    }

    fn with(image: Arc<dyn Image>, queues: Vec<Option<Box<dyn ImageQueue>>>) -> Arc<Self> {
        let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { image, generation, queues: Mutex::new(queues) })
    }

    /// The image.
    #[must_use]
    pub fn image(&self) -> &Arc<dyn Image> {
        &self.image
    }

    /// Facts about the image as of now.
    #[must_use]
    pub fn info(&self) -> ImageInfo {
        self.image.info()
    }

    /// A number that no other medium has.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The queue of path `n`: once.
    #[must_use]
    pub fn take_queue(&self, n: u16) -> Option<Box<dyn ImageQueue>> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.get_mut(usize::from(n))?.take()
    }
}
