//! Layers that change what passes through them and store nothing.
//!
//! A filter writes the methods of [`Layer`](crate::layer::Layer) that it changes, and names those that it leaves to the
//! layer beneath: one that it forgets is a compiler's error or the trait's own default, never a silent way around it.

/// Writes the named methods of [`Layer`](crate::layer::Layer) as the layer beneath, in the field `$inner`, has them.
macro_rules! forward {
    (@driver $inner:ident) => {
        fn driver(&self) -> &'static str {
            self.$inner.driver()
        }
    };
    (@size $inner:ident) => {
        fn size(&self) -> u64 {
            self.$inner.size()
        }
    };
    (@limits $inner:ident) => {
        fn limits(&self) -> $crate::layer::Limits {
            self.$inner.limits()
        }
    };
    (@read $inner:ident) => {
        fn read(&self, into: $crate::mem::Sink<'_>, offset: u64) -> Result<(), $crate::error::BlockError> {
            self.$inner.read(into, offset)
        }
    };
    (@write $inner:ident) => {
        fn write(&self, from: $crate::mem::Source<'_>, offset: u64) -> Result<(), $crate::error::BlockError> {
            self.$inner.write(from, offset)
        }
    };
    (@flush $inner:ident) => {
        fn flush(&self) -> Result<(), $crate::error::BlockError> {
            self.$inner.flush()
        }
    };
    (@sync_failed $inner:ident) => {
        fn sync_failed(&self) {
            self.$inner.sync_failed();
        }
    };
    (@discard $inner:ident) => {
        fn discard(&self, offset: u64, len: u64) -> Result<(), $crate::error::BlockError> {
            self.$inner.discard(offset, len)
        }
    };
    (@write_zeroes $inner:ident) => {
        fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), $crate::error::BlockError> {
            self.$inner.write_zeroes(offset, len, unmap)
        }
    };
    (@status $inner:ident) => {
        fn status(&self, offset: u64, len: u64) -> Result<$crate::layer::Status, $crate::error::BlockError> {
            self.$inner.status(offset, len)
        }
    };
    (@wants_ring $inner:ident) => {
        fn wants_ring(&self) -> bool {
            self.$inner.wants_ring()
        }
    };
    (@is_cached $inner:ident) => {
        fn is_cached(&self) -> bool {
            self.$inner.is_cached()
        }
    };
    (@resize $inner:ident) => {
        fn resize(
            &self,
            size: u64,
            preallocation: $crate::layer::Preallocation,
        ) -> Result<(), $crate::error::BlockError> {
            self.$inner.resize(size, preallocation)
        }
    };
    (@close $inner:ident) => {
        fn close(&self) -> Result<(), $crate::error::BlockError> {
            self.$inner.close()
        }
    };
    (@highest_write $inner:ident) => {
        fn highest_write(&self) -> u64 {
            self.$inner.highest_write()
        }
    };
    (@allocated_bytes $inner:ident) => {
        fn allocated_bytes(&self) -> Option<u64> {
            self.$inner.allocated_bytes()
        }
    };
    (@populate $inner:ident) => {
        fn populate(&self, offset: u64, len: u64) -> Result<(), $crate::error::BlockError> {
            self.$inner.populate(offset, len)
        }
    };
    (@describe $inner:ident) => {
        fn describe(&self, details: &mut $crate::graph::ImageDetails) {
            self.$inner.describe(details);
        }
    };
    ($inner:ident: $($method:ident),+) => {
        $(forward!(@$method $inner);)+
    };
}

pub mod before_write;
pub mod copy_on_read;
pub mod debug;
pub mod follow;
pub mod job_top;
pub mod mirror;
pub mod place;
pub mod policy;
pub mod throttle;
mod turns;
mod units;
