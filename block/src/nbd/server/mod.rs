//! The server: exports of nodes for clients on other machines.
//!
//! ```text
//!   nbd-server ── accepts, never more than the limit
//!     └─ nbd-client-N ── handshake within 10 s, then reads requests
//!          ├─ disk workers ── do them
//!          └─ nbd-reply ── writes replies
//! ```

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

mod export;
mod negotiate;
mod serve;
#[cfg(test)]
mod tests;

pub use export::{Chain, Export, ShownBitmap};

use super::socket::{Listener, Socket};
use crate::error::{BlockError, ErrorKind};
use crate::filter::throttle::Lifted;
use crate::sys;
use crate::thread::{self, ThreadKind};

/// What is shown, by name.
#[derive(Default)]
struct Exports {
    by_name: Mutex<BTreeMap<String, Arc<Export>>>,
}

impl Exports {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Export>>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, name: &str) -> Option<Arc<Export>> {
        self.lock().get(name).cloned()
    }

    fn all(&self) -> Vec<Arc<Export>> {
        self.lock().values().cloned().collect()
    }
}

/// A client that is there.
struct Present {
    socket: Arc<Socket>,
    /// What it uses, once that is known.
    export: Option<Arc<Export>>,
}

#[derive(Default)]
struct Clients {
    present: BTreeMap<u64, Present>,
    /// How many there ever were that came to use an export.
    served: u64,
    stopping: bool,
}

impl Clients {
    fn users_of(&self, export: &Arc<Export>) -> impl Iterator<Item = &Present> {
        let uses = |client: &&Present| client.export.as_ref().is_some_and(|used| Arc::ptr_eq(used, export));
        self.present.values().filter(uses)
    }
}

struct Shared {
    exports: Exports,
    clients: Mutex<Clients>,
    changed: Condvar,
    most: usize,
    stop: EventFd,
}

impl Shared {
    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, clients: MutexGuard<'a, Clients>) -> MutexGuard<'a, Clients> {
        self.changed.wait(clients).unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server. Dropped, it hangs up on its clients and waits for their requests to end, which no limits of nodes hold up.
pub struct Server {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// A server of at most `most` clients at a time (0: as many as come), without exports and without clients yet.
    ///
    /// # Errors
    /// When the host gives no descriptor.
    pub fn new(most: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            exports: Exports::default(),
            clients: Mutex::default(),
            changed: Condvar::new(),
            most: if most == 0 { usize::MAX } else { most },
            stop: EventFd::new(EFD_CLOEXEC)?,
        });
        Ok(Self { shared, accepting: None })
    }

    /// Takes clients from `listener`, from now on; called once. What is exported by then is there for the first of them.
    ///
    /// # Errors
    /// When the host gives no thread.
    pub fn start(&mut self, listener: Listener) -> io::Result<()> {
        listener.set_nonblocking()?;
        let mine = self.shared.clone();
        self.accepting = Some(thread::spawn(ThreadKind::Nbd, "nbd-server", move || accept_all(&mine, &listener))?);
        Ok(())
    }

    /// Shows one more export.
    ///
    /// # Errors
    /// When the name is taken or too long, or the description is.
    pub fn add(&self, export: Export) -> Result<(), BlockError> {
        let mut exports = self.shared.exports.lock();
        let name = export.name.clone();
        for (what, text) in [("name", Some(&name)), ("description", export.description.as_ref())] {
            if text.is_some_and(|text| !negotiate::is_short(text)) {
                return Err(BlockError::new(ErrorKind::Invalid, format!("an export's {what} has at most 4096 bytes")));
            }
        }
        if exports.contains_key(&name) {
            return Err(BlockError::new(ErrorKind::Invalid, format!("NBD server already has export named '{name}'")));
        }
        exports.insert(name, Arc::new(export));
        Ok(())
    }

    /// How many clients use the export `name`, without those that have left and whose thread has not seen it yet; `None`
    /// when there is no such export.
    #[must_use]
    pub fn users(&self, name: &str) -> Option<usize> {
        let export = self.shared.exports.get(name)?;
        Some(self.shared.clients().users_of(&export).filter(|client| !client.socket.has_left()).count())
    }

    /// Shows the export `name` no more and hangs up on who uses it. Gives what waits for the end of their requests, if
    /// there is such an export.
    pub fn remove(&self, name: &str) -> Option<Leaving> {
        let export = self.shared.exports.lock().remove(name)?;
        self.shared.clients().users_of(&export).for_each(|client| client.socket.shut_down());
        Some(Leaving { shared: self.shared.clone(), export })
    }

    /// Waits until somebody calls [`Server::stop`], or, unless `persistent`, until there was a client that used an
    /// export and all are gone.
    pub fn wait(&self, persistent: bool) {
        let mut clients = self.shared.clients();
        while !clients.stopping && (persistent || clients.served == 0 || !clients.present.is_empty()) {
            clients = self.shared.wait(clients);
        }
    }

    /// Takes no more clients and hangs up on those that are there.
    pub fn stop(&self) {
        let mut clients = self.shared.clients();
        clients.stopping = true;
        clients.present.values().for_each(|client| client.socket.shut_down());
        self.shared.changed.notify_all();
    }
}

/// An export that is shown no more, whose clients may have requests under way.
pub struct Leaving {
    shared: Arc<Shared>,
    export: Arc<Export>,
}

impl Leaving {
    /// They have none.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.clients().users_of(&self.export).next().is_none()
    }

    /// Waits until they have none: for as long as a server beneath is silent, or a limit holds them up that is not lifted.
    pub fn wait(&self) {
        let mut clients = self.shared.clients();
        while clients.users_of(&self.export).next().is_some() {
            clients = self.shared.wait(clients);
        }
    }
}

impl std::fmt::Debug for Leaving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaving").field("export", &self.export.name).finish_non_exhaustive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        let _lifted = Lifted::everywhere();
        let mut clients = self.shared.clients();
        while !clients.present.is_empty() {
            clients = self.shared.wait(clients);
        }
        drop(clients);
        // A full counter is readable already.
        let _ = self.shared.stop.write(1);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

fn accept_all(shared: &Arc<Shared>, listener: &Listener) {
    for number in 0.. {
        let mut clients = shared.clients();
        while !clients.stopping && clients.present.len() >= shared.most {
            clients = shared.wait(clients);
        }
        if clients.stopping {
            return;
        }
        drop(clients);
        sys::wait_either(listener, &shared.stop);
        match listener.accept() {
            Ok(socket) => take_in(shared, number, Arc::new(socket)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                // Out of descriptors, or a client that left at once.
                log::warn!("NBD server: {error}");
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        }
    }
}

fn take_in(shared: &Arc<Shared>, number: u64, socket: Arc<Socket>) {
    let mut clients = shared.clients();
    if clients.stopping {
        return;
    }
    clients.present.insert(number, Present { socket: socket.clone(), export: None });
    drop(clients);
    let mine = shared.clone();
    let started = thread::spawn(ThreadKind::Nbd, "nbd-client", move || {
        if let Err(error) = talk(&mine, number, socket) {
            log::debug!("NBD client: {error}");
        }
        mine.clients().present.remove(&number);
        mine.changed.notify_all();
    });
    if let Err(error) = started {
        log::warn!("NBD server: {error}");
        shared.clients().present.remove(&number);
    }
}

fn talk(shared: &Shared, number: u64, socket: Arc<Socket>) -> io::Result<()> {
    let Some(agreed) = negotiate::negotiate(&socket, &shared.exports)? else { return Ok(()) };
    let mut clients = shared.clients();
    // Removed in the meantime: not even one request.
    let there = shared.exports.get(&agreed.export.name).is_some_and(|now| Arc::ptr_eq(&now, &agreed.export));
    if !there || clients.stopping {
        return Ok(());
    }
    clients.served += 1;
    if let Some(present) = clients.present.get_mut(&number) {
        present.export = Some(agreed.export.clone());
    }
    drop(clients);
    serve::serve(socket, agreed)
}
