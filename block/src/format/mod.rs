//! Image formats: where the bytes of a disk are in the file beneath. No system calls here.

mod foreign;
pub mod luks;
pub mod parallels;
pub mod qcow2;
pub mod qed;
pub mod raw;
pub mod vdi;
pub mod vhdx;
pub mod vmdk;
pub mod vpc;

use std::sync::Arc;

use crate::error::BlockError;
use crate::layer::Layer;

/// Formats of other programs, which are only read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the formats' names say what they are")]
pub enum Foreign {
    Parallels,
    Qed,
    Vdi,
    Vhdx,
    Vmdk,
    Vpc,
}

impl Foreign {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Parallels, Self::Qed, Self::Vdi, Self::Vhdx, Self::Vmdk, Self::Vpc];

    /// The driver's name in QEMU.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Parallels => "parallels",
            Self::Qed => "qed",
            Self::Vdi => "vdi",
            Self::Vhdx => "vhdx",
            Self::Vmdk => "vmdk",
            Self::Vpc => "vpc",
        }
    }

    /// The format of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Opens the image in `file` for reading.
    ///
    /// # Errors
    /// When it is none of that format, breaks the format's rules, or uses what is not supported.
    pub fn open(self, file: &Arc<dyn Layer>) -> Result<Arc<dyn Layer>, BlockError> {
        match self {
            Self::Parallels => parallels::open(file),
            Self::Qed => qed::open(file),
            Self::Vdi => vdi::open(file),
            Self::Vhdx => vhdx::open(file),
            Self::Vmdk => vmdk::open(file),
            Self::Vpc => vpc::open(file),
        }
    }
}
