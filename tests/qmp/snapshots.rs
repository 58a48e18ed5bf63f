//! External snapshots of disks that a machine has.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::rig::Machine;

fn image(path: &Path) -> String {
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(path).arg("1M").status();
    assert!(made.expect("qemu-img (Debian: qemu-utils)").success());
    path.display().to_string()
}

/// A machine with two disks of libvirt's form, `a` and `b`.
fn machine(folder: &Path) -> Machine {
    let (a, b) = (image(&folder.join("a.qcow2")), image(&folder.join("b.qcow2")));
    Machine::start(&format!(
        "-blockdev driver=qcow2,node-name=a,file.driver=file,file.filename={a} -device virtio-blk-pci,drive=a,id=da
         -blockdev driver=qcow2,node-name=b,file.driver=file,file.filename={b} -device virtio-blk-pci,drive=b,id=db"
    ))
}

fn inserted(machine: &mut Machine, id: &str) -> Value {
    machine.drive(&format!("/machine/peripheral/{id}/virtio-backend"))["inserted"].clone()
}

#[test]
fn overlay_is_made_named_and_shown() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path());
    let top = folder.path().join("top.qcow2");

    let taken = machine.ask(
        "blockdev-snapshot-sync",
        &json!({"node-name": "a", "snapshot-file": top, "snapshot-node-name": "top", "format": "qcow2"}),
    );

    assert_eq!(taken, Ok(json!({})));
    let now = inserted(&mut machine, "da");
    assert_eq!((&now["node-name"], &now["ro"], &now["backing_file_depth"]), (&"top".into(), &false.into(), &1.into()));
    assert_eq!(now["image"]["backing-image"]["filename"], json!(folder.path().join("a.qcow2")));
    let nodes = machine.ask("query-named-block-nodes", &json!({})).expect("nodes");
    let node = nodes.as_array().expect("a list").iter().find(|node| node["node-name"] == "a").expect("the node");
    assert_eq!(node["ro"], true);
    // Another program may read what is beneath, and finds it in order.
    let check = Command::new("qemu-img").arg("check").arg(folder.path().join("a.qcow2")).output().expect("qemu-img");
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn header_of_an_overlay_names_its_disk_as_it_was_opened_if_that_leads_to_it() {
    let folder = tempfile::tempdir().expect("directory");
    std::fs::create_dir(folder.path().join("other")).expect("a folder");
    for (overlay, name) in [("top", "disk".to_owned()), ("other/top", folder.path().join("disk").display().to_string())]
    {
        image(&folder.path().join("disk"));
        let drive =
            "-blockdev driver=qcow2,node-name=a,file.driver=file,file.filename=disk -device virtio-blk-pci,drive=a";
        let mut machine = Machine::start_in(folder.path(), drive);

        let taken = machine.ask(
            "blockdev-snapshot-sync",
            &json!({"node-name": "a", "snapshot-file": overlay, "snapshot-node-name": "top"}),
        );

        assert_eq!(taken, Ok(json!({})));
        drop(machine);
        let top = folder.path().join(overlay);
        let info = Command::new("qemu-img").args(["info", "--output", "json"]).arg(&top).output().expect("qemu-img");
        let info: Value = serde_json::from_slice(&info.stdout).expect("JSON");
        assert_eq!(info["backing-filename"], name);
    }
}

#[test]
fn transaction_takes_all_snapshots_or_none() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let one = json!({"type": "blockdev-snapshot-sync", "data": {"device": "da", "snapshot-file": file("top-a"), "format": "qcow2"}});
    let overlay = json!({"driver": "qcow2", "node-name": "top-b", "backing": null,
        "file": {"driver": "file", "filename": image(&folder.path().join("top-b"))}});
    machine.ask("blockdev-add", &overlay).expect("a node");
    let two = json!({"type": "blockdev-snapshot", "data": {"node": "b", "overlay": "top-b"}});
    let nodes = |machine: &mut Machine| {
        machine.ask("query-named-block-nodes", &json!({})).expect("nodes").as_array().map(Vec::len)
    };
    let before = nodes(&mut machine);

    let aborted = machine.ask("transaction", &json!({"actions": [one, two, {"type": "abort", "data": {}}]}));
    let after_abort = (nodes(&mut machine), inserted(&mut machine, "da")["node-name"].clone());
    let twice = machine.ask("transaction", &json!({"actions": [two, two]}));
    let unknown =
        machine.ask("transaction", &json!({"actions": [{"type": "blockdev-snapshot-internal-sync", "data": {}}]}));
    let taken =
        machine.ask("transaction", &json!({"actions": [one, two], "properties": {"completion-mode": "individual"}}));

    assert_eq!(aborted, Err("Transaction aborted using Abort action".into()));
    assert_eq!(after_abort, (before, json!("a")));
    assert_eq!(twice, Err("node 'b' is in this transaction twice".into()));
    assert_eq!(unknown, Err("Parameter 'type' does not accept value 'blockdev-snapshot-internal-sync'".into()));
    assert_eq!(taken, Ok(json!({})));
    assert_eq!(inserted(&mut machine, "db")["node-name"], "top-b");
    assert_eq!(inserted(&mut machine, "da")["backing_file"], json!(folder.path().join("a.qcow2")));
    let again = machine.ask("blockdev-snapshot", &json!({"node": "b", "overlay": "top-b"}));
    assert!(again.is_err(), "{again:?}");
}

#[test]
fn what_is_no_disk_is_refused_in_qemus_words() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path());
    let file = folder.path().join("top");
    let mut ask = |arguments: Value| machine.ask("blockdev-snapshot-sync", &arguments);

    let unknown = ask(json!({"device": "dx", "snapshot-file": file}));
    let nameless = ask(json!({"node-name": "a", "snapshot-file": file}));
    let taken = ask(json!({"node-name": "a", "snapshot-node-name": "b", "snapshot-file": file}));
    let missing = ask(json!({"node-name": "a", "snapshot-node-name": "t", "snapshot-file": file, "mode": "existing"}));

    assert_eq!(unknown, Err("Device 'dx' not found".into()));
    assert_eq!(nameless, Err("New overlay node-name missing".into()));
    assert_eq!(taken, Err("New overlay node-name already in use".into()));
    assert!(missing.as_ref().is_err_and(|text| text.contains("No such file")), "{missing:?}");
    assert!(!file.exists(), "nothing was made");
}

#[test]
fn overlay_in_another_folder_finds_what_was_named_from_the_working_directory() {
    // Beneath the working directory, and not there yet where builds are kept elsewhere.
    std::fs::create_dir_all("target").expect("directory");
    let folder = tempfile::tempdir_in("target").expect("directory");
    let near = folder.path().strip_prefix(std::env::current_dir().expect("directory")).unwrap_or(folder.path());
    std::fs::create_dir(near.join("far")).expect("directory");
    let base = image(&near.join("a.qcow2"));
    let mut machine =
        Machine::start(&format!("-drive if=none,id=a,file={base},format=qcow2 -device virtio-blk-pci,drive=a,id=da"));
    let overlay = near.join("far/top.qcow2");

    let taken = machine.ask("blockdev-snapshot-sync", &json!({"device": "a", "snapshot-file": overlay}));
    machine.end();

    assert_eq!(taken, Ok(json!({})));
    let compared = Command::new("qemu-img").args(["compare", &base]).arg(&overlay).output().expect("qemu-img");
    assert!(compared.status.success(), "{compared:?}");
}
