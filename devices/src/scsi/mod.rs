//! SCSI logical units: disks (SBC-4) and CD drives (MMC-6) under the common commands (SPC-5), for every front end.
//!
//! It knows commands: what they mean, what they answer, which requests to an image carry them out. It does not know
//! how a command block came in, where data goes, or on which thread it runs: virtio-scsi and ATAPI know that.
//!
//! ```text
//!   front end                      LogicalUnit                    Job
//!   ─────────                      ───────────                    ───
//!   Cdb::parse ── begin ─────────▶ Plan::Done(Reply)
//!                                  Plan::Parameters(n) ─┐
//!   n bytes from the initiator ─── parameters ◀─────────┘
//!                                  Plan::Media(Media) ─────────▶ Step::Submit(Request)…
//!   completions of the image ───────────────────────────────────▶ Step::Done(Reply)
//! ```
//!
//! A logical unit has one front end, which is one nexus to it. Units of one image share [`Reservations`]: they are so many
//! nexuses to one disk.

mod abort;
pub mod bounce;
mod cd;
pub mod cdb;
mod claims;
mod commands;
mod disk;
mod inquiry;
pub mod job;
mod luns;
pub mod medium;
mod mode;
mod plan;
mod reserve;
pub mod sense;
mod state;
mod unit;

pub use abort::{Abort, Cause, Victims, Waiter};
pub use cd::tray::{EjectRefused, Tray, TrayMoved};
pub use cdb::Cdb;
pub use claims::{Busy, Claim};
pub use job::{Job, Step};
pub(crate) use luns::lun_field;
pub use luns::{no_such_unit, report_luns};
pub use medium::Medium;
pub use plan::{MAX_PARAMETERS, Media, Plan, Reply};
pub use reserve::Reservations;
pub use sense::{Sense, status};
pub use state::UnitState;
pub use unit::{LogicalUnit, UnitChange, UnitConfig, UnitConfigError, UnitKind};

#[cfg(test)]
mod tests;
