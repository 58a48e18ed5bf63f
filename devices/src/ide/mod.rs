//! The IDE function of the PIIX3 (82371SB data sheet): two channels of two drives, ATA disks (ATA8-ACS) and ATAPI CD
//! drives (ATA/ATAPI-7 with MMC-6), by programmed I/O and by bus-master DMA.
//!
//! ```text
//!   vCPU ── command and control block ──▶ Channel ── orders ──▶ worker ── requests ──▶ image
//!     │      (0x1f0, 0x3f6; 0x170, 0x376)   ▲  │                  │
//!     └─── bus master (BAR 4) ──────────────┘  │ IRQ 14, 15       │
//!                                              ◀── completions ───┘
//! ```
//!
//! A register access takes the channel's lock and never waits for a disk: it leaves an order for the channel's worker,
//! which takes the same lock when the order is done. BSY tells the guest in between.
//!
//! `atapi` knows the packet protocol and leaves commands to [`crate::scsi`].

mod ata;
mod atapi;
mod bus_master;
mod channel;
mod command;
mod drive;
mod function;
mod identify;
mod ports;
mod regs;
mod shape;
mod smart;
mod state;
mod transfer;
mod worker;

pub use drive::{IdeDisk, IdeDrive, IdeError};
pub use function::{IdeConnections, OPERAND_PORTS, Piix3Ide};
pub use shape::shape;

#[cfg(test)]
mod tests;
