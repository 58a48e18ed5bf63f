//! What an image costs in memory: measured, not counted.

use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::rig::Rig;

/// Runs a program and prints the most memory that it had, in KiB.
const MEASURE: &str = "import resource, subprocess, sys\n\
    subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)\n\
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";

/// Peak memory of `map` over the whole of `big.qcow2`, in KiB.
fn peak(rig: &Rig, options: &str) -> u64 {
    let image = format!("driver=qcow2,file.filename={}{options}", rig.path("big.qcow2").display());
    let words = [env!("CARGO_BIN_EXE_rhea"), "img", "map", "--output", "json", "--image-opts", &image];
    let output = Command::new("python3").args(["-c", MEASURE]).args(words).output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
}

/// A rig with an image `big.qcow2` that has 800 L2 tables of 64 KiB, one for every `step` MiB (512 at least).
fn big(step: u64) -> Rig {
    let rig = Rig::empty();
    rig.qemu(&format!("create -q -f qcow2 big.qcow2 {}M", 800 * step));
    let writes: Vec<String> = (0..800).map(|n| format!("write -z {}M 64k", n * step)).collect();
    rig.io("big.qcow2", &writes.iter().map(String::as_str).collect::<Vec<_>>());
    rig
}

/// A server that holds `big.qcow2` open; it ends with this.
struct Server(Child);

impl Server {
    /// On the socket `s`, with these options of the image. It listens when this returns.
    fn start(rig: &Rig, options: &str) -> Self {
        let image = format!("driver=qcow2,file.filename={}{options}", rig.path("big.qcow2").display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_rhea"));
        command.args(["nbd", "-r", "-t", "-k"]).arg(rig.path("s")).args(["--image-opts", &image]);
        let server = Self(command.spawn().unwrap());
        until("it listens", || rig.path("s").exists());
        server
    }

    /// Resident memory that is no file's, in KiB.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Whether it has a thread of this name.
    fn has_thread(&self, name: &str) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap().flatten();
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok()).any(|comm| comm.trim() == name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, happens: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !happens() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn map_of_64_tib_stays_within_its_l2_cache() {
    let rig = big((64 << 20) / 800);

    let small = peak(&rig, ",l2-cache-size=1M,refcount-cache-size=256k");
    let large = peak(&rig, ",l2-cache-size=128M");
    println!("peak memory of map over 800 L2 tables: {small} KiB with 1 MiB of cache, {large} KiB with 128 MiB");

    assert!(large > small + (32 << 10), "all tables are 50 MiB: {large} KiB");
    assert!(small < 24 << 10, "the program, an L1 table of 1 MiB and the cache: {small} KiB");
}

#[test]
fn metadata_that_nobody_used_for_a_while_is_given_back_to_the_host() {
    let rig = big(512);
    let server = Server::start(&rig, ",l2-cache-size=128M,cache-clean-interval=3");
    let before = server.memory();

    rig.works(&format!("map -f raw nbd+unix:///?socket={}", rig.path("s").display()));
    let full = server.memory();
    until("memory is given back", || server.memory() < before + (8 << 10));

    println!("own memory of a server: {before} KiB, with 800 L2 tables {full} KiB, cleaned {} KiB", server.memory());
    assert!(full > before + (32 << 10), "all tables are 50 MiB: {before} KiB, then {full} KiB");
}

#[test]
fn caches_are_cleaned_unless_the_interval_is_0() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 big.qcow2 1M");

    let by_default = Server::start(&rig, "").has_thread("qcow2-clean");
    let _ = fs::remove_file(rig.path("s"));
    let without = Server::start(&rig, ",cache-clean-interval=0").has_thread("qcow2-clean");

    assert_eq!((by_default, without), (true, false));
}
