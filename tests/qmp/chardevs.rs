//! Character devices made while the machine runs, by threads that are behind their filters of system calls by then.

use serde_json::{Value, json};

use crate::rig::Machine;

fn add(machine: &mut Machine, id: &str, kind: &str, data: &Value) -> Result<Value, String> {
    machine.ask("chardev-add", &json!({"id": id, "backend": {"type": kind, "data": data}}))
}

#[test]
fn every_kind_can_be_added() {
    let dir = tempfile::tempdir().expect("directory");
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    rustix::fs::mknodat(rustix::fs::CWD, path("p"), rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
    let mut machine = Machine::start("-S");
    let unix = |name: &str| json!({"type": "unix", "data": {"path": path(name)}});
    let inet = |host: &str, port: &Value| json!({"type": "inet", "data": {"host": host, "port": port}});

    let pty = add(&mut machine, "pty", "pty", &json!({})).expect("pty");
    add(&mut machine, "file", "file", &json!({"out": path("out"), "in": "/dev/null", "logfile": path("log")}))
        .expect("file");
    add(&mut machine, "pipe", "pipe", &json!({"device": path("p")})).expect("pipe");
    add(&mut machine, "us", "socket", &json!({"addr": unix("s"), "wait": false})).expect("unix server");
    // A name that is no path from the root is kept as one: the directory may change.
    let named_from_here = json!({"type": "unix", "data": {"path": format!("../../../../../../../../..{}", path("r"))}});
    add(&mut machine, "ur", "socket", &json!({"addr": named_from_here, "wait": false})).expect("relative unix server");
    add(&mut machine, "uc", "socket", &json!({"addr": unix("s"), "server": false})).expect("unix client");
    let any_port = inet("localhost", &json!("0"));
    add(&mut machine, "ts", "socket", &json!({"addr": any_port, "wait": false, "ipv4": true})).expect("TCP server");
    let listed = machine.ask("query-chardev", &json!({})).expect("a list");
    let server = listed.as_array().expect("a list").iter().find(|device| device["label"] == "ts").expect("the server");
    let name = server["filename"].as_str().expect("a name");
    let port = name.trim_end_matches(",server=on").rsplit(':').next().expect("a port").to_owned();
    let there = inet("localhost", &json!(port));
    add(&mut machine, "tc", "socket", &json!({"addr": there, "server": false})).expect("TCP client");
    let unknown = inet("no.such.host.invalid", &json!("1"));
    let refused = add(&mut machine, "tx", "socket", &json!({"addr": unknown, "server": false})).expect_err("no host");
    add(&mut machine, "ring", "ringbuf", &json!({"size": 64})).expect("ring buffer");

    assert!(pty["pty"].as_str().expect("a path").starts_with("/dev/pts/"), "{pty}");
    assert_ne!(port, "0", "{name}");
    assert!(refused.contains("no.such.host.invalid") && !refused.contains("os error"), "{refused}");
    machine.end();
}

#[test]
fn device_that_cannot_be_made_is_named() {
    let mut machine = Machine::start("");
    let file = json!({"id": "a7", "backend": {"type": "file", "data": {"out": "/nonexistent/f"}}});
    let refused = machine.ask("chardev-add", &file);
    assert!(refused.as_ref().is_err_and(|desc| desc.starts_with("Failed to add chardev 'a7': ")), "{refused:?}");
}
