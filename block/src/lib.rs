//! Disk images: raw and qcow2 formats, the node graph, the engines that move bytes. No guest, no bus.

pub mod crypto;
pub mod disk;
pub mod error;
pub mod filter;
pub mod format;
pub mod graph;
mod haste;
pub mod image;
pub mod job;
pub mod layer;
mod let_go;
pub mod lock;
pub mod mem;
pub mod nbd;
pub mod ops;
mod patience;
mod perform;
pub mod pool;
pub mod probe;
pub mod protocol;
mod queue;
mod ring;
pub mod spec;
mod sys;
pub mod thread;
pub mod throttle;

pub use disk::{Disk, Drained};
pub use error::{BlockError, ErrorKind};
pub use image::{Buffers, Completion, Image, ImageInfo, ImageQueue, IoVecs, Op, Request};
pub use queue::ring_available;
