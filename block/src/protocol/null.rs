//! Drivers `null-co` and `null-aio`: a disk of nothing, for measurements.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::BlockError;
use crate::layer::{Fast, FastOp, Layer, Limits, Preallocation, Status};
use crate::mem::{Sink, Source};

/// A disk that forgets what is written. Reads give zeroes, or leave the memory alone where `read_zeroes` is off.
#[derive(Debug)]
pub struct Null {
    driver: &'static str,
    size: AtomicU64,
    read_zeroes: bool,
    read_only: bool,
}

impl Null {
    /// A disk of `size` bytes that calls itself `driver`.
    #[must_use]
    pub fn new(driver: &'static str, size: u64, read_zeroes: bool, read_only: bool) -> Self {
        Self { driver, size: AtomicU64::new(size), read_zeroes, read_only }
    }
}

impl Layer for Null {
    fn driver(&self) -> &'static str {
        self.driver
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn limits(&self) -> Limits {
        Limits { read_only: self.read_only, alignment: 1, physical_block: 512, discard: false, discard_granularity: 0 }
    }

    fn read(&self, into: Sink<'_>, _offset: u64) -> Result<(), BlockError> {
        if self.read_zeroes {
            into.zero();
        }
        Ok(())
    }

    fn write(&self, _from: Source<'_>, _offset: u64) -> Result<(), BlockError> {
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn discard(&self, _offset: u64, _len: u64) -> Result<(), BlockError> {
        Ok(())
    }

    fn write_zeroes(&self, _offset: u64, _len: u64, _unmap: bool) -> Result<(), BlockError> {
        Ok(())
    }

    fn status(&self, offset: u64, len: u64) -> Result<Status, BlockError> {
        Ok(if self.read_zeroes { Status::zero(len) } else { Status::data(len, Some(offset)) })
    }

    fn fast(&self, op: FastOp, _offset: u64, _len: u64) -> Fast {
        match op {
            FastOp::Read if self.read_zeroes => Fast::Zero,
            FastOp::Read | FastOp::Write | FastOp::Flush => Fast::Done,
        }
    }

    fn resize(&self, size: u64, _preallocation: Preallocation) -> Result<(), BlockError> {
        self.size.store(size, Ordering::Relaxed);
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
