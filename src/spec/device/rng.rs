//! `virtio-rng-pci`.

use crate::spec::error::SpecError;
use crate::spec::pci::{PciSpec, VirtioSpec};

spec_struct! {
    /// A virtio source of random numbers.
    pub struct VirtioRngSpec as "virtio-rng-pci" with pci: PciSpec, virtio: VirtioSpec {
        /// The rng object that it reads; the kernel's generator when not given.
        pub rng: Option<String>,
        /// Most bytes in one period; no limit when not given.
        pub max_bytes: Option<u64>,
        /// Length of a period in milliseconds.
        pub period: u32 = 65_536,
    }
}

impl VirtioRngSpec {
    pub(super) fn check(&self) -> Result<(), SpecError> {
        self.pci.check()?;
        self.virtio.check()?;
        if self.period == 0 {
            return Err(SpecError::new("'period' parameter expects a positive integer"));
        }
        match self.max_bytes {
            Some(bytes) if bytes == 0 || i64::try_from(bytes).is_err() => {
                Err(SpecError::new("'max-bytes' parameter must be positive, and less than 2^63"))
            }
            _ => Ok(()),
        }
    }
}
