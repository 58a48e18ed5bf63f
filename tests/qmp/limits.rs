//! Limits of disks, and options of formats in `-drive`.

use std::process::Command;

use serde_json::{Value, json};

use crate::rig::Machine;

/// `inserted` of the first disk.
fn inserted(machine: &mut Machine) -> Value {
    machine.ask("query-block", &json!({})).expect("drives")[0]["inserted"].clone()
}

#[test]
fn limits_of_a_drive_are_told_changed_and_taken_back() {
    let mut machine = Machine::start(
        "-drive if=virtio,id=d0,format=raw,file.driver=null-co,throttling.iops-total=100,\
         throttling.iops-total-max=200,throttling.iops-total-max-length=5,bps_rd=1000000,throttling.group=g",
    );
    let told = inserted(&mut machine);
    for (key, value) in [("iops", 100), ("iops_max", 200), ("iops_max_length", 5), ("bps_rd", 1_000_000), ("bps", 0)] {
        assert_eq!(told[key], value, "{key}: {told}");
    }
    assert_eq!(told["group"], "g");

    let mut limits =
        json!({"device": "d0", "bps": 0, "bps_rd": 0, "bps_wr": 5000, "iops": 0, "iops_rd": 7, "iops_wr": 0});
    assert_eq!(machine.ask("block_set_io_throttle", &limits), Ok(json!({})));
    let told = inserted(&mut machine);
    assert_eq!((&told["bps_wr"], &told["iops_rd"], &told["iops"]), (&5000.into(), &7.into(), &0.into()));
    assert_eq!(told.get("iops_max"), None);

    assert_eq!(machine.human("block_set_io_throttle d0 0 0 5000 0 9 0"), "");
    assert_eq!(inserted(&mut machine)["iops_rd"], 9);
    let nobody = machine.human("block_set_io_throttle nosuch 0 0 0 100 0 0");
    assert_eq!(nobody, "Error: Device 'nosuch' not found\n");

    limits["bps"] = 1.into();
    let refused = machine.ask("block_set_io_throttle", &limits);
    assert!(refused.is_err(), "{refused:?}");
    for key in ["bps", "bps_wr", "iops_rd"] {
        limits[key] = 0.into();
    }
    for (key, text) in [
        ("iops_size", "iops size requires an iops value to be set"),
        ("iops_max_length", "the burst length cannot be 0"),
    ] {
        let mut limits = limits.clone();
        limits[key] = if key == "iops_size" { 4096 } else { 0 }.into();
        assert_eq!(machine.ask("block_set_io_throttle", &limits), Err(text.into()));
    }
    machine.ask("block_set_io_throttle", &limits).expect("set");
    assert_eq!(inserted(&mut machine)["group"], Value::Null);
}

#[test]
fn group_that_is_an_object_tells_what_was_set_through_a_disk() {
    let mut machine = Machine::start(
        "-object throttle-group,id=tg,x-iops-total=100,x-iops-total-max=400 \
         -drive if=virtio,id=d0,format=raw,file.driver=null-co",
    );
    let mut limits = json!({"device": "d0", "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 7, "iops_rd": 0, "iops_wr": 0});
    limits["group"] = "tg".into();
    let property = |name: &str| json!({"path": "/objects/tg", "property": name});

    machine.ask("block_set_io_throttle", &limits).expect("set");
    let change = json!({"path": "/objects/tg", "property": "limits", "value": {"iops-size": 4096}});
    machine.ask("qom-set", &change).expect("set");

    assert_eq!(machine.ask("qom-get", &property("x-iops-total")), Ok(json!(7)));
    let told = machine.ask("qom-get", &property("limits")).expect("limits");
    for (name, value) in [("iops-total", 7), ("iops-total-max", 0), ("iops-total-max-length", 1), ("iops-size", 4096)] {
        assert_eq!(told[name], value, "{name}: {told}");
    }
    assert_eq!(inserted(&mut machine)["iops_size"], 4096);
}

#[test]
fn limits_without_a_group_make_one_called_as_the_disk_was_in_the_command() {
    let mut machine = Machine::start(
        "-drive if=none,id=d0,format=raw,file.driver=null-co -device virtio-blk-pci,drive=d0,id=v0 \
         -drive if=none,id=d1,format=raw,file.driver=null-co -device virtio-blk-pci,drive=d1,id=v1",
    );
    for (key, name) in [("device", "d0"), ("id", "v1")] {
        let mut limits = json!({"bps": 0, "bps_rd": 0, "bps_wr": 5000, "iops": 0, "iops_rd": 0, "iops_wr": 0});
        limits[key] = name.into();
        assert_eq!(machine.ask("block_set_io_throttle", &limits), Ok(json!({})));
    }

    let drives = machine.ask("query-block", &json!({})).expect("drives");

    let groups: Vec<&Value> = drives.as_array().unwrap().iter().map(|drive| &drive["inserted"]["group"]).collect();
    assert_eq!(groups, ["d0", "v1"]);
}

#[test]
fn group_of_the_command_line_limits_a_node_and_another_can_be_added() {
    let mut machine = Machine::start(
        "-object throttle-group,id=g0,x-iops-total=10 -object throttle-group,id=g1,limits.bps-total=1000000 \
         -blockdev driver=throttle,node-name=t0,throttle-group=g0,file.driver=null-co",
    );
    let group = json!({"qom-type": "throttle-group", "id": "g2", "limits": {"iops-read": 5}});
    assert_eq!(machine.ask("object-add", &group), Ok(json!({})));
    let node = |group: &str| {
        json!({"driver": "throttle", "node-name": "t1", "throttle-group": group,
        "file": {"driver": "null-co", "node-name": "n1"}})
    };
    assert_eq!(machine.ask("blockdev-add", &node("g2")), Ok(json!({})));
    let busy = machine.ask("object-del", &json!({"id": "g2"}));
    assert!(busy.as_ref().is_err_and(|desc| desc.contains("in use")), "{busy:?}");
    machine.ask("blockdev-del", &json!({"node-name": "t1"})).expect("deleted");
    assert_eq!(machine.ask("object-del", &json!({"id": "g2"})), Ok(json!({})));
    let gone = machine.ask("blockdev-add", &node("g2"));
    assert_eq!(gone, Err("Throttle group 'g2' does not exist".into()));
}

#[test]
fn options_of_the_format_are_taken_and_unknown_ones_refused() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("a.qcow2").display().to_string();
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", &image, "1M"]).status().expect("qemu-img");
    assert!(made.success());
    let mut machine = Machine::start(&format!(
        "-drive file={image},if=virtio,driver=qcow2,l2-cache-size=1M,lazy-refcounts=on,cache.direct=off,copy-on-read=on"
    ));
    assert_eq!(inserted(&mut machine)["drv"], "copy-on-read");
    drop(machine);

    let output = Command::new(env!("CARGO_BIN_EXE_rhea"))
        .args(["-accel", "qtest", "-drive", &format!("file={image},if=virtio,format=raw,l2-cache-size=1M")])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("Block format 'raw' does not support the option 'l2-cache-size'"), "{text}");
}
