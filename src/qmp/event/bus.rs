//! From wherever something happens to whoever listens.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Event;

/// Hears every event. Called on the thread where it happened: it must not wait and must not emit.
pub trait EventListener: Send + Sync {
    /// `at` is the time since 1970.
    fn event(&self, event: &Event, at: Duration);
}

/// Where events are emitted; clones are the same bus. Events emitted before there is a listener are lost, as they are
/// to a client that has not connected.
#[derive(Clone, Default)]
pub struct EventBus {
    listeners: Arc<Mutex<Vec<Arc<dyn EventListener>>>>,
}

impl EventBus {
    /// A bus that nobody listens to.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a listener for good.
    pub fn listen(&self, listener: Arc<dyn EventListener>) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    /// Tells every listener, from any thread.
    pub fn emit(&self, event: &Event) {
        // The lock is held over the calls: events reach each listener in the order of their times.
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for listener in listeners.iter() {
            listener.event(event, at);
        }
    }
}

impl std::fmt::Debug for EventBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventBus").finish_non_exhaustive()
    }
}
