//! Layers that change what passes through them and store nothing.

pub mod copy_on_read;
pub mod debug;
pub mod policy;
pub mod throttle;
