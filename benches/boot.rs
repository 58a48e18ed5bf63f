//! From exec to a QMP socket that answers, and to the end after `quit`: processor time of the whole process, and
//! QEMU's beside it if `qemu-system-x86_64` is installed.
//!
//! `cargo bench --bench boot`. The machine is a `pc` with firmware whose guest stays stopped (`-S`), which is how
//! orchestrators start one. Needs `/dev/kvm`. Booting a kernel is measured by `cargo xtask bench boot`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};

/// Longer than any monitor takes; only a failure takes that long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Processor time that children took which have ended and were waited for.
#[expect(unsafe_code, reason = "getrusage has no safe wrapper among our crates")]
fn children() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is valid for writing, and all zeroes is a valid value of the type.
    let usage = unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()), 0, "getrusage");
        usage.assume_init()
    };
    let time = |t: libc::timeval| Duration::new(t.tv_sec.unsigned_abs(), 1000 * t.tv_usec as u32);
    time(usage.ru_utime) + time(usage.ru_stime)
}

fn connect(socket: &Path) -> UnixStream {
    let start = Instant::now();
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return stream,
            Err(_) if start.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("the QMP socket does not come up: {error}"),
        }
    }
}

/// Starts a monitor, asks it to quit, waits for its end; the processor time it took.
fn life(program: &str, socket: &Path) -> Duration {
    let before = children();
    let mut monitor = Command::new(program)
        .args(["-M", "pc", "-accel", "kvm", "-m", "128", "-nodefaults", "-display", "none", "-S"])
        .arg("-qmp")
        .arg(format!("unix:{},server=on,wait=off", socket.display()))
        .stdin(Stdio::null())
        .spawn()
        .expect("monitor");
    let mut stream = connect(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("time limit");
    stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n").expect("commands");
    for line in BufReader::new(stream).lines().take(3) {
        let line = line.expect("answer");
        assert!(!line.contains("\"error\""), "{line}");
    }
    assert!(monitor.wait().expect("end").success(), "{program} fails");
    let _ = std::fs::remove_file(socket);
    children() - before
}

fn lives(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("folder");
    let socket = folder.path().join("qmp");
    let mut group = criterion.benchmark_group("processor time from exec to quit");
    group.sample_size(10);
    for program in [env!("CARGO_BIN_EXE_rhea"), "qemu-system-x86_64"] {
        if Command::new(program).arg("-version").output().is_err() {
            eprintln!("{program} is not installed: not measured");
            continue;
        }
        let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned();
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| (0..count).map(|_| life(program, &socket)).sum());
        });
    }
    group.finish();
}

criterion_group!(benches, lives);
criterion_main!(benches);
