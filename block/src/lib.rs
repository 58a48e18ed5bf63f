//! Disk images: raw and qcow2 formats, the node graph, the engines that move bytes. No guest, no bus.

pub mod error;
pub mod format;
pub mod image;
pub mod layer;
pub mod lock;
pub mod mem;
pub mod probe;
pub mod protocol;
mod sys;
pub mod thread;

pub use error::{BlockError, ErrorKind};
pub use image::{Buffers, Completion, Image, ImageInfo, ImageQueue, IoVecs, Op, Request};
