//! The tray: what the guest and the host may do with it.

use std::sync::Arc;

use rhea_block::{BlockError, Image};
use thiserror::Error;

use crate::scsi::cdb::Cdb;
use crate::scsi::commands::Run;
use crate::scsi::medium::Medium;
use crate::scsi::plan::{Plan, Reply};
use crate::scsi::sense::{self, Sense};
use crate::scsi::state::State;
use crate::scsi::unit::{LogicalUnit, UnitChange, UnitKind};

/// Where the tray is and what the guest has yet to hear of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::scsi) struct TrayState {
    pub(in crate::scsi) open: bool,
    /// The guest prevents removal.
    pub(in crate::scsi) locked: bool,
    /// A medium came or went.
    pub(in crate::scsi) media_event: bool,
    /// The host asks the guest to let go of the medium.
    pub(in crate::scsi) eject_request: bool,
}

/// The tray as `query-block` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tray {
    /// It is out.
    pub open: bool,
    /// The guest prevents removal.
    pub locked: bool,
    /// There is a medium in it.
    pub loaded: bool,
}

impl Tray {
    pub(in crate::scsi) fn of(state: &State) -> Self {
        Self { open: state.tray.open, locked: state.tray.locked, loaded: state.medium.is_some() }
    }
}

/// The guest moved the tray (`DEVICE_TRAY_MOVED`; the host's own moves it knows of).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrayMoved {
    /// Where it is now.
    pub open: bool,
}

pub(in crate::scsi) type Listener = Box<dyn Fn(TrayMoved) + Send + Sync>;

/// The host cannot have its way with a medium.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EjectRefused {
    /// The unit is a disk.
    #[error("\"{0}\" is not removable")]
    NotRemovable(String),
    /// The guest holds the medium; it has been asked to let go.
    #[error("\"{0}\" is locked: wait for the guest to open the tray and try again, or use force")]
    Locked(String),
    /// A medium comes in and goes out through an open tray.
    #[error("the tray of \"{0}\" is not open")]
    Closed(String),
    /// There is a medium already.
    #[error("there is a medium in \"{0}\" already")]
    Loaded(String),
    /// The image cannot be used.
    #[error("cannot use the medium for \"{id}\"")]
    Medium {
        /// Name of the unit.
        id: String,
        /// Why.
        #[source]
        source: BlockError,
    },
}

impl LogicalUnit {
    fn removable(&self) -> Result<(), EjectRefused> {
        match self.config.kind {
            UnitKind::Cd => Ok(()),
            UnitKind::Disk => Err(EjectRefused::NotRemovable(self.config.id.clone())),
        }
    }

    /// Asks to be told when the guest moves the tray; once. Called on a vCPU or disk thread: must not wait.
    pub fn on_tray_moved(&self, listener: impl Fn(TrayMoved) + Send + Sync + 'static) {
        if self.tray_listener.set(Box::new(listener)).is_err() {
            log::error!("the tray of \"{}\" has two listeners", self.config.id);
        }
    }

    /// Opens the tray from the host's side; says whether it was closed. With `force`, whatever the guest says.
    ///
    /// # Errors
    /// [`EjectRefused::Locked`]: the guest has been asked to eject. [`EjectRefused::NotRemovable`].
    pub fn open_tray(&self, force: bool) -> Result<bool, EjectRefused> {
        self.removable()?;
        let mut state = self.lock();
        if state.tray.open {
            return Ok(false);
        }
        if state.tray.locked && !force {
            state.tray.eject_request = true;
            drop(state);
            self.tell(UnitChange::Medium);
            return Err(EjectRefused::Locked(self.config.id.clone()));
        }
        state.tray = TrayState { open: true, locked: false, media_event: true, eject_request: false };
        if state.medium.is_some() {
            state.attend(sense::ATTENTION_NO_MEDIUM);
        }
        drop(state);
        self.tell(UnitChange::Medium);
        Ok(true)
    }

    /// Closes the tray from the host's side; says whether it was open.
    ///
    /// # Errors
    /// [`EjectRefused::NotRemovable`].
    pub fn close_tray(&self) -> Result<bool, EjectRefused> {
        self.removable()?;
        let mut state = self.lock();
        let was_open = std::mem::take(&mut state.tray.open);
        if was_open {
            loaded(&mut state);
        }
        drop(state);
        if was_open {
            self.tell(UnitChange::Medium);
        }
        Ok(was_open)
    }

    /// Puts a medium into the open tray.
    ///
    /// # Errors
    /// See [`EjectRefused`].
    pub fn insert(self: &Arc<Self>, image: &Arc<dyn Image>) -> Result<(), EjectRefused> {
        self.removable()?;
        let id = || self.config.id.clone();
        let paths = self.lock().paths;
        let medium = match paths {
            Some((paths, depth)) => Medium::open(Arc::clone(image), paths, depth),
            None => Ok(Medium::unopened(Arc::clone(image))),
        };
        let medium = medium.map_err(|source| EjectRefused::Medium { id: id(), source })?;
        let mut state = self.lock();
        if !state.tray.open {
            return Err(EjectRefused::Closed(id()));
        }
        if state.medium.is_some() {
            return Err(EjectRefused::Loaded(id()));
        }
        state.medium = Some(medium);
        drop(state);
        self.watch(image);
        Ok(())
    }

    /// Takes the medium, if any, out of the open tray. What the guest has in flight on it still ends.
    ///
    /// # Errors
    /// See [`EjectRefused`].
    pub fn remove(&self) -> Result<Option<Arc<dyn Image>>, EjectRefused> {
        self.removable()?;
        let mut state = self.lock();
        if !state.tray.open {
            return Err(EjectRefused::Closed(self.config.id.clone()));
        }
        let medium = state.medium.take();
        drop(state);
        // The front end lets go of its queues.
        self.tell(UnitChange::Medium);
        Ok(medium.map(|medium| Arc::clone(medium.image())))
    }
}

/// The tray went in: guests that do not ask for events learn of a change by two unit attentions, first that there was
/// no medium, then that there is another one.
fn loaded(state: &mut State) {
    state.tray.media_event = true;
    state.tray.eject_request = false;
    if state.medium.is_some() {
        state.attend(sense::ATTENTION_NO_MEDIUM);
        state.attend(sense::ATTENTION_MEDIUM_CHANGED);
    }
}

/// START STOP UNIT (MMC-6, 6.40).
pub(super) fn start_stop(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let (power_condition, load_eject, start) = (cdb.byte(4) >> 4, cdb.has(4, 2), cdb.has(4, 1));
    if power_condition != 0 || !load_eject {
        // Power conditions need nothing done; a drive spins up when it is read.
        return Ok(Reply::good().into());
    }
    let state = &mut *run.state;
    if !start && !state.tray.open && state.tray.locked {
        let loaded = state.medium.is_some();
        return Err(if loaded { sense::REMOVAL_PREVENTED } else { sense::REMOVAL_PREVENTED_NOT_READY });
    }
    let open = !start;
    if state.tray.open != open {
        state.tray.open = open;
        if open {
            state.tray.media_event = true;
            state.tray.eject_request = false;
        } else {
            loaded(state);
        }
        if let Some(listener) = run.unit.tray_listener.get() {
            listener(TrayMoved { open });
        }
    }
    Ok(Reply::good().into())
}

/// PREVENT ALLOW MEDIUM REMOVAL (MMC-6, 6.12).
pub(super) fn prevent(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    run.state.tray.locked = cdb.has(4, 1);
    Ok(Reply::good().into())
}
