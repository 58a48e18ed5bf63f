//! GDB debugs a guest: needs `/dev/kvm` (a software KVM suffices, but for breakpoint instructions and watched
//! data) and the package gdb.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Only a failure takes so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where the kernel is loaded; its code follows the header of 32 bytes.
const BASE: u32 = 0x10_0000;
const CODE: u32 = BASE + 32;
/// Where the loop begins, and where in it the counter is stored.
const LOOP: u32 = CODE + 2;
const STORE: u32 = LOOP + 1;

/// A multiboot kernel (multiboot specification 0.6.96, 3.1): `xor ecx, ecx; loop: inc ecx; mov [0x200000], ecx;
/// jmp loop`.
fn kernel(folder: &Path) -> PathBuf {
    const MAGIC: u32 = 0x1bad_b002;
    /// Addresses are in the header.
    const FLAGS: u32 = 1 << 16;
    let header = [MAGIC, FLAGS, 0u32.wrapping_sub(MAGIC + FLAGS), BASE, BASE, 0, 0, CODE];
    let mut image: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    image.extend([0x31, 0xc9, 0x41, 0x89, 0x0d, 0, 0, 0x20, 0, 0xeb, 0xf7]);
    let path = folder.join("kernel");
    std::fs::write(&path, image).expect("kernel");
    path
}

/// A guest with a line for debuggers, ended when dropped.
struct Guest {
    monitor: Child,
    socket: PathBuf,
    _folder: TempDir,
}

impl Guest {
    fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let socket = folder.path().join("gdb");
        let monitor = Command::new(env!("CARGO_BIN_EXE_rhea"))
            .args(["-m", "16", "-nodefaults", "-display", "none"])
            .args(options)
            .arg("-kernel")
            .arg(kernel(folder.path()))
            .arg("-gdb")
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .stdin(Stdio::null())
            .spawn()
            .expect("the program starts");
        let start = Instant::now();
        while !socket.exists() {
            assert!(start.elapsed() < PATIENCE, "no socket for the debugger");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { monitor, socket, _folder: folder }
    }

    /// Runs GDB with these commands; what it printed.
    fn gdb(&self, commands: &[&str]) -> String {
        // A guest that is not stopped would run for ever.
        let mut gdb = Command::new("timeout");
        gdb.args(["30", "gdb", "-nx", "-batch", "-ex", "set architecture i386:x86-64", "-ex"]);
        gdb.arg(format!("target remote {}", self.socket.display()));
        commands.iter().for_each(|command| {
            gdb.args(["-ex", command]);
        });
        let output = gdb.stdin(Stdio::null()).output().expect("gdb is installed");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        format!("{said}{}", String::from_utf8_lossy(&output.stderr))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
    }
}

#[test]
fn debugger_breaks_steps_changes_and_leaves() {
    let guest = Guest::start(&["-S"]);

    let said = guest.gdb(&[
        &format!("hbreak *{LOOP}"),
        "continue",
        "printf \"at %#lx with %d\\n\", $rip, $ecx",
        "stepi",
        "printf \"then %#lx with %d\\n\", $rip, $ecx",
        "delete",
        "set var $ecx = 41",
        "set var *(int*)0x200000 = 7",
        "x/1dw 0x200000",
        &format!("hbreak *{LOOP}"),
        "continue",
        "x/1dw 0x200000",
        "info threads",
        "detach",
    ]);

    assert!(said.contains(&format!("at {LOOP:#x} with 0\n")), "{said}");
    assert!(said.contains(&format!("then {STORE:#x} with 1\n")), "{said}");
    assert!(said.contains("0x200000:\t7\n"), "{said}");
    assert!(said.contains("0x200000:\t41\n"), "{said}");
    assert!(said.contains("(CPU#0)"), "{said}");
    assert!(said.contains("detached"), "{said}");
}

#[test]
fn debugger_that_comes_later_stops_the_guest_and_ends_it() {
    let mut guest = Guest::start(&[]);

    let said = guest.gdb(&["print $rip >= 0x100000 && $rip < 0x100030", "kill"]);

    assert!(said.contains("$1 = 1"), "{said}");
    let start = Instant::now();
    let status = loop {
        if let Some(status) = guest.monitor.try_wait().expect("status") {
            break status;
        }
        assert!(start.elapsed() < PATIENCE, "kill does not end the guest");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{status}");
}

#[test]
fn client_that_sends_rubbish_hurts_nobody() {
    let guest = Guest::start(&["-S"]);
    {
        let mut stream = UnixStream::connect(&guest.socket).expect("connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("time limit");
        stream.write_all(&[b"$".as_slice(), &[b'x'; 100_000], b"#00"].concat()).expect("rubbish");
        stream.write_all(b"$?#3f").expect("question");
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
    }

    let said = guest.gdb(&["printf \"at %#lx\\n\", $rip"]);

    assert!(said.contains(&format!("at {CODE:#x}\n")), "{said}");
}
