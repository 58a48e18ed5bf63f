//! The start of a machine that waits for `cont`: its monitors answer before its kernel is in memory. Needs `/dev/kvm`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longer than any start, on a host that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// A 64-bit ELF kernel of one segment at 1 MiB, which never runs.
fn kernel() -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend([2u16, 62].map(u16::to_le_bytes).concat()); // ET_EXEC, x86-64
    elf.extend(1u32.to_le_bytes());
    elf.extend([0x10_0000u64, 64, 0].map(u64::to_le_bytes).concat()); // entry, program headers, section headers
    elf.extend(0u32.to_le_bytes());
    elf.extend([64u16, 56, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    elf.extend([1u32, 7].map(u32::to_le_bytes).concat()); // PT_LOAD, rwx
    elf.extend([0u64, 0x10_0000, 0x10_0000, 120, 4096, 4096].map(u64::to_le_bytes).concat());
    elf
}

fn start(dir: &Path, args: &[&str]) -> Child {
    fs::write(dir.join("kernel"), kernel()).expect("kernel");
    Command::new(env!("CARGO_BIN_EXE_rhea"))
        .current_dir(dir)
        .args(["-S", "-m", "32", "-nodefaults", "-display", "none", "-kernel", "kernel"])
        .args(["-qmp", "unix:qmp,server=on,wait=off"])
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts")
}

fn connect(dir: &Path) -> BufReader<UnixStream> {
    let since = Instant::now();
    loop {
        match UnixStream::connect(dir.join("qmp")) {
            Ok(stream) => return BufReader::new(stream),
            Err(error) => assert!(since.elapsed() < PATIENCE, "{error}"),
        }
        sleep(Duration::from_millis(2));
    }
}

/// Sends commands and gives the line that answers the last.
fn ask(monitor: &mut BufReader<UnixStream>, commands: &[&str]) -> String {
    let mut line = String::new();
    for command in commands {
        writeln!(monitor.get_mut(), "{{\"execute\":\"{command}\"}}").expect("written");
        line.clear();
        while !(line.contains("\"return\"") || line.contains("\"error\"")) {
            line.clear();
            assert!(monitor.read_line(&mut line).expect("read") > 0, "the monitor closed the connection");
        }
    }
    line
}

/// The end of a process that ends by itself.
fn end(child: Child) -> Output {
    child.wait_with_output().expect("ended")
}

#[test]
fn paused_machine_answers_and_ends_when_told() {
    let dir = tempfile::tempdir().expect("directory");
    let child = start(dir.path(), &[]);

    let answer = ask(&mut connect(dir.path()), &["qmp_capabilities", "query-status"]);
    let output = {
        let mut monitor = connect(dir.path());
        ask(&mut monitor, &["qmp_capabilities", "quit"]);
        end(child)
    };

    assert!(answer.contains("\"prelaunch\""), "{answer}");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_cannot_be_loaded_ends_a_paused_machine_with_a_sentence() {
    let dir = tempfile::tempdir().expect("directory");
    let initrd = fs::File::create(dir.path().join("initrd")).expect("initrd");
    initrd.set_len(64 << 20).expect("size");

    let output = end(start(dir.path(), &["-initrd", "initrd"]));

    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.lines().last().unwrap_or_default().contains("initrd"), "{said}");
    assert!(!dir.path().join("qmp").exists(), "the socket is left behind");
}
