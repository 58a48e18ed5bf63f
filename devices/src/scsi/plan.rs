//! What is to be done about a command.

use crate::block_stats::Counted;

use super::abort::Victims;
use super::job::CHUNK;
use super::sense::{Sense, status};

/// The end of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// One of [`status`].
    pub status: u8,
    /// Why, for [`status::CHECK_CONDITION`].
    pub sense: Option<Sense>,
    /// What the initiator gets; cut to its allocation length.
    pub data: Vec<u8>,
}

impl Reply {
    /// Done, without data.
    #[must_use]
    pub fn good() -> Self {
        Self { status: status::GOOD, sense: None, data: Vec::new() }
    }

    /// Done; of `data`, the initiator gets what its `allocation` length allows.
    #[must_use]
    pub fn data(mut data: Vec<u8>, allocation: usize) -> Self {
        data.truncate(allocation);
        Self { status: status::GOOD, sense: None, data }
    }

    /// Failed.
    #[must_use]
    pub fn check(sense: Sense) -> Self {
        Self { status: status::CHECK_CONDITION, sense: Some(sense), data: Vec::new() }
    }

    /// A status that speaks for itself.
    #[must_use]
    pub fn bare(status: u8) -> Self {
        Self { status, sense: None, data: Vec::new() }
    }
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// The command is over.
    Done(Reply),
    /// This many bytes are wanted from the initiator (at most [`MAX_PARAMETERS`]), for
    /// [`super::LogicalUnit::parameters`].
    Parameters(usize),
    /// The medium is concerned.
    Media(Media),
    /// The command is over, and good, when those of other front ends have ended: [`super::Cause::Preempted`].
    Preempt(Victims),
}

/// Most bytes that a command takes as parameters.
pub const MAX_PARAMETERS: usize = 1 << 20;

impl From<Reply> for Plan {
    fn from(reply: Reply) -> Self {
        Self::Done(reply)
    }
}

/// Work on the medium; positions and lengths in bytes, inside of the medium when the command was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Media {
    /// From the medium to the initiator.
    Read {
        /// First byte.
        offset: u64,
        /// Number of bytes, not 0.
        len: u64,
    },
    /// From the initiator to the medium.
    Write {
        /// First byte.
        offset: u64,
        /// Number of bytes, not 0.
        len: u64,
        /// Durable before the command ends.
        fua: bool,
    },
    /// Readable, or equal to what the initiator sent.
    Verify {
        /// First byte.
        offset: u64,
        /// Number of bytes, not 0.
        len: u64,
        /// What should be there; repeated if shorter than `len`, not compared if `None`.
        expected: Option<Vec<u8>>,
    },
    /// Written if what is there is as expected.
    CompareAndWrite {
        /// First byte.
        offset: u64,
        /// What should be there.
        expected: Vec<u8>,
        /// What is written then; as long.
        data: Vec<u8>,
        /// Durable before the command ends.
        fua: bool,
    },
    /// What is there, with more bits set.
    OrWrite {
        /// First byte.
        offset: u64,
        /// The bits.
        data: Vec<u8>,
        /// Durable before the command ends.
        fua: bool,
    },
    /// One block everywhere.
    WriteSame {
        /// First byte.
        offset: u64,
        /// Number of bytes, not 0.
        len: u64,
        /// The block; empty for zeroes.
        block: Vec<u8>,
        /// Space may be given back.
        unmap: bool,
        /// Durable before the command ends.
        fua: bool,
    },
    /// No longer needed.
    Unmap(Vec<(u64, u64)>),
    /// What was written becomes durable.
    Flush,
    /// Sectors of a CD with everything around the data.
    RawSectors {
        /// First sector.
        lba: u32,
        /// Number of sectors, not 0.
        count: u32,
    },
}

impl Media {
    /// Which figures it counts to.
    #[must_use]
    pub fn counted(&self) -> Counted {
        match self {
            Self::Read { .. } | Self::Verify { .. } | Self::RawSectors { .. } => Counted::Read,
            Self::Write { .. } | Self::CompareAndWrite { .. } | Self::OrWrite { .. } | Self::WriteSame { .. } => {
                Counted::Write
            }
            Self::Unmap(_) => Counted::Unmap,
            Self::Flush => Counted::Flush,
        }
    }

    /// Bytes of memory of ours that the work goes through; a few MiB at most.
    #[must_use]
    pub fn bounced(&self) -> usize {
        let bytes = match self {
            Self::Verify { len, .. } => (*len).min(CHUNK),
            Self::CompareAndWrite { data, .. } | Self::OrWrite { data, .. } => data.len() as u64,
            Self::WriteSame { len, block, .. } if !block.is_empty() => (*len).min(CHUNK),
            Self::RawSectors { count, .. } => u64::from(*count) * 2048,
            _ => 0,
        };
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Bytes of the medium that it concerns.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Read { len, .. } | Self::Write { len, .. } | Self::Verify { len, .. } => *len,
            Self::WriteSame { len, .. } => *len,
            Self::CompareAndWrite { data, .. } | Self::OrWrite { data, .. } => data.len() as u64,
            Self::Unmap(ranges) => ranges.iter().map(|(_, len)| len).sum(),
            Self::Flush => 0,
            Self::RawSectors { count, .. } => u64::from(*count) * 2048,
        }
    }
}
