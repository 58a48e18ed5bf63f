//! Lines for the human monitor. The answers are QEMU 7.2.22's for the same lines.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::rig::Machine;

fn qemu_img(args: &[&str]) {
    let made = Command::new("qemu-img").args(args).stdout(std::process::Stdio::null()).status();
    assert!(made.expect("qemu-img (Debian: qemu-utils)").success(), "{args:?}");
}

/// An overlay on `base.qcow2` with a front end, and a raw disk without one.
fn machine(folder: &Path) -> Machine {
    let path = |name: &str| folder.join(name).display().to_string();
    let (base, disk, raw) = (path("base.qcow2"), path("disk.qcow2"), path("raw"));
    qemu_img(&["create", "-q", "-f", "qcow2", &base, "1M"]);
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", &base, "-F", "qcow2", &disk]);
    qemu_img(&["create", "-q", "-f", "raw", &raw, "1M"]);
    Machine::start(&format!(
        "-drive if=none,id=d0,file={disk},format=qcow2 -device virtio-blk-pci,drive=d0,id=v0 \
         -drive if=none,id=d1,file={raw},format=raw -device virtio-blk-pci,drive=d1,id=v1"
    ))
}

fn check(machine: &mut Machine, lines: &[(&str, &str)]) {
    for (line, printed) in lines {
        assert_eq!(machine.human(line), *printed, "{line}");
    }
}

#[test]
fn snapshots_inside_images_are_made_listed_and_deleted() {
    let folder = tempfile::tempdir().expect("folder");
    let mut machine = machine(folder.path());

    check(
        &mut machine,
        &[
            ("info snapshots", "There is no snapshot available.\n"),
            ("snapshot_blkdev_internal d0 s1", ""),
            ("snapshot_blkdev_internal d0 s1", "Error: Snapshot with name 's1' already exists on device 'd0'\n"),
            (
                "snapshot_blkdev_internal d1 s1",
                "Error: Block format 'raw' used by device 'd1' does not support internal snapshots\n",
            ),
        ],
    );
    let listed = machine.human("info snapshots");
    let lines: Vec<&str> = listed.lines().collect();
    let head = "ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT";
    let before = ["List of snapshots present on all disks:", "None", ""];
    assert_eq!(lines[..3], before);
    assert_eq!(lines[3..5], ["List of partial (non-loadable) snapshots on 'd0':", head]);
    assert!(lines[5].starts_with("1         s1                    0 B 20"), "{listed}");
    assert_eq!(lines.len(), 6, "{listed}");
    check(
        &mut machine,
        &[
            (
                "snapshot_delete_blkdev_internal d0 s1 77",
                "Error: Snapshot with id '77' and name 's1' does not exist on device 'd0'\n",
            ),
            ("snapshot_delete_blkdev_internal d0 s1 1", ""),
            ("info snapshots", "There is no snapshot available.\n"),
        ],
    );
}

#[test]
fn overlay_is_put_on_a_disk_and_streamed_into() {
    let folder = tempfile::tempdir().expect("folder");
    let mut machine = machine(folder.path());
    let overlay = folder.path().join("overlay.qcow2").display().to_string();

    check(
        &mut machine,
        &[
            ("snapshot_blkdev d0", "Error: Parameter 'snapshot-file' is missing\n"),
            ("snapshot_blkdev nosuch x", "Error: Cannot find device='nosuch' nor node-name=''\n"),
            ("snapshot_blkdev d0 x raw", "Error: Backing file not supported for file format 'raw'\n"),
            ("snapshot_blkdev d0 x nosuch", "Error: Unknown file format 'nosuch'\n"),
            (&format!("snapshot_blkdev d0 {overlay}"), ""),
            ("block_job_pause d0", "Error: Block job 'd0' not found\n"),
            ("block_job_cancel -f d0", "Error: Block job 'd0' not found\n"),
            ("block_stream d0 1 nosuch", "Error: Can't find 'nosuch' in the backing chain\n"),
            ("block_stream d0", ""),
        ],
    );
    while machine.human("info block-jobs") != "No active jobs\n" {
        machine.wait();
    }
    let file = machine.drive("d0")["inserted"].clone();
    assert_eq!((file["file"].as_str(), file.get("backing_file")), (Some(&*overlay), None));
}

#[test]
fn disks_are_exported_and_no_more() {
    let folder = tempfile::tempdir().expect("folder");
    let mut machine = machine(folder.path());
    let exports = |machine: &mut Machine| {
        let told = machine.ask("query-block-exports", &json!({})).expect("exports");
        told.as_array().expect("a list").iter().map(|export| export["id"].clone()).collect::<Vec<Value>>()
    };

    check(
        &mut machine,
        &[
            ("nbd_server_start foo", "Error: error parsing address 'foo'\n"),
            ("nbd_server_start -w 127.0.0.1:0", "Error: -w only valid together with -a\n"),
            ("nbd_server_start -a 127.0.0.1:0", ""),
        ],
    );
    assert_eq!(exports(&mut machine), ["d0", "d1"]);
    check(&mut machine, &[("nbd_server_stop", "")]);
    // A disk that a device writes to is nobody else's to write: the server is not left behind.
    let refused = machine.human("nbd_server_start -a -w 127.0.0.1:0");
    assert!(refused.starts_with("Error: Permission conflict on node"), "{refused}");
    check(
        &mut machine,
        &[
            ("nbd_server_stop", "Error: NBD server not running\n"),
            ("nbd_server_start 127.0.0.1:0", ""),
            ("nbd_server_add d1 other", ""),
            ("nbd_server_remove -f nosuch", "Error: Export 'nosuch' is not found\n"),
        ],
    );
    assert_eq!(exports(&mut machine), ["other"]);
    check(&mut machine, &[("nbd_server_remove other", "")]);
    assert!(exports(&mut machine).is_empty());
}

#[test]
fn ports_memory_and_numbers_are_read_and_written() {
    let mut machine = Machine::start("");

    check(
        &mut machine,
        &[
            // An index of the clock's memory that nothing counts up, and what is there.
            ("o /b 0x70 0x5f", ""),
            ("o /b 0x71 0x123", ""),
            ("i /b 0x71", "portb[0x0071] = 0x23\n"),
            ("o 0x70", "unexpected end of expression\nTry \"help o\" for more information\n"),
            ("o 0x10000 1", "0x10000 is no port\nTry \"help o\" for more information\n"),
            ("sum 0x100000 16", "00000\n"),
            ("sum 0 -1", "-1 is no size\nTry \"help sum\" for more information\n"),
            ("print 16", "0x10\n"),
            ("print /d 16", "16\n"),
            ("p -1", "0xffffffffffffffff\n"),
            ("p /x 0", "0\n"),
            ("print foo", "invalid char 'f' in expression\nTry \"help print\" for more information\n"),
            ("print (1", "')' expected\nTry \"help print\" for more information\n"),
            ("print 1 2", "extraneous characters at the end of line\nTry \"help print\" for more information\n"),
            ("print $nosuch", "unknown register\nTry \"help print\" for more information\n"),
            ("print 99999999999999999999", "number too large\nTry \"help print\" for more information\n"),
            ("x /z 0", "invalid char in format: 'z'\nTry \"help x\" for more information\n"),
            ("cpu 7", "invalid CPU index\n"),
            ("cpu", "unexpected end of expression\nTry \"help cpu\" for more information\n"),
            ("info memory_size_summary", "base memory: 16777216\nplugged memory: 0\n"),
            ("info memory-devices", ""),
            ("watchdog_action reset", ""),
            ("watchdog_action foo", "Error: invalid parameter value: foo\n"),
        ],
    );
    let past_the_end = machine.human("sum 0xfffff0 32");
    assert!(past_the_end.starts_with("Error: Cannot access memory"), "{past_the_end}");
}

#[test]
fn character_devices_come_and_go() {
    let mut machine = Machine::start("");

    check(
        &mut machine,
        &[
            ("chardev-add ringbuf,id=c1,size=4k", ""),
            ("chardev-add null,id=c1", "Error: Chardev with id 'c1' already exists\n"),
            ("chardev-add null", "Error: chardev: no id specified\n"),
            ("ringbuf_write c1 abc", ""),
            ("ringbuf_read c1 8", "abc\n"),
            ("chardev-remove c1", ""),
            ("chardev-remove c1", "Error: Chardev 'c1' not found\n"),
        ],
    );
}

#[test]
fn memory_is_saved_and_no_more_than_there_is() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut machine = Machine::start("");
    let save = |val: i64, size: i64, name: &str| json!({"val": val, "size": size, "filename": name});

    machine.ask("pmemsave", &save(0x10_0000, 0x1_2345, &path("ram"))).expect("saved");
    machine.ask("pmemsave", &save(0xffff_fff0, 16, &path("firmware"))).expect("saved");
    check(&mut machine, &[(&format!("pmemsave 0xffff0 16 {}", path("alias")), "")]);

    assert_eq!(std::fs::read(path("ram")).expect("file"), vec![0; 0x1_2345]);
    let firmware = std::fs::read(path("firmware")).expect("file");
    assert_eq!(firmware[..5], [0xea, 0x5b, 0xe0, 0x00, 0xf0]);
    assert_eq!(std::fs::read(path("alias")).expect("file"), firmware);
    check(&mut machine, &[("xp /2xb 0xfffffff0", "00000000fffffff0: 0xea 0x5b\n")]);
    for (val, size) in [(0xff_fff8, 16), (0, -1), (0, 1 << 40), (-16, 16), (0xffff_fff0, 17)] {
        let refused = machine.ask("pmemsave", &save(val, size, &path("never")));
        assert_eq!(refused, Err(format!("Invalid addr {val:#018x}/size {size} specified")));
    }
    assert!(!folder.path().join("never").exists());
    let nowhere = machine.ask("pmemsave", &save(0, 16, "/nosuch/file"));
    assert_eq!(nowhere, Err("Could not open '/nosuch/file': No such file or directory".into()));
    let full = machine.ask("pmemsave", &save(0, 16, "/dev/full"));
    assert_eq!(full, Err("Could not write '/dev/full': No space left on device".into()));
    // There is no vCPU in this machine.
    let nobody = machine.ask("memsave", &save(0, 16, &path("never")));
    assert_eq!(nobody, Err("Parameter 'cpu-index' expects a CPU number".into()));
}
