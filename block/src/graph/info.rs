//! What `query-named-block-nodes` and `query-block` tell of a node.

use std::sync::Arc;

use serde::Serialize;

use super::{Graph, Node};
use crate::spec::DetectZeroes;

/// `BlockdevCacheInfo`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CacheInfo {
    /// The guest sees a write cache.
    pub writeback: bool,
    /// The page cache is bypassed.
    pub direct: bool,
    /// Flushes are ignored.
    pub no_flush: bool,
}

/// One node beneath, by role and name.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ChildInfo {
    /// What it is to the node above.
    pub child: &'static str,
    /// Its name.
    pub node_name: String,
}

/// `ImageInfo`, in the order in which QEMU shows it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageDetails {
    /// The image beneath.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_image: Option<Box<ImageDetails>>,
    /// Format of the backing file as the header names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename_format: Option<String>,
    /// Internal snapshots, where they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<serde_json::Value>,
    /// Size of the disk in bytes.
    pub virtual_size: u64,
    /// Path of the image.
    pub filename: String,
    /// Bytes of a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// Driver.
    pub format: &'static str,
    /// Bytes taken on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_size: Option<u64>,
    /// What only this format has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_specific: Option<serde_json::Value>,
    /// The path that was opened for the backing file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_backing_filename: Option<String>,
    /// It is encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    /// The backing file as the header names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename: Option<String>,
    /// It was not closed, and its reference counts may be old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_flag: Option<bool>,
}

/// `BlockDeviceInfo`.
#[derive(Debug, Clone, Serialize)]
pub struct NodeInfo {
    /// Path of the image.
    pub file: String,
    /// The node's name.
    #[serde(rename = "node-name")]
    pub node_name: String,
    /// Writes are refused.
    pub ro: bool,
    /// Driver.
    pub drv: &'static str,
    /// Path of the backing image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<String>,
    /// Length of the backing chain.
    pub backing_file_depth: usize,
    /// The nodes beneath.
    pub children: Vec<ChildInfo>,
    /// Always true: nodes here are never inactive.
    pub active: bool,
    /// It is encrypted.
    pub encrypted: bool,
    /// What happens to zeroes.
    pub detect_zeroes: DetectZeroes,
    /// Throttling: none on the node itself.
    pub bps: u64,
    /// As `bps`, reads.
    pub bps_rd: u64,
    /// As `bps`, writes.
    pub bps_wr: u64,
    /// Throttling in requests: none on the node itself.
    pub iops: u64,
    /// As `iops`, reads.
    pub iops_rd: u64,
    /// As `iops`, writes.
    pub iops_wr: u64,
    /// The image.
    pub image: ImageDetails,
    /// How the host caches.
    pub cache: CacheInfo,
    /// No threshold is set.
    pub write_threshold: u64,
}

impl Node {
    /// What `BlockDeviceInfo` says of this node.
    #[must_use]
    pub fn info(&self, writeback: bool) -> NodeInfo {
        let image = self.details();
        let chain = std::iter::successors(self.child("backing"), |node| node.child("backing"));
        NodeInfo {
            file: self.filename.display().to_string(),
            node_name: self.name.clone(),
            ro: self.layer.limits().read_only,
            drv: self.layer.driver(),
            backing_file: self.child("backing").map(|node| node.filename.display().to_string()),
            backing_file_depth: chain.count(),
            children: self
                .children
                .iter()
                .map(|(child, node)| ChildInfo { child, node_name: node.name.clone() })
                .collect(),
            active: true,
            encrypted: image.encrypted == Some(true),
            detect_zeroes: self.detect_zeroes,
            bps: 0,
            bps_rd: 0,
            bps_wr: 0,
            iops: 0,
            iops_rd: 0,
            iops_wr: 0,
            image,
            cache: CacheInfo { writeback, direct: self.direct, no_flush: self.no_flush },
            write_threshold: 0,
        }
    }

    /// What `ImageInfo` says of this node.
    #[must_use]
    pub fn details(&self) -> ImageDetails {
        let mut details = ImageDetails {
            filename: self.filename.display().to_string(),
            format: self.layer.driver(),
            virtual_size: self.layer.size(),
            actual_size: self.layer.allocated_bytes(),
            cluster_size: None,
            snapshots: Vec::new(),
            encrypted: None,
            dirty_flag: None,
            backing_filename: None,
            backing_filename_format: None,
            full_backing_filename: None,
            format_specific: None,
            backing_image: None,
        };
        self.layer.describe(&mut details);
        if let Some(backing) = self.child("backing") {
            details.full_backing_filename = Some(backing.filename.display().to_string());
            details.backing_image = Some(Box::new(backing.details()));
        }
        details
    }
}

impl Graph {
    /// What `query-named-block-nodes` gives.
    #[must_use]
    pub fn info(&self) -> Vec<NodeInfo> {
        self.nodes().iter().map(|node: &Arc<Node>| node.info(true)).collect()
    }
}
