//! The arguments of what backups need: bitmaps, the job, exports.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::args::{JobOnError, NewImageMode};
use crate::qmp::QmpError;
use crate::qmp::qapi::{At, Qapi, Schema, TypeRef};

qapi_struct! {
    /// `block-dirty-bitmap-add`.
    pub struct DirtyBitmapAdd {
        /// The node.
        pub node: String,
        /// The new bitmap's name.
        pub name: String,
        /// Bytes of the disk for one bit; a cluster, from 4 KiB to 64 KiB, without.
        pub granularity: Option<u32>,
        /// The image keeps it; only in memory without.
        pub persistent: Option<bool>,
        /// It does not record; it does without.
        pub disabled: Option<bool>,
    }
}

qapi_struct! {
    /// `block-dirty-bitmap-remove`, `-clear`, `-enable`, `-disable`.
    pub struct DirtyBitmap {
        /// The node.
        pub node: String,
        /// The bitmap.
        pub name: String,
    }
}

/// A bitmap of the node that is meant anyway, or of another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DirtyBitmapOrStr {
    /// By its name.
    Local(String),
    /// By its node's and its own.
    External(DirtyBitmap),
}

impl Qapi for DirtyBitmapOrStr {
    fn describe(schema: &mut Schema) -> TypeRef {
        schema.alternate(std::any::type_name::<Self>(), |schema| {
            vec![String::describe(schema), DirtyBitmap::describe(schema)]
        })
    }

    fn check(value: &Value, at: &At<'_>) -> Result<(), QmpError> {
        if value.is_string() { Ok(()) } else { DirtyBitmap::check(value, at) }
    }
}

qapi_struct! {
    /// `block-dirty-bitmap-merge`.
    pub struct DirtyBitmapMerge {
        /// The node of the target.
        pub node: String,
        /// The bitmap that gets the bits.
        pub target: String,
        /// The bitmaps that they are taken from.
        pub bitmaps: Vec<DirtyBitmapOrStr>,
    }
}

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
    /// `blockdev-backup`.
    pub struct Backup {
        /// The job's id; that of the device without.
        pub job_id: Option<String>,
        /// The device or node.
        pub device: String,
        /// The node that the backup goes to.
        pub target: String,
        /// What it is of.
        pub sync: BackupSyncMode,
        /// The bitmap, where `sync` is of one.
        pub bitmap: Option<String>,
        /// What that says afterwards.
        pub bitmap_mode: Option<BitmapSyncMode>,
        /// It is stored compressed.
        pub compress: Option<bool>,
        /// Bytes a second; 0 is as fast as it goes.
        pub speed: Option<u64>,
        /// What an error of the disk does.
        pub on_source_error: Option<JobOnError>,
        /// What an error of the copy does.
        pub on_target_error: Option<JobOnError>,
        /// The name of the job's own node on the disk; one is made up without.
        pub filter_node_name: Option<String>,
        /// Bounds of the copying.
        pub x_perf: Option<BackupPerf>,
        /// Finalizes by itself; it does without.
        pub auto_finalize: Option<bool>,
        /// Is forgotten by itself; it is without.
        pub auto_dismiss: Option<bool>,
    }
}

/// `drive-backup`: boxed, because it is larger than other arguments.
pub type DriveBackup = Box<FileBackup>;

qapi_struct! {
    /// `drive-backup`.
    pub struct FileBackup {
        /// The job's id; that of the device without.
        pub job_id: Option<String>,
        /// The device or node.
        pub device: String,
        /// The image file that the backup goes to.
        pub target: String,
        /// Its format; that of the disk without, or what it is if it is there already.
        pub format: Option<String>,
        /// How it comes to be; made without.
        pub mode: Option<NewImageMode>,
        /// What it is of.
        pub sync: BackupSyncMode,
        /// The bitmap, where `sync` is of one.
        pub bitmap: Option<String>,
        /// What that says afterwards.
        pub bitmap_mode: Option<BitmapSyncMode>,
        /// It is stored compressed.
        pub compress: Option<bool>,
        /// Bytes a second; 0 is as fast as it goes.
        pub speed: Option<u64>,
        /// What an error of the disk does.
        pub on_source_error: Option<JobOnError>,
        /// What an error of the copy does.
        pub on_target_error: Option<JobOnError>,
        /// The name of the job's own node on the disk; one is made up without.
        pub filter_node_name: Option<String>,
        /// Bounds of the copying.
        pub x_perf: Option<BackupPerf>,
        /// Finalizes by itself; it does without.
        pub auto_finalize: Option<bool>,
        /// Is forgotten by itself; it is without.
        pub auto_dismiss: Option<bool>,
    }
}

qapi_struct! {
    /// Where a server listens on the network.
    pub struct InetAddress {
        /// Name or address of this machine.
        pub host: String,
        /// The port.
        pub port: String,
    }
}

qapi_struct! {
    /// Where a server listens in the file system.
    pub struct UnixAddress {
        /// The socket's path.
        pub path: String,
    }
}

qapi_wrapped! {
    /// Where a server listens.
    pub enum SocketAddressLegacy of SocketAddressType {
        /// On the network.
        Inet(InetAddress) = "inet",
        /// In the file system.
        Unix(UnixAddress) = "unix",
    }
}

qapi_struct! {
    /// `nbd-server-start`.
    pub struct NbdServerStart {
        /// Where it listens.
        pub addr: SocketAddressLegacy,
        /// Clients at a time; 0 is as many as come, and so is nothing.
        pub max_connections: Option<u32>,
    }
}

qapi_enum! {
    /// How a node is shown to others.
    pub enum BlockExportType {
        /// By the machine's NBD server.
        Nbd = "nbd",
    }
}

/// `block-export-add`: boxed, because it is larger than other arguments.
pub type BlockExportAdd = Box<ExportAdd>;

qapi_struct! {
    /// `block-export-add`.
    pub struct ExportAdd {
        /// How it is shown.
        pub r#type: BlockExportType,
        /// The export's id.
        pub id: String,
        /// The node.
        pub node_name: String,
        /// The name that clients ask for; the node's without.
        pub name: Option<String>,
        /// For people who list exports.
        pub description: Option<String>,
        /// Clients may write.
        pub writable: Option<bool>,
        /// Every write is durable before it is answered.
        pub writethrough: Option<bool>,
        /// Bitmaps, shown as `qemu:dirty-bitmap:NAME`.
        pub bitmaps: Option<Vec<DirtyBitmapOrStr>>,
        /// `qemu:allocation-depth` is shown.
        pub allocation_depth: Option<bool>,
    }
}

/// `nbd-server-add`: boxed, because it is larger than other arguments.
pub type NbdServerAdd = Box<NbdAdd>;

qapi_struct! {
    /// `nbd-server-add`.
    pub struct NbdAdd {
        /// The device or node.
        pub device: String,
        /// The name that clients ask for, and the export's id; `device` without.
        pub name: Option<String>,
        /// For people who list exports.
        pub description: Option<String>,
        /// Clients may write, if the node can be written.
        pub writable: Option<bool>,
        /// A bitmap, shown as `qemu:dirty-bitmap:NAME`.
        pub bitmap: Option<String>,
    }
}

qapi_struct! {
    /// `nbd-server-remove`.
    pub struct NbdServerRemove {
        /// The export's name.
        pub name: String,
        /// When it goes; `safe` without.
        pub mode: Option<BlockExportRemoveMode>,
    }
}

qapi_enum! {
    /// When an export goes.
    pub enum BlockExportRemoveMode {
        /// Only if nobody uses it.
        Safe = "safe",
        /// At once; its clients are hung up on.
        Hard = "hard",
    }
}

qapi_struct! {
    /// `block-export-del`.
    pub struct BlockExportDel {
        /// The export's id.
        pub id: String,
        /// When it goes; `safe` without.
        pub mode: Option<BlockExportRemoveMode>,
    }
}
