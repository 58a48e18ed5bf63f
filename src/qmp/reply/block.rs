//! Disks, their nodes and counters, and jobs.

use serde_json::Value;

use crate::qmp::command::args::BlockExportType;
use crate::qmp::event::JobStatus;

qapi_struct! {
    /// How a node uses the host's cache.
    pub struct BlockdevCacheInfo {
        /// Writes are done before they are on the medium.
        pub writeback: bool,
        /// Passes the host's page cache by.
        pub direct: bool,
        /// Ignores flushes.
        pub no_flush: bool,
    }
}

qapi_enum! {
    /// What is done with writes of zeroes.
    pub enum DetectZeroes {
        /// Nothing.
        Off = "off",
        /// They are written as zeroes.
        On = "on",
        /// They free what they cover.
        Unmap = "unmap",
    }
}

qapi_struct! {
    /// A snapshot inside an image.
    pub struct SnapshotInfo {
        /// Its id.
        pub id: String,
        /// Its name.
        pub name: String,
        /// Bytes of machine state.
        pub vm_state_size: i64,
        /// When it was made: seconds since 1970.
        pub date_sec: i64,
        /// And nanoseconds.
        pub date_nsec: i64,
        /// The guest's clock then: seconds.
        pub vm_clock_sec: i64,
        /// And nanoseconds.
        pub vm_clock_nsec: i64,
        /// The instruction count then, where one was kept.
        pub icount: Option<i64>,
    }
}

qapi_struct! {
    /// An image.
    pub struct ImageInfo {
        /// The name it was opened by.
        pub filename: String,
        /// Its format.
        pub format: String,
        /// Not closed cleanly.
        pub dirty_flag: Option<bool>,
        /// Bytes on the host.
        pub actual_size: Option<i64>,
        /// Bytes that the guest sees.
        pub virtual_size: i64,
        /// Bytes of a cluster.
        pub cluster_size: Option<i64>,
        /// Encrypted.
        pub encrypted: Option<bool>,
        /// With compressed clusters.
        pub compressed: Option<bool>,
        /// The image behind it, as its header names it.
        pub backing_filename: Option<String>,
        /// The same as a path from here.
        pub full_backing_filename: Option<String>,
        /// The format of that.
        pub backing_filename_format: Option<String>,
        /// Snapshots inside.
        pub snapshots: Option<Vec<SnapshotInfo>>,
        /// The image behind it.
        pub backing_image: Option<Box<ImageInfo>>,
        /// What only its format has: `{"type": FORMAT, "data": {…}}`.
        pub format_specific: Option<Value>,
    }
}

qapi_struct! {
    /// A node beneath another.
    pub struct BlockdevChild {
        /// What it is to the one above: `file`, `backing`.
        pub child: String,
        /// Its name in the graph.
        pub node_name: String,
    }
}

qapi_struct! {
    /// A node: an entry of `query-named-block-nodes`, and `inserted` of `query-block`.
    pub struct BlockDeviceInfo {
        /// The name it was opened by.
        pub file: String,
        /// Its name in the graph.
        pub node_name: Option<String>,
        /// Read-only.
        pub ro: bool,
        /// Its driver.
        pub drv: String,
        /// The image behind it.
        pub backing_file: Option<String> = "backing_file",
        /// How many images are behind it.
        pub backing_file_depth: i64 = "backing_file_depth",
        /// The nodes beneath it (since QEMU 9.2).
        pub children: Option<Vec<BlockdevChild>>,
        /// It may be used now: always, here (since QEMU 10.0).
        pub active: Option<bool>,
        /// Encrypted.
        pub encrypted: bool,
        /// What it does with zeroes.
        pub detect_zeroes: DetectZeroes = "detect_zeroes",
        /// Limit of bytes per second; 0 is none.
        pub bps: i64,
        /// The same for reads.
        pub bps_rd: i64 = "bps_rd",
        /// The same for writes.
        pub bps_wr: i64 = "bps_wr",
        /// Limit of requests per second; 0 is none.
        pub iops: i64,
        /// The same for reads.
        pub iops_rd: i64 = "iops_rd",
        /// The same for writes.
        pub iops_wr: i64 = "iops_wr",
        /// Limit in bytes a second, during a burst.
        pub bps_max: Option<i64> = "bps_max",
        /// Seconds that it may last.
        pub bps_max_length: Option<i64> = "bps_max_length",
        /// Limit in bytes a second read, during a burst.
        pub bps_rd_max: Option<i64> = "bps_rd_max",
        /// Seconds that it may last.
        pub bps_rd_max_length: Option<i64> = "bps_rd_max_length",
        /// Limit in bytes a second written, during a burst.
        pub bps_wr_max: Option<i64> = "bps_wr_max",
        /// Seconds that it may last.
        pub bps_wr_max_length: Option<i64> = "bps_wr_max_length",
        /// Limit in requests a second, during a burst.
        pub iops_max: Option<i64> = "iops_max",
        /// Seconds that it may last.
        pub iops_max_length: Option<i64> = "iops_max_length",
        /// Limit in reads a second, during a burst.
        pub iops_rd_max: Option<i64> = "iops_rd_max",
        /// Seconds that it may last.
        pub iops_rd_max_length: Option<i64> = "iops_rd_max_length",
        /// Limit in writes a second, during a burst.
        pub iops_wr_max: Option<i64> = "iops_wr_max",
        /// Seconds that it may last.
        pub iops_wr_max_length: Option<i64> = "iops_wr_max_length",
        /// Bytes that count as one request.
        pub iops_size: Option<i64> = "iops_size",
        /// The throttle group.
        pub group: Option<String>,
        /// The image.
        pub image: ImageInfo,
        /// How it uses the host's cache.
        pub cache: BlockdevCacheInfo,
        /// The offset that raises `BLOCK_WRITE_THRESHOLD`; 0 is none.
        pub write_threshold: i64 = "write_threshold",
        /// Its bitmaps.
        pub dirty_bitmaps: Option<Vec<BlockDirtyInfo>>,
    }
}

qapi_enum! {
    /// How a disk's last request went.
    pub enum BlockDeviceIoStatus {
        /// Well.
        Ok = "ok",
        /// It failed.
        Failed = "failed",
        /// The medium was full.
        NoSpace = "nospace",
    }
}

qapi_struct! {
    /// An entry of `query-block`: a disk that the guest sees.
    pub struct BlockInfo {
        /// The `id=` of its `-drive`, or empty.
        pub device: String,
        /// The device: its `id=`, or for virtio-blk `/machine/peripheral/ID/virtio-backend`.
        pub qdev: Option<String>,
        /// Always `unknown`.
        pub r#type: String,
        /// The medium can be taken out.
        pub removable: bool,
        /// The guest holds it.
        pub locked: bool,
        /// What is in it; empty without.
        pub inserted: Option<BlockDeviceInfo>,
        /// For drives with a tray.
        pub tray_open: Option<bool> = "tray_open",
        /// For disks that stop the machine on errors.
        pub io_status: Option<BlockDeviceIoStatus>,
    }
}

qapi_struct! {
    /// One entry of `query-block-exports`.
    pub struct BlockExportInfo {
        /// The export's id.
        pub id: String,
        /// How it is shown.
        pub r#type: BlockExportType,
        /// The node.
        pub node_name: String,
        /// It waits for its clients to be gone.
        pub shutting_down: bool,
    }
}

qapi_struct! {
    /// A bitmap of a node.
    pub struct BlockDirtyInfo {
        /// Its name.
        pub name: Option<String>,
        /// Bytes of the disk that it says have changed.
        pub count: i64,
        /// Bytes of the disk for one bit.
        pub granularity: u32,
        /// It records changes of the disk.
        pub recording: bool,
        /// Somebody has it in his hands.
        pub busy: bool,
        /// The image keeps it.
        pub persistent: bool,
        /// It was not stored after its last use.
        pub inconsistent: Option<bool>,
    }
}

qapi_struct! {
    /// Counters of a disk or a node since it was opened.
    pub struct BlockDeviceStats {
        /// Bytes read.
        pub rd_bytes: u64 = "rd_bytes",
        /// Bytes written.
        pub wr_bytes: u64 = "wr_bytes",
        /// Bytes discarded.
        pub unmap_bytes: u64 = "unmap_bytes",
        /// Reads done.
        pub rd_operations: u64 = "rd_operations",
        /// Writes done.
        pub wr_operations: u64 = "wr_operations",
        /// Flushes done.
        pub flush_operations: u64 = "flush_operations",
        /// Discards done.
        pub unmap_operations: u64 = "unmap_operations",
        /// Time in reads, in nanoseconds.
        pub rd_total_time_ns: u64 = "rd_total_time_ns",
        /// Time in writes.
        pub wr_total_time_ns: u64 = "wr_total_time_ns",
        /// Time in flushes.
        pub flush_total_time_ns: u64 = "flush_total_time_ns",
        /// Time in discards.
        pub unmap_total_time_ns: u64 = "unmap_total_time_ns",
        /// The end of the highest write.
        pub wr_highest_offset: u64 = "wr_highest_offset",
        /// Reads merged with others.
        pub rd_merged: u64 = "rd_merged",
        /// Writes merged.
        pub wr_merged: u64 = "wr_merged",
        /// Discards merged.
        pub unmap_merged: u64 = "unmap_merged",
        /// Since the last request, in nanoseconds; not before the first.
        pub idle_time_ns: Option<u64> = "idle_time_ns",
        /// Reads that failed.
        pub failed_rd_operations: u64 = "failed_rd_operations",
        /// Writes that failed.
        pub failed_wr_operations: u64 = "failed_wr_operations",
        /// Flushes that failed.
        pub failed_flush_operations: u64 = "failed_flush_operations",
        /// Discards that failed.
        pub failed_unmap_operations: u64 = "failed_unmap_operations",
        /// Reads the guest should not have asked for.
        pub invalid_rd_operations: u64 = "invalid_rd_operations",
        /// Such writes.
        pub invalid_wr_operations: u64 = "invalid_wr_operations",
        /// Such flushes.
        pub invalid_flush_operations: u64 = "invalid_flush_operations",
        /// Such discards.
        pub invalid_unmap_operations: u64 = "invalid_unmap_operations",
        /// Invalid requests count as requests.
        pub account_invalid: bool = "account_invalid",
        /// Failed ones do.
        pub account_failed: bool = "account_failed",
        /// Counters over intervals: none are kept.
        pub timed_stats: Vec<Value> = "timed_stats",
    }
}

qapi_enum! {
    /// The drivers that count more than requests.
    pub enum BlockStatsDriver {
        /// A file.
        File = "file",
        /// A block device.
        HostDevice = "host_device",
    }
}

qapi_struct! {
    /// Discards that reached a file or block device since it was opened.
    pub struct BlockStatsSpecific {
        /// Which it is.
        pub driver: BlockStatsDriver,
        /// Those that the host did.
        pub discard_nb_ok: u64,
        /// Those that it could not, or would not.
        pub discard_nb_failed: u64,
        /// Bytes of those that it did.
        pub discard_bytes_ok: u64,
    }
}

qapi_struct! {
    /// An entry of `query-blockstats`.
    pub struct BlockStats {
        /// As in [`BlockInfo`]; not for nodes.
        pub device: Option<String>,
        /// As in [`BlockInfo`].
        pub qdev: Option<String>,
        /// The node.
        pub node_name: Option<String>,
        /// Its counters.
        pub stats: BlockDeviceStats,
        /// What only its driver counts.
        pub driver_specific: Option<BlockStatsSpecific>,
        /// The file under the node.
        pub parent: Option<Box<BlockStats>>,
        /// The image behind it.
        pub backing: Option<Box<BlockStats>>,
    }
}

qapi_struct! {
    /// An entry of `query-block-jobs`.
    pub struct BlockJobInfo {
        /// `commit`, `stream`, `mirror`, `backup`.
        pub r#type: String,
        /// The job's id.
        pub device: String,
        /// Bytes to do in all.
        pub len: i64,
        /// Bytes done.
        pub offset: i64,
        /// At work just now.
        pub busy: bool,
        /// Told to pause.
        pub paused: bool,
        /// Limit of bytes per second; 0 is none.
        pub speed: i64,
        /// How its last request went.
        pub io_status: BlockDeviceIoStatus,
        /// Can be completed.
        pub ready: bool,
        /// Where it is in its life.
        pub status: JobStatus,
        /// Finalizes by itself.
        pub auto_finalize: bool,
        /// Is forgotten by itself.
        pub auto_dismiss: bool,
        /// Why it failed.
        pub error: Option<String>,
    }
}

qapi_struct! {
    /// An entry of `query-jobs`.
    pub struct JobInfo {
        /// The job's id.
        pub id: String,
        /// `commit`, `stream`, `mirror`, `backup`, `create` and so on.
        pub r#type: String,
        /// Where it is in its life.
        pub status: JobStatus,
        /// How far it is; the unit is the job's own.
        pub current_progress: i64,
        /// Where that ends.
        pub total_progress: i64,
        /// Why it failed.
        pub error: Option<String>,
    }
}
