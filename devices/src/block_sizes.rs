//! The block sizes that disks claim to have, and the rules that they keep, for every kind of front end.

use thiserror::Error;

/// Least and greatest block in bytes.
const RANGE: std::ops::RangeInclusive<u32> = 512..=2 << 20;

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// `logical_block_size`: the unit of reads and writes.
    pub logical: u32,
    /// `physical_block_size`: what the disk writes in one go.
    pub physical: u32,
    /// `min_io_size`, 0 for none.
    pub min_io: u32,
    /// `opt_io_size`, 0 for none.
    pub opt_io: u32,
    /// `discard_granularity`; `None` for the image's own.
    pub discard_granularity: Option<u32>,
}

impl BlockSizes {
    /// Blocks of `bytes` and nothing more to say.
    #[must_use]
    pub const fn of(bytes: u32) -> Self {
        Self { logical: bytes, physical: bytes, min_io: 0, opt_io: 0, discard_granularity: None }
    }

    /// The power of two of logical blocks in a physical one.
    #[must_use]
    pub fn exponent(&self) -> u8 {
        (self.physical / self.logical.max(1)).max(1).trailing_zeros() as u8
    }

    /// Whether a disk can have these sizes.
    ///
    /// # Errors
    /// The first property that cannot be.
    pub fn check(&self) -> Result<(), BlockSizeError> {
        for (name, value) in [("logical_block_size", self.logical), ("physical_block_size", self.physical)] {
            if !value.is_power_of_two() || !RANGE.contains(&value) {
                return Err(BlockSizeError::Size { name, value });
            }
        }
        let (logical, physical) = (self.logical, self.physical);
        if physical < logical {
            return Err(BlockSizeError::Order { logical, physical });
        }
        let multiples = [
            ("min_io_size", self.min_io),
            ("opt_io_size", self.opt_io),
            ("discard_granularity", self.discard_granularity.unwrap_or(0)),
        ];
        match multiples.iter().find(|(_, value)| !value.is_multiple_of(logical)) {
            Some(&(name, value)) => Err(BlockSizeError::Multiple { name, value }),
            None => Ok(()),
        }
    }
}

/// A size that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BlockSizeError {
    /// `logical_block_size` or `physical_block_size`.
    #[error("{name} must be a power of two between 512 and 2097152, not {value}")]
    Size {
        /// Name of the property.
        name: &'static str,
        /// Its value.
        value: u32,
    },
    /// The physical block is smaller than the logical.
    #[error("physical_block_size {physical} is smaller than logical_block_size {logical}")]
    Order {
        /// `logical_block_size`.
        logical: u32,
        /// `physical_block_size`.
        physical: u32,
    },
    /// A size that must be a multiple of the logical block.
    #[error("{name} must be a multiple of logical_block_size, not {value}")]
    Multiple {
        /// Name of the property.
        name: &'static str,
        /// Its value.
        value: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl Fn(&mut BlockSizes)) -> BlockSizeError {
        let mut sizes = BlockSizes::of(512);
        change(&mut sizes);
        sizes.check().unwrap_err()
    }

    #[test]
    fn powers_of_two_from_512_to_2_mib_are_taken() {
        assert_eq!(BlockSizes::of(512).check(), Ok(()));
        assert_eq!(BlockSizes::of(2 << 20).check(), Ok(()));
        assert_eq!(BlockSizes { physical: 4096, ..BlockSizes::of(512) }.exponent(), 3);
    }

    #[test]
    fn odd_sizes_are_refused_by_name() {
        let name = "logical_block_size";

        assert_eq!(refusal(|s| s.logical = 1000), BlockSizeError::Size { name, value: 1000 });
        assert_eq!(refusal(|s| s.logical = 256), BlockSizeError::Size { name, value: 256 });
        assert!(matches!(refusal(|s| s.physical = 4 << 20), BlockSizeError::Size { name: "physical_block_size", .. }));
    }

    #[test]
    fn physical_block_below_the_logical_is_refused() {
        assert_eq!(refusal(|s| s.logical = 4096), BlockSizeError::Order { logical: 4096, physical: 512 });
    }

    #[test]
    fn sizes_that_are_no_multiples_of_the_block_are_refused() {
        assert_eq!(refusal(|s| s.min_io = 100), BlockSizeError::Multiple { name: "min_io_size", value: 100 });
        assert_eq!(refusal(|s| s.opt_io = 513), BlockSizeError::Multiple { name: "opt_io_size", value: 513 });
        assert!(matches!(refusal(|s| s.discard_granularity = Some(7)), BlockSizeError::Multiple { .. }));
    }
}
