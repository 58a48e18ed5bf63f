//! The one place that speaks to `/dev/kvm`.
//!
//! ```text
//!  Host ──create_vm──▶ Vm ──create_vcpu──▶ Vcpu ──run──▶ Exit
//!                      │
//!                      ├─ memory slots      (memory.rs)
//!                      ├─ interrupt routes  (routes.rs, msi.rs)
//!                      ├─ doorbells         (doorbell.rs)
//!                      └─ kept writes       (kept.rs)
//! ```
//!
//! Nothing here knows what a guest runs or which devices it has. The reference throughout is the kernel's
//! `Documentation/virt/kvm/api.rst`.

mod cpuid;
mod debug;
mod doorbell;
mod exit;
mod host;
mod irqchip;
mod kept;
mod kick;
mod memory;
mod msi;
mod msrs;
mod pins;
mod routes;
mod snapshot;
pub mod state;
mod vcpu;
mod view;
mod vm;

pub use cpuid::CpuidTable;
pub use debug::{DebugControl, DebugExit, MAX_WATCHES, Watch, WatchFor};
pub use doorbell::{Doorbell, DoorbellAddress, DoorbellMatch};
pub use exit::{Exit, Failure};
pub use host::{Host, HostError, HostKind};
pub use irqchip::{IoapicView, IrqchipSnapshot, PicView};
pub use kept::WriteSink;
pub use kick::{KickError, Kicker, install_kick_signal};
pub use memory::{Access, HostRange, MemoryError, SlotId};
pub use msi::MsiRoute;
pub use msrs::MsrValue;
pub use pins::PINS;
pub use routes::{MAX_GSIS, Message, RouteError};
pub use snapshot::VcpuSnapshot;
pub use vcpu::{RunState, Vcpu, VcpuError};
pub use view::FloatView;
pub use vm::{Vm, VmError};
