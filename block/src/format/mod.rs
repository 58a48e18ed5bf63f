//! Image formats: where the bytes of a disk are in the file beneath. No system calls here.

pub mod qcow2;
pub mod raw;
