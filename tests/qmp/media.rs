//! Media and disks that the host changes.

use std::path::Path;

use serde_json::{Value, json};

use crate::rig::Machine;

/// A machine with a CD drive on IDE (`-cdrom`, `ide1-cd0`), an empty one (`cd`) and a disk (`disk`) on SCSI.
struct Drives {
    machine: Machine,
    files: tempfile::TempDir,
}

impl Drives {
    fn start() -> Self {
        let files = tempfile::tempdir().expect("directory");
        for name in ["one", "two", "disk"] {
            std::fs::write(files.path().join(name), vec![0; 1 << 20]).expect("image");
        }
        let folder = files.path().display();
        let machine = Machine::start(&format!(
            "-cdrom {folder}/one -device virtio-scsi-pci -device scsi-cd,id=cd
             -drive file={folder}/disk,format=raw,if=none,id=d -device scsi-hd,drive=d,id=disk"
        ));
        Self { machine, files }
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value, String> {
        self.machine.ask(command, arguments)
    }

    fn path(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }

    fn tray_is_out(&mut self, name: &str) -> bool {
        self.machine.drive(name)["tray_open"] == true
    }

    /// The file in a drive.
    fn inserted(&mut self, name: &str) -> Option<String> {
        let file = self.machine.drive(name)["inserted"]["file"].as_str().map(str::to_owned)?;
        Path::new(&file).file_name().map(|name| name.to_string_lossy().into_owned())
    }

    /// The trays that have moved: the drive's name or id, and whether its tray is out.
    fn moves(&self) -> Vec<(&str, bool)> {
        let moves = self.machine.events.iter().filter(|event| event["event"] == "DEVICE_TRAY_MOVED");
        moves.map(|event| (tray(event), event["data"]["tray-open"] == true)).collect()
    }
}

/// Whose tray an event tells of.
fn tray(event: &Value) -> &str {
    let names = [&event["data"]["device"], &event["data"]["id"]];
    names.into_iter().filter_map(Value::as_str).find(|name| !name.is_empty()).unwrap_or_default()
}

#[test]
fn changed_medium_is_the_other_file_and_the_tray_moves_twice() {
    let mut machine = Drives::start();
    let two = machine.path("two");

    machine.ask("blockdev-change-medium", &json!({"device": "ide1-cd0", "filename": two})).expect("changed");

    assert_eq!(machine.inserted("ide1-cd0").as_deref(), Some("two"));
    assert!(!machine.tray_is_out("ide1-cd0"));
    assert_eq!(machine.moves(), [("ide1-cd0", true), ("ide1-cd0", false)]);
    let nodes = machine.ask("query-named-block-nodes", &json!({})).expect("nodes").to_string();
    assert!(!nodes.contains("/one\""), "the former medium is still open: {nodes}");
}

#[test]
fn ejected_drive_is_empty_with_its_tray_out() {
    let mut machine = Drives::start();

    machine.ask("eject", &json!({"device": "ide1-cd0"})).expect("ejected");

    assert_eq!(machine.inserted("ide1-cd0"), None);
    assert!(machine.tray_is_out("ide1-cd0"));
    machine.ask("eject", &json!({"device": "ide1-cd0"})).expect("ejected again");
}

#[test]
fn medium_goes_in_and_out_step_by_step() {
    let mut machine = Drives::start();
    let node = json!({"driver": "file", "node-name": "disc", "filename": machine.path("two"), "read-only": true});
    machine.ask("blockdev-add", &node).expect("a node");
    let insert = json!({"id": "cd", "node-name": "disc"});

    let closed = machine.ask("blockdev-insert-medium", &insert);
    machine.ask("blockdev-open-tray", &json!({"id": "cd"})).expect("opened");
    machine.ask("blockdev-insert-medium", &insert).expect("inserted");
    let twice = machine.ask("blockdev-insert-medium", &json!({"id": "cd", "node-name": "nothing"}));
    machine.ask("blockdev-close-tray", &json!({"id": "cd"})).expect("closed");
    let in_use = machine.ask("blockdev-del", &json!({"node-name": "disc"}));
    let shut = machine.ask("blockdev-remove-medium", &json!({"id": "cd"}));
    let held = machine.inserted("cd");
    machine.ask("blockdev-open-tray", &json!({"id": "cd"})).expect("opened");
    machine.ask("blockdev-remove-medium", &json!({"id": "cd"})).expect("removed");

    assert_eq!(closed, Err("Tray of device 'cd' is not open".into()));
    assert_eq!(twice, Err("Node 'nothing' not found".into()));
    assert_eq!(in_use, Err("Node disc is in use".into()));
    assert_eq!(shut, Err("Tray of device 'cd' is not open".into()));
    assert_eq!(held.as_deref(), Some("two"));
    assert_eq!(machine.inserted("cd"), None);
    // The client's own node stays until it takes it away.
    machine.ask("blockdev-del", &json!({"node-name": "disc"})).expect("deleted");
}

#[test]
fn what_is_no_drive_is_refused() {
    let mut machine = Drives::start();
    let no_such = machine.path("none");

    let disk = machine.ask("eject", &json!({"id": "disk"}));
    let unknown = machine.ask("eject", &json!({"id": "nothing"}));
    let nameless = machine.ask("eject", &json!({}));
    let no_file = machine.ask("blockdev-change-medium", &json!({"id": "cd", "filename": no_such}));

    assert_eq!(disk, Err("Device 'disk' is not removable".into()));
    assert_eq!(unknown, Err("Device 'nothing' not found".into()));
    assert_eq!(nameless, Err("Need exactly one of 'device' and 'id'".into()));
    assert!(no_file.is_err() && machine.moves().is_empty(), "{no_file:?}");
}

#[test]
fn human_monitor_changes_and_ejects() {
    let mut machine = Drives::start();
    let change = format!("change ide1-cd0 {}", machine.path("two"));

    let changed = machine.ask("human-monitor-command", &json!({"command-line": change}));
    let held = machine.inserted("ide1-cd0");
    let ejected = machine.ask("human-monitor-command", &json!({"command-line": "eject -f ide1-cd0"}));

    assert_eq!((changed, ejected), (Ok("".into()), Ok("".into())));
    assert_eq!(held.as_deref(), Some("two"));
    assert_eq!(machine.inserted("ide1-cd0"), None);
}

#[test]
fn disk_comes_and_goes_behind_an_adapter() {
    let mut machine = Drives::start();
    let node = json!({"driver": "file", "node-name": "more", "filename": machine.path("two")});
    machine.ask("blockdev-add", &node).expect("a node");
    let disk = json!({"driver": "scsi-hd", "id": "more", "drive": "more", "scsi-id": 7, "lun": 16383});

    machine.ask("device_add", &disk).expect("plugged");
    let taken = machine.ask("device_add", &json!({"driver": "scsi-cd", "id": "x", "scsi-id": 7, "lun": 16383}));
    let held = machine.inserted("more");
    let in_use = machine.ask("blockdev-del", &json!({"node-name": "more"}));
    machine.ask("device_del", &json!({"id": "more"})).expect("unplugged");
    let gone = machine.ask("device_del", &json!({"id": "more"}));
    machine.ask("blockdev-del", &json!({"node-name": "more"})).expect("free again");
    machine.ask("device_add", &json!({"driver": "scsi-cd", "id": "more", "scsi-id": 7})).expect("plugged again");

    assert_eq!(taken, Err("device \"x\": lun already used by 'more'".into()));
    assert_eq!(held.as_deref(), Some("two"));
    assert_eq!(in_use, Err("Node more is in use".into()));
    assert_eq!(gone, Err("Device 'more' not found".into()));
    assert!(!machine.tray_is_out("more"));
}
