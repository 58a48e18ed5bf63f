//! A whole request with a layer's synchronous methods, on whatever thread may wait for them.

use crate::error::BlockError;
use crate::image::{Op, Request};
use crate::layer::Layer;
use crate::mem::{Sink, Source};

/// What a request is told when a worker or the kernel does it.
pub(crate) fn errno_of(error: &BlockError) -> i32 {
    log::debug!("disk request failed: {error}");
    error.errno()
}

/// Does a request with the layer's synchronous methods.
pub(crate) fn perform(layer: &dyn Layer, request: &Request, write_through: bool) -> Result<(), BlockError> {
    let (offset, len) = (request.offset, request.len);
    let durable = match request.op {
        Op::Read => {
            layer.read(Sink::buffers(&request.buffers), offset)?;
            false
        }
        Op::Write { fua } => {
            layer.write(Source::buffers(&request.buffers), offset)?;
            fua || write_through
        }
        Op::Flush => true,
        Op::Discard => {
            layer.discard(offset, len)?;
            write_through
        }
        Op::WriteZeroes { unmap, fua } => {
            layer.write_zeroes(offset, len, unmap)?;
            fua || write_through
        }
    };
    if durable { layer.flush() } else { Ok(()) }
}
