//! What a front end has to say, kept until the other side takes it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rhea_devices::chardev::CharBackend;

/// Bytes on their way to a character device. Whoever fills it looks at [`Outbox::unread`] first: a client that does not
/// read must not make it grow.
pub struct Outbox {
    backend: Arc<dyn CharBackend>,
    pending: Mutex<Vec<u8>>,
}

impl Outbox {
    /// Empty, to `backend`.
    #[must_use]
    pub fn new(backend: Arc<dyn CharBackend>) -> Self {
        Self { backend, pending: Mutex::default() }
    }

    /// Where it goes.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn CharBackend> {
        &self.backend
    }

    /// Sends all of `pieces`, together and in order.
    pub fn send(&self, pieces: &[&[u8]]) {
        let mut pending = self.lock();
        pieces.iter().for_each(|piece| pending.extend_from_slice(piece));
        self.hand_over(&mut pending);
    }

    /// Bytes that the other side has not taken yet.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.lock().len()
    }

    /// Drops what was for someone who has gone.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// The other side has room again: sends what waits, and takes input that was held back meanwhile.
    pub fn writable(&self) {
        self.hand_over(&mut self.lock());
        self.backend.accept_input();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_over(&self, pending: &mut Vec<u8>) {
        let taken = self.backend.write(pending).min(pending.len());
        pending.drain(..taken);
    }
}
