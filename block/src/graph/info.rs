//! What `query-named-block-nodes` and `query-block` tell of a node.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::{Graph, Node};
use crate::filter::job_top::JobTop;
use crate::format::qcow2::{DirtyBitmap, Qcow2};
use crate::protocol::file::HostFile;
use crate::spec::DetectZeroes;
use crate::throttle::Group;

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

/// The part of `BlockDeviceInfo` that tells of limits.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "each is the limit it is named after, 0 or absent where there is none")]
pub struct ThrottleInfo {
    pub bps: u64,
    pub bps_rd: u64,
    pub bps_wr: u64,
    pub iops: u64,
    pub iops_rd: u64,
    pub iops_wr: u64,
    #[serde(flatten)]
    pub bursts: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

impl From<&Group> for ThrottleInfo {
    fn from(group: &Group) -> Self {
        let limits = group.limits();
        if !limits.any() {
            return Self::default();
        }
        let [bps, bps_rd, bps_wr] = limits.bytes.map(|rate| rate.average);
        let [iops, iops_rd, iops_wr] = limits.requests.map(|rate| rate.average);
        let mut bursts = BTreeMap::new();
        let rates = limits.bytes.iter().chain(&limits.requests);
        for ((most, length), rate) in BURSTS.iter().zip(rates).filter(|(_, rate)| rate.burst > 0) {
            bursts.insert(*most, rate.burst);
            bursts.insert(*length, rate.length.max(1));
        }
        if limits.request_size > 0 {
            bursts.insert("iops_size", limits.request_size);
        }
        let group = Some(group.name().to_owned());
        Self { bps, bps_rd, bps_wr, iops, iops_rd, iops_wr, bursts, group }
    }
}

/// Names of burst limits and of their lengths, in the order of the limits.
const BURSTS: [(&str, &str); 6] = [
    ("bps_max", "bps_max_length"),
    ("bps_rd_max", "bps_rd_max_length"),
    ("bps_wr_max", "bps_wr_max_length"),
    ("iops_max", "iops_max_length"),
    ("iops_rd_max", "iops_rd_max_length"),
    ("iops_wr_max", "iops_wr_max_length"),
];

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
    /// The limits of the disk on it.
    #[serde(flatten)]
    pub throttling: ThrottleInfo,
    /// The image.
    pub image: ImageDetails,
    /// How the host caches.
    pub cache: CacheInfo,
    /// The place past which a write is told; 0 for none.
    pub write_threshold: u64,
    /// Its bitmaps.
    #[serde(rename = "dirty-bitmaps", skip_serializing_if = "Vec::is_empty")]
    pub dirty_bitmaps: Vec<DirtyBitmap>,
}

/// Drivers of which QEMU does not tell whether they were closed: they store no clusters of their own.
const WITHOUT_MARK: [&str; 4] = ["nbd", "null-aio", "null-co", "parallels"];

impl Node {
    /// What `BlockDeviceInfo` says of this node.
    #[must_use]
    pub fn info(&self, writeback: bool) -> NodeInfo {
        self.info_with(self.details(), self.depth(), writeback)
    }

    /// The same without the images behind it.
    #[must_use]
    pub fn flat_info(&self, writeback: bool) -> NodeInfo {
        self.info_with(self.details_on(None), 0, writeback)
    }

    fn info_with(&self, image: ImageDetails, depth: usize, writeback: bool) -> NodeInfo {
        let (backing, recipe) = (self.base(), self.recipe());
        let file = self.layer().as_any().downcast_ref::<HostFile>();
        NodeInfo {
            file: self.filename().display().to_string(),
            node_name: self.name.clone(),
            ro: self.is_read_only(),
            drv: self.layer().driver(),
            backing_file: backing.map(|node| node.filename().display().to_string()),
            backing_file_depth: depth,
            children: self
                .children()
                .into_iter()
                .map(|(child, node)| ChildInfo { child, node_name: node.name.clone() })
                .collect(),
            active: true,
            encrypted: image.encrypted == Some(true),
            detect_zeroes: recipe.settings.detect_zeroes,
            throttling: ThrottleInfo::default(),
            image,
            cache: CacheInfo { writeback, direct: recipe.settings.direct, no_flush: recipe.settings.no_flush },
            write_threshold: file.map_or(0, HostFile::write_threshold),
            dirty_bitmaps: self.dirty_bitmaps(),
        }
    }

    /// How many nodes the longest way down has that shows the same bytes, or those of an overlay's base.
    fn depth(&self) -> usize {
        let next = |node: &Self| node.child("backing").or_else(|| node.filtered());
        std::iter::successors(next(self), |node| next(node)).count()
    }

    /// The image that an overlay stands on; a job's own node is none.
    fn base(&self) -> Option<Arc<Self>> {
        self.child("backing").filter(|_| !self.layer().as_any().is::<JobTop>())
    }

    /// The images that are told of behind this one, from the next on.
    fn behind(&self) -> impl Iterator<Item = Arc<Self>> {
        std::iter::successors(self.base(), |node| node.base())
    }

    fn dirty_bitmaps(&self) -> Vec<DirtyBitmap> {
        let image = self.layer().as_any().downcast_ref::<Qcow2>();
        image.map_or_else(Vec::new, Qcow2::dirty_bitmaps)
    }

    /// It can say whether its image was closed well; what shows another node as it is says what that one says.
    fn has_mark(&self) -> bool {
        match (self.layer().driver(), self.child("file"), self.filtered()) {
            ("raw" | "luks", Some(beneath), _) | (_, _, Some(beneath)) => beneath.has_mark(),
            (driver, ..) => !WITHOUT_MARK.contains(&driver),
        }
    }

    /// What `ImageInfo` says of this node.
    #[must_use]
    pub fn details(&self) -> ImageDetails {
        let chain: Vec<_> = self.behind().collect();
        // From the bottom up: each holds what it stands on.
        let beneath = chain.into_iter().rev().fold(None, |beneath, node| Some(Box::new(node.details_on(beneath))));
        self.details_on(beneath)
    }

    fn details_on(&self, beneath: Option<Box<ImageDetails>>) -> ImageDetails {
        let mut details = ImageDetails {
            filename: self.filename().display().to_string(),
            format: self.layer().driver(),
            virtual_size: self.layer().size(),
            actual_size: self.layer().allocated_bytes(),
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
        self.layer().describe(&mut details);
        if self.has_mark() {
            details.dirty_flag.get_or_insert(false);
        }
        details.full_backing_filename = self.base().map(|base| base.filename().display().to_string());
        details.backing_image = beneath;
        details
    }
}

impl Graph {
    /// What `query-named-block-nodes` gives: of each node with the images behind it, of which there may be as many as
    /// pairs of nodes.
    ///
    /// # Errors
    ///
    /// How many there are, if more than `most`.
    pub fn info(&self, most: usize) -> Result<Vec<NodeInfo>, usize> {
        let nodes = self.nodes();
        let images = nodes.iter().map(|node| 1 + node.behind().count()).sum();
        if images > most {
            return Err(images);
        }
        Ok(nodes.iter().map(|node| node.info(true)).collect())
    }

    /// The same, of each node by itself.
    #[must_use]
    pub fn flat_info(&self) -> Vec<NodeInfo> {
        self.nodes().iter().map(|node| node.flat_info(true)).collect()
    }
}
