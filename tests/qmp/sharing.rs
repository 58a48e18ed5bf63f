//! `share-rw=on`: one image with several devices and several programs that write to it.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::jobs::tool;
use crate::rig::Machine;

/// A raw node on a file of its own.
fn raw_at(folder: &Path, name: &str) -> String {
    let path = folder.join(format!("{name}.raw"));
    if !path.exists() {
        std::fs::write(&path, vec![0; 1 << 20]).expect("an image");
    }
    format!("-blockdev driver=raw,node-name={name},file.driver=file,file.filename={}", path.display())
}

/// The image that is shared.
fn raw(folder: &Path) -> String {
    raw_at(folder, "a").replace("node-name=a", "node-name=n")
}

/// What a program says that does not start.
fn refusal(words: &str) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_rhea"));
    program.args(["-accel", "qtest", "-m", "16", "-nodefaults", "-display", "none"]).args(words.split_whitespace());
    let ended = program.output().expect("the program runs");
    assert!(!ended.status.success(), "{words}");
    String::from_utf8_lossy(&ended.stderr).into_owned()
}

fn hd(id: &str, node: &str, share: bool) -> Value {
    json!({"driver": "scsi-hd", "id": id, "drive": node, "share-rw": share})
}

#[test]
fn programs_share_an_image_only_if_all_of_them_say_so() {
    let folder = tempfile::tempdir().expect("directory");
    let image = raw(folder.path());
    let (alone, shared) = ("-device virtio-blk-pci,drive=n", "-device virtio-blk-pci,drive=n,share-rw=on");
    let hint = format!("Is another process using the image [{}]?", folder.path().join("a.raw").display());

    let first = Machine::start(&format!("{image} {shared}"));
    let second = Machine::start(&format!("{image} {shared}"));
    let third = refusal(&format!("{image} {alone}"));
    first.end();
    second.end();
    let first = Machine::start(&format!("{image} {alone}"));
    let fourth = refusal(&format!("{image} {shared}"));
    first.end();

    assert!(third.contains("Failed to get shared \"write\" lock") && third.contains(&hint), "{third}");
    assert!(fourth.contains("Failed to get \"write\" lock") && fourth.contains(&hint), "{fourth}");
}

#[test]
fn image_is_locked_as_the_devices_that_have_it_now_need_it() {
    let folder = tempfile::tempdir().expect("directory");
    let image = raw(folder.path());
    let scsi = format!("{image} -device virtio-scsi-pci");
    let (mut one, mut other) = (Machine::start(&scsi), Machine::start(&scsi));

    one.ask("device_add", &hd("d", "n", false)).expect("nobody else writes");
    let beside = other.ask("device_add", &hd("d", "n", true));
    one.ask("device_del", &json!({"id": "d"})).expect("it goes");
    other.ask("device_add", &hd("d", "n", true)).expect("nobody else writes now");
    one.ask("device_add", &hd("d", "n", true)).expect("both share");
    let alone = one.ask("device_add", &hd("e", "n", false));
    raw_at(folder.path(), "b");
    one.ask(
        "blockdev-add",
        &json!({"driver": "raw", "node-name": "m", "file":
            {"driver": "file", "filename": folder.path().join("b.raw")}}),
    )
    .expect("a node");
    let mut third = Machine::start(&format!("{} -device virtio-blk-pci,drive=b", raw_at(folder.path(), "b")));
    let resized = one.ask("block_resize", &json!({"node-name": "m", "size": 512}));
    let written = one.human("qemu-io m \"write -P 9 0 512\"");
    third.ask("block_resize", &json!({"node-name": "b", "size": 2 << 20})).expect("its own");
    one.ask("device_del", &json!({"id": "d"})).expect("it goes");
    let still = one.ask("device_add", &hd("e", "n", false));

    assert!(beside.is_err_and(|text| text.contains("Failed to get \"write\" lock")));
    assert!(alone.is_err_and(|text| text.contains("Permission conflict on node 'n'")));
    assert!(still.is_err_and(|text| text.contains("Failed to get shared \"write\" lock")));
    assert!(resized.is_err_and(|text| text.contains("Failed to get \"write\" lock")));
    assert!(written.contains("Failed to get \"write\" lock"), "{written}");
    third.end();
    one.end();
    other.end();
}

#[test]
fn disk_is_not_moved_to_a_file_that_another_program_writes_to() {
    let folder = tempfile::tempdir().expect("directory");
    let node = |share: &str| format!("{} -device virtio-blk-pci,drive=b{share}", raw_at(folder.path(), "b"));
    let file = format!("-blockdev driver=file,node-name=h,filename={}", folder.path().join("b.raw").display());
    let mut machine = Machine::start(&format!("{} -device virtio-blk-pci,drive=n", raw(folder.path())));
    raw_at(folder.path(), "b");
    machine
        .ask("blockdev-add", &json!({"driver": "file", "node-name": "h", "filename": folder.path().join("b.raw")}))
        .expect("a node");
    let reopen = json!({"options": [{"driver": "raw", "node-name": "n", "file": "h"}]});
    let mirror = json!({"device": "n", "target": "h", "sync": "full", "job-id": "j"});

    let alone = Machine::start(&node(""));
    let reopened = machine.ask("blockdev-reopen", &reopen);
    alone.end();
    let sharing = Machine::start(&node(",share-rw=on"));
    let beside = ["blockdev-reopen", "blockdev-mirror", "blockdev-backup"]
        .map(|command| machine.ask(command, if command == "blockdev-reopen" { &reopen } else { &mirror }));
    sharing.end();
    machine.ask("blockdev-mirror", &mirror).expect("nobody else writes");
    let refused = refusal(&format!("{file} -device virtio-blk-pci,drive=h,share-rw=on"));
    machine.ask("block-job-cancel", &json!({"device": "j", "force": true})).expect("it ends");
    while !machine.events.iter().any(|event| event["event"] == "BLOCK_JOB_CANCELLED") {
        machine.wait();
    }
    // An answer comes when the job has let go of it.
    machine.ask("query-jobs", &json!({})).expect("jobs");
    Machine::start(&node("")).end();

    assert!(reopened.as_ref().is_err_and(|text| text.contains("Failed to get \"write\" lock")), "{reopened:?}");
    for refused in beside {
        assert!(
            refused.as_ref().is_err_and(|text| text.contains("Failed to get shared \"write\" lock")),
            "{refused:?}"
        );
    }
    assert!(refused.contains("Failed to get \"write\" lock"), "{refused}");
    machine.end();
}

#[test]
fn machines_read_one_disc_together_and_any_image_with_force() {
    let folder = tempfile::tempdir().expect("directory");
    let disc = format!("{} -device ide-cd,drive=n -device ide-cd,drive=n", raw(folder.path()));
    let image = raw_at(folder.path(), "b");
    let forced = "if=virtio,format=raw,readonly=on,force-share=on";

    let [first, second] = [(); 2].map(|()| Machine::start(&disc));
    let writer = refusal(&format!("{} -device virtio-blk-pci,drive=n", raw(folder.path())));
    first.end();
    second.end();
    let first = Machine::start(&format!("{image} -device virtio-blk-pci,drive=b"));
    Machine::start(&format!("-drive {forced},file={}", folder.path().join("b.raw").display())).end();
    Machine::start(&format!("{image},read-only=on,force-share=on -device virtio-blk-pci,drive=b")).end();
    first.end();

    assert!(writer.contains("Failed to get \"write\" lock"), "{writer}");
}

#[test]
fn devices_share_a_node_only_if_all_of_them_say_so() {
    let folder = tempfile::tempdir().expect("directory");
    let image = raw(folder.path());
    let mut machine = Machine::start(&format!("{image} -device virtio-scsi-pci"));
    let uses = |id: &str| format!("block device '{id}' (uses node 'n' as 'root' child)");
    let conflict = |needs: &str, refuses: &str| {
        let (needs, refuses) = (uses(needs), uses(refuses));
        let what = "Permission conflict on node 'n': permissions 'write' are both required by";
        format!("{what} {needs} and unshared by {refuses}.")
    };

    for (first, refused) in [(false, conflict("b", "a")), (true, conflict("a", "b"))] {
        machine.ask("device_add", &hd("a", "n", first)).expect("the first");
        let second = machine.ask("device_add", &hd("b", "n", !first));
        assert!(second.as_ref().is_err_and(|text| text.ends_with(&refused)), "{second:?}");
        machine.ask("device_del", &json!({"id": "a"})).expect("it goes");
    }
    for id in ["a", "b"] {
        machine.ask("device_add", &hd(id, "n", true)).expect("they share");
    }
    let both: Vec<_> = ["a", "b"].map(|id| machine.drive(id)["inserted"]["node-name"].clone()).into();
    assert_eq!(both, ["n", "n"]);
    machine.ask("device_del", &json!({"id": "a"})).expect("it goes");
    let held = machine.ask("blockdev-del", &json!({"node-name": "n"}));
    machine.ask("device_del", &json!({"id": "b"})).expect("it goes");
    machine.ask("blockdev-del", &json!({"node-name": "n"})).expect("nobody has it");
    assert_eq!(held, Err("Node n is in use".into()));
    machine.end();
}

#[test]
fn drive_of_the_command_line_is_for_one_device_and_readers_need_no_leave() {
    let folder = tempfile::tempdir().expect("directory");
    raw(folder.path());
    let drive = format!("-drive if=none,id=d,node-name=n,format=raw,file={}", folder.path().join("a.raw").display());
    let two = |one: &str, other: &str| format!("-device virtio-scsi-pci -device scsi-hd,{one} -device scsi-hd,{other}");

    let twice = refusal(&format!("{drive} {}", two("drive=d,share-rw=on", "drive=d,share-rw=on")));
    Machine::start(&format!("{drive} {}", two("drive=d,share-rw=on", "drive=n,share-rw=on"))).end();
    Machine::start(&format!("{drive},readonly=on {}", two("drive=d", "drive=n"))).end();

    assert!(twice.contains("Drive 'd' is already in use by another device"), "{twice}");
}

#[test]
fn what_is_done_with_a_shared_node_reaches_all_its_devices() {
    let folder = tempfile::tempdir().expect("directory");
    let image = raw(folder.path());
    let devices = "-device virtio-scsi-pci -device scsi-hd,id=a,drive=n,share-rw=on \
                   -device scsi-hd,id=b,drive=n,share-rw=on";
    let mut machine = Machine::start(&format!("{image} {devices}"));
    let nodes = |machine: &mut Machine| {
        ["a", "b"].map(|id| machine.drive(id)["inserted"]["node-name"].as_str().expect("a name").to_owned())
    };

    machine.ask("block_resize", &json!({"node-name": "n", "size": 2 << 20})).expect("it grows");
    let sizes = ["a", "b"].map(|id| machine.drive(id)["inserted"]["image"]["virtual-size"].clone());
    assert_eq!(sizes, [2 << 20, 2 << 20]);
    let overlay = json!({"node-name": "n", "snapshot-node-name": "top", "format": "qcow2",
                         "snapshot-file": folder.path().join("top.qcow2")});
    machine.ask("blockdev-snapshot-sync", &overlay).expect("a snapshot");
    assert_eq!(nodes(&mut machine), ["top", "top"]);
    machine.ask("block-commit", &json!({"device": "top", "job-id": "j"})).expect("a job");
    while !machine.events.iter().any(|event| event["event"] == "BLOCK_JOB_READY") {
        machine.wait();
    }
    machine.ask("block-job-complete", &json!({"device": "j"})).expect("it ends");
    while !machine.events.iter().any(|event| event["event"] == "BLOCK_JOB_COMPLETED") {
        machine.wait();
    }
    assert_eq!(nodes(&mut machine), ["n", "n"]);
    let written = machine.human("qemu-io a \"write -P 9 0 512\"");
    let read = machine.human("qemu-io b \"read -P 9 0 512\"");
    assert!(!written.contains("rror") && !read.contains("failed"), "{written} {read}");
    machine.end();
    tool("qemu-img", "info a.raw", folder.path());
}
