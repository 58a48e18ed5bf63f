//! Disks of the command line: `-drive` and `-blockdev` as nodes of the block graph.

use rhea_block::BlockError;
use rhea_block::graph::{CacheMode, DriveSpec as Opening, Graph};
use rhea_block::spec::{self as block, BlockdevSpec};
use thiserror::Error;

use crate::board::plan::DrivePlan;
use crate::spec::device::OnError;
use crate::spec::drive::{AioMode, CacheMode as Cache, DetectZeroes, DiscardMode, DriveInterface, DriveSpec};
use crate::spec::{BlockdevArgs, SpecError};

/// A disk of the command line cannot be had.
#[derive(Debug, Error)]
pub enum DriveError {
    /// `-drive`.
    #[error("-drive file={file}")]
    Drive {
        /// Its file.
        file: String,
        /// Why.
        #[source]
        source: BlockError,
    },
    /// `-drive` without `file=`.
    #[error("-drive: no file given; a virtio disk has no removable medium, so give file=")]
    NoFile,
    /// `-blockdev`.
    #[error("-blockdev node-name={node}")]
    Blockdev {
        /// Its name.
        node: String,
        /// Why.
        #[source]
        source: BlockError,
    },
    /// Its arguments.
    #[error("-blockdev")]
    Arguments(#[source] serde_json::Error),
    /// What a `-drive` has no way to do here.
    #[error(transparent)]
    Refused(SpecError),
}

/// Opens every `-blockdev`, in order: later ones refer to earlier ones.
///
/// # Errors
/// The first that cannot be opened.
pub(super) fn open_blockdevs(graph: &Graph, all: &[BlockdevArgs]) -> Result<(), DriveError> {
    for args in all {
        let options = serde_json::Value::Object(args.options.clone());
        let spec: BlockdevSpec = serde_json::from_value(options).map_err(DriveError::Arguments)?;
        let node = spec.node_name().unwrap_or_default().to_owned();
        graph.add(&spec).map_err(|source| DriveError::Blockdev { node, source })?;
    }
    Ok(())
}

/// Opens every `-drive`; `snapshot` throws writes away where a drive does not say otherwise.
///
/// # Errors
/// The first that cannot be opened.
pub(super) fn open_drives(graph: &Graph, all: &[DriveSpec], snapshot: bool) -> Result<Vec<DrivePlan>, DriveError> {
    all.iter().enumerate().map(|(number, drive)| open_drive(graph, number, drive, snapshot)).collect()
}

fn open_drive(graph: &Graph, number: usize, drive: &DriveSpec, snapshot: bool) -> Result<DrivePlan, DriveError> {
    let options = &drive.options;
    refuse(drive)?;
    let file = options.file.clone().ok_or(DriveError::NoFile)?;
    let cache = cache(options.cache);
    // QEMU counts the drives of an interface.
    let number = options.index.map_or(number, |index| index as usize);
    let id = options.id.clone().unwrap_or_else(|| match drive.interface {
        DriveInterface::Virtio => format!("virtio{number}"),
        other => format!("{other}{number}"),
    });
    let opening = Opening {
        file: file.clone(),
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
    };
    let opened = graph.open_drive(&opening).map_err(|source| DriveError::Drive { file, source })?;
    if let Some(warning) = opened.warning {
        log::warn!("{warning}");
    }
    Ok(DrivePlan {
        id,
        node: opened.node.name().to_owned(),
        write_cache: cache.write_cache(),
        on_write_error: options.werror.unwrap_or(OnError::Auto),
        on_read_error: options.rerror.unwrap_or(OnError::Auto),
        own_device: drive.interface == DriveInterface::Virtio,
    })
}

fn refuse(drive: &DriveSpec) -> Result<(), DriveError> {
    let options = &drive.options;
    let blockdev = "use -blockdev and -device virtio-blk-pci";
    let wrong = [
        (options.copy_on_read, "-drive: 'copy-on-read=on'"),
        (options.throttling != Default::default(), "-drive: 'throttling'"),
        (options.throttling_group.is_some(), "-drive: 'throttling.group'"),
        (!drive.block.is_empty(), "-drive: options of one format or protocol"),
    ];
    match wrong.iter().find(|(wrong, _)| *wrong) {
        Some((_, what)) => Err(DriveError::Refused(SpecError::refused(what, blockdev))),
        None => Ok(()),
    }
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
