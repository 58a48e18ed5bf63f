//! What others wait for, and the monitor must not: requests that a server does not answer, that a test holds back or
//! that limits hold up.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::jobs::tool;
use crate::rig::Machine;

const PATIENCE: Duration = Duration::from_secs(60);

/// Kills a machine that does not answer, which then fails its test, unless the test is over in time.
fn watch(machine: &Machine) -> Sender<()> {
    let (over, watched) = channel();
    let pid = machine.pid().to_string();
    std::thread::spawn(move || {
        if watched.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = Command::new("kill").args(["-9", &pid]).status();
        }
    });
    over
}

/// A program of somebody else's, which ends with this.
struct Other(Child);

impl Other {
    fn start(program: &str, words: &[&str], folder: &Path) -> Self {
        let mut command = Command::new(program);
        command.args(words).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap_or_else(|error| panic!("{program} (Debian: qemu-utils): {error}")))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The processor's side of an IDE disk, the first of the machine.
struct Ide(BufReader<UnixStream>);

impl Ide {
    fn of(path: &Path) -> Self {
        let mut this = Self(BufReader::new(UnixStream::connect(path).expect("the qtest socket")));
        // PCI command register and the channel's timing: it answers.
        ["outl 0xcf8 0x80000904", "outw 0xcfc 5", "outl 0xcf8 0x80000940", "outl 0xcfc 0x80008000"]
            .iter()
            .for_each(|line| drop(this.ask(line)));
        this
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.0.get_mut(), "{line}").expect("the machine listens");
        loop {
            let mut answer = String::new();
            assert!(self.0.read_line(&mut answer).expect("an answer") > 0, "no answer");
            if !answer.starts_with("IRQ") {
                return answer.trim_end().to_owned();
            }
        }
    }

    /// Whether the disk is no longer busy within `time`.
    fn is_free_within(&mut self, time: Duration) -> bool {
        let end = Instant::now() + time;
        while self.status() & 0x80 != 0 {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    fn status(&mut self) -> u64 {
        let answer = self.ask("inb 0x1f7");
        let digits = answer.rsplit("0x").next().expect("a number");
        u64::from_str_radix(digits, 16).expect("a number")
    }

    /// WRITE SECTORS of one sector of ones, at `sector`; it is not waited for.
    fn write(&mut self, sector: u8) {
        for line in ["outb 0x1f6 0xe0", "outb 0x1f2 1", "outb 0x1f4 0", "outb 0x1f5 0"] {
            self.ask(line);
        }
        self.ask(&format!("outb 0x1f3 {sector}"));
        self.ask("outb 0x1f7 0x30");
        assert!(self.is_free_within(PATIENCE), "the disk takes no data");
        (0..256).for_each(|_| drop(self.ask("outw 0x1f0 0x1111")));
    }
}

/// A machine with the disk `r` and the target `t` on a server.
fn disk_and_target(folder: &Path) -> (Machine, Ide, Other) {
    ["a", "b"].iter().for_each(|name| drop(tool("qemu-img", &format!("create -q -f raw {name} 1M"), folder)));
    let server =
        Other::start("qemu-nbd", &["-t", "-f", "raw", "-k", &folder.join("n").display().to_string(), "b"], folder);
    let end = Instant::now() + PATIENCE;
    while !folder.join("n").exists() {
        assert!(Instant::now() < end, "qemu-nbd listens");
        std::thread::sleep(Duration::from_millis(10));
    }
    let machine = Machine::start_in(
        folder,
        "-machine pc -qtest unix:qt,server=on,wait=off -qtest-log none \
         -blockdev driver=raw,node-name=r,file.driver=file,file.filename=a \
         -blockdev driver=nbd,node-name=t,server.type=unix,server.path=n -device ide-hd,drive=r,id=d,bus=ide.0",
    );
    let ide = Ide::of(&folder.join("qt"));
    (machine, ide, server)
}

/// The same, in a mirror that is ready.
fn mirror(folder: &Path) -> (Machine, Ide, Other) {
    let (mut machine, ide, server) = disk_and_target(folder);
    machine.works("blockdev-mirror", &json!({"device": "r", "target": "t", "sync": "full", "job-id": "j"}));
    machine.until("j", "ready");
    (machine, ide, server)
}

fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args([name, &pid.to_string()]).status().expect("kill");
    assert!(sent.success(), "{name}");
}

/// The server of a copy falls silent, a write of the guest waits for it, and the copy is cancelled.
fn cancel_amid_a_write(mut machine: Machine, mut ide: Ide, server: Other) {
    signal("-STOP", server.0.id());
    ide.write(4);
    assert!(!ide.is_free_within(Duration::from_millis(500)), "the target is waited for");

    machine.works("block-job-cancel", &json!({"device": "j", "force": true}));
    machine.until("j", "null");

    assert!(ide.is_free_within(PATIENCE), "the disk itself is written");
    drop((server, ide));
    machine.end();
}

#[test]
fn cancelled_mirror_waits_for_no_silent_server() {
    let folder = tempfile::tempdir().expect("directory");
    let (machine, mut ide, server) = mirror(folder.path());
    let _watched = watch(&machine);
    ide.write(3);
    assert!(ide.is_free_within(PATIENCE), "the target is written");
    cancel_amid_a_write(machine, ide, server);
}

#[test]
fn cancelled_backup_waits_for_no_silent_server() {
    let folder = tempfile::tempdir().expect("directory");
    let (mut machine, ide, server) = disk_and_target(folder.path());
    let _watched = watch(&machine);
    machine.works("blockdev-backup", &json!({"device": "r", "target": "t", "sync": "none", "job-id": "j"}));
    cancel_amid_a_write(machine, ide, server);
}

#[test]
fn cancelled_job_that_waits_for_a_silent_server_itself_ends() {
    for command in ["blockdev-mirror", "blockdev-backup"] {
        let folder = tempfile::tempdir().expect("directory");
        let (mut machine, ide, server) = disk_and_target(folder.path());
        let _watched = watch(&machine);
        signal("-STOP", server.0.id());
        machine.works(command, &json!({"device": "r", "target": "t", "sync": "full", "job-id": "j"}));
        machine.until("j", "running");
        assert_eq!(machine.works("query-jobs", &json!({}))[0]["status"], "running", "{command}");

        machine.works("block-job-cancel", &json!({"device": "j"}));
        machine.until("j", "BLOCK_JOB_CANCELLED");
        machine.until("j", "null");

        drop((server, ide));
        machine.end();
    }
}

#[test]
fn process_ends_though_the_guest_waits_for_a_silent_server() {
    let folder = tempfile::tempdir().expect("directory");
    let (machine, mut ide, server) = mirror(folder.path());
    let _watched = watch(&machine);
    signal("-STOP", server.0.id());
    ide.write(4);
    assert!(!ide.is_free_within(Duration::from_millis(500)), "the target is waited for");

    machine.end();
}

/// A machine that shows a node through its server, and a client that reads twice from there and waits for the second. What
/// is known to be zeroes would not be read.
fn shown(folder: &Path, words: &str) -> (Machine, Other) {
    let mut machine = Machine::start_in(folder, words);
    if machine.ask("query-named-block-nodes", &json!({})).expect("nodes").to_string().contains("blkdebug") {
        assert_eq!(machine.human("qemu-io n \"break read_aio A\""), "");
    }
    let address = json!({"type": "unix", "data": {"path": "s"}});
    machine.works("nbd-server-start", &json!({"addr": address}));
    machine.works("block-export-add", &json!({"type": "nbd", "id": "e", "node-name": "n", "name": ""}));
    let reads = ["-r", "-f", "raw", "-c", "read 0 64k", "-c", "read 0 64k", "nbd+unix:///?socket=s"];
    let end = Instant::now() + PATIENCE;
    loop {
        let client = Other::start("qemu-io", &reads, folder);
        std::thread::sleep(Duration::from_secs(1));
        if machine.ask("block-export-del", &json!({"id": "e"})).is_err() {
            std::thread::sleep(Duration::from_secs(1));
            return (machine, client);
        }
        // It was not there yet: another one.
        machine.works("block-export-add", &json!({"type": "nbd", "id": "e", "node-name": "n", "name": ""}));
        assert!(Instant::now() < end, "the client comes");
    }
}

fn is_deleted(event: &Value) -> bool {
    event["event"] == "BLOCK_EXPORT_DELETED"
}

#[test]
fn export_goes_at_once_and_tells_when_its_last_requests_are_over() {
    let folder = tempfile::tempdir().expect("directory");
    let words = "-blockdev driver=blkdebug,node-name=n,image.driver=null-co,image.size=1M";
    let (mut machine, client) = shown(folder.path(), words);
    let _watched = watch(&machine);
    machine.events.clear();

    machine.works("block-export-del", &json!({"id": "e", "mode": "hard"}));
    let shown = machine.works("query-block-exports", &json!({}));
    let again = machine.ask("block-export-del", &json!({"id": "e", "mode": "hard"}));
    let used = machine.ask("blockdev-del", &json!({"node-name": "n"}));
    let early = machine.events.iter().any(is_deleted);
    assert_eq!(machine.human("qemu-io n \"resume A\""), "");
    while !machine.events.iter().any(is_deleted) {
        machine.wait();
    }

    assert_eq!((&shown[0]["shutting-down"], early), (&true.into(), false));
    assert_eq!(again, Err("Export 'e' is already shutting down".into()));
    assert!(used.is_err(), "{used:?}");
    assert_eq!(machine.works("query-block-exports", &json!({})), json!([]));
    drop(client);
    machine.works("blockdev-del", &json!({"node-name": "n"}));
    machine.end();
}

#[test]
fn server_stops_though_limits_hold_its_clients_up() {
    let folder = tempfile::tempdir().expect("directory");
    let words = "-object throttle-group,id=g,x-bps-read=1 -blockdev \
                 driver=throttle,node-name=n,throttle-group=g,file.driver=null-co,file.size=1M";
    let (mut machine, client) = shown(folder.path(), words);
    let _watched = watch(&machine);

    machine.works("nbd-server-stop", &json!({}));

    drop(client);
    machine.end();
}

#[test]
fn what_waits_for_an_export_to_end_lifts_no_other_limits() {
    let folder = tempfile::tempdir().expect("directory");
    let words = "-object throttle-group,id=g,x-bps-read=1 \
                 -blockdev driver=throttle,node-name=th,throttle-group=g,file.driver=null-co,file.size=1M \
                 -blockdev driver=blkdebug,node-name=n,image.driver=null-co,image.size=1M";
    let (mut machine, client) = shown(folder.path(), words);
    let _watched = watch(&machine);
    machine.works("block-export-del", &json!({"id": "e", "mode": "hard"}));
    machine.works("block-export-add", &json!({"type": "nbd", "id": "f", "node-name": "th", "name": "th"}));

    let reads = ["-r", "-f", "raw", "-c", "read 0 64k", "-c", "read 0 64k", "nbd+unix:///th?socket=s"];
    let mut limited = Other::start("qemu-io", &reads, folder.path());
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        assert_eq!(limited.0.try_wait().expect("a child"), None, "the second read waits for the limit");
        std::thread::sleep(Duration::from_millis(50));
    }

    assert_eq!(machine.works("query-block-exports", &json!({}))[0]["shutting-down"], true);
    assert_eq!(machine.human("qemu-io n \"resume A\""), "");
    drop((client, limited));
    machine.end();
}

#[test]
fn commands_wait_for_no_limits_beneath_a_format() {
    let folder = tempfile::tempdir().expect("directory");
    tool("qemu-img", "create -q -f qcow2 a 1M", folder.path());
    let mut machine = Machine::start_in(
        folder.path(),
        "-machine pc -qtest unix:qt,server=on,wait=off -qtest-log none -object throttle-group,id=g,x-bps-write=1 \
         -blockdev driver=file,filename=a,node-name=n -blockdev driver=throttle,file=n,throttle-group=g,node-name=th \
         -blockdev driver=qcow2,file=th,node-name=r -device ide-hd,drive=r,id=d,bus=ide.0",
    );
    let _watched = watch(&machine);
    let mut ide = Ide::of(&folder.path().join("qt"));
    let mut sectors = 2..32;
    while ide.is_free_within(Duration::from_millis(500)) {
        ide.write(sectors.next().expect("the limit holds writes up"));
    }

    machine.works("block_resize", &json!({"node-name": "r", "size": 2 << 20}));
    machine.works("block-dirty-bitmap-add", &json!({"node": "r", "name": "b", "persistent": true}));
    let overlay = json!({"node-name": "r", "snapshot-file": folder.path().join("over"), "snapshot-node-name": "o"});
    machine.works("blockdev-snapshot-sync", &overlay);

    drop(ide);
    machine.end();
}
