//! virtio 1.2: devices that are made for guests of a hypervisor.
//!
//! Three parts that do not read each other's: the *transport* knows registers ([`transport`]), the *queue* knows rings
//! ([`queue`]), the *device* knows requests ([`blk`], [`scsi`], [`rng`]). They meet in [`device`].
//!
//! ```text
//!  vCPU ── registers ──▶ transport ── start_queue / stop_queue ──▶ device
//!    │                       ▲                                       │ messages
//!    └── doorbell (ioeventfd) ┼──────────────▶ I/O thread ◀──────────┘
//!                            └─ DriverEvents ── queue worker: rings, requests, images
//! ```
//!
//! Section numbers are those of "Virtual I/O Device (VIRTIO) Version 1.2" (OASIS committee specification 01).

pub mod blk;
pub mod device;
pub mod features;
pub mod iothread;
pub mod queue;
pub mod rng;
pub mod scsi;
pub mod transport;
pub mod worker;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
