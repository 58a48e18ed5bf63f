//! Disks, nodes and counters.

use std::sync::Arc;

use rhea_block::Disk;
use rhea_block::filter::throttle::Lifted;
use rhea_block::graph::{Attached, Node, ThrottleInfo};
use rhea_block::layer::Preallocation;
use rhea_block::protocol::file::HostFile;
use rhea_block::spec::BlockdevSpec;
use rhea_devices::block_stats::{BlockStats as Counters, Counted};
use rhea_devices::scsi::Tray;
use serde_json::{Map, Value, json};

use crate::machine::Machine;
use crate::machine::event::MachineEvent;
use crate::machine::facts;
use crate::qmp::QmpError;
use crate::qmp::channel::{Answer, answer, done};
use crate::qmp::command::args::{BlockResize, BlockSetWriteThreshold, BlockdevReopen};
use crate::qmp::event::BlockWriteThresholdData;
use crate::qmp::reply::block::{BlockDeviceStats, BlockStats, BlockStatsDriver, BlockStatsSpecific};
use crate::spec::blockdev::BlockdevArgs;

/// Most images that are told of in one answer, each of up to 2 KiB: a session holds 4 MiB for its client.
const MOST_IMAGES: usize = 2000;

impl Machine {
    /// `query-block`: one entry a disk.
    pub(in crate::machine) fn disks(&self) -> Answer {
        let graph = &self.host.graph;
        let describe = |disk: &facts::Disk| {
            let mut inserted = graph.get(&disk.node).map(|node| graph.seen_on(node).info(disk.write_cache));
            let group = self.host.disk(&disk.id).attached.and_then(|attached| attached.disk().throttle());
            if let (Some(inserted), Some(group)) = (&mut inserted, group) {
                inserted.throttling = ThrottleInfo::from(&*group);
            }
            let tray = self.tray(disk);
            let mut described = json!({
                "device": disk.drive,
                "type": "unknown",
                "removable": disk.removable,
                "locked": tray.is_some_and(|tray| tray.locked),
            });
            if let Some(path) = disk.device_path() {
                described["qdev"] = path.into();
                described["io-status"] = self.io_status(disk).into();
            }
            if let Some(inserted) = inserted {
                described["inserted"] = json!(inserted);
            }
            if let Some(tray) = tray {
                described["tray_open"] = tray.open.into();
            }
            described
        };
        Ok(self.facts.disks.iter().map(describe).collect())
    }

    fn tray(&self, disk: &facts::Disk) -> Option<Tray> {
        let drives = self.guest.as_ref()?.board.drives();
        drives.removable.get(&disk.id).map(|unit| unit.tray())
    }

    fn io_status(&self, disk: &facts::Disk) -> &'static str {
        match self.failed_disks.get(&disk.id) {
            None => "ok",
            Some(&libc::ENOSPC) => "nospace",
            Some(_) => "failed",
        }
    }

    /// `query-named-block-nodes`; flat leaves out the images behind each.
    pub(in crate::machine) fn nodes(&self, flat: bool) -> Answer {
        let graph = &self.host.graph;
        let nodes = if flat { Ok(graph.flat_info()) } else { graph.info(MOST_IMAGES) };
        let too_many = |images| {
            let text = format!("the nodes and what is behind each make {images} images, too many for one answer");
            QmpError::generic(format!("{text}; ask with flat=true"))
        };
        answer(&nodes.map_err(too_many)?)
    }

    /// `query-blockstats`: of disks with the images behind them, or of nodes; of each with what is beneath it.
    pub(in crate::machine) fn disk_counters(&self, of_nodes: bool) -> Vec<BlockStats> {
        if of_nodes {
            return self.host.graph.nodes().iter().map(|node| self.node_counters(node, false)).collect();
        }
        let of_disk = |disk: &facts::Disk| {
            let node = self.host.graph.get(&disk.node);
            let (device, qdev) = (Some(disk.drive.clone()), disk.device_path());
            // Its own: others may be on the node, too.
            let stats = totals(&disk.stats, node.as_ref().map_or(0, |node| node.layer().highest_write()));
            match node.map(|node| self.node_counters(&node, true)) {
                Some(node) => BlockStats { device, qdev, stats, ..node },
                None => BlockStats {
                    device,
                    qdev,
                    node_name: None,
                    stats,
                    driver_specific: None,
                    parent: None,
                    backing: None,
                },
            }
        };
        self.facts.disks.iter().map(of_disk).collect()
    }

    /// Those of a node and of the file that it is stored in; with the images `behind` it or without.
    fn node_counters(&self, node: &Node, behind: bool) -> BlockStats {
        let disk = self.facts.disk_on(node.name());
        let unused = Counters::default();
        let counters = disk.map_or(&unused, |disk| &disk.stats);
        let stats = totals(counters, node.layer().highest_write());
        let of_child = |name| node.child(name).map(|child| Box::new(self.node_counters(&child, behind)));
        BlockStats {
            device: None,
            qdev: None,
            node_name: Some(node.name().to_owned()),
            // Errors are counted where a device's requests are.
            stats: BlockDeviceStats { account_invalid: disk.is_some(), account_failed: disk.is_some(), ..stats },
            driver_specific: discards_of(node),
            parent: of_child("file"),
            backing: if behind { of_child("backing") } else { None },
        }
    }

    /// `block_resize`: of two names that of a drive counts, where there is such a drive.
    pub(in crate::machine) fn resize_disk(&self, args: &BlockResize) -> Answer {
        let name = self.named(args.device.as_deref().unwrap_or(""), args.node_name.as_deref().unwrap_or(""))?;
        let size = u64::try_from(args.size).map_err(|_| QmpError::expects("size", "a >0 size"))?;
        let graph = &self.host.graph;
        let node = graph.find(&name).map_err(|e| QmpError::from_error(&e))?;
        graph.check_resize(&node).map_err(|e| QmpError::from_error(&e))?;
        let disks = self.disks_of(&node);
        // It writes itself, and the monitor waits.
        let _lifted = Lifted::everywhere();
        let still: Vec<_> = disks.iter().map(Disk::drain).collect();
        let resized = node.layer().resize(size, Preallocation::Off);
        drop(still);
        graph.lock_as_used(&node);
        resized.map_err(|e| QmpError::from_error(&e))?;
        disks.iter().for_each(Disk::announce);
        done()
    }

    /// `blockdev-add`.
    pub(in crate::machine) fn add_node(&self, args: &BlockdevArgs) -> Answer {
        let spec = args.node().map_err(|e| QmpError::from_error(&e))?;
        if spec.node_name().is_none() {
            return Err(QmpError::generic("'node-name' must be specified for the root node"));
        }
        self.check_node_names(&args.options)?;
        self.host.graph.add(&spec).map_err(|e| QmpError::from_error(&e))?;
        done()
    }

    /// As [`Machine::check_node_name`], of a node and those described within it.
    pub(in crate::machine) fn check_node_names(&self, options: &Map<String, Value>) -> Result<(), QmpError> {
        names_in(options).try_for_each(|name| self.check_node_name(Some(name)))
    }

    /// Refuses a name for a node that a drive has.
    pub(in crate::machine) fn check_node_name(&self, name: Option<&str>) -> Result<(), QmpError> {
        let taken = name.filter(|name| self.facts.disks.iter().any(|disk| disk.drive == *name));
        taken.map_or(Ok(()), |name| Err(QmpError::generic(format!("node-name={name} is conflicting with a device id"))))
    }

    /// `block-set-write-threshold`.
    pub(in crate::machine) fn set_write_threshold(&self, args: &BlockSetWriteThreshold) -> Answer {
        let node = self.host.graph.get(&args.node_name);
        let node = node.ok_or_else(|| QmpError::generic(format!("Device '{}' not found", args.node_name)))?;
        let Some(file) = node.layer().as_any().downcast_ref::<HostFile>() else {
            let (name, driver) = (node.name(), node.layer().driver());
            let text = format!("node '{name}' is of driver '{driver}': give the node of its file or block device");
            return Err(QmpError::generic(text));
        };
        let (events, node_name) = (self.host.events.clone(), args.node_name.clone());
        let tell = move |amount_exceeded, write_threshold| {
            let data = BlockWriteThresholdData { node_name: node_name.clone(), amount_exceeded, write_threshold };
            events.send(MachineEvent::WriteThreshold(data));
        };
        file.set_write_threshold(args.write_threshold, Arc::new(tell));
        done()
    }

    /// `blockdev-reopen`: all of the nodes, or none.
    pub(in crate::machine) fn reopen_nodes(&self, args: &BlockdevReopen) -> Answer {
        let specs = args.options.iter().map(|options| options.0.node());
        let specs = specs.collect::<Result<Vec<_>, _>>().map_err(|e| QmpError::from_error(&e))?;
        let nodes: Vec<_> =
            specs.iter().filter_map(BlockdevSpec::node_name).filter_map(|name| self.host.graph.get(name)).collect();
        let disks: Vec<_> = self.facts.disks.iter().filter_map(|disk| self.host.disk(&disk.id).attached).collect();
        let stands = |disk: &&Arc<Attached>| nodes.iter().any(|node| disk.node().stands_on(node));
        let fronts: Vec<_> = disks.iter().filter(stands).map(|disk| (disk, disk.disk().drain())).collect();
        self.host.graph.reopen(&specs).map_err(|e| QmpError::from_error(&e))?;
        for (disk, held) in fronts {
            let node = disk.node();
            if nodes.iter().any(|reopened| Arc::ptr_eq(reopened, &node)) && node.layer().throttled().is_some() {
                // The disk itself keeps to the limits of a group right beneath it.
                held.swap(node.layer().clone());
            }
            drop(held);
            disk.disk().announce();
        }
        done()
    }

    /// `blockdev-del`.
    pub(in crate::machine) fn remove_node(&self, name: &str) -> Answer {
        self.host.graph.remove(name).map_err(|e| QmpError::from_error(&e))?;
        done()
    }
}

/// The names that are given to a node and to those described within it.
fn names_in(options: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let mut all = vec![options];
    let mut next = 0;
    while let Some(options) = all.get(next).copied() {
        all.extend(options.values().filter_map(Value::as_object));
        next += 1;
    }
    all.into_iter().filter_map(|options| options.get("node-name").and_then(Value::as_str))
}

fn discards_of(node: &Node) -> Option<BlockStatsSpecific> {
    let layer = node.layer();
    let discarded = layer.as_any().downcast_ref::<HostFile>()?.discarded();
    let driver = if layer.driver() == "file" { BlockStatsDriver::File } else { BlockStatsDriver::HostDevice };
    let (discard_nb_ok, discard_nb_failed) = (discarded.done, discarded.failed);
    Some(BlockStatsSpecific { driver, discard_nb_ok, discard_nb_failed, discard_bytes_ok: discarded.bytes })
}

fn totals(counters: &Counters, highest_write: u64) -> BlockDeviceStats {
    let read = counters.totals(Counted::Read);
    let write = counters.totals(Counted::Write);
    let flush = counters.totals(Counted::Flush);
    let unmap = counters.totals(Counted::Unmap);
    BlockDeviceStats {
        rd_bytes: read.bytes,
        wr_bytes: write.bytes,
        unmap_bytes: unmap.bytes,
        rd_operations: read.operations,
        wr_operations: write.operations,
        flush_operations: flush.operations,
        unmap_operations: unmap.operations,
        rd_total_time_ns: read.total_time_ns,
        wr_total_time_ns: write.total_time_ns,
        flush_total_time_ns: flush.total_time_ns,
        unmap_total_time_ns: unmap.total_time_ns,
        wr_highest_offset: highest_write,
        rd_merged: read.merged,
        wr_merged: write.merged,
        unmap_merged: unmap.merged,
        idle_time_ns: counters.idle().map(|idle| u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX)),
        failed_rd_operations: read.failed,
        failed_wr_operations: write.failed,
        failed_flush_operations: flush.failed,
        failed_unmap_operations: unmap.failed,
        invalid_rd_operations: read.invalid,
        invalid_wr_operations: write.invalid,
        invalid_flush_operations: flush.invalid,
        invalid_unmap_operations: unmap.invalid,
        account_invalid: true,
        account_failed: true,
        timed_stats: Vec::<Value>::new(),
    }
}
