//! What clients of a disk read and write whose image changes under them: an overlay is put on it, or it goes over to a
//! copy.

use std::any::Any;
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::BlockError;
use crate::graph::ImageDetails;
use crate::layer::{Layer, Limits, Status};
use crate::mem::{Sink, Source};

/// The layer that is now in the place of another. Requests under way end where they began.
pub struct Follow(RwLock<Arc<dyn Layer>>);

impl Follow {
    /// `layer`, until another comes in its place.
    #[must_use]
    pub fn on(layer: Arc<dyn Layer>) -> Arc<Self> {
        Arc::new(Self(RwLock::new(layer)))
    }

    /// Goes over to `layer`, which shows the same.
    pub fn move_to(&self, layer: Arc<dyn Layer>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = layer;
    }

    /// The layer as of now: nobody waits for what is done with it.
    fn now(&self) -> Arc<dyn Layer> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Layer for Follow {
    fn driver(&self) -> &'static str {
        self.now().driver()
    }

    fn size(&self) -> u64 {
        self.now().size()
    }

    fn limits(&self) -> Limits {
        self.now().limits()
    }

    fn read(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        self.now().read(into, offset)
    }

    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        self.now().write(from, offset)
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.now().flush()
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.now().discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.now().write_zeroes(offset, len, unmap)
    }

    fn status(&self, offset: u64, len: u64) -> Result<Status, BlockError> {
        self.now().status(offset, len)
    }

    fn populate(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.now().populate(offset, len)
    }

    fn describe(&self, details: &mut ImageDetails) {
        self.now().describe(details);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{read_vec, write_all};
    use crate::protocol::memory::Memory;

    #[test]
    fn clients_come_to_read_and_write_what_took_the_place_of_their_disk() {
        let [former, now] = [1, 2].map(|byte| Arc::new(Memory::new(vec![byte; 4096])));
        let follow = Follow::on(former.clone());
        let before = read_vec(follow.as_ref(), 0, 2).unwrap();

        follow.move_to(now.clone());
        write_all(follow.as_ref(), &[3], 1).unwrap();

        assert_eq!((before, read_vec(follow.as_ref(), 0, 2).unwrap()), (vec![1, 1], vec![2, 3]));
        assert_eq!(
            (read_vec(former.as_ref(), 1, 1).unwrap(), read_vec(now.as_ref(), 1, 1).unwrap()),
            (vec![1], vec![3])
        );
    }
}
