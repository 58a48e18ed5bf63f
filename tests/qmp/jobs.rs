//! Jobs on images: made images, overlays that take in what lies beneath.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::rig::Machine;

/// Runs a program of QEMU's; `_` stands for a space within a word.
pub(crate) fn tool(program: &str, words: &str, folder: &Path) {
    let words: Vec<_> = words.split(' ').map(|word| word.replace('_', " ")).collect();
    let done = Command::new(program).args(&words).current_dir(folder).output();
    let done = done.unwrap_or_else(|error| panic!("{program} (Debian: qemu-utils): {error}"));
    assert!(done.status.success(), "{program} {words:?}: {done:?}");
}

impl Machine {
    /// Waits for an event of the job that says so (its status, or the name of the event), and gives all that were of
    /// it before.
    pub(crate) fn until(&mut self, id: &str, word: &str) -> Vec<Value> {
        let of_job = |event: &Value| event["data"]["id"] == id || event["data"]["device"] == id;
        while !self.events.iter().any(|event| of_job(event) && said(event) == Some(word)) {
            self.wait();
        }
        self.events.extract_if(.., |event| of_job(event)).collect()
    }
}

/// What an event says, in short: the status, or the name of the event.
fn said(event: &Value) -> Option<&str> {
    event["data"]["status"].as_str().or(event["event"].as_str())
}

pub(crate) fn story(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(said).collect()
}

#[test]
fn image_is_made_as_libvirt_makes_one_and_put_on_a_disk() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    tool("qemu-img", "create -q -f qcow2 base.qcow2 8M", folder.path());
    let mut machine = Machine::start(&format!(
        "-blockdev driver=qcow2,node-name=base,file.driver=file,file.filename={} -device virtio-blk-pci,drive=base,id=d",
        path("base.qcow2")
    ));

    let file = json!({"driver": "file", "filename": path("top.qcow2"), "size": 0});
    machine.ask("blockdev-create", &json!({"job-id": "create-file", "options": file})).expect("a job");
    let events = machine.until("create-file", "concluded");
    let jobs = machine.ask("query-jobs", &json!({})).expect("jobs");
    machine.ask("job-dismiss", &json!({"id": "create-file"})).expect("dismissed");
    let node = json!({"driver": "file", "filename": path("top.qcow2"), "node-name": "storage"});
    machine.ask("blockdev-add", &node).expect("a node");
    let image = json!({"driver": "qcow2", "file": "storage", "size": 8 << 20, "backing-file": path("base.qcow2"),
        "backing-fmt": "qcow2", "cluster-size": 65536, "version": "v3"});
    machine.ask("blockdev-create", &json!({"job-id": "create-format", "options": image})).expect("a job");
    machine.until("create-format", "concluded");
    machine.ask("job-dismiss", &json!({"id": "create-format"})).expect("dismissed");
    let node = json!({"driver": "qcow2", "file": "storage", "node-name": "top", "backing": null});
    machine.ask("blockdev-add", &node).expect("a node");
    let taken = machine.ask("blockdev-snapshot", &json!({"node": "base", "overlay": "top"}));

    assert_eq!(story(&events), ["created", "running", "waiting", "pending", "concluded"]);
    assert_eq!((&jobs[0]["type"], &jobs[0]["status"]), (&"create".into(), &"concluded".into()));
    assert_eq!(taken, Ok(json!({})));
    assert_eq!(machine.ask("query-jobs", &json!({})), Ok(json!([])));
    drop(machine);
    tool("qemu-img", "compare -f qcow2 -F qcow2 base.qcow2 top.qcow2", folder.path());
}

#[test]
fn overlay_takes_in_what_lies_beneath_and_stands_alone() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    tool("qemu-img", "create -q -f qcow2 base 8M", folder.path());
    tool("qemu-io", "-f qcow2 -c write_-P_7_1M_2M base", folder.path());
    tool("qemu-img", "create -q -f qcow2 -b base -F qcow2 top", folder.path());
    let mut machine = Machine::start(&format!(
        "-drive if=none,id=drive0,file={},format=qcow2 -device virtio-blk-pci,drive=drive0,id=d",
        path("top")
    ));

    machine.ask("block-stream", &json!({"device": "drive0"})).expect("a job");
    let events = machine.until("drive0", "null");

    let order = ["created", "running", "waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"];
    assert_eq!(story(&events), order);
    let completed = &events[4]["data"];
    assert_eq!(
        (&completed["type"], &completed["len"], &completed["offset"]),
        (&"stream".into(), &(8 << 20).into(), &(8 << 20).into())
    );
    assert_eq!(machine.drive("drive0")["inserted"]["backing_file_depth"], 0);
    assert_eq!(machine.ask("query-block-jobs", &json!({})), Ok(json!([])));
    machine.end();
    std::fs::rename(folder.path().join("base"), folder.path().join("former")).expect("renamed");
    tool("qemu-img", "compare -f qcow2 -F qcow2 former top", folder.path());
    tool("qemu-img", "check -q top", folder.path());
}

#[test]
fn job_is_held_limited_and_ended_by_its_verbs() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    tool("qemu-img", "create -q -f qcow2 base 8M", folder.path());
    tool("qemu-io", "-f qcow2 -c write_-P_7_0_8M base", folder.path());
    tool("qemu-img", "create -q -f qcow2 -b base -F qcow2 top", folder.path());
    let mut machine = Machine::start(&format!(
        "-blockdev driver=qcow2,node-name=top,file.driver=file,file.filename={} -device virtio-blk-pci,drive=top,id=d",
        path("top")
    ));

    let job = json!({"job-id": "j", "device": "top", "speed": 1 << 20, "auto-dismiss": false});
    machine.ask("block-stream", &job).expect("a job");
    let again = machine.ask("block-stream", &json!({"job-id": "k", "device": "top"}));
    let same = machine.ask("block-stream", &json!({"job-id": "j", "device": "top"}));
    let snapshot = machine.ask(
        "blockdev-snapshot-sync",
        &json!({"node-name": "top", "snapshot-node-name": "x", "snapshot-file": path("x")}),
    );
    let resize = machine.ask("block_resize", &json!({"node-name": "top", "size": 16 << 20}));
    let create = json!({"job-id": "c", "options": {"driver": "qcow2", "file": "top", "size": 1 << 20}});
    machine.ask("blockdev-create", &create).expect("a job");
    machine.until("c", "concluded");
    let jobs = machine.ask("query-jobs", &json!({})).expect("jobs");
    machine.ask("job-dismiss", &json!({"id": "c"})).expect("dismissed");
    let early = machine.ask("job-dismiss", &json!({"id": "j"}));
    machine.ask("block-job-pause", &json!({"device": "j"})).expect("paused");
    let paused = machine.ask("query-block-jobs", &json!({})).expect("jobs")[0].clone();
    machine.ask("job-resume", &json!({"id": "j"})).expect("goes on");
    machine.ask("block-job-cancel", &json!({"device": "j"})).expect("cancelled");
    let events = machine.until("j", "concluded");
    let kept = machine.ask("query-jobs", &json!({})).expect("jobs")[0]["error"].clone();
    machine.ask("block-job-dismiss", &json!({"id": "j"})).expect("dismissed");
    let gone = machine.ask("block-job-cancel", &json!({"device": "j"}));

    assert_eq!(again, Err("Node 'top' is busy: block device is in use by block job: stream".into()));
    assert!(same.is_err());
    assert_eq!(snapshot, Err("Node 'top' is busy: block device is in use by block job: stream".into()));
    assert!(resize.is_err_and(|error| error.contains("busy")));
    assert_eq!(jobs[0]["error"], "Block device top is in use");
    assert_eq!(early, Err("Job 'j' in state 'running' cannot accept command verb 'dismiss'".into()));
    assert_eq!(
        (&paused["paused"], &paused["speed"], &paused["status"]),
        (&true.into(), &(1 << 20).into(), &"paused".into())
    );
    assert_eq!(
        story(&events),
        ["created", "running", "paused", "running", "aborting", "BLOCK_JOB_CANCELLED", "concluded"]
    );
    assert_eq!(kept, "Operation canceled");
    assert_eq!(gone, Err("Block job 'j' not found".into()));
    // What it has done stays, and shows the same.
    drop(machine);
    tool("qemu-img", "compare -f qcow2 -F qcow2 base top", folder.path());
    tool("qemu-img", "check -q top", folder.path());
}

#[test]
fn overlay_is_committed_into_what_it_was_put_on_and_the_disk_goes_back() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    tool("qemu-img", "create -q -f qcow2 base 8M", folder.path());
    tool("qemu-img", "create -q -f qcow2 -b base -F qcow2 one", folder.path());
    tool("qemu-io", "-f qcow2 -c write_-P_7_1M_2M one", folder.path());
    let mut machine = Machine::start(&format!(
        "-blockdev driver=qcow2,node-name=base,file.driver=file,file.filename={} -device virtio-blk-pci,drive=base,id=d",
        path("base")
    ));
    let snapshot = |node: &str, name: &str, mode: &str| json!({"node-name": node, "snapshot-node-name": name, "snapshot-file": path(name), "mode": mode});
    machine.ask("blockdev-snapshot-sync", &snapshot("base", "one", "existing")).expect("a snapshot");
    machine.ask("blockdev-snapshot-sync", &snapshot("one", "two", "absolute-paths")).expect("a snapshot");
    machine.ask("blockdev-snapshot-sync", &snapshot("two", "three", "absolute-paths")).expect("a snapshot");

    let below = json!({"job-id": "below", "device": "three", "top-node": "two", "base-node": "one"});
    machine.ask("block-commit", &below).expect("a job");
    let events = machine.until("below", "null");
    let depth = machine.drive("/machine/peripheral/d/virtio-backend")["inserted"]["backing_file_depth"].clone();
    machine.ask("block-commit", &json!({"job-id": "active", "device": "three", "base": path("base")})).expect("a job");
    let ready = machine.until("active", "BLOCK_JOB_READY");
    let early = machine.ask("blockdev-del", &json!({"node-name": "base"}));
    machine.ask("job-complete", &json!({"id": "active"})).expect("completed");
    let over = machine.until("active", "null");
    let now = machine.drive("/machine/peripheral/d/virtio-backend")["inserted"].clone();
    for node in ["three", "two", "one"] {
        machine.ask("blockdev-del", &json!({"node-name": node})).expect("deleted");
    }

    assert_eq!(
        story(&events),
        ["created", "running", "waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"]
    );
    assert_eq!(depth, 2);
    assert_eq!(story(&ready), ["created", "running", "ready", "BLOCK_JOB_READY"]);
    assert!(early.is_err(), "{early:?}");
    assert_eq!(story(&over), ["waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"]);
    assert_eq!((&now["node-name"], &now["ro"], &now["backing_file_depth"]), (&"base".into(), &false.into(), &0.into()));
    machine.end();
    tool("qemu-img", "compare -f qcow2 -F qcow2 base three", folder.path());
    tool("qemu-io", "-r -f qcow2 -c read_-P_7_1M_2M base", folder.path());
    tool("qemu-img", "check -q base", folder.path());
}

#[test]
fn human_monitor_commits_overlays_and_empties_them() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    for name in ["one", "two"] {
        tool("qemu-img", &format!("create -q -f raw base-{name} 8M"), folder.path());
        tool("qemu-img", &format!("create -q -f qcow2 -b base-{name} -F raw {name}"), folder.path());
        tool("qemu-io", &format!("-f qcow2 -c write_-P_7_1M_2M -c write_-z_5M_128k {name}"), folder.path());
        tool("cp", &format!("{name} before-{name}"), folder.path());
        tool("cp", &format!("base-{name} before-base-{name}"), folder.path());
    }
    let drive = |name: &str| format!("-drive if=none,id={name},format=qcow2,file={}", path(name));
    let mut machine = Machine::start(&format!(
        "{} {} -device virtio-blk-pci,drive=one -device virtio-blk-pci,drive=two -drive if=ide,media=cdrom,id=cd
         -drive if=none,id=raw,format=raw,file={} -device ide-hd,drive=raw -device virtio-blk-pci,drive=gone
         -drive if=none,id=gone,file={},format=raw,snapshot=on",
        drive("one"),
        drive("two"),
        path("before-one"),
        path("before-two"),
    ));

    let missing = machine.human("commit nope");
    let empty = machine.human("commit cd");
    let plain = machine.human("commit raw");
    let one = machine.human("commit one");
    tool("qemu-img", "compare -U -f raw -F raw base-two before-base-two", folder.path());
    let all = machine.human("commit all");
    let again = machine.human("commit all");
    machine.end();

    assert_eq!(missing, "Device 'nope' not found\n");
    assert_eq!(empty, "Device 'cd' has no medium\n");
    assert_eq!(plain, "'commit' error for 'raw': Operation not supported\n");
    assert_eq!((one, all, again), (String::new(), String::new(), String::new()));
    for name in ["one", "two"] {
        tool("qemu-io", &format!("-r -f raw -c read_-P_7_1M_2M base-{name}"), folder.path());
        let map = Command::new("qemu-img").args(["map", "--output=json", &path(name)]).output().expect("qemu-img");
        let map: Vec<Value> = serde_json::from_slice(&map.stdout).expect("a map");
        assert!(map.iter().all(|run| run["depth"] == 1), "{map:?}");
        tool("qemu-img", &format!("check -q {name}"), folder.path());
    }
}

#[test]
fn base_that_was_opened_for_reading_is_opened_again_for_writing() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (format, options) in [("qcow2", "-q"), ("raw", "-q")] {
        tool("qemu-img", &format!("create -f {format} {options} base 8M"), folder.path());
        tool("qemu-io", &format!("-f {format} -c write_-P_3_0_4M base"), folder.path());
        tool("qemu-img", &format!("create -q -f qcow2 -b base -F {format} top"), folder.path());
        tool("qemu-io", "-f qcow2 -c write_-P_7_1M_2M -c write_-z_3M_128k top", folder.path());
        tool("cp", "top before", folder.path());
        tool("cp", "base before-base", folder.path());
        let mut machine = Machine::start(&format!(
            "-drive if=none,id=d0,file={},format=qcow2 -device virtio-blk-pci,drive=d0,id=d",
            path("top")
        ));

        machine.ask("block-commit", &json!({"device": "d0"})).expect("a job");
        machine.until("d0", "ready");
        machine.ask("block-job-complete", &json!({"device": "d0"})).expect("completed");
        let over = machine.until("d0", "null");
        let now = machine.drive("d0")["inserted"].clone();

        assert!(story(&over).contains(&"BLOCK_JOB_COMPLETED"));
        assert_eq!((&now["file"], &now["ro"], &now["drv"]), (&path("base").into(), &false.into(), &format.into()));
        machine.end();
        tool(
            "qemu-img",
            "rebase -u -f qcow2 -b before-base -F raw before".replace("raw", format).as_str(),
            folder.path(),
        );
        tool("qemu-img", &format!("compare -f {format} -F qcow2 base before"), folder.path());
    }
}

#[test]
fn commit_is_refused_where_it_cannot_be_and_cancelled_leaves_the_disk() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    tool("qemu-img", "create -q -f qcow2 base 8M", folder.path());
    tool("qemu-img", "create -q -f qcow2 -b base -F qcow2 top", folder.path());
    let mut machine = Machine::start(&format!(
        "-drive if=none,id=d0,file={},format=qcow2 -device virtio-blk-pci,drive=d0,id=d",
        path("top")
    ));

    let stranger = machine.ask("block-commit", &json!({"device": "d0", "base-node": "x"}));
    let itself = machine.ask("block-commit", &json!({"device": "d0", "base": path("top")}));
    machine.ask("blockdev-snapshot-sync", &json!({"device": "d0", "snapshot-file": path("over")})).expect("a snapshot");
    machine.ask("block-commit", &json!({"device": "d0", "base": path("top"), "auto-dismiss": false})).expect("a job");
    machine.until("d0", "ready");
    machine.ask("block-job-cancel", &json!({"device": "d0", "force": true})).expect("cancelled");
    let over = machine.until("d0", "concluded");

    assert_eq!(stranger, Err("'x' is not in this backing file chain".into()));
    assert_eq!(itself, Err("cannot commit an image into itself".into()));
    assert_eq!(story(&over)[over.len() - 3..], ["aborting", "BLOCK_JOB_CANCELLED", "concluded"]);
    let now = machine.drive("d0")["inserted"].clone();
    assert_eq!((&now["file"], &now["backing_file_depth"]), (&path("over").into(), &2.into()));
}

#[test]
fn disk_is_mirrored_elsewhere_and_goes_over_or_stays() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    tool("qemu-img", "create -q -f qcow2 source 8M", folder.path());
    tool("qemu-io", "-f qcow2 -c write_-P_7_1M_2M source", folder.path());
    let mut machine = Machine::start(&format!(
        "-blockdev driver=qcow2,node-name=source,file.driver=file,file.filename={} -device virtio-blk-pci,drive=source,id=d",
        path("source")
    ));
    let add = |machine: &mut Machine, name: &str, size: &str| {
        tool("qemu-img", &format!("create -q -f raw {name} {size}"), folder.path());
        let node = json!({"driver": "raw", "node-name": name, "file": {"driver": "file", "filename": path(name)}});
        machine.ask("blockdev-add", &node).expect("a node");
    };
    for (name, size) in [("left", "8M"), ("taken", "8M"), ("short", "4M")] {
        add(&mut machine, name, size);
    }
    let mirror = |id: &str, target: &str| json!({"job-id": id, "device": "source", "target": target, "sync": "full"});

    let short = machine.ask("blockdev-mirror", &mirror("j", "short"));
    let itself = machine.ask("blockdev-mirror", &mirror("j", "source"));
    machine.ask("blockdev-mirror", &mirror("left", "left")).expect("a job");
    machine.until("left", "BLOCK_JOB_READY");
    machine.ask("block-job-cancel", &json!({"device": "left"})).expect("left");
    let left = machine.until("left", "null");
    let stayed = machine.drive("/machine/peripheral/d/virtio-backend")["inserted"]["node-name"].clone();
    machine.ask("blockdev-mirror", &mirror("taken", "taken")).expect("a job");
    machine.until("taken", "BLOCK_JOB_READY");
    machine.ask("block-job-complete", &json!({"device": "taken"})).expect("completed");
    machine.until("taken", "null");
    let now = machine.drive("/machine/peripheral/d/virtio-backend")["inserted"].clone();
    machine.ask("blockdev-del", &json!({"node-name": "source"})).expect("deleted");

    assert_eq!(short, Err("Source and target image have different sizes".into()));
    assert!(itself.is_err());
    assert_eq!(story(&left), ["waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"]);
    assert_eq!((stayed, &now["node-name"], &now["drv"]), ("source".into(), &"taken".into(), &"raw".into()));
    machine.end();
    let taken = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path("taken")).expect("the copy"));
    assert!(taken * 512 < 4 << 20, "holes are kept: {taken} blocks");
    tool("qemu-img", "compare -f qcow2 -F raw source left", folder.path());
    tool("qemu-img", "compare -f qcow2 -F raw source taken", folder.path());
}

#[test]
fn write_that_would_destroy_metadata_of_a_damaged_image_is_refused_and_told() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    tool("qemu-img", "create -q -f raw source 1M", folder.path());
    tool("qemu-io", "-f raw -c write_-P_7_0_1M source", folder.path());
    tool("qemu-img", "create -q -f qcow2 target 1M", folder.path());
    tool("qemu-io", "-f qcow2 -c write_-P_1_0_64k target", folder.path());
    let mut bytes = std::fs::read(path("target")).expect("the image");
    let word = |bytes: &[u8], at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let l1 = word(&bytes, 40);
    let l2 = word(&bytes, l1 as usize) as usize & 0xffff_fe00;
    // The guest's first cluster is the L1 table.
    bytes[l2..l2 + 8].copy_from_slice(&(l1 | 1 << 63).to_be_bytes());
    std::fs::write(path("target"), &bytes).expect("written");
    let mut machine = Machine::start(&format!(
        "-blockdev driver=raw,node-name=source,file.driver=file,file.filename={} -device virtio-blk-pci,drive=source,id=d",
        path("source")
    ));

    let checks = json!({"template": "none", "active-l1": true});
    let node = json!({"driver": "qcow2", "node-name": "target", "overlap-check": checks,
        "file": {"driver": "file", "filename": path("target")}});
    machine.ask("blockdev-add", &node).expect("a node");
    let job = json!({"job-id": "m", "device": "source", "target": "target", "sync": "full"});
    machine.ask("blockdev-mirror", &job).expect("a job");
    machine.until("m", "null");

    let is_told = |event: &&Value| event["event"] == "BLOCK_IMAGE_CORRUPTED";
    let told: Vec<_> = machine.events.iter().filter(is_told).map(|event| event["data"].clone()).collect();
    assert_eq!(told.len(), 1);
    let message = "Preventing invalid write on metadata (overlaps with active L1 table)";
    assert_eq!((&told[0]["msg"], &told[0]["fatal"]), (&message.into(), &true.into()));
    assert_eq!((&told[0]["device"], &told[0]["node-name"]), (&"".into(), &"target".into()));
    assert_eq!(told[0]["offset"], l1);
    drop(machine);
    let now = std::fs::read(path("target")).expect("the image");
    assert_eq!(now[l1 as usize..l1 as usize + 65536], bytes[l1 as usize..l1 as usize + 65536]);
    assert_eq!(word(&now, 72), 2);
}
