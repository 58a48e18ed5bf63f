//! What is told of disks: in which order, with which addresses, and with what is beneath them.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::jobs::tool;
use crate::rig::Machine;

/// Values of `name` in a list of objects.
fn all<'a>(list: &'a Value, name: &str) -> Vec<&'a str> {
    list.as_array().expect("a list").iter().map(|entry| entry[name].as_str().unwrap_or("none")).collect()
}

#[test]
fn drives_of_if_virtio_come_behind_devices_on_the_bus_and_before_them_in_query_block() {
    let mut machine = Machine::start(
        "-drive if=virtio,id=first,format=raw,file.driver=null-co -blockdev null-co,node-name=n
         -device virtio-blk-pci,drive=n,id=second -device virtio-rng-pci,id=third",
    );

    let disks = machine.ask("query-block", &json!({})).expect("disks");
    let buses = machine.ask("query-pci", &json!({})).expect("buses");

    assert_eq!(all(&disks, "device"), ["first", ""]);
    assert_eq!(all(&buses[0]["devices"], "qdev_id")[4..], ["second", "third", ""]);
}

#[test]
fn counters_are_told_of_a_disk_its_file_and_the_image_behind_it() {
    let folder = tempfile::tempdir().expect("directory");
    let (base, top) = (folder.path().join("base.qcow2"), folder.path().join("top.qcow2"));
    for (path, behind) in [(&base, &[][..]), (&top, &["-b", "base.qcow2", "-F", "qcow2"][..])] {
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2"]).args(behind).arg(path).arg("1M");
        assert!(create.status().expect("qemu-img (Debian: qemu-utils)").success());
    }
    let mut machine = Machine::start(&format!(
        "-blockdev driver=file,node-name=file,filename={0} -blockdev driver=qcow2,node-name=top,file=file
         -device virtio-blk-pci,drive=top -device ide-cd,id=empty",
        top.display()
    ));

    let counters = machine.ask("query-blockstats", &json!({})).expect("counters");
    let of_nodes = machine.ask("query-blockstats", &json!({"query-nodes": true})).expect("counters");

    let disk = counters.as_array().expect("a list").iter().find(|disk| disk["node-name"] == "top").expect("the disk");
    assert_eq!(disk["parent"]["node-name"], "file");
    let counted = |entry: &Value| entry["stats"]["account_failed"].clone();
    assert_eq!((counted(disk), counted(&disk["parent"])), (true.into(), false.into()));
    assert!(disk["backing"]["parent"]["stats"]["wr_highest_offset"].is_u64(), "{disk}");
    let empty = counters.as_array().expect("a list").iter().find(|disk| disk["qdev"] == "empty").expect("the drive");
    assert_eq!((empty.get("node-name"), empty.get("parent")), (None, None));
    let node = of_nodes.as_array().expect("a list").iter().find(|node| node["node-name"] == "top").expect("the node");
    assert_eq!((node.get("backing"), &node["parent"]["node-name"]), (None, &"file".into()));
}

#[test]
fn discards_that_reached_a_file_are_counted() {
    let folder = tempfile::tempdir().expect("directory");
    let path = folder.path().join("disk");
    std::fs::write(&path, vec![1; 1 << 20]).expect("an image");
    let mut machine = Machine::start(&format!(
        "-blockdev driver=file,node-name=file,filename={},discard=unmap
         -blockdev driver=raw,node-name=disk,file=file,discard=unmap",
        path.display()
    ));

    assert_eq!(machine.human("qemu-io disk \"discard 64k 128k\""), "");
    let nodes = machine.ask("query-blockstats", &json!({"query-nodes": true})).expect("counters");

    let of = |name: &str| {
        let node = nodes.as_array().expect("a list").iter().find(|node| node["node-name"] == name).expect("the node");
        node["driver-specific"].clone()
    };
    let counted = json!({"driver": "file", "discard-nb-ok": 1, "discard-nb-failed": 0, "discard-bytes-ok": 128 << 10});
    assert_eq!((of("file"), of("disk")), (counted, Value::Null));
}

#[test]
fn write_past_the_threshold_of_a_file_is_told_once() {
    let folder = tempfile::tempdir().expect("directory");
    let path = folder.path().join("disk.qcow2");
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("8M");
    assert!(create.status().expect("qemu-img (Debian: qemu-utils)").success());
    let mut machine = Machine::start(&format!(
        "-blockdev driver=file,node-name=file,filename={} -blockdev driver=qcow2,node-name=disk,file=file",
        path.display()
    ));
    let threshold = |machine: &mut Machine| {
        let nodes = machine.ask("query-named-block-nodes", &json!({})).expect("nodes");
        let file = nodes.as_array().expect("a list").iter().find(|node| node["node-name"] == "file");
        file.expect("the file")["write_threshold"].clone()
    };

    let set = json!({"node-name": "file", "write-threshold": 1 << 20});
    assert_eq!(machine.ask("block-set-write-threshold", &set), Ok(json!({})));
    machine.write(folder.path(), "disk", "write_0_64k");
    let before = threshold(&mut machine);
    machine.write(folder.path(), "disk", "write_0_4M");
    let format = machine.ask("block-set-write-threshold", &json!({"node-name": "disk", "write-threshold": 1}));

    let of_it = |event: &&Value| event["event"] == "BLOCK_WRITE_THRESHOLD";
    let told: Vec<_> = machine.events.iter().filter(of_it).map(|event| event["data"].clone()).collect();
    assert_eq!((before, threshold(&mut machine)), (json!(1 << 20), json!(0)));
    assert_eq!((told.len(), &told[0]["node-name"], &told[0]["write-threshold"]), (1, &json!("file"), &json!(1 << 20)));
    assert!(told[0]["amount-exceeded"].as_u64() > Some(0));
    assert_eq!(format, Err("node 'disk' is of driver 'qcow2': give the node of its file or block device".to_owned()));
}

#[test]
fn node_described_within_another_goes_with_it() {
    let folder = tempfile::tempdir().expect("directory");
    tool("qemu-img", "create -q -f qcow2 image 1M", folder.path());
    let mut machine = Machine::start("");
    let file = json!({"driver": "file", "node-name": "file", "filename": folder.path().join("image")});
    let within = json!({"driver": "qcow2", "node-name": "image", "file": file});
    let alone = json!({"driver": "qcow2", "node-name": "image", "file": "file"});

    for _ in 0..2 {
        machine.ask("blockdev-add", &within).expect("a node");
        machine.ask("blockdev-del", &json!({"node-name": "image"})).expect("deleted");
    }
    let nothing = machine.ask("query-named-block-nodes", &json!({})).expect("nodes");
    machine.ask("blockdev-add", &file).expect("a node");
    machine.ask("blockdev-add", &alone).expect("a node");
    machine.ask("blockdev-del", &json!({"node-name": "image"})).expect("deleted");
    let left = machine.ask("query-named-block-nodes", &json!({})).expect("nodes");

    assert_eq!(nothing, json!([]));
    assert_eq!(left.as_array().map(Vec::len), Some(1), "who names a node by itself takes it away by itself");
    machine.end();
}

/// Each with QEMU 7.2.22's words, behind the option as it was typed.
#[test]
fn drives_without_a_file_are_opened_or_refused() {
    let start = |drive: &str| {
        let mut machine = Command::new(env!("CARGO_BIN_EXE_rhea"));
        machine.args(["-accel", "qtest", "-m", "16", "-nodefaults", "-display", "none", "-drive", drive]);
        let ended = machine.stdin(Stdio::null()).output().expect("the program runs");
        (ended.status.code(), String::from_utf8(ended.stderr).expect("text"))
    };
    for (drive, why) in [
        ("if=none,id=a,driver=raw", "A block device must be specified for \"file\""),
        ("if=none,id=a,format=qcow2", "A block device must be specified for \"file\""),
        ("if=none,id=a,driver=file", "The 'file' block driver requires a file name"),
        ("if=none,id=a,node-name=n", "Must specify either driver or file"),
        ("if=none,id=a,file.driver=nosuch", "Unknown driver 'nosuch'"),
        ("file=/nosuch,format=raw", "Could not open '/nosuch': No such file or directory"),
    ] {
        assert_eq!(start(drive), (Some(1), format!("rhea: -drive {drive}: {why}\n")));
    }
    let mut machine = Machine::start("-drive if=virtio,id=d,driver=null-co,size=1M");
    assert_eq!(machine.drive("d")["inserted"]["image"]["virtual-size"], 1 << 20);
}
