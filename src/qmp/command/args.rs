//! The arguments of the commands.

use serde_json::Value;

use crate::qmp::reply::cpu::CpuModelInfo;
use crate::qmp::reply::migration::{MigrationCapabilityStatus, MigrationParameters};

pub use super::backup::{
    Backup, BackupPerf, BackupSyncMode, BitmapSyncMode, BlockExportAdd, BlockExportDel, BlockExportRemoveMode,
    BlockdevBackup, DirtyBitmap, DirtyBitmapAdd, DirtyBitmapMerge, DirtyBitmapOrStr, DriveBackup, ExportAdd, NbdAdd,
    NbdServerAdd, NbdServerRemove, NbdServerStart, SocketAddressLegacy,
};
use super::create::BlockdevCreateOptions;
pub use super::spec_args::{BlockdevAdd, BlockdevRef, ChardevAdd, DeviceAdd, ObjectAdd};
use super::transaction::TransactionAction;

qapi_enum! {
    /// What a client may ask for in `qmp_capabilities`. Out-of-band commands are not offered.
    pub enum QmpCapability {
        /// Commands that overtake others.
        Oob = "oob",
    }
}

qapi_struct! {
    /// `qmp_capabilities`.
    pub struct QmpCapabilities {
        /// What to switch on; only what the greeting offered is accepted.
        pub enable: Option<Vec<QmpCapability>>,
    }
}

qapi_struct! {
    /// `query-command-line-options`.
    pub struct QueryCommandLineOptions {
        /// Only this one.
        pub option: Option<String>,
    }
}

qapi_struct! {
    /// `getfd`, `closefd`.
    pub struct FdName {
        /// The name; it must not begin with a digit.
        pub fdname: String,
    }
}

qapi_struct! {
    /// `add-fd`.
    pub struct AddFd {
        /// The set; a new one without.
        pub fdset_id: Option<i64>,
        /// Given back by `query-fdsets`.
        pub opaque: Option<String>,
    }
}

qapi_struct! {
    /// `remove-fd`.
    pub struct RemoveFd {
        /// The set.
        pub fdset_id: i64,
        /// The descriptor; all of the set without.
        pub fd: Option<i64>,
    }
}

qapi_struct! {
    /// `human-monitor-command`.
    pub struct HumanMonitorCommand {
        /// The line.
        pub command_line: String,
        /// The vCPU that `info registers` and the like mean.
        pub cpu_index: Option<i64>,
    }
}

qapi_enum! {
    /// What the guest's reboot does.
    pub enum RebootAction {
        /// Resets the machine.
        Reset = "reset",
        /// Turns it off.
        Shutdown = "shutdown",
    }
}

qapi_enum! {
    /// What the guest's power-off does.
    pub enum ShutdownAction {
        /// Ends the process.
        Poweroff = "poweroff",
        /// Pauses the machine.
        Pause = "pause",
    }
}

qapi_enum! {
    /// What a panic of the guest's kernel does.
    pub enum PanicAction {
        /// Pauses the machine.
        Pause = "pause",
        /// Turns it off.
        Shutdown = "shutdown",
        /// Ends the process with an exit code that says failure.
        ExitFailure = "exit-failure",
        /// Nothing.
        None = "none",
    }
}

qapi_enum! {
    /// What a watchdog that fires does.
    pub enum WatchdogAction {
        /// Resets the machine.
        Reset = "reset",
        /// Presses the power button.
        Shutdown = "shutdown",
        /// Turns it off.
        Poweroff = "poweroff",
        /// Pauses it.
        Pause = "pause",
        /// Says so.
        Debug = "debug",
        /// Nothing.
        None = "none",
        /// Sends a non-maskable interrupt.
        InjectNmi = "inject-nmi",
    }
}

qapi_struct! {
    /// `set-action`; what is left out stays.
    pub struct SetAction {
        /// On reboot.
        pub reboot: Option<RebootAction>,
        /// On power-off.
        pub shutdown: Option<ShutdownAction>,
        /// On panic.
        pub panic: Option<PanicAction>,
        /// On a watchdog.
        pub watchdog: Option<WatchdogAction>,
    }
}

qapi_struct! {
    /// `query-blockstats`.
    pub struct QueryBlockstats {
        /// Nodes instead of disks.
        pub query_nodes: Option<bool>,
    }
}

qapi_struct! {
    /// `query-named-block-nodes`.
    pub struct QueryNamedBlockNodes {
        /// Leave out the images behind each image.
        pub flat: Option<bool>,
    }
}

qapi_struct! {
    /// `block_resize`: one of the two names.
    pub struct BlockResize {
        /// The `id=` of a `-drive` or device.
        pub device: Option<String>,
        /// The node.
        pub node_name: Option<String>,
        /// Bytes; a multiple of 512.
        pub size: i64,
    }
}

qapi_struct! {
    /// `eject`, `blockdev-open-tray`: one of the two names.
    pub struct Eject {
        /// The `id=` of a `-drive`.
        pub device: Option<String>,
        /// The `id=` of the device.
        pub id: Option<String>,
        /// Whatever the guest says.
        pub force: Option<bool>,
    }
}

qapi_struct! {
    /// `blockdev-close-tray`: one of the two names.
    pub struct CloseTray {
        /// The `id=` of a `-drive`.
        pub device: Option<String>,
        /// The `id=` of the device.
        pub id: Option<String>,
    }
}

qapi_struct! {
    /// `blockdev-insert-medium`.
    pub struct InsertMedium {
        /// The `id=` of the device.
        pub id: String,
        /// The node.
        pub node_name: String,
    }
}

qapi_enum! {
    /// Whether another medium can be written.
    pub enum BlockdevChangeReadOnlyMode {
        /// As the one before it: a CD drive's cannot.
        Retain = "retain",
        /// It cannot.
        ReadOnly = "read-only",
        /// It can.
        ReadWrite = "read-write",
    }
}

qapi_struct! {
    /// `blockdev-change-medium`: one of the two names.
    pub struct ChangeMedium {
        /// The `id=` of a `-drive`.
        pub device: Option<String>,
        /// The `id=` of the device.
        pub id: Option<String>,
        /// The file.
        pub filename: String,
        /// Its format; probed without.
        pub format: Option<String>,
        /// Whatever the guest says.
        pub force: Option<bool>,
        /// Whether it can be written; `retain` without.
        pub read_only_mode: Option<BlockdevChangeReadOnlyMode>,
    }
}

qapi_struct! {
    /// `blockdev-snapshot`.
    pub struct BlockdevSnapshot {
        /// The node that is only read from then on.
        pub node: String,
        /// The node that takes the writes.
        pub overlay: String,
    }
}

qapi_enum! {
    /// How an overlay comes to be.
    pub enum NewImageMode {
        /// Its file is an image already.
        Existing = "existing",
        /// It is made.
        AbsolutePaths = "absolute-paths",
    }
}

qapi_struct! {
    /// `blockdev-snapshot-sync`: one of the two names of what is beneath.
    pub struct BlockdevSnapshotSync {
        /// The `id=` of a `-drive` or device.
        pub device: Option<String>,
        /// The node.
        pub node_name: Option<String>,
        /// The overlay's file.
        pub snapshot_file: String,
        /// The overlay's name; one is made up without.
        pub snapshot_node_name: Option<String>,
        /// Its format; `qcow2` without.
        pub format: Option<String>,
        /// How it comes to be; made without.
        pub mode: Option<NewImageMode>,
    }
}

qapi_struct! {
    /// `blockdev-snapshot-internal-sync`.
    pub struct BlockdevSnapshotInternal {
        /// The `id=` of a `-drive`, or the node.
        pub device: String,
        /// The new snapshot's name.
        pub name: String,
    }
}

qapi_struct! {
    /// `blockdev-snapshot-delete-internal-sync`: a number, a name, or both.
    pub struct BlockdevSnapshotDeleteInternalSync {
        /// The `id=` of a `-drive`, or the node.
        pub device: String,
        /// The snapshot's number.
        pub id: Option<String>,
        /// Its name.
        pub name: Option<String>,
    }
}

qapi_struct! {
    /// `blockdev-create`.
    pub struct BlockdevCreate {
        /// The job's id.
        pub job_id: String,
        /// What is to be made.
        pub options: BlockdevCreateOptions,
    }
}

qapi_enum! {
    /// What a job does about an error.
    pub enum JobOnError {
        /// It ends, and says why.
        Report = "report",
        /// It goes on, and comes back to what failed where it can.
        Ignore = "ignore",
        /// It is held where there was no space, and ends otherwise.
        Enospc = "enospc",
        /// It is held until it is resumed.
        Stop = "stop",
        /// The same as `enospc`.
        Auto = "auto",
    }
}

qapi_struct! {
    /// `change-backing-file`.
    pub struct ChangeBackingFile {
        /// The device or node on top of the chain.
        pub device: String,
        /// The overlay in it.
        pub image_node_name: String,
        /// What its header is to say.
        pub backing_file: String,
    }
}

qapi_struct! {
    /// `block-stream`.
    pub struct Stream {
        /// The job's id; that of the device without.
        pub job_id: Option<String>,
        /// The device or node that takes in what lies beneath.
        pub device: String,
        /// What stays beneath; nothing without.
        pub base_node: Option<String>,
        /// The same by its file.
        pub base: Option<String>,
        /// The last node that is taken in; what lies beneath that stays.
        pub bottom: Option<String>,
        /// What its header calls that; the node's own file without.
        pub backing_file: Option<String>,
        /// Bytes a second; 0 is as fast as it goes.
        pub speed: Option<u64>,
        /// What an error does.
        pub on_error: Option<JobOnError>,
        /// The name of the job's own node; one is made up without.
        pub filter_node_name: Option<String>,
        /// Finalizes by itself; it does without.
        pub auto_finalize: Option<bool>,
        /// Is forgotten by itself; it is without.
        pub auto_dismiss: Option<bool>,
    }
}

/// `block-stream`: boxed, because it is larger than other arguments.
pub type BlockStream = Box<Stream>;

/// `block-commit`: boxed, because it is larger than other arguments.
pub type BlockCommit = Box<Commit>;

qapi_struct! {
    /// `block-commit`.
    pub struct Commit {
        /// The job's id; that of the device without.
        pub job_id: Option<String>,
        /// The device or node on top of the chain.
        pub device: String,
        /// Where it is written to; the bottom of the chain without.
        pub base_node: Option<String>,
        /// The same by its file.
        pub base: Option<String>,
        /// What is written; the top of the chain without.
        pub top_node: Option<String>,
        /// The same by its file.
        pub top: Option<String>,
        /// What the header of the image above calls the base; its own file without.
        pub backing_file: Option<String>,
        /// Bytes a second; 0 is as fast as it goes.
        pub speed: Option<u64>,
        /// What an error does.
        pub on_error: Option<JobOnError>,
        /// The name of the job's own node; one is made up without.
        pub filter_node_name: Option<String>,
        /// Finalizes by itself; it does without.
        pub auto_finalize: Option<bool>,
        /// Is forgotten by itself; it is without.
        pub auto_dismiss: Option<bool>,
    }
}

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
    /// `blockdev-mirror`.
    pub struct Mirror {
        /// The job's id; that of the device without.
        pub job_id: Option<String>,
        /// The device or node.
        pub device: String,
        /// The node that becomes its copy.
        pub target: String,
        /// The node that it comes in the place of: that of the disk.
        pub replaces: Option<String>,
        /// What is copied.
        pub sync: MirrorSyncMode,
        /// Bytes a second; 0 is as fast as it goes.
        pub speed: Option<u64>,
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
        /// The name of the job's own node on the disk; one is made up without.
        pub filter_node_name: Option<String>,
        /// Finalizes by itself; it does without.
        pub auto_finalize: Option<bool>,
        /// Is forgotten by itself; it is without.
        pub auto_dismiss: Option<bool>,
    }
}

/// `drive-mirror`: boxed, because it is larger than other arguments.
pub type DriveMirror = Box<FileMirror>;

qapi_struct! {
    /// `drive-mirror`.
    pub struct FileMirror {
        /// The job's id; that of the device without.
        pub job_id: Option<String>,
        /// The device or node.
        pub device: String,
        /// The image file that becomes its copy.
        pub target: String,
        /// Its format; that of the disk without, or what it is if it is there already.
        pub format: Option<String>,
        /// The name of its node; one is made up without.
        pub node_name: Option<String>,
        /// The node that it comes in the place of: that of the disk.
        pub replaces: Option<String>,
        /// What is copied.
        pub sync: MirrorSyncMode,
        /// How it comes to be; made without.
        pub mode: Option<NewImageMode>,
        /// Bytes a second; 0 is as fast as it goes.
        pub speed: Option<u64>,
        /// Bytes in one piece, a power of two; what is copied is found without.
        pub granularity: Option<u32>,
        /// Bytes in memory at most, 64 KiB at least; 512 KiB without.
        pub buf_size: Option<u64>,
        /// What an error of the disk does.
        pub on_source_error: Option<JobOnError>,
        /// What an error of the copy does.
        pub on_target_error: Option<JobOnError>,
        /// Space of the copy may be freed where it reads as zeroes; it may without.
        pub unmap: Option<bool>,
        /// How what the guest writes comes into the copy.
        pub copy_mode: Option<MirrorCopyMode>,
        /// Finalizes by itself; it does without.
        pub auto_finalize: Option<bool>,
        /// Is forgotten by itself; it is without.
        pub auto_dismiss: Option<bool>,
    }
}

qapi_struct! {
    /// `block-job-cancel`.
    pub struct BlockJobCancel {
        /// The job's id.
        pub device: String,
        /// At once, whatever it has done.
        pub force: Option<bool>,
    }
}

qapi_struct! {
    /// `block-job-pause` and `block-job-resume`.
    pub struct JobDevice {
        /// The job's id.
        pub device: String,
    }
}

qapi_struct! {
    /// `block-job-set-speed`.
    pub struct BlockJobSetSpeed {
        /// The job's id.
        pub device: String,
        /// Bytes a second; 0 is as fast as it goes.
        pub speed: u64,
    }
}

qapi_enum! {
    /// What happens to the other jobs of a transaction when one fails.
    pub enum ActionCompletionMode {
        /// They go on.
        Individual = "individual",
        /// They are cancelled.
        Grouped = "grouped",
    }
}

qapi_struct! {
    /// What holds for all actions.
    pub struct TransactionProperties {
        /// What happens to the other jobs when one fails.
        pub completion_mode: Option<ActionCompletionMode>,
    }
}

qapi_struct! {
    /// `transaction`.
    pub struct Transaction {
        /// What to do.
        pub actions: Vec<TransactionAction>,
        /// What holds for all of them.
        pub properties: Option<TransactionProperties>,
    }
}

/// `block_set_io_throttle`: boxed, because it is much larger than other arguments.
pub type BlockSetIoThrottle = Box<IoThrottle>;

qapi_struct! {
    /// `block_set_io_throttle`: one of the two names; 0 is no limit.
    pub struct IoThrottle {
        /// The `id=` of a `-drive`.
        pub device: Option<String>,
        /// The device.
        pub id: Option<String>,
        /// In bytes a second.
        pub bps: i64 = "bps",
        /// In bytes a second read.
        pub bps_rd: i64 = "bps_rd",
        /// In bytes a second written.
        pub bps_wr: i64 = "bps_wr",
        /// In requests a second.
        pub iops: i64 = "iops",
        /// In reads a second.
        pub iops_rd: i64 = "iops_rd",
        /// In writes a second.
        pub iops_wr: i64 = "iops_wr",
        /// In bytes a second, during a burst.
        pub bps_max: Option<i64> = "bps_max",
        /// In bytes a second read, during a burst.
        pub bps_rd_max: Option<i64> = "bps_rd_max",
        /// In bytes a second written, during a burst.
        pub bps_wr_max: Option<i64> = "bps_wr_max",
        /// In requests a second, during a burst.
        pub iops_max: Option<i64> = "iops_max",
        /// In reads a second, during a burst.
        pub iops_rd_max: Option<i64> = "iops_rd_max",
        /// In writes a second, during a burst.
        pub iops_wr_max: Option<i64> = "iops_wr_max",
        /// Seconds of a burst of bytes.
        pub bps_max_length: Option<i64> = "bps_max_length",
        /// Seconds of a burst of bytes read.
        pub bps_rd_max_length: Option<i64> = "bps_rd_max_length",
        /// Seconds of a burst of bytes written.
        pub bps_wr_max_length: Option<i64> = "bps_wr_max_length",
        /// Seconds of a burst of requests.
        pub iops_max_length: Option<i64> = "iops_max_length",
        /// Seconds of a burst of reads.
        pub iops_rd_max_length: Option<i64> = "iops_rd_max_length",
        /// Seconds of a burst of writes.
        pub iops_wr_max_length: Option<i64> = "iops_wr_max_length",
        /// Bytes that count as one request.
        pub iops_size: Option<i64> = "iops_size",
        /// The group; that of the disk without, or a new one.
        pub group: Option<String>,
    }
}

qapi_struct! {
    /// `blockdev-del`.
    pub struct NodeName {
        /// The node.
        pub node_name: String,
    }
}

qapi_struct! {
    /// Commands that take an `id` and nothing else.
    pub struct Id {
        /// The `id=` of the thing.
        pub id: String,
    }
}

qapi_enum! {
    /// How bytes are written in a JSON string.
    pub enum DataFormat {
        /// As text.
        Utf8 = "utf8",
        /// As base64.
        Base64 = "base64",
    }
}

qapi_struct! {
    /// `ringbuf-write`.
    pub struct RingbufWrite {
        /// The character device.
        pub device: String,
        /// What to write.
        pub data: String,
        /// How it is written; text without.
        pub format: Option<DataFormat>,
    }
}

qapi_struct! {
    /// `ringbuf-read`.
    pub struct RingbufRead {
        /// The character device.
        pub device: String,
        /// At most so many bytes.
        pub size: i64,
        /// How to write them; text without.
        pub format: Option<DataFormat>,
    }
}

qapi_struct! {
    /// `qom-list`.
    pub struct QomList {
        /// The place in the tree of objects.
        pub path: String,
    }
}

qapi_struct! {
    /// `qom-get`.
    pub struct QomGet {
        /// The object.
        pub path: String,
        /// Its property.
        pub property: String,
    }
}

qapi_struct! {
    /// `qom-set`.
    pub struct QomSet {
        /// The object.
        pub path: String,
        /// Its property.
        pub property: String,
        /// What it is to be.
        pub value: Value,
    }
}

qapi_enum! {
    /// How far a CPU model is expanded.
    pub enum CpuModelExpansionType {
        /// Every feature of the processor, on a model that never changes.
        Static = "static",
        /// Every property.
        Full = "full",
    }
}

qapi_struct! {
    /// `query-cpu-model-expansion`.
    pub struct CpuModelExpansion {
        /// How far.
        pub r#type: CpuModelExpansionType,
        /// What.
        pub model: CpuModelInfo,
    }
}

qapi_struct! {
    /// `qom-list-types`.
    pub struct QomListTypes {
        /// Only those of this kind.
        pub implements: Option<String>,
        /// Also those that no object can be made of.
        pub r#abstract: Option<bool>,
    }
}

qapi_struct! {
    /// `qom-list-properties`, `device-list-properties`.
    pub struct TypeName {
        /// The type.
        pub typename: String,
    }
}

/// `migrate-set-parameters`: what `query-migrate-parameters` tells.
pub type MigrateSetParameters = MigrationParameters;

qapi_struct! {
    /// `block-set-write-threshold`.
    pub struct BlockSetWriteThreshold {
        /// The node: a file or block device.
        pub node_name: String,
        /// Bytes from its start; 0 takes the threshold back.
        pub write_threshold: u64,
    }
}

qapi_struct! {
    /// `blockdev-reopen`.
    pub struct BlockdevReopen {
        /// The nodes, each as it was opened but for what changes.
        pub options: Vec<BlockdevAdd>,
    }
}

qapi_struct! {
    /// `migrate-set-capabilities`.
    pub struct MigrateSetCapabilities {
        /// What to set; the others stay.
        pub capabilities: Vec<MigrationCapabilityStatus>,
    }
}
