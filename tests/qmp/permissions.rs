//! One image is not written to in two ways: what is refused because of who stands above a node, or beneath.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::jobs::tool;
use crate::rig::Machine;

/// A machine with a qcow2 node `fmt` on a file node `file`, and a port for a device to plug.
fn machine(folder: &Path, more: &str) -> Machine {
    tool("qemu-img", "create -q -f qcow2 a.qcow2 8M", folder);
    let file = folder.join("a.qcow2");
    Machine::start(&format!(
        "-machine pc -object throttle-group,id=group -blockdev driver=file,node-name=file,filename={} \
         -blockdev driver=qcow2,node-name=fmt,file=file {more}",
        file.display()
    ))
}

fn device(node: &str) -> Value {
    json!({"driver": "virtio-blk-pci", "id": format!("on-{node}"), "drive": node})
}

fn conflict(answer: &Result<Value, String>, node: &str) -> bool {
    answer.as_ref().is_err_and(|text| text.contains(&format!("Permission conflict on node '{node}': permissions")))
}

#[test]
fn file_of_a_disk_is_not_resized_nor_given_to_another_format_or_device() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path(), "-device virtio-blk-pci,drive=fmt,id=first");
    let before = std::fs::metadata(folder.path().join("a.qcow2")).expect("the image").len();

    let resized = machine.ask("block_resize", &json!({"node-name": "file", "size": 65536}));
    let second = machine.ask("blockdev-add", &json!({"driver": "qcow2", "node-name": "second", "file": "file"}));
    let plugged = machine.ask("device_add", &device("file"));

    let expected = "Permission conflict on node 'file': permissions 'resize' are both required by 'block_resize' (uses node \
                    'file' as 'root' child) and unshared by node 'fmt' (uses node 'file' as 'file' child).";
    assert_eq!(resized, Err(expected.into()));
    assert_eq!(std::fs::metadata(folder.path().join("a.qcow2")).expect("the image").len(), before);
    assert!(conflict(&second, "file"), "{second:?}");
    assert!(conflict(&plugged, "file"), "{plugged:?}");
    machine.ask("block_resize", &json!({"node-name": "fmt", "size": 16 << 20})).expect("it grows");
    machine.end();
}

#[test]
fn disk_is_not_plugged_a_second_time_through_a_filter_or_beside_clients_who_write() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path(), "");
    let address = json!({"type": "unix", "data": {"path": folder.path().join("nbd")}});
    machine.ask("nbd-server-start", &json!({"addr": address})).expect("a server");
    let filter = json!({"driver": "throttle", "node-name": "slow", "throttle-group": "group", "file": "fmt"});
    machine.ask("blockdev-add", &filter).expect("a filter");
    machine.ask("blockdev-add", &json!({"driver": "raw", "node-name": "raw", "file": "fmt"})).expect("a node");

    let export = json!({"type": "nbd", "id": "shown", "node-name": "fmt", "writable": true});
    machine.ask("block-export-add", &export).expect("an export");
    let beside_clients = machine.ask("device_add", &device("fmt"));
    machine.ask("block-export-del", &json!({"id": "shown"})).expect("it goes");
    machine.ask("device_add", &device("fmt")).expect("a device");
    let through = ["slow", "raw"].map(|node| machine.ask("device_add", &device(node)));
    let clients = machine.ask("block-export-add", &export);

    for refused in [&beside_clients, &through[0], &through[1], &clients] {
        assert!(conflict(refused, "fmt"), "{refused:?}");
    }
    machine.end();
}

#[test]
fn two_devices_of_the_command_line_on_one_image_do_not_start() {
    let folder = tempfile::tempdir().expect("directory");
    tool("qemu-img", "create -q -f qcow2 a.qcow2 8M", folder.path());
    let file = format!("driver=file,node-name=file,filename={}", folder.path().join("a.qcow2").display());
    for (above, node) in [
        ("", "file"),
        ("driver=raw,node-name=second,file=file", "second"),
        ("driver=copy-on-read,node-name=second,file=fmt", "second"),
    ] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_rhea"));
        program.args(["-accel", "qtest", "-m", "16", "-nodefaults", "-display", "none"]);
        program.args(["-blockdev", &file, "-blockdev", "driver=qcow2,node-name=fmt,file=file"]);
        if !above.is_empty() {
            program.args(["-blockdev", above]);
        }
        program.args(["-device", "virtio-blk-pci,drive=fmt", "-device", &format!("virtio-blk-pci,drive={node}")]);
        let ended = program.output().expect("the program runs");
        let told = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success() && told.contains("Permission conflict on node"), "{node}: {told}");
    }
}

#[test]
fn node_that_could_not_be_added_is_closed() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path(), "");
    std::fs::write(folder.path().join("raw"), [0; 65536]).expect("a file");
    let file = json!({"driver": "file", "filename": folder.path().join("raw")});

    let refused = machine.ask("blockdev-add", &json!({"driver": "qcow2", "node-name": "x", "file": file}));
    assert!(refused.is_err(), "{refused:?}");
    let nodes = machine.ask("query-named-block-nodes", &json!({})).expect("nodes");
    assert_eq!(nodes.as_array().map(Vec::len), Some(2), "{nodes}");
    machine.ask("blockdev-add", &json!({"driver": "raw", "node-name": "x", "file": file})).expect("it is free");
    machine.end();
}

#[test]
fn node_does_not_have_the_name_of_a_drive() {
    let folder = tempfile::tempdir().expect("directory");
    let file = folder.path().join("a.qcow2").display().to_string();
    let mut machine = machine(folder.path(), "-drive if=none,id=cd0,media=cdrom");
    let within = json!({"driver": "null-co", "node-name": "cd0"});
    for spec in [within.clone(), json!({"driver": "raw", "node-name": "x", "file": within})] {
        let refused = machine.ask("blockdev-add", &spec);
        assert_eq!(refused, Err("node-name=cd0 is conflicting with a device id".into()));
    }
    let overlay = json!({"node-name": "fmt", "snapshot-node-name": "cd0", "snapshot-file": folder.path().join("top")});
    assert_eq!(machine.ask("blockdev-snapshot-sync", &overlay), Err("New overlay node-name already in use".into()));
    machine.end();

    for drive in ["if=none,id=x,node-name=x", "if=none,id=x,file.node-name=x"] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_rhea"));
        program.args(["-accel", "qtest", "-m", "16", "-nodefaults", "-display", "none"]);
        let ended = program.args(["-drive", &format!("file={file},{drive}")]).output().expect("the program runs");
        let told = String::from_utf8_lossy(&ended.stderr);
        assert!(told.contains("Device name 'x' conflicts with an existing node name"), "{told}");
    }
}

#[test]
fn node_that_came_with_another_is_not_deleted_by_itself() {
    let mut machine = Machine::start("-blockdev driver=raw,node-name=top,file.driver=null-co,file.node-name=within");
    machine.ask("blockdev-add", &json!({"driver": "null-co", "node-name": "own"})).expect("a node");
    machine.ask("blockdev-add", &json!({"driver": "raw", "node-name": "user", "file": "own"})).expect("a node");
    for (node, why) in [("within", "Node within is not owned by the monitor"), ("own", "Block device own is in use")] {
        assert_eq!(machine.ask("blockdev-del", &json!({"node-name": node})), Err(why.to_owned()));
    }
    machine.end();
}
