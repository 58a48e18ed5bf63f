//! A PCI function for test programs of hypervisors.

use crate::spec::error::SpecError;
use crate::spec::number::ByteSize;
use crate::spec::pci::PciSpec;

spec_struct! {
    /// Registers that a test program writes to, to time the ways a write can take.
    pub struct PciTestDevSpec as "pci-testdev" with pci: PciSpec {
        /// Size of a third BAR, memory with nothing behind; 0 for none.
        pub membar: ByteSize = ByteSize(0),
    }
}

impl PciTestDevSpec {
    pub(super) fn check(&self) -> Result<(), SpecError> {
        self.pci.check()?;
        let size = self.membar.0;
        if size != 0 && !(size.is_power_of_two() && (16..=1 << 40).contains(&size)) {
            return Err(SpecError::new("'membar' must be 0 or a power of two from 16 bytes to 1 TiB"));
        }
        Ok(())
    }
}
