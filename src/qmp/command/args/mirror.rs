//! Of the jobs that copy a disk and keep the copy like it.

use super::jobs::{JobArgs, JobOnError};
use super::snapshots::NewImageMode;

/// `blockdev-mirror`: boxed, because it is larger than other arguments.
pub type BlockdevMirror = Box<Mirror>;

qapi_enum! {
    /// What of a disk is copied.
    pub enum MirrorSyncMode {
        /// What its own image holds; the copy stands on what shows the rest.
        Top = "top",
        /// All that it shows.
        Full = "full",
        /// Only what is written from now on.
        None = "none",
        /// Refused: backups do that.
        Incremental = "incremental",
        /// Refused: backups do that.
        Bitmap = "bitmap",
    }
}

qapi_enum! {
    /// How what the guest writes comes into a copy: here always at once.
    pub enum MirrorCopyMode {
        /// In QEMU a while later.
        Background = "background",
        /// At once.
        WriteBlocking = "write-blocking",
    }
}

qapi_struct! {
    /// What both commands for a mirror say of it.
    pub struct MirrorArgs {
        /// What every job is told.
        ..job: JobArgs,
        /// The node that it comes in the place of: that of the disk.
        pub replaces: Option<String>,
        /// What is copied.
        pub sync: MirrorSyncMode,
        /// Bytes in one piece, a power of two; what is copied is found without.
        pub granularity: Option<u32>,
        /// Bytes in memory at most, 64 KiB at least; 512 KiB without.
        pub buf_size: Option<u64>,
        /// How what the guest writes comes into the copy.
        pub copy_mode: Option<MirrorCopyMode>,
        /// What an error of the disk does.
        pub on_source_error: Option<JobOnError>,
        /// What an error of the copy does.
        pub on_target_error: Option<JobOnError>,
    }
}

qapi_struct! {
    /// `blockdev-mirror`.
    pub struct Mirror {
        /// What both ways to it share.
        ..common: MirrorArgs,
        /// The node that becomes its copy.
        pub target: String,
        /// The name of the job's own node on the disk; one is made up without.
        pub filter_node_name: Option<String>,
    }
}

/// `drive-mirror`: boxed, because it is larger than other arguments.
pub type DriveMirror = Box<FileMirror>;

qapi_struct! {
    /// `drive-mirror`.
    pub struct FileMirror {
        /// What both ways to it share.
        ..common: MirrorArgs,
        /// The image file that becomes its copy.
        pub target: String,
        /// Its format; that of the disk without, or what it is if it is there already.
        pub format: Option<String>,
        /// The name of its node; one is made up without.
        pub node_name: Option<String>,
        /// How it comes to be; made without.
        pub mode: Option<NewImageMode>,
        /// Space of the copy may be freed where it reads as zeroes; it may without.
        pub unmap: Option<bool>,
    }
}
