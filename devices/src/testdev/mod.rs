//! Devices that test programs of hypervisors drive (kvm-unit-tests are the best known): what they read back they have
//! written themselves, and the interrupts that come are those that they asked for. No machine needs them.

pub mod isa;
pub mod pci;

#[cfg(test)]
mod tests;
