//! All character devices by name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::config::{Backend, Config};
use super::fdset::FdTable;
use super::io_loop::IoLoop;
use super::mux::{EscapeHook, Mux};
use super::open::open;
use super::{Chardev, ChardevError};
use crate::qmp::reply::monitor::{ChardevBackendInfo, ChardevInfo};
use crate::spec::ChardevSpec;
use crate::spec::describe::DescribeUnion;

/// How long the end of the process waits for readers of what the guest wrote last.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The devices, the thread that serves them and the descriptors they may be made of.
pub struct Chardevs {
    io: Arc<IoLoop>,
    fds: Arc<FdTable>,
    escapes: EscapeHook,
    devices: Mutex<BTreeMap<String, Entry>>,
}

enum Entry {
    Plain(Arc<dyn Chardev>),
    Muxed(Arc<Mux>),
}

impl Entry {
    /// A front end is attached.
    fn is_busy(&self) -> bool {
        match self {
            Self::Plain(device) => device.is_busy(),
            Self::Muxed(mux) => mux.is_busy(),
        }
    }

    /// What is at the host's end.
    fn host(&self) -> &Arc<dyn Chardev> {
        match self {
            Self::Plain(device) => device,
            Self::Muxed(mux) => mux.below(),
        }
    }
}

impl Chardevs {
    /// Starts the console thread. `escapes` is told what is typed on a mux for the whole machine.
    ///
    /// # Errors
    ///
    /// The process is out of descriptors or threads.
    pub fn new(fds: Arc<FdTable>, escapes: EscapeHook) -> std::io::Result<Self> {
        Ok(Self { io: IoLoop::start()?, fds, escapes, devices: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The descriptors.
    pub fn fds(&self) -> &Arc<FdTable> {
        &self.fds
    }

    /// Makes a device. A server with `wait=on` returns when its client is there. Answers the path of a new terminal.
    ///
    /// # Errors
    ///
    /// The name is taken, or the host refuses.
    pub fn add(&self, config: &Config) -> Result<Option<String>, ChardevError> {
        if self.lock().contains_key(&config.label) {
            return Err(ChardevError::Exists(config.label.clone()));
        }
        let (entry, pty) = self.make(config)?;
        self.lock().insert(config.label.clone(), entry);
        Ok(pty)
    }

    fn make(&self, config: &Config) -> Result<(Entry, Option<String>), ChardevError> {
        if let Backend::Mux { chardev } = &config.backend {
            let below = self.frontend(chardev)?;
            return Ok((self.mux(config, below), None));
        }
        let opened = open(config, &self.fds, &self.io)?;
        let entry = if config.mux { self.mux(config, opened.device) } else { Entry::Plain(opened.device) };
        Ok((entry, opened.pty))
    }

    fn mux(&self, config: &Config, below: Arc<dyn Chardev>) -> Entry {
        Entry::Muxed(Mux::new(&config.label, below, Arc::clone(&self.escapes)))
    }

    /// The line that tells where a new terminal is; tools look for it.
    pub fn announcement(label: &str, pty: &str) -> String {
        format!("char device redirected to {pty} (label {label})")
    }

    /// The host end for one front end. A mux gives each its own; anything else has one.
    ///
    /// # Errors
    ///
    /// There is none of this name, or a front end has it.
    pub fn frontend(&self, label: &str) -> Result<Arc<dyn Chardev>, ChardevError> {
        let devices = self.lock();
        let busy = || ChardevError::Busy(label.to_owned());
        match devices.get(label) {
            None => Err(ChardevError::NotFound(label.to_owned())),
            Some(Entry::Plain(device)) if device.is_busy() => Err(busy()),
            Some(Entry::Plain(device)) => Ok(Arc::clone(device)),
            Some(Entry::Muxed(mux)) => mux.add_face().map(|face| Arc::new(face) as Arc<dyn Chardev>).ok_or_else(busy),
        }
    }

    /// The host end itself, for ring buffers and breaks.
    ///
    /// # Errors
    ///
    /// There is none of this name.
    pub fn device(&self, label: &str) -> Result<Arc<dyn Chardev>, ChardevError> {
        let missing = || ChardevError::NotFound(label.to_owned());
        self.lock().get(label).map(|entry| Arc::clone(entry.host())).ok_or_else(missing)
    }

    /// Removes a device.
    ///
    /// # Errors
    ///
    /// There is none of this name, or a front end has it.
    pub fn remove(&self, label: &str) -> Result<(), ChardevError> {
        let mut devices = self.lock();
        let entry = devices.get(label).ok_or_else(|| ChardevError::NotFound(label.to_owned()))?;
        if entry.is_busy() {
            return Err(ChardevError::Busy(label.to_owned()));
        }
        if let Some(entry) = devices.remove(label) {
            entry.host().finish(Instant::now());
        }
        Ok(())
    }

    /// `query-chardev`.
    pub fn query(&self) -> Vec<ChardevInfo> {
        let info = |(label, entry): (&String, &Entry)| ChardevInfo {
            label: label.clone(),
            filename: entry.host().filename(),
            frontend_open: entry.host().frontend_open(),
        };
        self.lock().iter().map(info).collect()
    }

    /// `query-chardev-backends`.
    pub fn backends() -> Vec<ChardevBackendInfo> {
        let names =
            ChardevSpec::UNION.variants.iter().flat_map(|kind| [kind.name].into_iter().chain(kind.aliases.to_vec()));
        names.map(|name| ChardevBackendInfo { name: name.to_owned() }).collect()
    }

    /// Writes out what waits and gives the terminal back: the last thing before the process ends.
    pub fn shut_down(&self) {
        self.io.stop();
        let until = Instant::now() + LAST_WORDS;
        for entry in self.lock().values() {
            entry.host().finish(until);
        }
        self.lock().clear();
        super::terminal::restore();
    }
}

impl std::fmt::Debug for Chardevs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.lock().keys()).finish()
    }
}
