//! The process as an administrator sees it: who it runs as, and which signals end it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// User and group `nobody` of Debian.
const NOBODY: u32 = 65534;

#[test]
fn every_thread_becomes_the_other_user() {
    let mut monitor = Command::new(env!("CARGO_BIN_EXE_rhea"))
        .args(["-machine", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"])
        .args(["-object", "iothread,id=worker", "-runas", &format!("{NOBODY}:{NOBODY}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut greeting = String::new();
    let output = monitor.stdout.take().expect("standard output");
    BufReader::new(output).read_line(&mut greeting).expect("a greeting");

    let tasks = fs::read_dir(format!("/proc/{}/task", monitor.id())).expect("the process lives");
    let ids: Vec<String> = tasks
        .map(|task| {
            let status = fs::read_to_string(task.expect("a thread").path().join("status")).expect("its status");
            status.lines().filter(|line| line.starts_with("Uid:") || line.starts_with("Gid:")).collect()
        })
        .collect();
    let mut input = monitor.stdin.take().expect("standard input");
    writeln!(input, r#"{{"execute": "qmp_capabilities"}}{{"execute": "quit"}}"#).expect("it reads");
    let status = monitor.wait().expect("it ends");

    assert!(greeting.starts_with(r#"{"QMP""#), "this test has to run as root; the program said {greeting:?}");
    let expected = format!("Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}Gid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}");
    assert!(ids.len() > 3 && ids.iter().all(|ids| *ids == expected), "{ids:?}");
    assert!(status.success(), "{status}");
}

/// As QEMU 7.2.22, which uses these for itself.
#[test]
fn signals_for_programs_of_another_kind_do_not_end_it() {
    let mut monitor = Command::new(env!("CARGO_BIN_EXE_rhea"))
        .args(["-machine", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut greeting = String::new();
    let mut output = BufReader::new(monitor.stdout.take().expect("standard output"));
    output.read_line(&mut greeting).expect("a greeting");

    for signal in [Signal::USR1, Signal::ALARM, Signal::IO] {
        kill_process(Pid::from_child(&monitor), signal).expect("it lives");
    }
    let mut input = monitor.stdin.take().expect("standard input");
    writeln!(input, r#"{{"execute": "qmp_capabilities"}}"#).expect("it reads");
    let mut answer = String::new();
    output.read_line(&mut answer).expect("an answer");
    kill_process(Pid::from_child(&monitor), Signal::TERM).expect("it lives");

    assert_eq!(answer.trim_end(), r#"{"return": {}}"#);
    assert!(monitor.wait().expect("it ends").success());
}
