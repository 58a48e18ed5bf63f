//! What jobs do about errors: in QEMU's order of events, seen beside it with the same commands.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::jobs::{story, tool};
use crate::rig::Machine;

/// An overlay on 4 MiB of data, and a target of that size. Reading the base at 1 MiB, or writing there to the target,
/// fails with `errno`: `once`, or always.
fn machine(folder: &Path, fails: &str, errno: i32, once: bool) -> Machine {
    let path = |name: &str| folder.join(name).display().to_string();
    tool("qemu-img", "create -q -f raw base 4M", folder);
    tool("qemu-io", "-f raw -c write_-P_7_0_4M base", folder);
    tool("qemu-img", "create -q -f qcow2 -b base -F raw top", folder);
    tool("qemu-img", "create -q -f raw target 4M", folder);
    let mut machine = Machine::start("");
    let debugged = |name: &str, event: &str| {
        let rules = json!([{"event": event, "errno": errno, "once": once, "sector": 2048}]);
        let rules = if fails == name { rules } else { json!([]) };
        let image = json!({"driver": "file", "filename": path(name)});
        json!({"driver": "raw", "node-name": name, "file": {"driver": "blkdebug", "inject-error": rules, "image": image}})
    };
    machine.ask("blockdev-add", &debugged("base", "read_aio")).expect("a node");
    machine.ask("blockdev-add", &debugged("target", "write_aio")).expect("a node");
    let file = json!({"driver": "file", "filename": path("top")});
    let top = json!({"driver": "qcow2", "node-name": "top", "file": file, "backing": "base"});
    machine.ask("blockdev-add", &top).expect("a node");
    machine
}

fn start(machine: &mut Machine, command: &str, policy: &str) {
    let common = json!({"job-id": "j", "device": "top", "auto-dismiss": false});
    let mut arguments = common.as_object().expect("members").clone();
    match command {
        "block-stream" => drop(arguments.insert("on-error".into(), policy.into())),
        _ => {
            arguments.extend([("target".into(), "target".into()), ("sync".into(), "full".into())]);
            arguments.extend([("on-source-error".into(), policy.into()), ("on-target-error".into(), policy.into())]);
        }
    }
    machine.ask(command, &arguments.into()).expect("a job");
}

fn job(machine: &mut Machine) -> Value {
    machine.ask("query-block-jobs", &json!({})).expect("jobs")[0].clone()
}

/// The errors that were told: what could not be done, and what is done about it.
fn told(events: &[Value]) -> Vec<(&str, &str)> {
    let errors = events.iter().filter(|event| event["event"] == "BLOCK_JOB_ERROR").map(|event| &event["data"]);
    errors.map(|data| (data["operation"].as_str().unwrap_or(""), data["action"].as_str().unwrap_or(""))).collect()
}

const EIO: i32 = 5;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;

#[test]
fn error_ends_a_job_that_is_to_report_it() {
    let (stream, mirror, backup) = ("block-stream", "blockdev-mirror", "blockdev-backup");
    for (command, fails, operation) in
        [(stream, "base", "read"), (mirror, "base", "read"), (mirror, "target", "write"), (backup, "target", "write")]
    {
        for policy in ["report", "enospc", "auto"] {
            let folder = tempfile::tempdir().expect("directory");
            let mut machine = machine(folder.path(), fails, EIO, true);

            start(&mut machine, command, policy);
            let events = machine.until("j", "concluded");

            let order = ["created", "running", "BLOCK_JOB_ERROR", "aborting", "BLOCK_JOB_COMPLETED", "concluded"];
            assert_eq!(story(&events), order, "{command} {policy}");
            assert_eq!(told(&events), [(operation, "report")], "{command} {policy}");
            assert_eq!(events[4]["data"]["error"], "Input/output error");
            assert_eq!(job(&mut machine)["io-status"], "ok");
        }
    }
}

#[test]
fn error_holds_a_job_that_is_to_stop_until_it_is_resumed() {
    let (stream, mirror, backup) = ("block-stream", "blockdev-mirror", "blockdev-backup");
    for (command, fails, policy, errno, status) in [
        (stream, "base", "stop", EIO, "failed"),
        (mirror, "base", "stop", EIO, "failed"),
        (mirror, "target", "stop", EFBIG, "failed"),
        (mirror, "target", "enospc", ENOSPC, "nospace"),
        (backup, "target", "auto", ENOSPC, "nospace"),
    ] {
        let folder = tempfile::tempdir().expect("directory");
        let mut machine = machine(folder.path(), fails, errno, true);

        start(&mut machine, command, policy);
        let before = machine.until("j", "paused");
        let held = job(&mut machine);
        let again = machine.ask("block-job-pause", &json!({"device": "j"}));
        let ended = machine.ask("block-job-cancel", &json!({"device": "j"}));
        machine.ask("block-job-resume", &json!({"device": "j"})).expect("it goes on");
        let after = machine.until("j", if command == mirror { "BLOCK_JOB_READY" } else { "concluded" });

        assert_eq!(story(&before), ["created", "running", "BLOCK_JOB_ERROR", "paused"], "{command}");
        assert_eq!(told(&before), [(if fails == "base" { "read" } else { "write" }, "stop")]);
        assert_eq!(
            (&held["io-status"], &held["paused"], &held["status"]),
            (&status.into(), &true.into(), &"paused".into())
        );
        assert_eq!(again, Err("Job is already paused".into()));
        assert_eq!(ended, Err("The block job for device 'j' is currently paused".into()));
        assert_eq!((story(&after)[0], told(&after).len()), ("running", 0), "{command}");
        assert_eq!(job(&mut machine)["io-status"], "ok");
        drop(machine);
        let copy = if command == stream { "top" } else { "target" };
        let format = if command == stream { "qcow2" } else { "raw" };
        tool("qemu-img", &format!("compare -U -f raw -F {format} base {copy}"), folder.path());
    }
}

#[test]
fn job_that_stops_again_and_again_can_be_cancelled() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path(), "target", EIO, false);

    start(&mut machine, "blockdev-mirror", "stop");
    machine.until("j", "paused");
    machine.ask("job-resume", &json!({"id": "j"})).expect("it goes on");
    let again = machine.until("j", "paused");
    machine.ask("job-cancel", &json!({"id": "j"})).expect("it ends");
    let end = machine.until("j", "concluded");

    assert_eq!(story(&again), ["running", "BLOCK_JOB_ERROR", "paused"]);
    assert_eq!(story(&end), ["running", "aborting", "BLOCK_JOB_CANCELLED", "concluded"]);
}

#[test]
fn ignored_error_is_tried_again_where_that_can_help() {
    for (command, fails) in [("blockdev-mirror", "base"), ("blockdev-mirror", "target"), ("blockdev-backup", "target")]
    {
        let folder = tempfile::tempdir().expect("directory");
        let mut machine = machine(folder.path(), fails, EIO, true);

        start(&mut machine, command, "ignore");
        let mirrors = command == "blockdev-mirror";
        let events = machine.until("j", if mirrors { "BLOCK_JOB_READY" } else { "concluded" });
        let now = job(&mut machine);

        assert_eq!(told(&events).len(), 1, "{events:?}");
        assert_eq!(told(&events)[0].1, "ignore");
        assert_eq!((&now["offset"], &now["io-status"], &now["error"]), (&(4 << 20).into(), &"ok".into(), &Value::Null));
        drop(machine);
        tool("qemu-img", "compare -f raw -F raw base target", folder.path());
    }
}

#[test]
fn stream_leaves_out_what_it_is_to_ignore_and_fails_at_its_end() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path(), "base", EIO, false);

    start(&mut machine, "block-stream", "ignore");
    let events = machine.until("j", "concluded");

    assert_eq!(told(&events), [("read", "ignore")]);
    let end = &events[events.len() - 2];
    assert_eq!((&end["data"]["offset"], &end["data"]["error"]), (&(4 << 20).into(), &"Input/output error".into()));
}

/// Ticks (10 ms) of processor time that a process has taken.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process");
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum()
}

#[test]
fn target_that_always_fails_keeps_no_processor_busy_and_holds_up_no_end() {
    for command in ["blockdev-mirror", "blockdev-backup"] {
        for quits in [false, true] {
            let folder = tempfile::tempdir().expect("directory");
            let mut machine = machine(folder.path(), "target", EIO, false);
            start(&mut machine, command, "ignore");
            machine.until("j", "BLOCK_JOB_ERROR");

            let before = ticks(machine.pid());
            std::thread::sleep(Duration::from_millis(500));
            let taken = ticks(machine.pid()) - before;
            let start = Instant::now();
            if quits {
                machine.end();
            } else {
                machine.ask("job-cancel", &json!({"id": "j"})).expect("it ends");
                machine.until("j", "BLOCK_JOB_CANCELLED");
            }

            assert!(taken < 25, "{command}: {taken} ticks of 50");
            assert!(start.elapsed() < Duration::from_secs(3), "{command}: {:?}", start.elapsed());
        }
    }
}

#[test]
fn write_that_misses_the_copy_is_caught_up_with_before_the_disk_goes_over() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    tool("qemu-img", "create -q -f raw disk 4M", folder.path());
    tool("qemu-img", "create -q -f raw copy 4M", folder.path());
    let mut machine = Machine::start(&format!(
        "-blockdev driver=raw,node-name=disk,file.driver=file,file.filename={} -device virtio-blk-pci,drive=disk,id=d",
        path("disk")
    ));
    // In its second state the target fails: the first flush, at the end of the copying, brings it there.
    let image = json!({"driver": "file", "filename": path("copy")});
    let rules = json!([{"event": "write_aio", "errno": EIO, "once": true, "state": 2}]);
    let states = json!([{"event": "flush_to_disk", "state": 1, "new_state": 2}]);
    let copy =
        json!({"driver": "blkdebug", "node-name": "copy", "image": image, "inject-error": rules, "set-state": states});
    machine.ask("blockdev-add", &copy).expect("a node");

    let job = json!({"job-id": "j", "device": "disk", "target": "copy", "sync": "full", "on-target-error": "stop"});
    machine.ask("blockdev-mirror", &job).expect("a job");
    machine.until("j", "BLOCK_JOB_READY");
    machine.human("qemu-io d \"write -P 9 1M 64k\"");
    let events = machine.until("j", "standby");
    machine.ask("block-job-resume", &json!({"device": "j"})).expect("it goes on");
    machine.ask("job-complete", &json!({"id": "j"})).expect("it ends");
    let end = machine.until("j", "null");

    assert_eq!(told(&events), [("write", "stop")]);
    assert_eq!(story(&end)[0], "ready");
    assert!(story(&end).contains(&"BLOCK_JOB_COMPLETED") && told(&end).is_empty(), "{end:?}");
    assert!(end.iter().all(|event| event["data"]["error"].is_null()), "{end:?}");
    machine.end();
    tool("qemu-io", "-f raw -c read_-P_9_1M_64k copy", folder.path());
    tool("qemu-img", "compare -f raw -F raw disk copy", folder.path());
}

#[test]
fn process_ends_though_limits_or_tests_hold_the_requests_of_its_jobs_up() {
    let folder = tempfile::tempdir().expect("directory");
    tool("qemu-img", "create -q -f raw disk 4M", folder.path());
    tool("qemu-img", "create -q -f raw copy 4M", folder.path());
    tool("qemu-io", "-f raw -c write_-P_7_0_4M disk", folder.path());
    for held in [false, true] {
        let mut machine = Machine::start(if held {
            "-object throttle-group,id=g"
        } else {
            "-object throttle-group,id=g,x-bps-read=4096"
        });
        let file = |name: &str| json!({"driver": "file", "filename": folder.path().join(name)});
        let disk = json!({"driver": "blkdebug", "node-name": "disk", "image": file("disk")});
        machine.ask("blockdev-add", &disk).expect("a node");
        let slow = json!({"driver": "throttle", "node-name": "slow", "file": "disk", "throttle-group": "g"});
        machine.ask("blockdev-add", &slow).expect("a node");
        machine
            .ask("blockdev-add", &json!({"driver": "raw", "node-name": "copy", "file": file("copy")}))
            .expect("a node");
        if held {
            assert_eq!(machine.human("qemu-io disk \"break read_aio A\""), "");
        }

        let job = json!({"job-id": "j", "device": "slow", "target": "copy", "sync": "full"});
        machine.ask("blockdev-mirror", &job).expect("a job");
        machine.until("j", "running");
        std::thread::sleep(Duration::from_millis(100));
        machine.ask("block-job-cancel", &json!({"device": "j"})).expect("it is told");
        let start = Instant::now();
        machine.end();

        assert!(start.elapsed() < Duration::from_secs(5), "{held}: {:?}", start.elapsed());
    }
}
