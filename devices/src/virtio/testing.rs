//! The other side, for tests: a driver's ring in guest memory, a driver of the PCI registers, a sink that can be
//! waited for, a disk in memory. All real, none sleeps.
#![expect(missing_docs, reason = "the names say it; nothing here is for users")]
#![expect(clippy::missing_panics_doc, reason = "a test that meets the unexpected panics")]

mod guest;
mod image;
mod ring;
mod signals;

pub use guest::{Guest, GuestBuilder};
pub use image::{MemImage, Seen};
pub use ring::{Buf, DriverRing};
pub use signals::{RecordedEvents, SignalSink};

use std::sync::Arc;
use std::time::Duration;

use vm_memory::GuestAddress;

use crate::memory::GuestRam;

/// How long a test waits for what must happen; only a failure takes that long.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// RAM at 0 to `len`, and a second region of 64 KiB at 1 GiB.
#[must_use]
pub fn ram(len: usize) -> Arc<GuestRam> {
    Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), len), (GuestAddress(1 << 30), 64 << 10)]).expect("guest memory"))
}
