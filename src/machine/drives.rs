//! Disks of the command line: `-drive` and `-blockdev` as nodes of the block graph.

use std::sync::Arc;
use std::time::Duration;

use rhea_block::BlockError;
use rhea_block::graph::{CacheMode, DriveSpec as Opening, Graph};
use rhea_block::spec as block;
use rhea_block::thread::{self, ThreadKind};
use thiserror::Error;

use super::{Machine, throttle};
use crate::board::plan::DrivePlan;
use crate::qmp::QmpError;
use crate::spec::SpecError;
use crate::spec::blockdev::BlockdevOption;
use crate::spec::device::OnError;
use crate::spec::drive::{
    AioMode, CacheMode as Cache, DetectZeroes, DiscardMode, DriveInterface, DriveMedia, DriveSpec,
};

/// A disk of the command line cannot be had.
#[derive(Debug, Error)]
pub enum DriveError {
    /// `-drive`.
    #[error("{typed}")]
    Drive {
        /// The option with its argument.
        typed: String,
        /// Why.
        #[source]
        source: BlockError,
    },
    /// `-blockdev`.
    #[error("{typed}")]
    Blockdev {
        /// The option with its argument.
        typed: String,
        /// Why.
        #[source]
        source: BlockError,
    },
    /// Its arguments.
    #[error("{typed}")]
    Arguments {
        /// The option with its argument.
        typed: String,
        /// Why not.
        #[source]
        source: SpecError,
    },
    /// Limits of `-drive` or `-object`.
    #[error("{what}")]
    Limits {
        /// Whose.
        what: String,
        /// Why not.
        #[source]
        source: BlockError,
    },
    /// What a `-drive` has no way to do here.
    #[error(transparent)]
    Refused(SpecError),
}

/// Opens every `-blockdev`, in order: later ones refer to earlier ones.
///
/// # Errors
/// The first that cannot be opened.
pub(super) fn open_blockdevs(graph: &Graph, all: &[BlockdevOption]) -> Result<(), DriveError> {
    for BlockdevOption { typed, args } in all {
        let spec = args.node().map_err(|source| DriveError::Arguments { typed: typed.clone(), source })?;
        graph.add(&spec).map_err(|source| DriveError::Blockdev { typed: typed.clone(), source })?;
    }
    Ok(())
}

/// Opens every `-drive`; `snapshot` throws writes away where a drive does not say otherwise.
///
/// # Errors
/// The first that cannot be opened.
pub(super) fn open_drives(graph: &Graph, all: &[DriveSpec], snapshot: bool) -> Result<Vec<DrivePlan>, DriveError> {
    let mut opened: Vec<DrivePlan> = Vec::new();
    for drive in all {
        let index = index_of(drive, &opened)?;
        opened.push(open_drive(graph, index, drive, snapshot)?);
        if let Some(taken) = opened.iter().find(|plan| graph.get(&plan.id).is_some()) {
            let text = format!("-drive: Device name '{}' conflicts with an existing node name", taken.id);
            return Err(DriveError::Refused(SpecError::new(text)));
        }
    }
    Ok(opened)
}

impl Machine {
    /// `drive_add` of the human monitor: a drive that waits for a device.
    ///
    /// # Errors
    /// As of `-drive`; and when a device would have to come with it.
    pub(super) fn add_drive(&mut self, drive: &DriveSpec) -> Result<(), QmpError> {
        let refuse = |text: String| Err(QmpError::generic(text));
        if drive.interface != DriveInterface::None {
            return refuse(format!("Can't hot-add drive with if={}; give if=none, and device_add", drive.interface));
        }
        let drives = self.planner.drives();
        let index = index_of(drive, drives).map_err(|error| QmpError::from_error(&error))?;
        let made_up = || made_up_name(drive.interface, drive.options.media, index);
        let id = drive.options.id.clone().unwrap_or_else(made_up);
        if drives.iter().any(|plan| plan.id == id) {
            return refuse(format!("Duplicate ID '{id}' for drive"));
        }
        if self.host.graph.get(&id).is_some() || drive.options.node_name.as_ref() == Some(&id) {
            return refuse(format!("Device name '{id}' conflicts with an existing node name"));
        }
        self.check_node_name(drive.options.node_name.as_deref())?;
        let opened = open_drive(&self.host.graph, index, drive, false).map_err(|error| match &error {
            DriveError::Drive { source, .. } => QmpError::from_error(source),
            other => QmpError::from_error(other),
        })?;
        let waits = self.facts.add_waiting(&opened, &self.host);
        if let (Err(error), Some(node)) = (&waits, &opened.node) {
            // Just opened for this, and nobody else has it.
            let _ = self.host.graph.remove(node);
            return Err(QmpError::from_error(error));
        }
        self.planner.add_drive(opened);
        Ok(())
    }

    /// `drive_del` of the human monitor: a drive that no device has, or a node.
    ///
    /// # Errors
    /// There is none, or it is in use.
    pub(super) fn remove_drive(&mut self, name: &str) -> Result<(), QmpError> {
        if self.host.graph.get(name).is_some() {
            return self.remove_node(name).map(drop);
        }
        let disk = self.facts.find_drive(name).ok_or_else(|| QmpError::device_not_found(name))?;
        let id = disk.id.clone();
        if !disk.is_waiting() {
            return Err(QmpError::generic(format!("Drive '{name}' is of device '{}'; device_del that", disk.qdev)));
        }
        self.empty(&id)?;
        self.forget(&[&id]);
        self.planner.remove_drive(name);
        Ok(())
    }

    /// The device of a disk is gone: a drive goes with it, and what is in it.
    pub(super) fn end_drive(&mut self, id: &str) {
        let Some(disk) = self.facts.disk(id).filter(|disk| !disk.drive.is_empty()) else { return };
        let drive = disk.drive.clone();
        self.host.set_node(id, None);
        if let Err(error) = self.leave_node(id) {
            log::warn!("drive {drive}: {}", error.desc);
        }
        self.planner.remove_drive(&drive);
    }
}

/// How long servers of disks may take for the last writes.
pub(super) const LAST_WRITES: Duration = Duration::from_secs(10);

/// A server that stays silent does not keep the process for ever: requests that it has not answered in time fail.
pub(super) fn bound_waiting(graph: &Arc<Graph>) {
    let graph = Arc::downgrade(graph);
    let watch = move || {
        std::thread::sleep(LAST_WRITES);
        if let Some(graph) = graph.upgrade() {
            graph.give_up_on_servers();
        }
    };
    if let Err(error) = thread::spawn(ThreadKind::Nbd, "last-writes", watch) {
        log::warn!("cannot bound the time of the last writes: {error}");
    }
}

/// PIIX3 has two channels.
const IDE_CHANNELS: u32 = 2;
/// Drives on each.
const IDE_UNITS: u32 = 2;

/// The drive's number on its interface: the one asked for, or the first that is free.
fn index_of(drive: &DriveSpec, opened: &[DrivePlan]) -> Result<u32, DriveError> {
    let (options, interface) = (&drive.options, drive.interface);
    let wrong = |text: String| Err(DriveError::Refused(SpecError::new(text)));
    let taken = |index: u32| opened.iter().any(|other| other.interface == interface && other.index == index);
    let units = if interface == DriveInterface::Ide { IDE_UNITS } else { 1 };
    let by_place = (options.bus.is_some() || options.unit.is_some())
        .then(|| options.bus.unwrap_or(0).saturating_mul(units).saturating_add(options.unit.unwrap_or(0)));
    // Of as many drives as there are, and one more number, one is free.
    let free = || (0..).take(opened.len() + 1).find(|&index| !taken(index));
    let index = options.index.or(by_place).or_else(free).unwrap_or(0);
    if interface != DriveInterface::None && taken(index) {
        return wrong(format!("-drive: index {index} of if={interface} is in use"));
    }
    if interface == DriveInterface::Ide && index >= IDE_CHANNELS * IDE_UNITS {
        return wrong(format!("-drive: there is no IDE drive {index}: two channels have two drives each"));
    }
    Ok(index)
}

/// The name QEMU makes up.
fn made_up_name(interface: DriveInterface, media: DriveMedia, index: u32) -> String {
    let kind = if media == DriveMedia::Cdrom { "cd" } else { "hd" };
    match interface {
        DriveInterface::Ide => format!("ide{}-{kind}{}", index / IDE_UNITS, index % IDE_UNITS),
        other => format!("{other}{index}"),
    }
}

fn open_drive(graph: &Graph, index: u32, drive: &DriveSpec, snapshot: bool) -> Result<DrivePlan, DriveError> {
    let options = &drive.options;
    let cache = cache(options.cache);
    let plan = DrivePlan {
        id: options.id.clone().unwrap_or_else(|| made_up_name(drive.interface, options.media, index)),
        node: None,
        interface: drive.interface,
        index,
        media: options.media,
        read_only: drive.read_only(),
        write_cache: cache.write_cache(),
        on_write_error: options.werror.unwrap_or(OnError::Auto),
        on_read_error: options.rerror.unwrap_or(OnError::Auto),
    };
    let file = options.file.clone().unwrap_or_default();
    let is_empty = file.is_empty() && drive.block.is_empty() && options.format.is_none() && options.node_name.is_none();
    if is_empty {
        // The device that it is for says whether it may be.
        return Ok(plan);
    }
    let opening = Opening {
        file,
        format: options.format.clone(),
        node_name: options.node_name.clone(),
        read_only: drive.read_only(),
        auto_read_only: false,
        direct: cache.direct(),
        no_flush: cache.no_flush(),
        aio: options.aio.map(aio),
        discard: options.discard.map_or(block::Discard::Ignore, discard),
        detect_zeroes: options.detect_zeroes.map_or(block::DetectZeroes::Off, detect_zeroes),
        locking: None,
        force_share: options.force_share.unwrap_or(false),
        snapshot: options.snapshot.unwrap_or(snapshot),
        copy_on_read: options.copy_on_read,
        block: drive.block.clone(),
    };
    let opened =
        graph.open_drive(&opening).map_err(|source| DriveError::Drive { typed: drive.typed.clone(), source })?;
    if let Some(warning) = opened.warning {
        log::warn!("{warning}");
    }
    if let Some(group) = throttle::group_of(graph, options, &plan.id)? {
        opened.node.limit(group);
    }
    Ok(DrivePlan { node: Some(opened.node.name().to_owned()), ..plan })
}

fn cache(mode: Option<Cache>) -> CacheMode {
    match mode {
        None | Some(Cache::Writeback) => CacheMode::Writeback,
        Some(Cache::None | Cache::Off) => CacheMode::None,
        Some(Cache::Writethrough) => CacheMode::Writethrough,
        Some(Cache::Directsync) => CacheMode::Directsync,
        Some(Cache::Unsafe) => CacheMode::Unsafe,
    }
}

fn aio(mode: AioMode) -> block::Aio {
    match mode {
        AioMode::Threads => block::Aio::Threads,
        AioMode::IoUring => block::Aio::IoUring,
        AioMode::Native => block::Aio::Native,
    }
}

fn discard(mode: DiscardMode) -> block::Discard {
    match mode {
        DiscardMode::Ignore | DiscardMode::Off => block::Discard::Ignore,
        DiscardMode::Unmap | DiscardMode::On => block::Discard::Unmap,
    }
}

fn detect_zeroes(mode: DetectZeroes) -> block::DetectZeroes {
    match mode {
        DetectZeroes::Off => block::DetectZeroes::Off,
        DetectZeroes::On => block::DetectZeroes::On,
        DetectZeroes::Unmap => block::DetectZeroes::Unmap,
    }
}
