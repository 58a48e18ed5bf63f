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
    let one = json!({"type": "blockdev-snapshot-sync", "data": {"node-name": "a", "snapshot-node-name": "top-a", "snapshot-file": file("top-a")}});
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
    let unknown = machine.ask("transaction", &json!({"actions": [{"type": "blockdev-nosuch-sync", "data": {}}]}));
    let taken =
        machine.ask("transaction", &json!({"actions": [one, two], "properties": {"completion-mode": "individual"}}));

    assert_eq!(aborted, Err("Transaction aborted using Abort action".into()));
    assert_eq!(after_abort, (before, json!("a")));
    assert_eq!(twice, Err("node 'b' is in this transaction twice".into()));
    assert_eq!(unknown, Err("Parameter 'type' does not accept value 'blockdev-nosuch-sync'".into()));
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
    let front_end = ask(json!({"device": "da", "snapshot-file": file}));
    let node = ask(json!({"device": "a", "snapshot-file": file}));
    let nothing = ask(json!({"snapshot-file": file}));
    let nameless = ask(json!({"node-name": "a", "snapshot-file": file}));
    let taken = ask(json!({"node-name": "a", "snapshot-node-name": "b", "snapshot-file": file}));
    let missing = ask(json!({"node-name": "a", "snapshot-node-name": "t", "snapshot-file": file, "mode": "existing"}));

    assert_eq!(unknown, Err("Cannot find device='dx' nor node-name=''".into()));
    assert_eq!(front_end, Err("Cannot find device='da' nor node-name=''".into()));
    assert_eq!(node, Err("Cannot find device='a' nor node-name=''".into()));
    assert_eq!(nothing, Err("Cannot find device='' nor node-name=''".into()));
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

/// The names of the snapshots inside the image of the device `da`.
fn inside(machine: &mut Machine) -> Vec<String> {
    let snapshots = inserted(machine, "da")["image"]["snapshots"].clone();
    let names = snapshots.as_array().map_or(&[][..], Vec::as_slice).iter();
    names.map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn snapshots_inside_are_made_told_and_deleted() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path());
    for name in ["one", "two", "3"] {
        let made = machine.ask("blockdev-snapshot-internal-sync", &json!({"device": "a", "name": name}));
        assert_eq!(made, Ok(json!({})));
    }
    assert_eq!(inside(&mut machine), ["one", "two", "3"]);

    let mut delete = |which: Value| machine.ask("blockdev-snapshot-delete-internal-sync", &which);
    let gone = delete(json!({"device": "a", "name": "one"})).expect("the snapshot");
    assert_eq!((&gone["id"], &gone["name"], &gone["vm-state-size"]), (&"1".into(), &"one".into(), &0.into()));
    assert_eq!(gone.get("icount"), None, "{gone}");
    // By its number, though another has that for a name.
    let gone = delete(json!({"device": "a", "id": "3"})).expect("the snapshot");
    assert_eq!((&gone["id"], &gone["name"]), (&"3".into(), &"3".into()));
    let gone = delete(json!({"device": "a", "id": "2", "name": "two"})).expect("the snapshot");
    assert_eq!(gone["name"], "two");

    assert_eq!(inside(&mut machine), Vec::<String>::new());
    machine.ask("blockdev-snapshot-internal-sync", &json!({"device": "a", "name": "left"})).expect("a snapshot");
    drop(machine);
    let image = folder.path().join("a.qcow2");
    let check = Command::new("qemu-img").arg("check").arg(&image).output().expect("qemu-img");
    assert!(check.status.success(), "{check:?}");
    let applied = Command::new("qemu-img").args(["snapshot", "-a", "left"]).arg(&image).status().expect("qemu-img");
    assert!(applied.success());
}

#[test]
fn snapshots_inside_are_refused_in_qemus_words() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path());
    for node in [
        json!({"driver": "null-co", "node-name": "nul"}),
        json!({"driver": "qcow2", "node-name": "ro", "read-only": true,
            "file": {"driver": "file", "filename": image(&folder.path().join("c"))}}),
    ] {
        machine.ask("blockdev-add", &node).expect("a node");
    }
    machine.ask("blockdev-snapshot-internal-sync", &json!({"device": "a", "name": "s1"})).expect("a snapshot");
    for (device, name, why) in [
        ("a", "s1", "Snapshot with name 's1' already exists on device 'a'"),
        ("a", "", "Name is empty"),
        ("da", "s", "Cannot find device='da' nor node-name='da'"),
        ("nosuch", "s", "Cannot find device='nosuch' nor node-name='nosuch'"),
        ("nul", "s", "Block format 'null-co' used by device 'nul' does not support internal snapshots"),
        ("ro", "s", "Device 'ro' is read only"),
    ] {
        let made = machine.ask("blockdev-snapshot-internal-sync", &json!({"device": device, "name": name}));
        assert_eq!(made, Err(why.to_owned()));
    }
    for (which, why) in [
        (json!({"device": "a"}), "Name or id must be provided"),
        (json!({"device": "a", "id": "9"}), "Snapshot with id '9' and name 'null' does not exist on device 'a'"),
        (
            json!({"device": "a", "id": "1", "name": "no"}),
            "Snapshot with id '1' and name 'no' does not exist on device 'a'",
        ),
        (json!({"device": "nul", "id": "1"}), "Failed to get a snapshot list: Operation not supported"),
        (json!({"device": "no", "id": "1"}), "Cannot find device='no' nor node-name='no'"),
    ] {
        assert_eq!(machine.ask("blockdev-snapshot-delete-internal-sync", &which), Err(why.to_owned()));
    }
    assert_eq!(inside(&mut machine), ["s1"]);
}

#[test]
fn snapshots_inside_are_taken_back_when_a_later_action_fails() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path());
    let make = |name: &str| json!({"type": "blockdev-snapshot-internal-sync", "data": {"device": "a", "name": name}});
    let over = folder.path().join("over");
    let overlay = json!({"type": "blockdev-snapshot-sync", "data": {"node-name": "a", "snapshot-node-name": "over", "snapshot-file": over}});

    let failed = machine.ask("transaction", &json!({"actions": [make("one"), make("two"), make("one")]}));
    assert_eq!(failed, Err("Snapshot with name 'one' already exists on device 'a'".to_owned()));
    assert_eq!(inside(&mut machine), Vec::<String>::new());

    let made = machine.ask("transaction", &json!({"actions": [make("one"), make("two"), overlay]}));
    assert_eq!(made, Ok(json!({})));
    let beneath = inserted(&mut machine, "da")["image"]["backing-image"]["snapshots"].clone();
    assert_eq!(beneath.as_array().expect("snapshots").len(), 2);
}
