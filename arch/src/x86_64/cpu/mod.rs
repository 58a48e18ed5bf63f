//! The processor that a guest sees: `-cpu` and `-smp`, turned into CPUID leaves and MSRs.
//!
//! ```text
//!  text ──CpuConfig::parse──▶ what was asked for ─┐
//!  /dev/kvm ──HostCpu::read──▶ what there is ─────┼─CpuPlan::new──▶ leaves and MSRs for each vCPU,
//!  -smp ──Topology::new──▶ who shares what ───────┘                 and what to warn about
//! ```
//!
//! Everything but [`HostCpu::read`] is a pure function. References: Intel's Software Developer's Manual (SDM), volume 2,
//! CPUID; AMD's Architecture Programmer's Manual (APM), volume 3, appendix E.

pub mod config;
pub mod features;
mod host;
pub mod hyperv;
pub mod models;
mod plan;
mod suggest;
pub mod topology;

pub use config::{CpuConfig, CpuError};
pub use features::{Feature, FeatureSet};
pub use host::HostCpu;
pub use plan::{CpuPlan, CpuWarning, unavailable_features};
pub use topology::{Topology, TopologyError};
