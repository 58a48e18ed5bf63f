//! Where bytes come from: host files and devices, memory, nothing at all. Layers without a layer beneath.

pub mod file;
pub mod memory;
pub mod null;
pub(crate) mod units;
