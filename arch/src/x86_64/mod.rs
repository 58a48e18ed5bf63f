//! What is particular to x86-64 PCs.

pub mod acpi;
pub mod boot;
pub mod cpu;
pub mod entry;
pub mod layout;
pub mod smbios;
