//! Backups as managers make them: bitmaps, full and incremental copies, and disks shown to other programs.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::jobs::{story, tool};
use crate::rig::Machine;

/// A machine with the images `names` of 8 MiB as nodes, and devices on those that `attached` names.
fn machine(folder: &Path, names: &[&str], attached: &[&str]) -> Machine {
    let mut words = String::new();
    for name in names {
        let path = folder.join(name);
        tool("qemu-img", &format!("create -q -f qcow2 {name} 8M"), folder);
        words += &format!("-blockdev driver=qcow2,node-name={name},file.driver=file,file.filename={} ", path.display());
    }
    for name in attached {
        words += &format!("-device virtio-blk-pci,drive={name},id={name}-device ");
    }
    Machine::start(&words)
}

impl Machine {
    pub(crate) fn works(&mut self, command: &str, arguments: &Value) -> Value {
        self.ask(command, arguments).unwrap_or_else(|error| panic!("{command} {arguments}: {error}"))
    }

    /// The bitmaps of a node, by name: bytes marked, recording, persistent.
    fn bitmaps(&mut self, node: &str) -> Vec<(String, u64, bool, bool)> {
        let nodes = self.works("query-named-block-nodes", &json!({"flat": true}));
        let node = nodes.as_array().expect("nodes").iter().find(|n| n["node-name"] == node).expect("the node");
        let of = |bitmap: &Value| {
            let yes = |name: &str| bitmap[name].as_bool().expect("a truth");
            let name = bitmap["name"].as_str().expect("a name").to_owned();
            (name, bitmap["count"].as_u64().expect("a count"), yes("recording"), yes("persistent"))
        };
        node["dirty-bitmaps"].as_array().map(|all| all.iter().map(of).collect()).unwrap_or_default()
    }

    /// Shows a node on a socket; gives how QEMU's tools call it.
    fn show(&mut self, folder: &Path, node: &str, more: &Value) -> String {
        let socket = folder.join("nbd");
        if !socket.exists() {
            let address = json!({"type": "unix", "data": {"path": socket}});
            self.works("nbd-server-start", &json!({"addr": address}));
        }
        let mut export = json!({"type": "nbd", "id": "shown", "node-name": node, "name": "disk"});
        export.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        self.works("block-export-add", &export);
        format!("nbd+unix:///disk?socket={}", socket.display())
    }

    /// Has `qemu-io` write to a node that no device has.
    pub(crate) fn write(&mut self, folder: &Path, node: &str, words: &str) {
        let address = self.show(folder, node, &json!({"writable": true}));
        tool("qemu-io", &format!("-f raw -c {words} {address}"), folder);
        self.works("block-export-del", &json!({"id": "shown", "mode": "hard"}));
        // It ends behind the answer, once the client's last requests are over.
        let since = Instant::now();
        while self.works("query-block-exports", &json!({})) != json!([]) {
            assert!(since.elapsed() < Duration::from_secs(60), "the export does not end");
        }
    }

    fn backup(&mut self, arguments: &Value) -> Vec<Value> {
        let mut all = json!({"job-id": "b"});
        all.as_object_mut().expect("an object").extend(arguments.as_object().expect("an object").clone());
        self.works("blockdev-backup", &all);
        self.until("b", "null")
    }
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("directory")
}

#[test]
fn full_backup_shows_what_the_disk_shows() {
    let folder = temporary();
    let mut machine = machine(folder.path(), &["disk", "copy"], &[]);
    machine.write(folder.path(), "disk", "write_-P_7_1M_2M");
    machine.works("device_add", &json!({"driver": "virtio-blk-pci", "drive": "disk", "id": "d"}));
    let overlay = json!({"node-name": "disk", "snapshot-node-name": "top", "snapshot-file": folder.path().join("top")});
    machine.works("blockdev-snapshot-sync", &overlay);

    let events = machine.backup(&json!({"device": "top", "target": "copy", "sync": "full"}));

    let order = ["created", "running", "waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"];
    assert_eq!(story(&events), order);
    assert_eq!((&events[4]["data"]["type"], &events[4]["data"]["len"]), (&"backup".into(), &(8 << 20).into()));
    machine.end();
    tool("qemu-img", "compare -f qcow2 -F qcow2 top copy", folder.path());
}

#[test]
fn incremental_backup_brings_a_full_one_up_to_date_and_starts_the_bitmap_again() {
    let folder = temporary();
    let mut machine = machine(folder.path(), &["disk", "copy"], &[]);
    machine.write(folder.path(), "disk", "write_-P_1_0_4M");
    let bitmap = json!({"node": "disk", "name": "since", "persistent": true, "granularity": 65536});
    let backup = json!({"job-id": "b", "device": "disk", "target": "copy", "sync": "full"});
    let both = json!([{"type": "block-dirty-bitmap-add", "data": bitmap}, {"type": "blockdev-backup", "data": backup}]);
    machine.works("transaction", &json!({"actions": both}));
    machine.until("b", "null");

    machine.write(folder.path(), "disk", "write_-P_2_1M_64k");
    let marked = machine.bitmaps("disk");
    machine.backup(&json!({"device": "disk", "target": "copy", "sync": "incremental", "bitmap": "since"}));
    let afterwards = machine.bitmaps("disk");

    assert_eq!(marked, [("since".into(), 65536, true, true)]);
    assert_eq!(afterwards, [("since".into(), 0, true, true)]);
    machine.write(folder.path(), "disk", "write_-P_2_6M_64k");
    machine.end();
    let check = "-f qcow2 -c read_-P_1_0_1M -c read_-P_2_1M_64k -c read_-P_0_4M_4M copy";
    tool("qemu-io", check, folder.path());
    tool("qemu-img", "check -q disk", folder.path());
    tool("qemu-img", "bitmap --add --merge since -f qcow2 disk copied", folder.path());
}

#[test]
fn bitmap_that_a_backup_does_not_use_up_says_the_same_afterwards() {
    let folder = temporary();
    let mut machine = machine(folder.path(), &["disk", "copy"], &[]);
    machine.works("block-dirty-bitmap-add", &json!({"node": "disk", "name": "since"}));
    machine.write(folder.path(), "disk", "write_-P_2_1M_64k");

    let mut of = |mode: &str| {
        let bitmap =
            json!({"device": "disk", "target": "copy", "sync": "bitmap", "bitmap": "since", "bitmap-mode": mode});
        machine.backup(&bitmap);
        machine.bitmaps("disk")[0].1
    };

    assert_eq!([of("never"), of("always"), of("on-success")], [65536, 0, 0]);
    let refused = machine.ask("blockdev-backup", &json!({"device": "disk", "target": "copy", "sync": "incremental"}));
    assert_eq!(refused, Err("must provide a valid bitmap name for 'incremental' sync mode".into()));
}

#[test]
fn transaction_that_fails_leaves_bitmaps_as_they_were() {
    let folder = temporary();
    let mut machine = machine(folder.path(), &["disk", "copy"], &[]);
    machine.works("block-dirty-bitmap-add", &json!({"node": "disk", "name": "old", "persistent": true}));
    machine.write(folder.path(), "disk", "write_-P_2_1M_64k");
    let before = machine.bitmaps("disk");

    let old = json!({"node": "disk", "name": "old"});
    let actions = json!([
        {"type": "block-dirty-bitmap-add", "data": {"node": "disk", "name": "new"}},
        {"type": "block-dirty-bitmap-merge", "data": {"node": "disk", "target": "new", "bitmaps": ["old"]}},
        {"type": "block-dirty-bitmap-clear", "data": old},
        {"type": "block-dirty-bitmap-disable", "data": old},
        {"type": "blockdev-backup", "data": {"job-id": "b", "device": "disk", "target": "copy", "sync": "full"}},
        {"type": "block-dirty-bitmap-remove", "data": old},
        {"type": "abort", "data": {}},
    ]);
    let failed = machine.ask("transaction", &json!({"actions": actions}));
    machine.until("b", "null");

    let goes = json!([
        {"type": "block-dirty-bitmap-remove", "data": old},
        {"type": "block-dirty-bitmap-clear", "data": old},
    ]);
    let gone = machine.ask("transaction", &json!({"actions": goes}));

    assert_eq!(failed, Err("Transaction aborted using Abort action".into()));
    assert_eq!(gone, Err("Bitmap 'old' is currently in use by another operation and cannot be used".into()));
    assert_eq!(machine.bitmaps("disk"), before);
}

/// A bitmap and two backups of two disks that end together, the second one as slow as can be.
fn grouped(folder: &Path, second: &Value) -> Machine {
    let mut machine = machine(folder, &["one", "two", "copy-1", "copy-2"], &[]);
    machine.works("block-dirty-bitmap-add", &json!({"node": "one", "name": "since"}));
    for disk in ["one", "two"] {
        machine.write(folder, disk, "write_-P_2_1M_4M");
    }
    let first = json!({"job-id": "b1", "device": "one", "target": "copy-1", "sync": "incremental", "bitmap": "since"});
    let mut both = json!({"job-id": "b2", "device": "two", "target": "copy-2", "sync": "full"});
    both.as_object_mut().expect("an object").extend(second.as_object().expect("an object").clone());
    let actions = json!([{"type": "blockdev-backup", "data": first}, {"type": "blockdev-backup", "data": both}]);
    machine.works("transaction", &json!({"actions": actions, "properties": {"completion-mode": "grouped"}}));
    machine
}

#[test]
fn grouped_backups_wait_for_each_other() {
    let folder = temporary();
    let mut machine = grouped(folder.path(), &json!({"auto-finalize": false}));
    machine.until("b2", "BLOCK_JOB_PENDING");

    machine.works("job-finalize", &json!({"id": "b1"}));
    let (one, two) = (machine.until("b1", "null"), machine.until("b2", "null"));

    assert_eq!(story(&one), ["created", "running", "waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"]);
    assert_eq!(story(&two), ["BLOCK_JOB_COMPLETED", "concluded", "null"]);
    assert_eq!(machine.bitmaps("one")[0].1, 0);
    machine.end();
    tool("qemu-img", "compare -f qcow2 -F qcow2 one copy-1", folder.path());
    tool("qemu-img", "compare -f qcow2 -F qcow2 two copy-2", folder.path());
}

#[test]
fn grouped_backup_that_is_cancelled_takes_the_other_with_it_and_its_bitmap_comes_back() {
    let folder = temporary();
    let mut machine = grouped(folder.path(), &json!({"speed": 1}));
    machine.until("b1", "waiting");

    machine.works("job-cancel", &json!({"id": "b2"}));
    let (one, two) = (machine.until("b1", "null"), machine.until("b2", "null"));

    assert_eq!(story(&one), ["aborting", "BLOCK_JOB_CANCELLED", "concluded", "null"]);
    assert_eq!(story(&two), ["created", "running", "aborting", "BLOCK_JOB_CANCELLED", "concluded", "null"]);
    assert_eq!(machine.bitmaps("one")[0].1, 4 << 20);
}

#[test]
fn what_is_done_at_once_is_refused_in_a_group() {
    let folder = temporary();
    let mut machine = machine(folder.path(), &["disk"], &[]);
    let action = json!({"type": "block-dirty-bitmap-add", "data": {"node": "disk", "name": "new"}});

    let refused =
        machine.ask("transaction", &json!({"actions": [action], "properties": {"completion-mode": "grouped"}}));

    let text = "Action 'block-dirty-bitmap-add' does not support Transaction property completion-mode = grouped";
    assert_eq!(refused, Err(text.into()));
    assert_eq!(machine.bitmaps("disk"), []);
}

#[test]
fn bitmaps_are_merged_disabled_and_removed_by_their_commands() {
    let folder = temporary();
    let mut machine = machine(folder.path(), &["disk", "other"], &[]);
    for name in ["one", "two"] {
        machine.works("block-dirty-bitmap-add", &json!({"node": "disk", "name": name, "persistent": true}));
        machine.write(folder.path(), "disk", if name == "one" { "write_0_64k" } else { "write_2M_64k" });
        machine.works("block-dirty-bitmap-disable", &json!({"node": "disk", "name": name}));
    }
    machine.works("block-dirty-bitmap-add", &json!({"node": "other", "name": "sum", "disabled": true}));

    let sources = json!([{"node": "disk", "name": "one"}, {"node": "disk", "name": "two"}]);
    machine.works("block-dirty-bitmap-merge", &json!({"node": "other", "target": "sum", "bitmaps": sources}));
    machine.works("block-dirty-bitmap-remove", &json!({"node": "disk", "name": "two"}));
    let again = machine.ask("block-dirty-bitmap-add", &json!({"node": "disk", "name": "one"}));
    let nothing = machine.ask("block-dirty-bitmap-clear", &json!({"node": "disk", "name": "two"}));

    assert_eq!(machine.bitmaps("other"), [("sum".into(), 131_072, false, false)]);
    assert_eq!(machine.bitmaps("disk"), [("one".into(), 65536, false, true)]);
    assert_eq!(again, Err("Bitmap already exists: one".into()));
    assert_eq!(nothing, Err("Dirty bitmap 'two' not found".into()));
    machine.end();
    tool("qemu-img", "bitmap --remove -f qcow2 disk one", folder.path());
    tool("qemu-img", "check -q disk", folder.path());
}

#[test]
fn bitmap_in_the_hands_of_a_backup_is_not_merged_into_another() {
    let folder = temporary();
    let mut machine = machine(folder.path(), &["disk", "copy"], &[]);
    for name in ["one", "sum"] {
        machine.works("block-dirty-bitmap-add", &json!({"node": "disk", "name": name}));
    }
    machine.write(folder.path(), "disk", "write_0_64k");
    let backup = json!({"job-id": "b", "device": "disk", "target": "copy", "sync": "incremental", "bitmap": "one",
        "auto-finalize": false});
    machine.works("blockdev-backup", &backup);
    machine.until("b", "pending");

    let merge = json!({"node": "disk", "target": "sum", "bitmaps": ["one"]});
    let refused = machine.ask("block-dirty-bitmap-merge", &merge);

    let text = "Bitmap 'one' is currently in use by another operation and cannot be used";
    assert_eq!(refused, Err(text.into()));
    machine.works("job-finalize", &json!({"id": "b"}));
    machine.until("b", "null");
    machine.works("block-dirty-bitmap-merge", &merge);
    machine.end();
}

#[test]
fn moment_is_shown_to_who_pulls_a_backup_with_what_has_changed_since_another() {
    let folder = temporary();
    let mut machine = machine(folder.path(), &["disk"], &["disk"]);
    tool("qemu-img", "create -q -f qcow2 scratch 8M", folder.path());
    let scratch = json!({"driver": "qcow2", "node-name": "scratch", "backing": "disk",
        "file": {"driver": "file", "filename": folder.path().join("scratch")}});
    machine.works("blockdev-add", &scratch);
    machine.works("block-dirty-bitmap-add", &json!({"node": "disk", "name": "since", "disabled": true}));

    let backup = json!({"job-id": "b", "device": "disk", "target": "scratch", "sync": "none"});
    machine.works("blockdev-backup", &backup);
    let bitmaps = json!({"bitmaps": [{"node": "disk", "name": "since"}]});
    let address = machine.show(folder.path(), "scratch", &bitmaps);
    let shown = machine.works("query-block-exports", &json!({}));
    let busy = machine.ask("block-dirty-bitmap-clear", &json!({"node": "disk", "name": "since"}));
    tool("qemu-img", &format!("compare -f raw -F raw {address} {address}"), folder.path());
    let context = format!(
        "map --output=json --image-opts driver=nbd,export=disk,server.type=unix,server.path={},\
         x-dirty-bitmap=qemu:dirty-bitmap:since",
        folder.path().join("nbd").display()
    );
    tool("qemu-img", &context, folder.path());
    machine.works("block-export-del", &json!({"id": "shown", "mode": "hard"}));
    machine.works("block-job-cancel", &json!({"device": "b", "force": true}));
    let events = machine.until("b", "null");
    machine.works("nbd-server-stop", &json!({}));
    machine.works("blockdev-del", &json!({"node-name": "scratch"}));

    assert_eq!(shown[0], json!({"id": "shown", "type": "nbd", "node-name": "scratch", "shutting-down": false}));
    assert_eq!(busy, Err("Bitmap 'since' is currently in use by another operation and cannot be used".into()));
    assert!(machine.events.iter().any(|event| event["event"] == "BLOCK_EXPORT_DELETED"));
    assert!(story(&events).contains(&"BLOCK_JOB_CANCELLED"), "{events:?}");
}

#[test]
fn exports_without_a_server_of_what_is_not_there_and_of_what_is_in_use_are_refused() {
    let folder = temporary();
    let mut machine = machine(folder.path(), &["disk"], &["disk"]);
    let export = |more: Value| {
        let mut all = json!({"type": "nbd", "id": "x", "node-name": "disk"});
        all.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        all
    };

    let without = machine.ask("block-export-add", &export(json!({})));
    let stopped = machine.ask("nbd-server-stop", &json!({}));
    let address = json!({"type": "unix", "data": {"path": folder.path().join("nbd")}});
    machine.works("nbd-server-start", &json!({"addr": address}));
    let twice = machine.ask("nbd-server-start", &json!({"addr": address}));
    let missing = machine.ask("block-export-add", &export(json!({"node-name": "nowhere"})));
    let written = machine.ask("block-export-add", &export(json!({"writable": true})));
    machine.works("block-export-add", &export(json!({})));
    let removed = machine.ask("blockdev-del", &json!({"node-name": "disk"}));
    let unknown = machine.ask("block-export-del", &json!({"id": "y"}));

    let second = folder.path().join("second");
    tool("qemu-img", "create -q -f qcow2 second 8M", folder.path());
    let node = json!({"driver": "qcow2", "node-name": "second", "file": {"driver": "file", "filename": second}});
    machine.works("blockdev-add", &node);
    let writable = json!({"id": "z", "node-name": "second", "writable": true});
    machine.works("block-export-add", &export(writable));
    let job = machine.ask("block-stream", &json!({"job-id": "j", "device": "second"}));

    assert_eq!([&without, &stopped], [&Err("NBD server not running".into()); 2]);
    assert_eq!(twice, Err("NBD server already running".into()));
    assert_eq!(missing, Err("Cannot find device='' nor node-name='nowhere'".into()));
    let conflict = "Permission conflict on node 'disk': permissions 'write' are both required by export 'x' (uses node \
                    'disk' as 'root' child) and unshared by block device 'disk-device' (uses node 'disk' as 'root' child).";
    assert_eq!(written, Err(conflict.into()));
    assert_eq!(removed, Err("Node disk is in use".into()));
    assert_eq!(unknown, Err("Export 'y' is not found".into()));
    let busy = "Node 'second' is busy: block device is in use by an export that clients write to";
    assert_eq!(job, Err(busy.into()));

    machine.works("block-export-del", &json!({"id": "z"}));
    machine.works("block-dirty-bitmap-add", &json!({"node": "second", "name": "p", "persistent": true}));
    let bitmaps = json!({"id": "z", "node-name": "second", "bitmaps": ["p"]});
    let changing = machine.ask("block-export-add", &export(bitmaps));
    assert_eq!(changing, Err("Enabled bitmap 'p' incompatible with readonly export".into()));
}

#[test]
fn image_beneath_an_overlay_is_opened_for_its_bitmaps_and_closed_again() {
    let folder = temporary();
    let mut machine = machine(folder.path(), &["disk"], &["disk"]);
    machine.works("block-dirty-bitmap-add", &json!({"node": "disk", "name": "old", "persistent": true}));
    let overlay = json!({"node-name": "disk", "snapshot-node-name": "top", "snapshot-file": folder.path().join("top")});
    machine.works("blockdev-snapshot-sync", &overlay);
    let options = |more: Value| {
        let mut all = json!({"driver": "qcow2", "node-name": "disk",
            "file": {"driver": "file", "filename": folder.path().join("disk")}});
        all.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        json!({"options": [all]})
    };
    let remove = json!({"node": "disk", "name": "old"});

    let closed = machine.ask("block-dirty-bitmap-remove", &remove);
    machine.works("blockdev-reopen", &options(json!({"read-only": false})));
    machine.works("block-dirty-bitmap-remove", &remove);
    machine.works("blockdev-reopen", &options(json!({"read-only": true})));
    let left = machine.bitmaps("disk");
    let other = machine.ask("blockdev-reopen", &options(json!({"driver": "raw"})));
    let again = machine.ask("block-dirty-bitmap-add", &json!({"node": "disk", "name": "new", "persistent": true}));

    assert_eq!(closed, Err("Bitmap 'old' is readonly and cannot be modified".into()));
    assert_eq!(left, []);
    assert_eq!(other, Err("Cannot change the option 'driver'".into()));
    assert_eq!(again, Err("Bitmap 'new' is readonly and cannot be modified".into()));
    machine.end();
    tool("qemu-img", "check -q disk", folder.path());
}

#[test]
fn names_of_bitmaps_for_a_migration_are_told_as_they_were_set() {
    let mut machine = Machine::start("-S");
    let mapping = json!([{"node-name": "disk", "alias": "d", "bitmaps": [{"name": "since", "alias": "s"}]}]);

    let before = machine.works("query-migrate-parameters", &json!({}));
    machine.works("migrate-set-parameters", &json!({"block-bitmap-mapping": mapping}));
    machine.works("migrate-set-parameters", &json!({}));

    assert_eq!(before, json!({}));
    assert_eq!(machine.works("query-migrate-parameters", &json!({})), json!({"block-bitmap-mapping": mapping}));
}

#[test]
fn older_commands_show_a_drive_until_its_medium_goes() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    tool("qemu-img", "create -q -f qcow2 disk 4M", folder.path());
    let mut machine = Machine::start(&format!(
        "-drive if=none,id=x,file={},format=qcow2 -drive if=none,id=e,media=cdrom",
        path("disk")
    ));
    let add = |machine: &mut Machine, options: Value| machine.ask("nbd-server-add", &options);
    let early = add(&mut machine, json!({"device": "x"}));
    let socket = json!({"type": "unix", "data": {"path": path("nbd")}});
    machine.ask("nbd-server-start", &json!({"addr": socket})).expect("a server");

    add(&mut machine, json!({"device": "x", "writable": true})).expect("an export");
    let twice = add(&mut machine, json!({"device": "x"}));
    let nobody = add(&mut machine, json!({"device": "nobody"}));
    let empty = add(&mut machine, json!({"device": "e"}));
    add(&mut machine, json!({"device": "x", "name": "second", "description": "a disk"})).expect("an export");
    machine.ask("nbd-server-remove", &json!({"name": "second"})).expect("gone");
    let again = machine.ask("nbd-server-remove", &json!({"name": "second", "mode": "hard"}));
    let url = format!("nbd+unix:///x?socket={}", path("nbd"));
    tool("qemu-io", &format!("-f raw -c write_-P_7_0_64k -c read_-P_7_0_64k {url}"), folder.path());
    machine.events.clear();
    machine.ask("eject", &json!({"device": "x"})).expect("out");

    assert_eq!(early, Err("NBD server not running".into()));
    assert_eq!(twice, Err("Block export id 'x' is already in use".into()));
    assert_eq!(nobody, Err("Cannot find device='nobody' nor node-name='nobody'".into()));
    assert_eq!(empty, Err("Device 'e' has no medium".into()));
    assert_eq!(again, Err("Export 'second' is not found".into()));
    assert_eq!(machine.ask("query-block-exports", &json!({})), Ok(json!([])));
    let gone = machine.events.iter().find(|event| event["event"] == "BLOCK_EXPORT_DELETED");
    assert_eq!(gone.expect("told")["data"]["id"], "x");
}

/// Texts are QEMU's.
#[test]
fn what_a_bitmap_cannot_do_for_a_backup_is_said() {
    let mut machine =
        Machine::start("-blockdev driver=null-co,node-name=disk,size=1M -blockdev driver=null-co,node-name=to,size=1M");
    for (sync, bitmap, mode, desc) in [
        ("full", Some("b"), None, "Bitmap sync mode must be given when providing a bitmap"),
        ("bitmap", Some("b"), None, "Bitmap sync mode must be given when providing a bitmap"),
        ("none", Some("b"), Some("never"), "sync mode 'none' does not produce meaningful bitmap outputs"),
        (
            "top",
            Some("b"),
            Some("never"),
            "Bitmap sync mode 'never' has no meaningful effect when combined with sync mode 'top'",
        ),
        ("full", None, Some("never"), "Cannot specify bitmap sync mode without a bitmap"),
        ("incremental", None, None, "must provide a valid bitmap name for 'incremental' sync mode"),
    ] {
        let mut args = json!({"job-id": "j", "device": "disk", "target": "to", "sync": sync});
        let more = [("bitmap", bitmap), ("bitmap-mode", mode)];
        more.iter()
            .filter_map(|(name, value)| Some((name, (*value)?)))
            .for_each(|(name, value)| args[*name] = value.into());
        assert_eq!(machine.ask("blockdev-backup", &args), Err(desc.to_owned()), "{args}");
    }
}

#[test]
fn backup_of_a_transaction_that_fails_has_not_begun() {
    let folder = temporary();
    let mut machine = machine(folder.path(), &["disk", "copy"], &["disk"]);
    machine.works("block-dirty-bitmap-add", &json!({"node": "disk", "name": "since", "persistent": true}));
    machine.human(r#"qemu-io disk-device "write -P 9 0 64k""#);
    let backup = json!({"job-id": "b", "device": "disk", "target": "copy", "sync": "incremental", "bitmap": "since"});
    let actions = json!([{"type": "blockdev-backup", "data": backup}, {"type": "abort", "data": {}}]);

    let failed = machine.ask("transaction", &json!({"actions": actions}));
    let events = machine.until("b", "null");
    machine.human(r#"qemu-io disk-device "write -P 7 0 64k""#);

    assert_eq!(failed, Err("Transaction aborted using Abort action".into()));
    assert_eq!(story(&events), ["created", "aborting", "concluded", "null"]);
    assert_eq!(machine.bitmaps("disk"), [("since".into(), 65536, true, true)]);
    machine.end();
    tool("qemu-io", "-r -f qcow2 -c read_-P_0_0_8M copy", folder.path());
}

#[test]
fn backup_that_was_cancelled_does_not_complete() {
    let folder = temporary();
    let mut machine = machine(folder.path(), &["disk", "copy"], &["disk"]);

    // When the order comes is by chance: at a step, or when the last one is done.
    for round in 0..30 {
        let backup = json!({"job-id": "b", "device": "disk", "target": "copy", "sync": "full"});
        machine.works("blockdev-backup", &backup);
        let cancelled = machine.ask("block-job-cancel", &json!({"device": "b"}));
        let events = machine.until("b", "null");

        let completed = story(&events).contains(&"BLOCK_JOB_COMPLETED");
        assert_eq!(completed, cancelled.is_err(), "{round}: {cancelled:?} {events:?}");
    }
    machine.end();
}

#[test]
fn export_of_a_disk_shows_what_came_in_its_place() {
    let folder = temporary();
    let mut machine = machine(folder.path(), &["disk", "copy"], &["disk"]);
    let address = machine.show(folder.path(), "disk", &json!({}));
    let shown = |machine: &mut Machine| machine.works("query-block-exports", &json!({}))[0]["node-name"].clone();
    let reads = |byte: u8| tool("qemu-io", &format!("-r -f raw -c read_-P_{byte}_1M_64k {address}"), folder.path());

    let overlay = json!({"node-name": "disk", "snapshot-node-name": "top", "snapshot-file": folder.path().join("top")});
    machine.works("blockdev-snapshot-sync", &overlay);
    machine.human(r#"qemu-io disk-device "write -P 5 1M 64k""#);
    let on_overlay = shown(&mut machine);
    let overlay_read = reads(5);
    machine.works("blockdev-mirror", &json!({"job-id": "m", "device": "top", "target": "copy", "sync": "full"}));
    machine.until("m", "BLOCK_JOB_READY");
    machine.works("block-job-complete", &json!({"device": "m"}));
    machine.until("m", "null");
    machine.human(r#"qemu-io disk-device "write -P 6 1M 64k""#);
    let on_copy = shown(&mut machine);
    let copy_read = reads(6);

    assert_eq!((on_overlay, on_copy), ("top".into(), "copy".into()));
    for read in [overlay_read, copy_read] {
        assert!(!read.contains("verification failed"), "{read}");
    }
    machine.works("block-export-del", &json!({"id": "shown"}));
    machine.end();
}

#[test]
fn merge_of_which_one_part_fails_changes_nothing() {
    let folder = temporary();
    let mut machine = machine(folder.path(), &["disk"], &[]);
    tool("qemu-img", "create -q -f qcow2 large 16M", folder.path());
    let large = json!({"driver": "file", "filename": folder.path().join("large")});
    machine.works("blockdev-add", &json!({"driver": "qcow2", "node-name": "large", "file": large}));
    for (node, name) in [("disk", "since"), ("large", "big")] {
        machine.works("block-dirty-bitmap-add", &json!({"node": node, "name": name}));
    }
    machine.write(folder.path(), "disk", "write_-P_2_1M_64k");
    machine.works("block-dirty-bitmap-add", &json!({"node": "disk", "name": "all"}));
    let before = machine.bitmaps("disk");

    let parts = json!(["since", {"node": "large", "name": "big"}]);
    let merge = json!({"node": "disk", "target": "all", "bitmaps": parts});
    let failed = machine.ask("block-dirty-bitmap-merge", &merge);

    assert!(failed.is_err(), "{failed:?}");
    assert_eq!(machine.bitmaps("disk"), before);
    machine.end();
}

#[test]
fn backup_of_a_transaction_takes_no_bitmap_that_goes() {
    let folder = temporary();
    let mut machine = machine(folder.path(), &["disk", "copy"], &[]);
    machine.works("block-dirty-bitmap-add", &json!({"node": "disk", "name": "x"}));
    let before = machine.bitmaps("disk");
    let backup = json!({"job-id": "b", "device": "disk", "target": "copy", "sync": "incremental", "bitmap": "x"});
    let actions = json!([
        {"type": "block-dirty-bitmap-remove", "data": {"node": "disk", "name": "x"}},
        {"type": "blockdev-backup", "data": backup},
    ]);

    let refused = machine.ask("transaction", &json!({"actions": actions}));

    assert_eq!(refused, Err("Bitmap 'x' is currently in use by another operation and cannot be used".into()));
    assert_eq!(machine.bitmaps("disk"), before);
    machine.end();
}

#[test]
fn bitmap_of_an_image_beneath_is_shown_with_its_overlay() {
    let folder = temporary();
    let mut machine = machine(folder.path(), &["disk"], &["disk"]);
    machine.works("block-dirty-bitmap-add", &json!({"node": "disk", "name": "b"}));
    let overlay = json!({"node-name": "disk", "snapshot-node-name": "top", "snapshot-file": folder.path().join("top")});
    machine.works("blockdev-snapshot-sync", &overlay);

    machine.show(folder.path(), "top", &json!({"bitmaps": ["b"]}));
    let unknown = json!({"type": "nbd", "id": "other", "node-name": "top", "bitmaps": ["nix"]});
    let refused = machine.ask("block-export-add", &unknown);

    assert_eq!(refused, Err("Bitmap 'nix' is not found".into()));
    machine.works("block-export-del", &json!({"id": "shown"}));
    machine.end();
}

#[test]
fn export_goes_over_with_a_mirror_of_a_node_without_a_device() {
    let folder = temporary();
    let mut machine = machine(folder.path(), &["disk", "copy"], &[]);
    machine.write(folder.path(), "disk", "write_-P_5_1M_64k");
    let address = machine.show(folder.path(), "disk", &json!({"allocation-depth": true}));
    machine.works("blockdev-mirror", &json!({"job-id": "m", "device": "disk", "target": "copy", "sync": "full"}));
    machine.until("m", "BLOCK_JOB_READY");
    machine.works("block-job-pause", &json!({"device": "m"}));
    let held = machine.works("query-block-jobs", &json!({}))[0].clone();
    machine.works("block-job-resume", &json!({"device": "m"}));
    machine.works("block-job-complete", &json!({"device": "m"}));
    machine.until("m", "null");
    let shown = machine.works("query-block-exports", &json!({}))[0]["node-name"].clone();
    let read = tool("qemu-io", &format!("-r -f raw -c read_-P_5_1M_64k {address}"), folder.path());

    assert_eq!((&held["status"], &held["ready"], shown), (&"standby".into(), &true.into(), "copy".into()));
    assert!(!read.contains("verification failed"), "{read}");
    machine.works("block-export-del", &json!({"id": "shown"}));
    machine.end();
}
