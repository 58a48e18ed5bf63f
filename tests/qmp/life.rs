//! Reset and power off on a client's word.

use serde_json::{Value, json};

use crate::rig::Machine;

/// Events of these names, with their data.
fn told<'a>(events: &'a [Value], name: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == name).map(|event| &event["data"]).collect()
}

#[test]
fn system_reset_turns_the_machine_off_where_a_reboot_does() {
    let mut machine = Machine::start("-no-reboot -no-shutdown");

    machine.ask("system_reset", &json!({})).expect("a reset");
    let status = machine.ask("query-status", &json!({})).expect("a status");

    assert_eq!(status["status"], "shutdown");
    assert_eq!(told(&machine.events, "SHUTDOWN"), [&json!({"guest": false, "reason": "host-qmp-system-reset"})]);
    assert!(told(&machine.events, "RESET").is_empty());
}

#[test]
fn system_reset_resets_where_nothing_else_was_asked_for() {
    let mut machine = Machine::start("");

    machine.ask("stop", &json!({})).expect("a stop");
    machine.ask("system_reset", &json!({})).expect("a reset");
    let status = machine.ask("query-status", &json!({})).expect("a status");

    assert_eq!(status["status"], "prelaunch", "as a machine that has not run yet");
    assert_eq!(told(&machine.events, "RESET"), [&json!({"guest": false, "reason": "host-qmp-system-reset"})]);
}
