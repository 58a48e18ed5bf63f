//! What stands behind `-object` and `object-add` in this process.

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use rhea_block::BlockError;
use rhea_block::graph::Graph;
use rhea_devices::virtio::iothread::{IoThread, Polling, Tuning};
use rhea_devices::virtio::rng::RngSource;
use thiserror::Error;

use crate::secret::SecretError;
use crate::spec::object::{IothreadSpec, ObjectSpec};

/// An object that cannot be had.
#[derive(Debug, Error)]
pub enum ObjectError {
    /// A secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A group of limits.
    #[error(transparent)]
    Limits(#[from] BlockError),
    /// Where random numbers come from.
    #[error("Could not open '{path}'")]
    Random {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An I/O thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// Makes what stands behind an object; gives the thread of an `iothread`.
///
/// # Errors
/// Its file cannot be read, its name is taken, its limits contradict each other, or a thread cannot be started.
pub(super) fn make(graph: &Graph, object: &ObjectSpec) -> Result<Option<Arc<IoThread>>, ObjectError> {
    match object {
        ObjectSpec::Secret(secret) => crate::secret::add(graph.secrets(), secret)?,
        ObjectSpec::ThrottleGroup(group) => super::throttle::add_group(graph, group)?,
        // Each device opens it for itself: this is for who has mistyped it.
        ObjectSpec::RngRandom(random) => {
            let path = random.filename.clone();
            RngSource::open(&random.filename).map(drop).map_err(|source| ObjectError::Random { path, source })?;
        }
        ObjectSpec::Iothread(thread) => {
            return IoThread::tuned(&thread.thread_name(), &tuning(thread)).map(Some).map_err(ObjectError::Thread);
        }
        // Memory is the board's, and the kernel's generator is always there.
        ObjectSpec::MemoryRam(_)
        | ObjectSpec::MemoryMemfd(_)
        | ObjectSpec::MemoryFile(_)
        | ObjectSpec::RngBuiltin(_) => {}
    }
    Ok(None)
}

/// What an `iothread` object tells its thread.
pub(super) fn tuning(spec: &IothreadSpec) -> Tuning {
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    let count = |number: i64| usize::try_from(number).unwrap_or(usize::MAX);
    Tuning {
        polling: Polling {
            max: number(spec.poll_max_ns),
            grow: number(spec.poll_grow),
            shrink: number(spec.poll_shrink),
        },
        batch: NonZeroUsize::new(count(spec.aio_max_batch)),
        workers: count(spec.thread_pool_min)..=count(spec.thread_pool_max),
    }
}
