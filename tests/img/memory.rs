//! What an image costs in memory: measured, not counted.

use std::process::Command;

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

#[test]
fn map_of_64_tib_stays_within_its_l2_cache() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 big.qcow2 64T");
    // 800 L2 tables of 64 KiB, far from each other.
    let writes: Vec<String> = (0..800u64).map(|n| format!("write -z {}G 64k", n * 80)).collect();
    rig.io("big.qcow2", &writes.iter().map(String::as_str).collect::<Vec<_>>());

    let small = peak(&rig, ",l2-cache-size=1M,refcount-cache-size=256k");
    let large = peak(&rig, ",l2-cache-size=128M");
    println!("peak memory of map over 800 L2 tables: {small} KiB with 1 MiB of cache, {large} KiB with 128 MiB");

    assert!(large > small + (32 << 10), "all tables are 50 MiB: {large} KiB");
    assert!(small < 24 << 10, "the program, an L1 table of 1 MiB and the cache: {small} KiB");
}
