//! What a guest driver can touch: buses, legacy chips, PCI, virtio, IDE and SCSI.
//!
//! Nothing here knows KVM: interrupts are wires ([`irq`]), guest memory is `vm-memory`, disks are `rhea-block`
//! images, so every device can be driven by a test without `/dev/kvm`.

pub mod block_errors;
pub mod block_sizes;
pub mod block_stats;
pub mod bus;
pub mod chardev;
pub mod clock;
pub mod flash;
pub mod fw_cfg;
pub mod geometry;
pub mod ide;
pub mod irq;
pub mod legacy;
pub mod lifecycle;
pub mod log_limit;
pub mod memory;
pub mod moment;
pub mod pci;
pub mod scsi;
pub mod testdev;
pub mod virtio;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
