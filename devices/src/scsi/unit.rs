//! One logical unit: what it is made of, and the way of a command through it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use rhea_block::{BlockError, Image, ImageInfo};
use thiserror::Error;

use super::abort::{Abort, Victims};
use super::cdb::Cdb;
use super::claims::{Busy, Claim};
use super::commands::{COMMON, Command, Run};
use super::medium::Medium;
use super::plan::{Media, Plan, Reply};
use super::reserve::{Nexus, Reservations};
use super::sense::{self, Sense, status};
use super::state::{State, UnitState};
use super::{Tray, cd, disk};
use crate::block_sizes::{BlockSizeError, BlockSizes};
use crate::geometry::Geometry;

/// What kind of device a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitKind {
    /// A direct-access block device (`scsi-hd`).
    Disk,
    /// A CD or DVD drive (`scsi-cd`, and `ide-cd` behind ATAPI).
    Cd,
}

/// Properties of a unit. Texts are cut to what their fields take.
#[derive(Debug, Clone)]
pub struct UnitConfig {
    /// What it is.
    pub kind: UnitKind,
    /// Name in logs.
    pub id: String,
    /// `vendor`: 8 bytes.
    pub vendor: String,
    /// `product`: 16 bytes.
    pub product: String,
    /// `ver`: 4 bytes.
    pub version: String,
    /// `serial`: 36 bytes; empty for none.
    pub serial: String,
    /// `device_id`: up to 247 bytes that name the unit; `None` for the serial number.
    pub device_id: Option<String>,
    /// `wwn`: a 64-bit NAA name; 0 for none.
    pub wwn: u64,
    /// `port_wwn`: the target port's 64-bit NAA name; 0 for none.
    pub port_wwn: u64,
    /// `port_index`: the relative target port; 0 for none.
    pub port_index: u16,
    /// Block sizes; CD drives have 2048. A discard granularity of 0 is no discard, that of the image is at least 4096.
    pub sizes: BlockSizes,
    /// `max_unmap_size`: most bytes of one UNMAP range.
    pub max_unmap_size: u64,
    /// `max_io_size`: most bytes of one read or write.
    pub max_io_size: u64,
    /// `rotation_rate`: 0 for untold, 1 for no rotation, else turns in a minute.
    pub rotation_rate: u16,
    /// `removable`: what a disk says; CD drives always are.
    pub removable: bool,
    /// The unit is reached by ATAPI: one command at a time, and the interface that a CD drive names.
    pub atapi: bool,
    /// `dpofua`: a disk says that writes can be forced.
    pub dpofua: bool,
    /// `write-cache` of a disk: whether writes may stay in a volatile cache; `None` (auto) for as the image does.
    pub write_cache: Option<bool>,
    /// `cyls`, `heads`, `secs`; `None` for a guess.
    pub geometry: Option<Geometry>,
}

impl UnitConfig {
    /// QEMU's defaults for `scsi-hd`.
    #[must_use]
    pub fn disk(id: impl Into<String>) -> Self {
        Self {
            kind: UnitKind::Disk,
            id: id.into(),
            vendor: "QEMU".to_owned(),
            product: "QEMU HARDDISK".to_owned(),
            version: "2.5+".to_owned(),
            serial: String::new(),
            device_id: None,
            wwn: 0,
            port_wwn: 0,
            port_index: 0,
            sizes: BlockSizes::of(512),
            max_unmap_size: 1 << 30,
            max_io_size: i32::MAX as u64,
            rotation_rate: 0,
            removable: false,
            atapi: false,
            dpofua: false,
            write_cache: None,
            geometry: None,
        }
    }

    /// QEMU's defaults for `scsi-cd`.
    #[must_use]
    pub fn cd(id: impl Into<String>) -> Self {
        Self {
            kind: UnitKind::Cd,
            product: "QEMU CD-ROM".to_owned(),
            sizes: BlockSizes::of(cd::SECTOR),
            removable: true,
            ..Self::disk(id)
        }
    }

    /// QEMU's defaults for `ide-cd`.
    #[must_use]
    pub fn atapi_cd(id: impl Into<String>) -> Self {
        Self { product: "QEMU DVD-ROM".to_owned(), atapi: true, ..Self::cd(id) }
    }

    fn check(&self) -> Result<(), UnitConfigError> {
        self.sizes.check()?;
        let logical = self.sizes.logical;
        if self.kind == UnitKind::Cd && logical != cd::SECTOR {
            return Err(UnitConfigError::CdSector(logical));
        }
        Ok(())
    }
}

/// A property has a value that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UnitConfigError {
    /// The block sizes.
    #[error(transparent)]
    Sizes(#[from] BlockSizeError),
    /// A CD drive with other sectors.
    #[error("the sectors of a CD drive have 2048 bytes, not {0}")]
    CdSector(u32),
    /// A disk without a disk.
    #[error("disk \"{0}\" has no image")]
    NoImage(String),
}

/// What changed about a unit from the host's side; told to the front end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitChange {
    /// It has another size.
    Capacity,
    /// A medium came or went, or the guest is asked to let it go.
    Medium,
}

type Listener = Box<dyn Fn(UnitChange) + Send + Sync>;

/// A logical unit.
///
/// Its one lock is held for as long as it takes to look at a command, never while an image works.
pub struct LogicalUnit {
    pub(super) config: UnitConfig,

    pub(super) nexus: Nexus,
    listener: OnceLock<Listener>,
    pub(super) tray_listener: OnceLock<cd::tray::Listener>,

    state: Mutex<State>,
}

impl LogicalUnit {
    /// A unit with `image` in it; only CD drives can do without.
    ///
    /// # Errors
    /// When a property has a value that cannot be, or a disk has no image.
    pub fn new(
        config: UnitConfig,
        image: Option<Arc<dyn Image>>,
        reservations: &Arc<Reservations>,
    ) -> Result<Arc<Self>, UnitConfigError> {
        config.check()?;
        if image.is_none() && config.kind == UnitKind::Disk {
            return Err(UnitConfigError::NoImage(config.id));
        }
        let unit = Arc::new(Self {
            config,
            nexus: reservations.join(),
            listener: OnceLock::new(),
            tray_listener: OnceLock::new(),
            state: Mutex::new(State::default()),
        });
        if let Some(image) = image {
            unit.watch(&image);
            unit.lock().medium = Some(Medium::unopened(image));
        }
        unit.power_on();
        Ok(unit)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn watch(self: &Arc<Self>, image: &Arc<dyn Image>) {
        let weak: Weak<Self> = Arc::downgrade(self);
        let size = Mutex::new(image.info().size);
        let of = Arc::downgrade(image);
        image.on_change(Box::new(move |info| {
            let Some(unit) = weak.upgrade() else { return };
            let before = std::mem::replace(&mut *size.lock().unwrap_or_else(PoisonError::into_inner), info.size);
            let here = unit.lock().medium.as_ref().is_some_and(|medium| of.ptr_eq(&Arc::downgrade(medium.image())));
            if before != info.size && here {
                unit.lock().attend(sense::ATTENTION_CAPACITY_CHANGED);
                unit.tell(UnitChange::Capacity);
            }
        }));
    }

    /// Properties.
    #[must_use]
    pub fn config(&self) -> &UnitConfig {
        &self.config
    }

    /// Asks to be told what the host changes; the front end does once.
    pub fn on_change(&self, listener: impl Fn(UnitChange) + Send + Sync + 'static) {
        if self.listener.set(Box::new(listener)).is_err() {
            log::error!("unit \"{}\" has two front ends", self.config.id);
        }
    }

    /// Has `abort` end the commands of this unit's front end, when another unit of the same image wants that.
    pub fn on_abort(&self, abort: Arc<Abort>) {
        self.nexus.on_abort(abort);
    }

    /// How often others had this unit's commands ended: one that was looked at before it became more, and that
    /// [`LogicalUnit::on_abort`] could not find, is to end, too.
    #[must_use]
    pub fn aborts(&self) -> usize {
        self.nexus.aborts()
    }

    pub(super) fn tell(&self, change: UnitChange) {
        if let Some(listener) = self.listener.get() {
            listener(change);
        }
    }

    /// Opens queues to the medium, now and for each one that comes: `paths` of up to `depth` requests.
    ///
    /// # Errors
    /// When the host has no descriptors or memory left.
    pub fn attach(&self, paths: u16, depth: u32) -> Result<(), BlockError> {
        let image = self.medium().map(|medium| Arc::clone(medium.image()));
        let medium = image.map(|image| Medium::open(image, paths, depth)).transpose()?;
        let mut state = self.lock();
        state.paths = Some((paths, depth));
        state.medium = medium;
        Ok(())
    }

    /// What is in it.
    #[must_use]
    pub fn medium(&self) -> Option<Arc<Medium>> {
        self.lock().medium.clone()
    }

    /// Facts about the image in it.
    #[must_use]
    pub fn info(&self) -> Option<ImageInfo> {
        self.medium().map(|medium| medium.info())
    }

    /// Back to the state after power-on: registrations and reservations are gone, as nothing persists through a loss of
    /// power (SPC-5, 5.14).
    pub fn power_on(&self) {
        self.nexus.power_off();
        self.reset();
    }

    /// A logical unit reset (SAM-6, 6.3.3), which concerns all units that show its image: their commands are to end.
    #[must_use]
    pub fn reset_for_all(&self) -> Victims {
        self.reset();
        self.nexus.reset_others()
    }

    /// A reset of its nexus or of its bus: registrations and persistent reservations stay, as power does (SPC-5, 5.14). The
    /// one unit attention that waits then is the reset's.
    pub fn reset(&self) {
        self.nexus.reset();
        let info = self.info();
        let mut state = self.lock();
        state.attention.clear();
        state.last_sense = None;
        state.stopped = false;
        state.tray = cd::tray::TrayState::default();
        let cached = info.is_some_and(|info| info.write_cache);
        state.write_cache = self.config.kind == UnitKind::Disk && self.config.write_cache.unwrap_or(cached);
        state.attend(sense::ATTENTION_RESET);
    }

    /// Forgets that it was switched on: behind ATAPI, drives of virtual machines do not tell.
    pub fn forget_power_on(&self) {
        self.lock().attention.retain(|sense| *sense != sense::ATTENTION_RESET);
    }

    /// Units came to or went from the target.
    pub fn luns_changed(&self) {
        self.lock().attend(sense::ATTENTION_LUNS_CHANGED);
    }

    /// The initiator was told which units there are: what it was to look at is looked at.
    pub fn luns_reported(&self) {
        self.lock().attention.retain(|sense| *sense != sense::ATTENTION_LUNS_CHANGED);
    }

    /// Keeps the sense data of a command for the next REQUEST SENSE: for front ends that do not send it along. Every
    /// other command makes it forgotten.
    pub fn keep_sense(&self, sense: Option<Sense>) {
        self.lock().last_sense = sense;
    }

    pub(super) fn commands(&self) -> impl Iterator<Item = &'static Command> {
        let own: &'static [Command] = match self.config.kind {
            UnitKind::Disk => &disk::COMMANDS,
            UnitKind::Cd => &cd::COMMANDS,
        };
        own.iter().chain(&COMMON)
    }

    fn command(&self, cdb: &Cdb) -> Result<&'static Command, Sense> {
        let (opcode, action) = (cdb.opcode(), cdb.action());
        if let Some(command) = self.commands().find(|command| command.is(opcode, action)) {
            return Ok(command);
        }
        if self.config.kind == UnitKind::Cd && cd::WRITES.contains(&opcode) {
            return Err(sense::WRITE_PROTECTED);
        }
        // A known operation code with an unknown service action is another fault (SPC-5, 4.2.5.2).
        let known = self.commands().any(|command| command.usage.first() == Some(&opcode));
        Err(if known { sense::INVALID_FIELD.in_byte(1) } else { sense::INVALID_OPCODE })
    }

    /// The oldest unit attention: this nexus's own, or what another did to it.
    pub(super) fn take_attention(&self, state: &mut State) -> Option<Sense> {
        state.attention.pop_front().or_else(|| self.nexus.take_attention())
    }

    /// Looks at a command.
    #[must_use]
    pub fn begin(&self, cdb: &Cdb) -> Plan {
        let command = match self.command(cdb) {
            Ok(command) => command,
            Err(sense) => return Reply::check(sense).into(),
        };
        let state = &mut *self.lock();
        if !command.quiet
            && let Some(sense) = self.take_attention(state)
        {
            return Reply::check(sense).into();
        }
        if !self.nexus.allows(command.access) {
            return Reply::bare(status::RESERVATION_CONFLICT).into();
        }
        if command.medium
            && let Err(sense) = self.ready(state)
        {
            return Reply::check(sense).into();
        }
        (command.run)(&mut Run { unit: self, state }, cdb).unwrap_or_else(|sense| Reply::check(sense).into())
    }

    /// Goes on with a command that asked for parameters.
    #[must_use]
    pub fn parameters(&self, cdb: &Cdb, data: &[u8]) -> Plan {
        let taker = self.command(cdb).and_then(|command| command.take.ok_or(sense::INVALID_FIELD));
        let state = &mut *self.lock();
        let plan = taker.and_then(|take| take(&mut Run { unit: self, state }, cdb, data));
        plan.unwrap_or_else(|sense| Reply::check(sense).into())
    }

    /// Takes the part of the image that a command changes, until the claim is dropped.
    ///
    /// # Errors
    /// [`Busy`] when another command has to be alone with it, or this one has: the answer is [`status::BUSY`].
    pub fn claim(&self, media: &Media) -> Result<Option<Claim>, Busy> {
        self.nexus.claim(media)
    }

    /// Whether the medium can be reached.
    pub(super) fn ready(&self, state: &State) -> Result<(), Sense> {
        if self.config.kind == UnitKind::Cd && state.tray.open {
            return Err(sense::NO_MEDIUM_TRAY_OPEN);
        }
        if state.medium.is_none() {
            return Err(sense::NO_MEDIUM);
        }
        if state.stopped { Err(sense::NOT_STARTED) } else { Ok(()) }
    }

    /// The tray and what is in it.
    #[must_use]
    pub fn tray(&self) -> Tray {
        Tray::of(&self.lock())
    }

    /// State to save.
    #[must_use]
    pub fn save(&self) -> UnitState {
        UnitState::of(&self.lock(), self.nexus.save())
    }

    /// Takes saved state on.
    ///
    /// # Errors
    /// Says what does not fit; the unit is then as it was.
    pub fn restore(&self, saved: &UnitState) -> Result<(), String> {
        saved.check()?;
        self.nexus.restore(saved.reservation());
        saved.apply(&mut self.lock());
        Ok(())
    }
}
