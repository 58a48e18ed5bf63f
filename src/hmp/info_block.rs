//! `info block`, `info blockstats`, `info block-jobs`.

use std::fmt::Write;

use crate::img::{format_specific_lines, snapshot};
use crate::qmp::Command;
use crate::qmp::command::args::{QueryBlockstats, QueryNamedBlockNodes};
use crate::qmp::reply::block::{
    BlockDeviceInfo, BlockInfo, BlockJobInfo, BlockStats, BlockdevCacheInfo, DetectZeroes, ImageInfo, SnapshotInfo,
};

use super::Context;
use super::commands::{Failure, Printed, Words};
use crate::spec::human_size;

/// `info block [-n] [-v] [device]`.
pub(crate) fn block(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let (mut nodes, mut verbose, mut wanted) = (false, false, None);
    for index in 0..words.len() {
        match words.get(index) {
            Some("-n") => nodes = true,
            Some("-v") => verbose = true,
            Some(flag) if flag.starts_with('-') => return Err(Failure::Usage(format!("unsupported option {flag}"))),
            word => wanted = word,
        }
    }
    let parts: Vec<String> = if nodes {
        let nodes: Vec<BlockDeviceInfo> =
            context.ask(Command::QueryNamedBlockNodes(QueryNamedBlockNodes { flat: Some(!verbose) }))?;
        let is_wanted = |node: &&BlockDeviceInfo| wanted.is_none_or(|wanted| node.node_name.as_deref() == Some(wanted));
        nodes.iter().filter(is_wanted).map(|node| one(None, Some(node), verbose)).collect()
    } else {
        let disks: Vec<BlockInfo> = context.ask(Command::QueryBlock)?;
        let is_wanted = |disk: &&BlockInfo| wanted.is_none_or(|wanted| is_called(disk, wanted));
        disks.iter().filter(is_wanted).map(|disk| one(Some(disk), disk.inserted.as_ref(), verbose)).collect()
    };
    Ok(parts.join("\n"))
}

fn is_called(disk: &BlockInfo, name: &str) -> bool {
    let node = disk.inserted.as_ref().and_then(|node| node.node_name.as_deref());
    disk.device == name || disk.qdev.as_deref() == Some(name) || node == Some(name)
}

/// The title: the drive's name, else the device's or the node's.
fn title(disk: Option<&BlockInfo>, node: Option<&BlockDeviceInfo>) -> String {
    let node_name = node.and_then(|node| node.node_name.as_deref());
    match (disk, node_name) {
        (Some(disk), Some(node)) if !disk.device.is_empty() => format!("{} ({node})", disk.device),
        (Some(disk), _) if !disk.device.is_empty() => disk.device.clone(),
        (_, Some(node)) => node.to_owned(),
        (Some(disk), None) => disk.qdev.clone().unwrap_or_default(),
        (None, None) => String::new(),
    }
}

fn one(disk: Option<&BlockInfo>, node: Option<&BlockDeviceInfo>, verbose: bool) -> String {
    let mut text = title(disk, node);
    match node {
        Some(node) => {
            let read_only = if node.ro { ", read-only" } else { "" };
            let encrypted = if node.encrypted { ", encrypted" } else { "" };
            let _ = writeln!(text, ": {} ({}{read_only}{encrypted})", node.file, node.drv);
        }
        None => text.push_str(": [not inserted]\n"),
    }
    if let Some(disk) = disk {
        describe_disk(&mut text, disk);
    }
    if let Some(node) = node {
        describe_node(&mut text, node);
        if verbose {
            text.push_str("\nImages:\n");
            describe_image(&mut text, &node.image);
        }
    }
    text
}

fn describe_disk(text: &mut String, disk: &BlockInfo) {
    if let Some(qdev) = &disk.qdev {
        let _ = writeln!(text, "    Attached to:      {qdev}");
    }
    if disk.removable {
        // A drive that no device has is shown as one with its tray closed.
        let tray_open = disk.tray_open.or(disk.qdev.is_none().then_some(false));
        let locked = if disk.locked { "" } else { "not " };
        let tray = tray_open.map(|open| if open { ", tray open" } else { ", tray closed" });
        let _ = writeln!(text, "    Removable device: {locked}locked{}", tray.unwrap_or_default());
    }
}

fn describe_node(text: &mut String, node: &BlockDeviceInfo) {
    let BlockdevCacheInfo { writeback, direct, no_flush } = &node.cache;
    let mut modes = vec![if *writeback { "writeback" } else { "writethrough" }];
    if *direct {
        modes.push("direct");
    }
    if *no_flush {
        modes.push("ignore flushes");
    }
    let _ = writeln!(text, "    Cache mode:       {}", modes.join(", "));
    if let Some(backing) = &node.backing_file {
        let _ = writeln!(text, "    Backing file:     {backing} (chain depth: {})", node.backing_file_depth);
    }
    if node.detect_zeroes != DetectZeroes::Off {
        let _ = writeln!(text, "    Detect zeroes:    {}", node.detect_zeroes);
    }
    let limits = [node.bps, node.bps_rd, node.bps_wr, node.iops, node.iops_rd, node.iops_wr];
    if limits != [0; 6] {
        let [bps, bps_rd, bps_wr, iops, iops_rd, iops_wr] = limits;
        let _ = writeln!(
            text,
            "    I/O throttling:   bps={bps} bps_rd={bps_rd} bps_wr={bps_wr} iops={iops} iops_rd={iops_rd} \
             iops_wr={iops_wr}"
        );
    }
}

fn describe_image(text: &mut String, image: &ImageInfo) {
    let mut next = Some(image);
    while let Some(image) = next {
        let bytes = image.virtual_size;
        let _ = writeln!(text, "image: {}\nfile format: {}", image.filename, image.format);
        let _ = writeln!(text, "virtual size: {} ({bytes} bytes)", human_size(bytes.unsigned_abs()));
        if let Some(actual) = image.actual_size {
            let _ = writeln!(text, "disk size: {}", human_size(actual.unsigned_abs()));
        }
        if let Some(cluster) = image.cluster_size {
            let _ = writeln!(text, "cluster_size: {cluster}");
        }
        if let Some(backing) = &image.backing_filename {
            let _ = writeln!(text, "backing file: {backing}");
        }
        if let Some(format) = &image.backing_filename_format {
            let _ = writeln!(text, "backing file format: {format}");
        }
        for line in image.format_specific.as_ref().map(format_specific_lines).unwrap_or_default() {
            let _ = writeln!(text, "{line}");
        }
        next = image.backing_image.as_deref();
    }
}

/// `info blockstats`.
pub(crate) fn stats(context: &mut Context<'_>, _: &Words<'_>) -> Printed {
    let disks: Vec<BlockStats> = context.ask(Command::QueryBlockstats(QueryBlockstats { query_nodes: None }))?;
    let line = |disk: &BlockStats| {
        let stats = &disk.stats;
        format!(
            "{}: rd_bytes={} wr_bytes={} rd_operations={} wr_operations={} flush_operations={} wr_total_time_ns={} \
             rd_total_time_ns={} flush_total_time_ns={} rd_merged={} wr_merged={} idle_time_ns={}\n",
            disk.device.as_deref().unwrap_or_default(),
            stats.rd_bytes,
            stats.wr_bytes,
            stats.rd_operations,
            stats.wr_operations,
            stats.flush_operations,
            stats.wr_total_time_ns,
            stats.rd_total_time_ns,
            stats.flush_total_time_ns,
            stats.rd_merged,
            stats.wr_merged,
            stats.idle_time_ns.unwrap_or_default(),
        )
    };
    Ok(disks.iter().map(line).collect())
}

/// `info snapshots`: those that every disk has, by their names, and then those that only some have.
pub(crate) fn snapshots(context: &mut Context<'_>, _: &Words<'_>) -> Printed {
    let disks: Vec<BlockInfo> = context.ask(Command::QueryBlock)?;
    let named = |disk: &BlockInfo| if disk.device.is_empty() { disk.qdev.clone() } else { Some(disk.device.clone()) };
    // What is only read need not have the guest's state of another time.
    let disks = disks.iter().filter_map(|disk| Some((named(disk)?, disk.inserted.as_ref().filter(|node| !node.ro)?)));
    let disks: Vec<(String, &BlockDeviceInfo)> = disks.collect();
    let Some((_, first)) = disks.iter().find(|(_, node)| node.image.format == "qcow2") else {
        return Ok("no block device can store vmstate for snapshot\n".to_owned());
    };
    let is_everywhere = |snapshot: &SnapshotInfo| {
        let has_it = |(_, node): &(_, &BlockDeviceInfo)| inside(node).iter().any(|other| other.name == snapshot.name);
        disks.iter().all(has_it)
    };
    if disks.iter().all(|(_, node)| inside(node).is_empty()) {
        return Ok("There is no snapshot available.\n".to_owned());
    }
    let heading = snapshot::heading();
    let mut text = "List of snapshots present on all disks:\n".to_owned();
    let whole: Vec<_> = inside(first).iter().filter(|snapshot| is_everywhere(snapshot)).collect();
    if whole.is_empty() {
        text.push_str("None\n");
    } else {
        let _ = writeln!(text, "{heading}");
        // Its number may be another on each disk.
        whole.iter().for_each(|snapshot| text.push_str(&snapshot_line("--", snapshot)));
    }
    for (name, node) in &disks {
        let partial: Vec<_> = inside(node).iter().filter(|snapshot| !is_everywhere(snapshot)).collect();
        if !partial.is_empty() {
            let _ = writeln!(text, "\nList of partial (non-loadable) snapshots on '{name}':\n{heading}");
            partial.iter().for_each(|snapshot| text.push_str(&snapshot_line(&snapshot.id, snapshot)));
        }
    }
    Ok(text)
}

fn inside(node: &BlockDeviceInfo) -> &[SnapshotInfo] {
    node.image.snapshots.as_deref().unwrap_or_default()
}

fn snapshot_line(id: &str, snapshot: &SnapshotInfo) -> String {
    let whole = |number: i64| u64::try_from(number).unwrap_or(0);
    let clock = whole(snapshot.vm_clock_sec).saturating_mul(1_000_000_000) + whole(snapshot.vm_clock_nsec);
    let (date, icount) = (u32::try_from(snapshot.date_sec).unwrap_or(0), snapshot.icount.map(whole));
    snapshot::line(id, &snapshot.name, whole(snapshot.vm_state_size), date, clock, icount) + "\n"
}

/// `info block-jobs`.
pub(crate) fn jobs(context: &mut Context<'_>, _: &Words<'_>) -> Printed {
    let jobs: Vec<BlockJobInfo> = context.ask(Command::QueryBlockJobs)?;
    if jobs.is_empty() {
        return Ok("No active jobs\n".into());
    }
    let line = |job: &BlockJobInfo| {
        format!(
            "Type {}, device {}: Completed {} of {} bytes, speed limit {} bytes/s\n",
            job.r#type, job.device, job.offset, job.len, job.speed
        )
    };
    Ok(jobs.iter().map(line).collect())
}
