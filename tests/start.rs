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

/// What a line of the human monitor prints.
fn human(monitor: &mut BufReader<UnixStream>, line: &str) -> String {
    let command = serde_json::json!({"execute": "human-monitor-command", "arguments": {"command-line": line}});
    writeln!(monitor.get_mut(), "{command}").expect("written");
    let mut answer = serde_json::Value::Null;
    while answer.get("return").is_none() {
        let mut line = String::new();
        assert!(monitor.read_line(&mut line).expect("read") > 0, "the monitor closed the connection");
        answer = serde_json::from_str(&line).expect("JSON");
    }
    answer["return"].as_str().expect("text").replace('\r', "")
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

#[test]
fn file_that_was_cut_stops_the_machine_at_its_reset_with_a_sentence() {
    let dir = tempfile::tempdir().expect("directory");
    let initrd = fs::File::create(dir.path().join("initrd")).expect("initrd");
    initrd.set_len(8 << 20).expect("size");
    let child = start(dir.path(), &["-initrd", "initrd"]);
    let mut monitor = connect(dir.path());
    ask(&mut monitor, &["qmp_capabilities"]);
    // Registers are there once everything is loaded.
    human(&mut monitor, "info registers");

    initrd.set_len(4096).expect("size");
    let said = ask(&mut monitor, &["system_reset"]);
    let status = ask(&mut monitor, &["query-status"]);
    ask(&mut monitor, &["quit"]);

    assert!(said.contains("initrd initrd was changed in place"), "{said}");
    assert!(status.contains("internal-error"), "{status}");
    assert_eq!(end(child).status.code(), Some(0));
}

#[test]
fn registers_and_interrupt_controllers_can_be_looked_at() {
    let dir = tempfile::tempdir().expect("directory");
    let child = start(dir.path(), &["-smp", "2"]);
    let mut monitor = connect(dir.path());
    ask(&mut monitor, &["qmp_capabilities"]);

    let mut look = |line: &str| human(&mut monitor, line);
    let (registers, none) = (look("info registers 1"), look("info registers 7"));
    let (memory, pages) = (look("info mem"), look("info tlb"));
    let (chips, local, counts) = (look("info pic"), look("info lapic 1"), look("info irq"));
    ask(&mut monitor, &["quit"]);

    assert_eq!(end(child).status.code(), Some(0));
    // The version that CPUID answers for qemu64 (SDM volume 3, table 10-1).
    assert!(registers.contains("\nCPU#1\nEAX=00000000 EBX=00000000 ECX=00000000 EDX=00060fb1\n"), "{registers}");
    assert!(registers.contains("EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0\n"), "{registers}");
    assert_eq!(none, "CPU#7 not available\n");
    // The other vCPU's: the direct boot's entry has paging on.
    assert!(memory.starts_with("0000000000000000-"), "{memory}");
    assert!(pages.starts_with("0000000000000000: 0000000000000000 "), "{pages}");
    assert!(chips.contains("  pin 23 ") && chips.contains("\npic0: irr="), "{chips}");
    assert!(local.starts_with("dumping local APIC state for CPU 1 \n"), "{local}");
    assert!(counts.starts_with("IRQ statistics for kvm-ioapic:\n"), "{counts}");
}

#[test]
fn socket_named_from_where_it_started_goes_with_a_daemon() {
    let dir = tempfile::tempdir().expect("directory");

    let output = end(start(dir.path(), &["-daemonize", "-pidfile", "pid"]));
    let session = {
        let pid = fs::read_to_string(dir.path().join("pid")).expect("a number");
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).expect("a process");
        let session = stat.split(' ').nth(5).expect("a session").to_owned();
        (session, pid.trim().to_owned())
    };
    ask(&mut connect(dir.path()), &["qmp_capabilities", "quit"]);

    let since = Instant::now();
    let left = || ["pid", "qmp"].iter().any(|name| dir.path().join(name).exists());
    while left() && since.elapsed() < PATIENCE {
        sleep(Duration::from_millis(5));
    }
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_ne!(session.0, session.1, "a session's leader could get a terminal");
    assert!(!left(), "files are left behind");
}

/// What a machine that cannot be started says.
fn refusal(words: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_rhea"))
        .args(["-accel", "qtest", "-m", "16", "-nodefaults", "-display", "none"])
        .args(words.split(' '))
        .output()
        .expect("the program runs");
    assert_eq!(output.status.code(), Some(1), "{words}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn drive_without_a_file_is_for_devices_that_may_be_empty() {
    for device in ["ide-hd,drive=x", "virtio-blk-pci,drive=x"] {
        let said = refusal(&format!("-drive if=none,id=x -device {device}"));
        assert!(said.contains("Device needs media, but drive is empty"), "{device}: {said}");
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_rhea"))
        .args(
            "-accel qtest -m 16 -nodefaults -display none -qmp stdio -drive if=none,id=x -device ide-cd,drive=x"
                .split(' '),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let commands = "{'execute': 'qmp_capabilities'}{'execute': 'query-block'}{'execute': 'quit'}";
    child.stdin.take().expect("input").write_all(commands.as_bytes()).expect("written");
    let output = end(child);
    let answers = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && answers.contains("\"device\": \"x\""), "{answers}");
}

#[test]
fn ide_disk_that_cannot_be_written_to_is_refused() {
    for device in ["if=ide", "if=none,id=x -device ide-hd,drive=x"] {
        let said = refusal(&format!("-drive format=raw,file.driver=null-co,readonly=on,{device}"));
        assert!(said.contains("Block node is read-only"), "{device}: {said}");
    }
}
