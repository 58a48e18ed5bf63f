//! What is measured in each cell.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One kind of work; each request is 4 KiB but where another size is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Job {
    /// Random reads, 32 at once.
    Read32,
    /// Random reads, one after the other.
    Read1,
    /// Random writes, 32 at once.
    Write32,
    /// A random write and a flush of the disk's cache, one after the other; the pair counts as one.
    WriteSync,
    /// Reads of 1 MiB in order, one after the other.
    Sequential,
}

impl Job {
    pub(crate) const ALL: [Self; 5] = [Self::Read32, Self::Read1, Self::Write32, Self::WriteSync, Self::Sequential];

    /// How many requests are counted.
    pub(super) fn requests(self) -> u32 {
        match self {
            Self::Read32 | Self::Write32 => 2048,
            Self::Read1 | Self::WriteSync => 256,
            Self::Sequential => 48,
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read32 => "read x32",
            Self::Read1 => "read x1",
            Self::Write32 => "write x32",
            Self::WriteSync => "write+sync",
            Self::Sequential => "read 1 MiB",
        })
    }
}
