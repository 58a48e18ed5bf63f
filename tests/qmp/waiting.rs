//! Drives that no device has: what QEMU does with them by their names.

use serde_json::json;

use crate::jobs::{story, tool};
use crate::rig::Machine;

/// A machine with the overlay `top` on `base` in drive `x`, and the empty CD drive `e`, and no device.
fn machine(folder: &std::path::Path) -> Machine {
    tool("qemu-img", "create -q -f qcow2 base 4M", folder);
    tool("qemu-io", "-f qcow2 -c write_-P_7_1M_1M base", folder);
    tool("qemu-img", "create -q -f qcow2 -b base -F qcow2 top", folder);
    let file = folder.join("top");
    Machine::start(&format!("-drive if=none,id=x,file={},format=qcow2 -drive if=none,id=e,media=cdrom", file.display()))
}

#[test]
fn drive_is_listed_and_resized_and_read_by_its_name() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path());

    let nothing = machine.ask("block_resize", &json!({"size": 8 << 20})).expect_err("no disk is named");
    assert_eq!(nothing, "Cannot find device='' nor node-name=''");
    machine.ask("block_resize", &json!({"device": "x", "size": 8 << 20})).expect("larger");
    let drive = machine.drive("x");
    let node = drive["inserted"]["node-name"].clone();

    assert_eq!((&drive["removable"], drive.get("qdev"), drive.get("io-status")), (&true.into(), None, None));
    assert_eq!(drive["inserted"]["image"]["virtual-size"], 8 << 20);
    assert_eq!(machine.human("info block e"), "e: [not inserted]\n    Removable device: not locked, tray closed\n");
    assert_eq!(machine.human("qemu-io x \"read -P 7 1M 64k\""), "");
    let used = machine.ask("blockdev-del", &json!({"node-name": node}));
    assert_eq!(used, Err(format!("Node {} is in use", node.as_str().expect("a name"))));
}

/// As `qemu-system-x86_64` 7.2 takes such pairs.
#[test]
fn of_two_names_to_resize_the_drive_counts_where_there_is_one() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path());
    machine.ask("blockdev-add", &json!({"driver": "null-co", "node-name": "n"})).expect("a node");
    let mut resize = |names: [&str; 2], size: u64| {
        let told = machine.ask("block_resize", &json!({"device": names[0], "node-name": names[1], "size": size}));
        (told, machine.drive("x")["inserted"]["image"]["virtual-size"].as_u64())
    };

    assert_eq!(resize(["x", "n"], 8 << 20), (Ok(json!({})), Some(8 << 20)), "the drive");
    assert_eq!(resize(["x", "nosuch"], 9 << 20), (Ok(json!({})), Some(9 << 20)), "the drive");
    let node = resize(["nosuch", "n"], 10 << 20);
    assert_eq!(node.1, Some(9 << 20), "the node");
    let lost = |device, node| Err(format!("Cannot find device='{device}' nor node-name='{node}'"));
    assert_eq!(resize(["", "x"], 11 << 20).0, lost("", "x"), "a drive is no node");
    assert_eq!(resize(["n", ""], 11 << 20).0, lost("n", ""), "a node is no drive");
}

/// Texts are QEMU's.
#[test]
fn drives_come_and_go_at_the_human_monitor() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path());
    tool("qemu-img", "create -q -f qcow2 other 1M", folder.path());
    let add = format!("drive_add 0 if=none,id=n,format=qcow2,file={}", folder.path().join("other").display());

    assert_eq!(machine.human(&add), "OK\n");
    assert_eq!(machine.drive("n")["inserted"]["image"]["virtual-size"], 1 << 20);
    assert_eq!(machine.human(&add), "Duplicate ID 'n' for drive\n");
    assert_eq!(machine.human("drive_del n"), "");
    assert_eq!(machine.human("drive_del n"), "Device 'n' not found\n");
    tool("qemu-io", "-f qcow2 -c write_-P_9_0_64k other", folder.path());

    assert_eq!(machine.human("drive_add dummy if=none,file.driver=null-co,format=raw"), "OK\n");
    assert_eq!(machine.drive("none2")["inserted"]["drv"], "raw");
    assert_eq!(machine.human("drive_del none2"), "");
    assert_eq!(machine.human("drive_add 0 if=none,id=none2"), "OK\n");
    assert_eq!(machine.human("drive_add 0 if=none,id=z,file=/nosuch,format=nosuch"), "Unknown driver 'nosuch'\n");
    let missing = "Could not open '/nosuch': No such file or directory\n";
    assert_eq!(machine.human("drive_add 0 if=none,id=z,file=/nosuch,format=raw"), missing);
    let bus = machine.human("drive_add 0 if=virtio,id=z,format=raw,file.driver=null-co");
    assert!(bus.starts_with("Can't hot-add drive "), "{bus}");
    assert!(machine.human("drive_add 0").ends_with("Try \"help drive_add\" for more information\n"));

    assert_eq!(machine.human("drive_add -n 0 driver=null-co,node-name=nn"), "");
    assert_eq!(machine.human("drive_add -n 0 driver=null-co"), "'node-name' needs to be specified\n");
    let name = machine.human("drive_add 0 if=none,id=nn,format=raw,file.driver=null-co");
    assert_eq!(name, "Device name 'nn' conflicts with an existing node name\n");
    assert_eq!(machine.human("drive_del nn"), "");
    let saved = machine.human("savevm a");
    assert!(saved.starts_with("Error: savevm is not supported: the state of a machine is not saved; "), "{saved}");
}

#[test]
fn drive_goes_with_the_device_that_had_it_and_its_name_and_file_are_free() {
    let folder = tempfile::tempdir().expect("directory");
    tool("qemu-img", "create -q -f qcow2 other 1M", folder.path());
    let add = format!("drive_add 0 if=none,id=n,format=qcow2,file={}", folder.path().join("other").display());
    let mut machine = Machine::start("-device virtio-scsi-pci,id=s");
    let unit = json!({"driver": "scsi-hd", "id": "d", "drive": "n", "bus": "s.0"});

    for _ in 0..2 {
        assert_eq!(machine.human(&add), "OK\n");
        machine.ask("device_add", &unit).expect("a device");
        assert_eq!(machine.human("drive_del n"), "Drive 'n' is of device 'd'; device_del that\n");
        machine.ask("device_del", &json!({"id": "d"})).expect("it goes");
        assert_eq!(machine.ask("query-named-block-nodes", &json!({})), Ok(json!([])));
        tool("qemu-io", "-f qcow2 -c write_-P_9_0_64k other", folder.path());
    }
    let gone = machine.ask("device_add", &unit).expect_err("the drive is gone");
    assert!(gone.contains("can't find value 'n'"), "{gone}");
}

#[test]
fn jobs_and_snapshots_are_of_what_the_drive_has_now() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let snapshot =
        json!({"device": "x", "snapshot-file": path("over"), "format": "qcow2", "snapshot-node-name": "over"});

    machine.ask("blockdev-snapshot-sync", &snapshot).expect("a snapshot");
    machine.human("qemu-io x \"write -P 8 0 64k\"");
    let overlay = machine.drive("x")["inserted"]["file"].clone();
    machine.ask("block-commit", &json!({"device": "x", "job-id": "c"})).expect("a job");
    machine.until("c", "BLOCK_JOB_READY");
    machine.ask("job-complete", &json!({"id": "c"})).expect("it ends");
    machine.until("c", "null");
    let base = machine.drive("x")["inserted"]["file"].clone();
    let alone = machine.ask("block-commit", &json!({"device": "x"}));
    machine.ask("block-stream", &json!({"device": "x", "job-id": "s"})).expect("a job");
    let pulled = machine.until("s", "null");

    assert_eq!((overlay, base), (path("over").into(), path("base").into()));
    assert_eq!(alone, Err("cannot commit an image into itself".into()));
    assert!(story(&pulled).contains(&"BLOCK_JOB_COMPLETED"));
    machine.end();
    tool("qemu-io", "-f qcow2 -c read_-P_8_0_64k base", folder.path());
}

#[test]
fn drive_is_what_a_backup_goes_to() {
    let folder = tempfile::tempdir().expect("directory");
    tool("qemu-img", "create -q -f raw copy 4M", folder.path());
    tool("qemu-img", "create -q -f qcow2 base 4M", folder.path());
    tool("qemu-io", "-f qcow2 -c write_-P_7_1M_1M base", folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let words = format!(
        "-drive if=none,id=x,file={},format=qcow2 -drive if=none,id=y,file={},format=raw",
        path("base"),
        path("copy")
    );
    let mut machine = Machine::start(&words);

    let backup = json!({"job-id": "b", "device": "x", "target": "y", "sync": "full"});
    machine.ask("blockdev-backup", &backup).expect("a job");
    machine.until("b", "null");
    machine.end();

    tool("qemu-img", "compare -f qcow2 -F raw base copy", folder.path());
}

#[test]
fn medium_comes_and_goes_without_a_tray() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path());
    let other = folder.path().join("other").display().to_string();
    tool("qemu-img", "create -q -f qcow2 other 1M", folder.path());
    let change = |device: &str| json!({"device": device, "filename": other, "format": "qcow2"});

    machine.ask("blockdev-open-tray", &json!({"device": "x"})).expect("nothing to open");
    let by_id = machine.ask("eject", &json!({"id": "x"}));
    machine.ask("eject", &json!({"device": "x"})).expect("out");
    let empty = machine.drive("x");
    machine.ask("eject", &json!({"device": "x"})).expect("still out");
    machine.ask("blockdev-change-medium", &change("x")).expect("in");
    let (full, nodes) = (machine.drive("x"), machine.ask("query-named-block-nodes", &json!({})).expect("nodes"));
    machine.ask("eject", &json!({"device": "x"})).expect("out");
    machine.ask("blockdev-change-medium", &change("e")).expect("in");

    assert_eq!(by_id, Err("Device 'x' not found".into()));
    assert_eq!(empty.get("inserted"), None);
    assert_eq!((&full["inserted"]["file"], &full["inserted"]["ro"]), (&other.into(), &false.into()));
    assert_eq!(nodes.as_array().map(Vec::len), Some(2), "the former chain is gone");
    assert_eq!(machine.drive("e")["inserted"]["ro"], true, "as a CD drive has it");
    assert!(machine.events.iter().all(|event| event["event"] != "DEVICE_TRAY_MOVED"));
}

#[test]
fn device_that_comes_takes_what_the_drive_has_now_and_its_place() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path());
    let over = folder.path().join("over").display().to_string();
    let snapshot = json!({"device": "x", "snapshot-file": over, "format": "qcow2"});
    machine.ask("blockdev-snapshot-sync", &snapshot).expect("a snapshot");

    let refused = machine.ask("device_add", &json!({"driver": "virtio-blk-pci", "drive": "x", "id": "d", "addr": "1"}));
    machine.ask("device_add", &json!({"driver": "virtio-blk-pci", "drive": "x", "id": "d"})).expect("a device");
    let all = machine.ask("query-block", &json!({})).expect("drives");

    assert!(refused.is_err());
    let names: Vec<_> = all.as_array().expect("a list").iter().map(|drive| &drive["device"]).collect();
    assert_eq!(names, ["x", "e"]);
    assert_eq!(all[0]["inserted"]["file"], over.as_str());
    assert_eq!(all[0]["qdev"], "/machine/peripheral/d/virtio-backend");
}
