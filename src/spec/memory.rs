//! `-m`.

use super::error::SpecError;
use super::number::ByteSize;

/// Memory of a guest that asks for nothing: 128 MiB.
const DEFAULT_SIZE: u64 = 128 << 20;

/// Sizes are rounded up to this many bytes.
const UNIT: u64 = 8192;

spec_struct! {
    /// `-m` as written.
    pub struct MemoryOptions as "MemorySizeConfiguration" {
        /// Memory at start; 128 MiB when not given. Without a suffix -m counts MiB, and -machine memory.size bytes.
        pub size: Option<ByteSize>,
        /// Places for memory added later; only 0 here.
        pub slots: Option<u64>,
        /// Most memory there can ever be; only as much as at start here.
        pub max_size: Option<ByteSize>,
    }
}

impl MemoryOptions {
    /// Bytes of guest memory, a multiple of 8 KiB.
    ///
    /// # Errors
    /// More memory is to be added later, or `maxmem` is less than the size.
    pub fn resolve(&self) -> Result<MemorySpec, SpecError> {
        let asked = self.size.map_or(0, |size| size.0);
        let asked = if asked == 0 { DEFAULT_SIZE } else { asked };
        let too_much = || SpecError::new("ram size too large");
        let size = asked.checked_next_multiple_of(UNIT).ok_or_else(too_much)?;
        let refused = || {
            SpecError::refused(
                "memory added while the guest runs ('slots', 'maxmem')",
                "give all of it at start with 'size'",
            )
        };
        match (self.max_size.map(|most| most.0), self.slots.unwrap_or(0)) {
            (None, 0) => Ok(MemorySpec { size: ByteSize(size) }),
            (None, _) => Err(SpecError::new("invalid -m option, missing 'maxmem' option")),
            (Some(most), _) if most < asked => Err(SpecError::new(format!(
                "invalid value of maxmem: maximum memory size ({most:#x}) must be at least the initial memory size \
                 ({asked:#x})"
            ))),
            (Some(most), 0) if most == asked => Ok(MemorySpec { size: ByteSize(size) }),
            _ => Err(refused()),
        }
    }
}

/// How much memory the guest has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySpec {
    /// Bytes, a multiple of 8 KiB, not 0.
    pub size: ByteSize,
}

impl Default for MemorySpec {
    fn default() -> Self {
        Self { size: ByteSize(DEFAULT_SIZE) }
    }
}
