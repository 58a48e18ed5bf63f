//! KVM and x86-64: virtual machines, processors, memory layout, boot protocols and firmware tables.
//!
//! This crate knows no devices and no disks. Guest memory is the vocabulary it shares with the rest of Rhea.

pub mod kvm;
pub mod x86_64;
