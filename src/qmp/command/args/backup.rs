//! Of the jobs that copy a disk as it is at one moment.

use super::jobs::{JobArgs, JobOnError};
use super::snapshots::NewImageMode;

qapi_enum! {
    /// What of a disk a backup is of.
    pub enum BackupSyncMode {
        /// What its own image holds.
        Top = "top",
        /// All that it shows.
        Full = "full",
        /// Only what is written from now on, before it is.
        None = "none",
        /// What a bitmap says has changed; `bitmap` with `on-success`.
        Incremental = "incremental",
        /// What a bitmap says has changed.
        Bitmap = "bitmap",
    }
}

qapi_enum! {
    /// What a bitmap says when a backup has ended.
    pub enum BitmapSyncMode {
        /// What has changed since the backup began, if that succeeded.
        OnSuccess = "on-success",
        /// What it said, and what has changed since.
        Never = "never",
        /// What was not copied, and what has changed since.
        Always = "always",
    }
}

qapi_struct! {
    /// Bounds of a backup's copying, which keeps within all that are allowed: one piece at a time, no larger than a unit.
    pub struct BackupPerf {
        /// The host may be asked to copy by itself; it need not.
        pub use_copy_range: Option<bool>,
        /// Pieces that are copied at the same time, at most.
        pub max_workers: Option<i64>,
        /// Bytes of a piece, at most; 0 is no bound.
        pub max_chunk: Option<i64>,
    }
}

/// `blockdev-backup`: boxed, because it is larger than other arguments.
pub type BlockdevBackup = Box<Backup>;

qapi_struct! {
    /// What both commands for a backup say of it.
    pub struct BackupArgs {
        /// What every job is told.
        ..job: JobArgs,
        /// What it is of.
        pub sync: BackupSyncMode,
        /// The bitmap, where `sync` is of one.
        pub bitmap: Option<String>,
        /// What that says afterwards.
        pub bitmap_mode: Option<BitmapSyncMode>,
        /// It is stored compressed.
        pub compress: Option<bool>,
        /// What an error of the disk does.
        pub on_source_error: Option<JobOnError>,
        /// What an error of the copy does.
        pub on_target_error: Option<JobOnError>,
        /// The name of the job's own node on the disk; one is made up without.
        pub filter_node_name: Option<String>,
        /// Bounds of the copying.
        pub x_perf: Option<BackupPerf>,
    }
}

qapi_struct! {
    /// `blockdev-backup`.
    pub struct Backup {
        /// What both ways to it share.
        ..common: BackupArgs,
        /// The node that the backup goes to.
        pub target: String,
    }
}

/// `drive-backup`: boxed, because it is larger than other arguments.
pub type DriveBackup = Box<FileBackup>;

qapi_struct! {
    /// `drive-backup`.
    pub struct FileBackup {
        /// What both ways to it share.
        ..common: BackupArgs,
        /// The image file that the backup goes to.
        pub target: String,
        /// Its format; that of the disk without, or what it is if it is there already.
        pub format: Option<String>,
        /// How it comes to be; made without.
        pub mode: Option<NewImageMode>,
    }
}
