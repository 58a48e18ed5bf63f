//! Copies into image files that the job makes itself: `drive-mirror`, `drive-backup`, and the names of jobs' own nodes.

use std::path::Path;

use serde_json::{Value, json};

use crate::jobs::{chain, story, tool};
use crate::rig::Machine;

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("directory")
}

/// `more` with the disk on `top`, the id `j`, and a file in `folder`.
fn job(folder: &Path, target: &str, more: &Value) -> Value {
    let mut all = json!({"job-id": "j", "device": "top", "target": folder.join(target)});
    all.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    all
}

fn nodes(machine: &mut Machine) -> Vec<(String, String)> {
    let nodes = machine.ask("query-named-block-nodes", &json!({"flat": true})).expect("nodes");
    let text = |node: &Value, key: &str| node[key].as_str().expect("text").to_owned();
    nodes.as_array().expect("a list").iter().map(|node| (text(node, "node-name"), text(node, "drv"))).collect()
}

/// Writes to the disk as the guest would, and the same into the raw file `like`.
fn write(machine: &mut Machine, folder: &Path, like: &str, step: u64) {
    let words = format!("write -P {} {}k 6k", 10 + step, 64 * step + 61);
    assert_eq!(machine.human(&format!("qemu-io d \"{words}\"")), "");
    tool("qemu-io", &format!("-f raw -c {} {like}", words.replace(' ', "_")), folder);
}

#[test]
fn disk_goes_over_to_a_file_that_its_mirror_makes_while_the_guest_writes() {
    for sync in ["full", "top", "none"] {
        let folder = temporary();
        let mut machine = chain(folder.path());
        let more = json!({"sync": sync, "node-name": "copy", "speed": 1 << 20});
        machine.ask("drive-mirror", &job(folder.path(), "copy", &more)).expect("a job");
        for step in 0..8 {
            write(&mut machine, folder.path(), "before", step * 16);
        }
        machine.ask("block-job-set-speed", &json!({"device": "j", "speed": 0})).expect("faster");
        machine.until("j", "BLOCK_JOB_READY");
        write(&mut machine, folder.path(), "before", 5);
        machine.ask("job-complete", &json!({"id": "j"})).expect("completed");
        let events = machine.until("j", "null");
        write(&mut machine, folder.path(), "before", 6);
        let now = machine.drive("/machine/peripheral/d/virtio-backend")["inserted"].clone();

        assert_eq!(story(&events), ["waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"], "{sync}");
        let beneath = match sync {
            "full" => Value::Null,
            "top" => json!(folder.path().join("mid")),
            _ => json!(folder.path().join("top")),
        };
        assert_eq!((&now["node-name"], &now["backing_file"]), (&"copy".into(), &beneath), "{sync}");
        machine.end();
        tool("qemu-img", "check -q copy", folder.path());
        tool("qemu-img", "compare -f qcow2 -F raw copy before", folder.path());
    }
}

#[test]
fn mirror_that_is_left_closes_the_file_that_it_made() {
    let folder = temporary();
    let mut machine = chain(folder.path());
    let before = nodes(&mut machine);
    for (format, target) in [("raw", "copy.raw"), ("qcow2", "copy.qcow2")] {
        let more = json!({"sync": "full", "format": format, "unmap": false});
        machine.ask("drive-mirror", &job(folder.path(), target, &more)).expect("a job");
        machine.until("j", "BLOCK_JOB_READY");
        machine.ask("block-job-cancel", &json!({"device": "j"})).expect("left");
        machine.until("j", "null");

        // QEMU's tool heeds the locks: it could not open what is still open.
        tool("qemu-img", &format!("compare -f {format} -F raw {target} before"), folder.path());
    }
    assert_eq!(nodes(&mut machine), before);
    machine.end();
}

#[test]
fn file_that_is_there_already_is_taken_as_it_is_on_what_its_header_names() {
    let folder = temporary();
    let mut machine = chain(folder.path());
    tool("qemu-img", "create -q -f qcow2 -b mid -F qcow2 copy", folder.path());
    tool("qemu-img", "create -q -f raw whole 8M", folder.path());
    let top = json!({"sync": "top", "mode": "existing", "speed": 1 << 20});
    machine.ask("drive-mirror", &job(folder.path(), "copy", &top)).expect("a job");
    // A write of a part of a cluster, which the copy has to fill from what lies beneath.
    write(&mut machine, folder.path(), "before", 100);
    machine.ask("block-job-set-speed", &json!({"device": "j", "speed": 0})).expect("faster");
    machine.until("j", "BLOCK_JOB_READY");
    machine.ask("block-job-cancel", &json!({"device": "j"})).expect("left");
    machine.until("j", "null");
    let full = json!({"sync": "full", "mode": "existing", "format": "raw"});
    machine.ask("drive-backup", &job(folder.path(), "whole", &full)).expect("a job");
    machine.until("j", "null");
    machine.end();

    tool("qemu-img", "check -q copy", folder.path());
    tool("qemu-img", "compare -f qcow2 -F raw copy before", folder.path());
    tool("qemu-img", "compare -f raw -F raw whole before", folder.path());
}

#[test]
fn backup_into_a_file_shows_the_moment_whatever_the_guest_writes() {
    for (sync, compress) in [("full", false), ("full", true), ("top", true), ("none", false)] {
        let folder = temporary();
        let mut machine = chain(folder.path());
        tool("cp", "before now", folder.path());
        let before = nodes(&mut machine);
        let perf = json!({"max-workers": 1, "max-chunk": 65536, "use-copy-range": false});
        let more = json!({"sync": sync, "compress": compress, "speed": 1 << 20, "x-perf": perf});
        machine.ask("drive-backup", &job(folder.path(), "copy", &more)).expect("a job");
        for step in 0..8 {
            write(&mut machine, folder.path(), "now", step * 16);
        }
        machine.ask("block-job-set-speed", &json!({"device": "j", "speed": 0})).expect("faster");
        if sync == "none" {
            machine.ask("block-job-cancel", &json!({"device": "j"})).expect("over");
        }
        let events = machine.until("j", "null");

        let end = if sync == "none" { "BLOCK_JOB_CANCELLED" } else { "BLOCK_JOB_COMPLETED" };
        assert!(story(&events).contains(&end), "{events:?}");
        assert_eq!(nodes(&mut machine), before);
        machine.end();
        tool("qemu-img", "check -q copy", folder.path());
        tool("qemu-img", "compare -f qcow2 -F raw top now", folder.path());
        if sync == "none" {
            // What the guest did not change is still the disk's own.
            tool("qemu-io", "-r -f qcow2 -c read_-P_1_0_61k -c read_-P_1_61k_3k copy", folder.path());
        } else {
            tool("qemu-img", "compare -f qcow2 -F raw copy before", folder.path());
        }
        let bytes = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(folder.path().join("copy")).expect("it"));
        assert!(!compress || bytes * 512 < 1 << 20, "{sync}: {bytes} blocks");
    }
}

#[test]
fn transaction_takes_backups_into_files_or_none() {
    let folder = temporary();
    let mut machine = chain(folder.path());
    let before = nodes(&mut machine);
    let backup = json!({"type": "drive-backup", "data": job(folder.path(), "copy", &json!({"sync": "full"}))});
    let abort = json!({"type": "abort", "data": {}});

    let aborted = machine.ask("transaction", &json!({"actions": [backup, abort]}));
    machine.until("j", "null");
    let left = nodes(&mut machine);
    let grouped = json!({"actions": [backup], "properties": {"completion-mode": "grouped"}});
    machine.ask("transaction", &grouped).expect("a job");
    machine.until("j", "null");

    assert_eq!(aborted, Err("Transaction aborted using Abort action".into()));
    assert_eq!(left, before);
    machine.end();
    tool("qemu-img", "compare -f qcow2 -F raw copy before", folder.path());
}

#[test]
fn files_that_cannot_be_copied_into_are_refused_in_the_words_of_qemu() {
    let folder = temporary();
    let mut machine = chain(folder.path());
    tool("qemu-img", "create -q -f raw short 4M", folder.path());
    let before = (nodes(&mut machine), std::fs::read(folder.path().join("top")).expect("the image"));
    let cases = [
        ("top", json!({}), "Failed to get \"write\" lock"),
        ("copy", json!({"format": "foo"}), "Unknown file format 'foo'"),
        ("copy", json!({"format": "vmdk"}), "Format driver 'vmdk' does not support image creation"),
        ("copy", json!({"format": "raw", "sync": "top"}), "Backing file not supported for file format 'raw'"),
        ("copy", json!({"job-id": "9"}), "Invalid job ID '9'"),
        ("copy", json!({"device": "x"}), "Cannot find device='x' nor node-name='x'"),
    ];
    for command in ["drive-mirror", "drive-backup"] {
        for (target, more, expected) in &cases {
            let mut args = job(folder.path(), target, &json!({"sync": "full"}));
            args.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            let refused = machine.ask(command, &args);
            assert!(refused.as_ref().is_err_and(|error| error.contains(expected)), "{command} {args}: {refused:?}");
            assert!(!folder.path().join("copy").exists(), "{command} {args}");
        }
        let missing = machine.ask(command, &job(folder.path(), "no/copy", &json!({"sync": "full"})));
        assert!(missing.is_err_and(|error| error.starts_with("Could not create '")));
    }
    let of = |more: Value| job(folder.path(), "copy", &more);
    let mirrors = [
        (json!({"sync": "full", "node-name": "mid"}), "Duplicate nodes with node-name='mid'"),
        (json!({"sync": "full", "node-name": "9"}), "Invalid node-name: '9'"),
        (json!({"sync": "full", "device": "mid"}), "Need a root block node"),
        (json!({"sync": "bitmap"}), "Sync mode 'bitmap' not supported"),
        (
            json!({"sync": "full", "replaces": "top"}),
            "a node-name must be provided when replacing a named node of the graph",
        ),
        (json!({"sync": "full", "replaces": "x", "node-name": "n"}), "Failed to find node with node-name='x'"),
        (
            json!({"sync": "full", "replaces": "mid", "node-name": "n"}),
            "Node 'mid' is busy: node is used as backing hd of 'top'",
        ),
    ];
    for (more, expected) in mirrors {
        assert_eq!(machine.ask("drive-mirror", &of(more.clone())), Err(expected.into()), "{more}");
    }
    let short = json!({"sync": "full", "mode": "existing", "format": "raw"});
    let refused = machine.ask("drive-backup", &job(folder.path(), "short", &short));
    machine.ask("drive-mirror", &job(folder.path(), "short", &short)).expect("a job");
    let told = machine.until("j", "null");
    let compress = json!({"sync": "full", "format": "raw", "compress": true});
    let packed = machine.ask("drive-backup", &job(folder.path(), "packed", &compress));

    let workers = "max-workers must be between 1 and 2147483647";
    for (perf, expected) in [
        (json!({"max-workers": 0}), workers),
        (json!({"max-chunk": -5}), "max-chunk must be zero (which means no limit) or positive"),
        (json!({"max-chunk": 512}), "Required max-chunk (512) is less than backup cluster size (65536)"),
    ] {
        let bounded = json!({"sync": "full", "format": "raw", "x-perf": perf});
        let bounded = machine.ask("drive-backup", &job(folder.path(), "packed", &bounded));
        assert_eq!(bounded, Err(expected.into()));
    }

    assert_eq!(refused, Err("Source and target image have different sizes".into()));
    let error = told.iter().find_map(|event| event["data"]["error"].as_str());
    assert_eq!(error, Some("Source and target image have different sizes"));
    assert!(packed.is_err_and(|error| error.starts_with("Compression is not supported for this drive")));
    assert_eq!((nodes(&mut machine), std::fs::read(folder.path().join("top")).expect("the image")), before);
    assert_eq!(machine.ask("query-jobs", &json!({})), Ok(json!([])));
    machine.end();
}

#[test]
fn copies_that_are_cancelled_at_once_or_by_the_end_of_the_process_leave_the_disk_as_it_is() {
    let folder = temporary();
    let mut machine = chain(folder.path());
    let before = nodes(&mut machine);
    for command in ["drive-mirror", "drive-backup"] {
        let slow = json!({"sync": "full", "speed": 65536});
        machine.ask(command, &job(folder.path(), "copy", &slow)).expect("a job");
        machine.ask("block-job-cancel", &json!({"device": "j", "force": true})).expect("cancelled");
        let events = machine.until("j", "null");
        assert_eq!(story(&events), ["created", "running", "aborting", "BLOCK_JOB_CANCELLED", "concluded", "null"]);
    }
    let left = nodes(&mut machine);
    for (command, id) in [("drive-mirror", "m"), ("drive-backup", "b")] {
        let file = folder.path().join(id);
        let slow = json!({"job-id": id, "device": "top", "target": file, "sync": "full", "speed": 65536});
        let started = machine.ask(command, &slow);
        assert_eq!(started.is_ok(), id == "m", "{started:?}");
    }
    write(&mut machine, folder.path(), "before", 3);
    machine.end();

    assert_eq!(left, before);
    for name in ["top", "m", "copy"] {
        tool("qemu-img", &format!("check -q {name}"), folder.path());
    }
    tool("qemu-img", "compare -f qcow2 -F raw top before", folder.path());
}

#[test]
fn job_has_a_node_of_its_own_that_clients_can_name() {
    let folder = temporary();
    let mut machine = chain(folder.path());
    let before = nodes(&mut machine);
    tool("qemu-img", "create -q -f raw target 8M", folder.path());
    let file = json!({"driver": "file", "filename": folder.path().join("target")});
    machine.ask("blockdev-add", &json!({"driver": "raw", "node-name": "target", "file": file})).expect("a node");
    let with_target = nodes(&mut machine);
    let into = json!({"target": "target", "sync": "full"});
    for (command, more, driver, prefix) in [
        ("blockdev-mirror", &into, "mirror_top", ""),
        ("blockdev-backup", &into, "copy-before-write", "Could not create node: "),
        ("block-commit", &json!({}), "mirror_top", ""),
        ("block-commit", &json!({"top-node": "mid"}), "commit_top", ""),
        ("block-stream", &json!({}), "copy-on-read", "Could not create node: "),
    ] {
        let mut args = json!({"job-id": "j", "device": "top", "speed": 65536, "filter-node-name": "own"});
        args.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        machine.ask(command, &args).expect("a job");
        let during = nodes(&mut machine);
        let shown = machine.drive("/machine/peripheral/d/virtio-backend")["inserted"]["node-name"].clone();
        let taken = machine.ask("blockdev-add", &json!({"driver": "null-co", "node-name": "own"}));
        let deleted = machine.ask("blockdev-del", &json!({"node-name": "own"}));
        machine.ask("block-job-cancel", &json!({"device": "j", "force": true})).expect("cancelled");
        machine.until("j", "null");
        args["filter-node-name"] = "mid".into();
        let conflict = machine.ask(command, &args);

        assert!(during.contains(&("own".to_owned(), driver.to_owned())), "{command}: {during:?}");
        assert_eq!(shown, if driver == "commit_top" { "top" } else { "own" }, "{command}");
        assert_eq!(taken, Err("Duplicate nodes with node-name='own'".into()));
        assert_eq!(deleted, Err("Node own is in use".into()));
        assert_eq!(conflict, Err(format!("{prefix}Duplicate nodes with node-name='mid'")), "{command}");
        assert_eq!(nodes(&mut machine), with_target);
    }
    machine.ask("blockdev-del", &json!({"node-name": "target"})).expect("deleted");
    assert_eq!(nodes(&mut machine), before);
    machine.end();
}

#[test]
fn human_monitor_copies_disks_into_files_and_the_disk_leaves_its_own() {
    let folder = temporary();
    let mut machine = chain(folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    machine.end_device();
    machine.end();
    tool("cp", "before then", folder.path());
    tool("qemu-img", "create -q -f raw spare 8M", folder.path());
    let mut machine = Machine::start(&format!(
        "-drive if=none,id=d0,file={},format=qcow2 -device virtio-blk-pci,drive=d0
         -drive if=none,id=d1,file={},format=raw",
        path("top"),
        path("spare")
    ));

    let backup = machine.human(&format!("drive_backup -f -c d0 {}", path("packed")));
    machine.until("d0", "null");
    // A drive that no device has is nobody's.
    let spare = json!({"device": "d0", "target": "d1", "sync": "full"});
    machine.ask("blockdev-backup", &spare).expect("a job");
    machine.until("d0", "null");
    let mirror = machine.human(&format!("drive_mirror -f d0 {} raw", path("copy")));
    machine.until("d0", "BLOCK_JOB_READY");
    assert_eq!(machine.human("qemu-io d0 \"write -P 5 6M 5k\""), "");
    tool("qemu-io", "-f raw -c write_-P_5_6M_5k before", folder.path());
    machine.ask("block-job-complete", &json!({"device": "d0"})).expect("completed");
    machine.until("d0", "null");
    // The image that the disk has left is closed, though the device has asked for nothing since.
    tool("qemu-img", "compare -f qcow2 -F raw top before", folder.path());
    let none = machine.human("drive_mirror nope x");
    machine.end();

    assert_eq!((backup, mirror), (String::new(), String::new()));
    assert_eq!(none, "Error: Cannot find device='nope' nor node-name='nope'\n");
    tool("qemu-img", "compare -f qcow2 -F raw packed then", folder.path());
    tool("qemu-img", "compare -f raw -F raw copy before", folder.path());
    tool("qemu-img", "compare -f raw -F raw spare then", folder.path());
}
