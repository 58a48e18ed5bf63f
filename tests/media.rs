//! Media and disks that the host changes, through QMP: needs neither KVM nor a guest.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// A machine without vCPUs, with a CD drive on IDE (`-cdrom`, `ide1-cd0`), an empty one (`cd`) and a disk (`disk`) on
/// SCSI.
struct Machine {
    files: tempfile::TempDir,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Events that came before the last answer: the drive's name or id, and whether its tray is out.
    moves: Vec<(String, bool)>,
}

impl Machine {
    fn start() -> Self {
        let files = tempfile::tempdir().expect("directory");
        let file = |name: &str| {
            let path = files.path().join(name);
            std::fs::write(&path, vec![0; 1 << 20]).expect("image");
            path.display().to_string()
        };
        let (one, disk) = (file("one"), file("disk"));
        file("two");
        let mut child = Command::new(env!("CARGO_BIN_EXE_rhea"))
            .args(["-accel", "qtest", "-m", "16", "-nodefaults", "-display", "none", "-qmp", "stdio", "-cdrom", &one])
            .args(["-device", "virtio-scsi-pci", "-device", "scsi-cd,id=cd"])
            .args(["-drive", &format!("file={disk},format=raw,if=none,id=d"), "-device", "scsi-hd,drive=d,id=disk"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let input = child.stdin.take().expect("standard input");
        let output = BufReader::new(child.stdout.take().expect("standard output"));
        let mut machine = Self { files, child, input, output, moves: Vec::new() };
        machine.line();
        machine.ask("qmp_capabilities", &json!({})).expect("negotiation");
        machine
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).expect("the program answers") > 0, "no answer");
        serde_json::from_str(&line).expect("JSON")
    }

    /// What a command returns, or the sentence it is refused with.
    fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value, String> {
        writeln!(self.input, "{}", json!({"execute": command, "arguments": arguments})).expect("the program listens");
        loop {
            let message = self.line();
            if message["event"] == "DEVICE_TRAY_MOVED" {
                let data = &message["data"];
                let name =
                    [&data["device"], &data["id"]].into_iter().find_map(|name| name.as_str().filter(|s| !s.is_empty()));
                self.moves.push((name.unwrap_or_default().to_owned(), data["tray-open"] == true));
            } else if let Some(error) = message.get("error") {
                return Err(error["desc"].as_str().unwrap_or_default().to_owned());
            } else if let Some(value) = message.get("return") {
                return Ok(value.clone());
            }
        }
    }

    fn path(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }

    /// The entry of `query-block` for a drive.
    fn drive(&mut self, name: &str) -> Value {
        let all = self.ask("query-block", &json!({})).expect("drives");
        let found = all.as_array().expect("a list").iter().find(|d| d["device"] == name || d["qdev"] == name);
        found.cloned().expect("the drive")
    }

    /// The file in a drive.
    fn inserted(&mut self, name: &str) -> Option<String> {
        let file = self.drive(name)["inserted"]["file"].as_str().map(str::to_owned)?;
        Path::new(&file).file_name().map(|name| name.to_string_lossy().into_owned())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn changed_medium_is_the_other_file_and_the_tray_moves_twice() {
    let mut machine = Machine::start();
    let two = machine.path("two");

    machine.ask("blockdev-change-medium", &json!({"device": "ide1-cd0", "filename": two})).expect("changed");

    assert_eq!(machine.inserted("ide1-cd0").as_deref(), Some("two"));
    assert_eq!(machine.drive("ide1-cd0")["tray_open"], false);
    assert_eq!(machine.moves, [("ide1-cd0".to_owned(), true), ("ide1-cd0".to_owned(), false)]);
    let nodes = machine.ask("query-named-block-nodes", &json!({})).expect("nodes").to_string();
    assert!(!nodes.contains("/one\""), "the former medium is still open: {nodes}");
}

#[test]
fn ejected_drive_is_empty_with_its_tray_out() {
    let mut machine = Machine::start();

    machine.ask("eject", &json!({"device": "ide1-cd0"})).expect("ejected");

    assert_eq!(machine.inserted("ide1-cd0"), None);
    assert_eq!(machine.drive("ide1-cd0")["tray_open"], true);
    machine.ask("eject", &json!({"device": "ide1-cd0"})).expect("ejected again");
}

#[test]
fn medium_goes_in_and_out_step_by_step() {
    let mut machine = Machine::start();
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
    assert_eq!(in_use, Err("Block device disc is in use".into()));
    assert_eq!(shut, Err("Tray of device 'cd' is not open".into()));
    assert_eq!(held.as_deref(), Some("two"));
    assert_eq!(machine.inserted("cd"), None);
    // The client's own node stays until it takes it away.
    machine.ask("blockdev-del", &json!({"node-name": "disc"})).expect("deleted");
}

#[test]
fn what_is_no_drive_is_refused() {
    let mut machine = Machine::start();
    let no_such = machine.path("none");

    let disk = machine.ask("eject", &json!({"id": "disk"}));
    let unknown = machine.ask("eject", &json!({"id": "nothing"}));
    let nameless = machine.ask("eject", &json!({}));
    let no_file = machine.ask("blockdev-change-medium", &json!({"id": "cd", "filename": no_such}));

    assert_eq!(disk, Err("Device 'disk' is not removable".into()));
    assert_eq!(unknown, Err("Device 'nothing' not found".into()));
    assert_eq!(nameless, Err("Need exactly one of 'device' and 'id'".into()));
    assert!(no_file.is_err() && machine.moves.is_empty(), "{no_file:?}");
}

#[test]
fn human_monitor_changes_and_ejects() {
    let mut machine = Machine::start();
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
    let mut machine = Machine::start();
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
    assert_eq!(in_use, Err("Block device more is in use".into()));
    assert_eq!(gone, Err("Device 'more' not found".into()));
    assert_eq!(machine.drive("more")["tray_open"], false);
}
