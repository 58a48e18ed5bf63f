//! Of disks and their nodes: what they are asked and told while they run.

use super::BlockdevAdd;
use crate::qmp::command::create::BlockdevCreateOptions;

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
    /// `block_resize`: at least one of the two names; `device` counts where there is such a drive.
    pub struct BlockResize {
        /// The `id=` of a `-drive`.
        pub device: Option<String>,
        /// The node.
        pub node_name: Option<String>,
        /// Bytes; a multiple of 512.
        pub size: i64,
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
    /// `blockdev-del`.
    pub struct NodeName {
        /// The node.
        pub node_name: String,
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
    /// `blockdev-create`.
    pub struct BlockdevCreate {
        /// The job's id.
        pub job_id: String,
        /// What is to be made.
        pub options: BlockdevCreateOptions,
    }
}
