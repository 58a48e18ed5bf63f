//! Jobs on images: made images, overlays that take in what lies beneath.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::rig::Machine;

/// Runs a program of QEMU's; `_` stands for a space within a word.
pub(crate) fn tool(program: &str, words: &str, folder: &Path) -> String {
    let words: Vec<_> = words.split(' ').map(|word| word.replace('_', " ")).collect();
    let done = Command::new(program).args(&words).current_dir(folder).output();
    let done = done.unwrap_or_else(|error| panic!("{program} (Debian: qemu-utils): {error}"));
    assert!(done.status.success(), "{program} {words:?}: {done:?}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

impl Machine {
    /// Waits for an event of the job that says so (its status, or the name of the event), and gives all that were of
    /// it before.
    pub(crate) fn until(&mut self, id: &str, word: &str) -> Vec<Value> {
        let of_job = |event: &Value| event["data"]["id"] == id || event["data"]["device"] == id;
        while !self.events.iter().any(|event| of_job(event) && said(event) == Some(word)) {
            self.wait();
        }
        self.events.extract_if(.., |event| of_job(event)).collect()
    }
}

/// What an event says, in short: the status, or the name of the event.
fn said(event: &Value) -> Option<&str> {
    event["data"]["status"].as_str().or(event["event"].as_str())
}

pub(crate) fn story(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(said).collect()
}

#[test]
fn image_is_made_as_libvirt_makes_one_and_put_on_a_disk() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    tool("qemu-img", "create -q -f qcow2 base.qcow2 8M", folder.path());
    let mut machine = Machine::start(&format!(
        "-sandbox on -blockdev driver=qcow2,node-name=base,file.driver=file,file.filename={} \
         -device virtio-blk-pci,drive=base,id=d",
        path("base.qcow2")
    ));

    let file = json!({"driver": "file", "filename": path("top.qcow2"), "size": 0, "nocow": true});
    machine.ask("blockdev-create", &json!({"job-id": "create-file", "options": file})).expect("a job");
    let events = machine.until("create-file", "concluded");
    let jobs = machine.ask("query-jobs", &json!({})).expect("jobs");
    machine.ask("job-dismiss", &json!({"id": "create-file"})).expect("dismissed");
    let node = json!({"driver": "file", "filename": path("top.qcow2"), "node-name": "storage"});
    machine.ask("blockdev-add", &node).expect("a node");
    let image = json!({"driver": "qcow2", "file": "storage", "size": 8 << 20, "backing-file": path("base.qcow2"),
        "backing-fmt": "qcow2", "cluster-size": 65536, "version": "v3"});
    machine.ask("blockdev-create", &json!({"job-id": "create-format", "options": image})).expect("a job");
    machine.until("create-format", "concluded");
    machine.ask("job-dismiss", &json!({"id": "create-format"})).expect("dismissed");
    let node = json!({"driver": "qcow2", "file": "storage", "node-name": "top", "backing": null});
    machine.ask("blockdev-add", &node).expect("a node");
    let taken = machine.ask("blockdev-snapshot", &json!({"node": "base", "overlay": "top"}));

    assert_eq!(story(&events), ["created", "running", "waiting", "pending", "concluded"]);
    assert_eq!((&jobs[0]["type"], &jobs[0]["status"]), (&"create".into(), &"concluded".into()));
    assert_eq!(taken, Ok(json!({})));
    assert_eq!(machine.ask("query-jobs", &json!({})), Ok(json!([])));
    drop(machine);
    tool("qemu-img", "compare -f qcow2 -F qcow2 base.qcow2 top.qcow2", folder.path());
}

#[test]
fn image_is_made_in_a_slice_of_a_file_over_what_is_there() {
    let folder = tempfile::tempdir().expect("directory");
    let whole = folder.path().join("whole");
    std::fs::write(&whole, vec![0x99; 8 << 20]).expect("a file");
    let mut machine = Machine::start(&format!(
        "-blockdev driver=raw,node-name=slice,offset=1048576,size=4194304,file.driver=file,file.filename={}",
        whole.display()
    ));

    let options = json!({"driver": "qcow2", "file": "slice", "size": 2 << 20});
    machine.ask("blockdev-create", &json!({"job-id": "j", "options": options})).expect("a job");
    machine.until("j", "concluded");
    let jobs = machine.ask("query-jobs", &json!({})).expect("jobs");
    machine.ask("job-dismiss", &json!({"id": "j"})).expect("dismissed");
    let image = json!({"driver": "qcow2", "file": "slice", "node-name": "image"});
    machine.ask("blockdev-add", &image).expect("a node");
    machine.human("qemu-io image \"write -P 3 65536 65536\"");
    machine.end();

    assert_eq!(jobs[0]["error"], Value::Null);
    let bytes = std::fs::read(&whole).expect("the file");
    assert_eq!(bytes.len(), 8 << 20);
    assert!(bytes[..1 << 20].iter().chain(&bytes[5 << 20..]).all(|byte| *byte == 0x99), "something beside it");
    let slice = "driver=qcow2,file.driver=raw,file.offset=1048576,file.size=4194304,file.file.driver=file,\
                 file.file.filename=whole";
    tool("qemu-img", &format!("check -q --image-opts {slice}"), folder.path());
    tool("qemu-img", &format!("convert --image-opts {slice} -O raw read"), folder.path());
    let mut expected = vec![0; 2 << 20];
    expected[65536..131_072].fill(3);
    assert!(std::fs::read(folder.path().join("read")).expect("the copy") == expected, "the image shows something else");
}

#[test]
fn encrypted_images_and_images_with_their_data_elsewhere_are_what_qemu_reads() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut machine = Machine::start("-object secret,id=s,data=geheim");
    let mut create = |options: Value| {
        machine.ask("blockdev-create", &json!({"job-id": "j", "options": options}))?;
        machine.until("j", "concluded");
        let jobs = machine.ask("query-jobs", &json!({})).expect("jobs");
        machine.ask("job-dismiss", &json!({"id": "j"})).expect("dismissed");
        assert_eq!(machine.ask("query-named-block-nodes", &json!({})), Ok(json!([])), "all is closed");
        Ok::<_, String>(jobs[0]["error"].clone())
    };
    let file = |name: &str| json!({"driver": "file", "filename": path(name)});
    for name in ["enc", "luks", "head", "data"] {
        let made = create(json!({"driver": "file", "filename": path(name), "size": 65536}));
        assert_eq!(made, Ok(Value::Null));
    }
    let image = |more: Value| {
        let mut image = json!({"driver": "qcow2", "file": file("head"), "size": 1 << 20});
        image.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        image
    };
    let header = json!({"format": "luks", "key-secret": "s", "iter-time": 10, "cipher-alg": "serpent-128",
        "cipher-mode": "cbc", "ivgen-alg": "essiv", "ivgen-hash-alg": "sha256", "hash-alg": "sha1"});

    let made = [
        create(image(json!({"file": file("enc"), "encrypt": header}))),
        create(json!({"driver": "luks", "file": file("luks"), "size": 1 << 20, "key-secret": "s", "iter-time": 10})),
        create(image(json!({"data-file": file("data"), "data-file-raw": true}))),
    ];
    for (more, words) in [
        (json!({"data-file-raw": true}), "data-file-raw requires data-file"),
        (json!({"data-file": "nobody"}), "Cannot find device='nobody' nor node-name='nobody'"),
        (json!({"encrypt": {"format": "luks"}}), "Parameter 'encrypt.key-secret' is required for cipher"),
        (json!({"encrypt": {"format": "luks", "key-secret": "t"}}), "No secret with id 't'"),
        (
            json!({"encrypt": {"format": "luks", "key-secret": "s", "hash-alg": "md5"}}),
            "Hash algorithm 'md5' is not supported",
        ),
        (
            json!({"encrypt": {"format": "qcow", "key-secret": "s"}}),
            "Use of AES-CBC encrypted qcow2 images is no longer supported in system emulators",
        ),
    ] {
        assert_eq!(create(image(more)), Ok(words.into()));
    }
    let unknown = create(image(json!({"encrypt": {"format": "luks", "cipher-alg": "rot13"}})));

    assert_eq!(made, [const { Ok(Value::Null) }; 3]);
    assert_eq!(unknown, Err("Parameter 'cipher-alg' does not accept value 'rot13'".into()));
    drop(machine);
    let info = |name: &str| tool("qemu-img", &format!("info {name}"), folder.path());
    for words in ["cipher alg: serpent-128", "ivgen hash alg: sha256", "cipher mode: cbc", "hash alg: sha1"] {
        assert!(info("enc").contains(words), "{words}");
    }
    assert!(info("luks").contains("file format: luks") && info("luks").contains("virtual size: 1 MiB"));
    assert!(info("head").contains("data file raw: true") && info("data").contains("virtual size: 1 MiB"));
    let secret = "--object secret,id=s,data=geheim --image-opts";
    for options in
        ["driver=qcow2,file.filename=enc,encrypt.key-secret=s", "driver=luks,file.filename=luks,key-secret=s"]
    {
        tool("qemu-io", &format!("{secret} -c write_-P_7_0_64k -c read_-P_7_0_64k {options}"), folder.path());
    }
    tool("qemu-io", "-f qcow2 -c write_-P_5_0_64k head", folder.path());
    tool("qemu-io", "-f raw -c read_-P_5_0_64k data", folder.path());
    tool("qemu-img", "check -q head", folder.path());
}

#[test]
fn image_is_made_in_a_node_that_is_opened_for_it_alone() {
    let folder = tempfile::tempdir().expect("directory");
    let path = folder.path().join("new").display().to_string();
    let mut machine = Machine::start("");
    let mut create = |options: Value| {
        machine.ask("blockdev-create", &json!({"job-id": "j", "options": options}))?;
        machine.until("j", "concluded");
        let jobs = machine.ask("query-jobs", &json!({})).expect("jobs");
        machine.ask("job-dismiss", &json!({"id": "j"})).expect("dismissed");
        assert_eq!(machine.ask("query-named-block-nodes", &json!({})), Ok(json!([])), "it is closed");
        Ok::<_, String>(jobs[0]["error"].clone())
    };
    let image = |file: Value| json!({"driver": "qcow2", "file": file, "size": 1 << 20, "preallocation": "metadata"});
    let node = |more: Value| {
        let mut node = json!({"driver": "file", "filename": path});
        node.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        node
    };

    let missing = create(image(node(json!({})))).expect("a job");
    let file = create(json!({"driver": "file", "filename": path, "size": 0}));
    let made = create(image(node(json!({"node-name": "n"}))));
    let read_only = create(image(node(json!({"read-only": true})))).expect("a job");

    assert_eq!(missing, format!("Could not open '{path}': No such file or directory"));
    assert_eq!((file, made), (Ok(Value::Null), Ok(Value::Null)));
    assert_eq!(read_only, "Block node is read-only");
    for (file, words) in [
        (json!(5), "Invalid parameter type for 'file', expected: BlockdevRef"),
        (json!({"filename": "x"}), "Parameter 'options.file.driver' is missing"),
        (
            json!({"driver": "file", "filename": 3}),
            "Invalid parameter type for 'options.file.filename', expected: string",
        ),
    ] {
        assert_eq!(create(image(file)), Err(words.into()));
    }
    tool("qemu-img", "check -q -f qcow2 new", folder.path());
}

#[test]
fn overlay_takes_in_what_lies_beneath_and_stands_alone() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    tool("qemu-img", "create -q -f qcow2 base 8M", folder.path());
    tool("qemu-io", "-f qcow2 -c write_-P_7_1M_2M base", folder.path());
    tool("qemu-img", "create -q -f qcow2 -b base -F qcow2 top", folder.path());
    let mut machine = Machine::start(&format!(
        "-drive if=none,id=drive0,file={},format=qcow2 -device virtio-blk-pci,drive=drive0,id=d",
        path("top")
    ));

    machine.ask("block-stream", &json!({"device": "drive0"})).expect("a job");
    let events = machine.until("drive0", "null");

    let order = ["created", "running", "waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"];
    assert_eq!(story(&events), order);
    let completed = &events[4]["data"];
    assert_eq!(
        (&completed["type"], &completed["len"], &completed["offset"]),
        (&"stream".into(), &(8 << 20).into(), &(8 << 20).into())
    );
    assert_eq!(machine.drive("drive0")["inserted"]["backing_file_depth"], 0);
    assert_eq!(machine.ask("query-block-jobs", &json!({})), Ok(json!([])));
    machine.end();
    std::fs::rename(folder.path().join("base"), folder.path().join("former")).expect("renamed");
    tool("qemu-img", "compare -f qcow2 -F qcow2 former top", folder.path());
    tool("qemu-img", "check -q top", folder.path());
}

#[test]
fn job_is_held_limited_and_ended_by_its_verbs() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    tool("qemu-img", "create -q -f qcow2 base 8M", folder.path());
    tool("qemu-io", "-f qcow2 -c write_-P_7_0_8M base", folder.path());
    tool("qemu-img", "create -q -f qcow2 -b base -F qcow2 top", folder.path());
    let mut machine = Machine::start(&format!(
        "-blockdev driver=qcow2,node-name=top,file.driver=file,file.filename={} -device virtio-blk-pci,drive=top,id=d",
        path("top")
    ));

    let job = json!({"job-id": "j", "device": "top", "speed": 1 << 20, "auto-dismiss": false});
    machine.ask("block-stream", &job).expect("a job");
    let again = machine.ask("block-stream", &json!({"job-id": "k", "device": "top"}));
    let same = machine.ask("block-stream", &json!({"job-id": "j", "device": "top"}));
    let snapshot = machine.ask(
        "blockdev-snapshot-sync",
        &json!({"node-name": "top", "snapshot-node-name": "x", "snapshot-file": path("x")}),
    );
    let resize = machine.ask("block_resize", &json!({"node-name": "top", "size": 16 << 20}));
    let create = json!({"job-id": "c", "options": {"driver": "qcow2", "file": "top", "size": 1 << 20}});
    machine.ask("blockdev-create", &create).expect("a job");
    machine.until("c", "concluded");
    let jobs = machine.ask("query-jobs", &json!({})).expect("jobs");
    machine.ask("job-dismiss", &json!({"id": "c"})).expect("dismissed");
    let early = machine.ask("job-dismiss", &json!({"id": "j"}));
    machine.ask("block-job-pause", &json!({"device": "j"})).expect("paused");
    let paused = machine.ask("query-block-jobs", &json!({})).expect("jobs")[0].clone();
    machine.ask("job-resume", &json!({"id": "j"})).expect("goes on");
    machine.ask("block-job-cancel", &json!({"device": "j"})).expect("cancelled");
    let events = machine.until("j", "concluded");
    let kept = machine.ask("query-jobs", &json!({})).expect("jobs")[0]["error"].clone();
    machine.ask("block-job-dismiss", &json!({"id": "j"})).expect("dismissed");
    let gone = machine.ask("block-job-cancel", &json!({"device": "j"}));

    assert_eq!(again, Err("Node 'top' is busy: block device is in use by block job: stream".into()));
    assert!(same.is_err());
    assert_eq!(snapshot, Err("Node 'top' is busy: block device is in use by block job: stream".into()));
    assert!(resize.is_err_and(|error| error.contains("busy")));
    assert_eq!(jobs[0]["error"], "Block device top is in use");
    assert_eq!(early, Err("Job 'j' in state 'running' cannot accept command verb 'dismiss'".into()));
    assert_eq!(
        (&paused["paused"], &paused["speed"], &paused["status"]),
        (&true.into(), &(1 << 20).into(), &"paused".into())
    );
    assert_eq!(
        story(&events),
        ["created", "running", "paused", "running", "aborting", "BLOCK_JOB_CANCELLED", "concluded"]
    );
    assert_eq!(kept, "Operation canceled");
    assert_eq!(gone, Err("Block job 'j' not found".into()));
    // What it has done stays, and shows the same.
    drop(machine);
    tool("qemu-img", "compare -f qcow2 -F qcow2 base top", folder.path());
    tool("qemu-img", "check -q top", folder.path());
}

#[test]
fn overlay_is_committed_into_what_it_was_put_on_and_the_disk_goes_back() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    tool("qemu-img", "create -q -f qcow2 base 8M", folder.path());
    tool("qemu-img", "create -q -f qcow2 -b base -F qcow2 one", folder.path());
    tool("qemu-io", "-f qcow2 -c write_-P_7_1M_2M one", folder.path());
    let mut machine = Machine::start(&format!(
        "-blockdev driver=qcow2,node-name=base,file.driver=file,file.filename={} -device virtio-blk-pci,drive=base,id=d",
        path("base")
    ));
    let snapshot = |node: &str, name: &str, mode: &str| json!({"node-name": node, "snapshot-node-name": name, "snapshot-file": path(name), "mode": mode});
    machine.ask("blockdev-snapshot-sync", &snapshot("base", "one", "existing")).expect("a snapshot");
    machine.ask("blockdev-snapshot-sync", &snapshot("one", "two", "absolute-paths")).expect("a snapshot");
    machine.ask("blockdev-snapshot-sync", &snapshot("two", "three", "absolute-paths")).expect("a snapshot");

    let below = json!({"job-id": "below", "device": "three", "top-node": "two", "base-node": "one"});
    machine.ask("block-commit", &below).expect("a job");
    let events = machine.until("below", "null");
    let depth = machine.drive("/machine/peripheral/d/virtio-backend")["inserted"]["backing_file_depth"].clone();
    machine.ask("block-commit", &json!({"job-id": "active", "device": "three", "base": path("base")})).expect("a job");
    let ready = machine.until("active", "BLOCK_JOB_READY");
    let early = machine.ask("blockdev-del", &json!({"node-name": "base"}));
    machine.ask("job-complete", &json!({"id": "active"})).expect("completed");
    let over = machine.until("active", "null");
    let now = machine.drive("/machine/peripheral/d/virtio-backend")["inserted"].clone();
    for node in ["three", "two", "one"] {
        machine.ask("blockdev-del", &json!({"node-name": node})).expect("deleted");
    }

    assert_eq!(
        story(&events),
        ["created", "running", "waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"]
    );
    assert_eq!(depth, 2);
    assert_eq!(story(&ready), ["created", "running", "ready", "BLOCK_JOB_READY"]);
    assert!(early.is_err(), "{early:?}");
    assert_eq!(story(&over), ["waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"]);
    assert_eq!((&now["node-name"], &now["ro"], &now["backing_file_depth"]), (&"base".into(), &false.into(), &0.into()));
    machine.end();
    tool("qemu-img", "compare -f qcow2 -F qcow2 base three", folder.path());
    tool("qemu-io", "-r -f qcow2 -c read_-P_7_1M_2M base", folder.path());
    tool("qemu-img", "check -q base", folder.path());
}

#[test]
fn human_monitor_commits_overlays_and_empties_them() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    for name in ["one", "two"] {
        tool("qemu-img", &format!("create -q -f raw base-{name} 8M"), folder.path());
        tool("qemu-img", &format!("create -q -f qcow2 -b base-{name} -F raw {name}"), folder.path());
        tool("qemu-io", &format!("-f qcow2 -c write_-P_7_1M_2M -c write_-z_5M_128k {name}"), folder.path());
        tool("cp", &format!("{name} before-{name}"), folder.path());
        tool("cp", &format!("base-{name} before-base-{name}"), folder.path());
    }
    let drive = |name: &str| format!("-drive if=none,id={name},format=qcow2,file={}", path(name));
    let mut machine = Machine::start(&format!(
        "{} {} -device virtio-blk-pci,drive=one -device virtio-blk-pci,drive=two -drive if=ide,media=cdrom,id=cd
         -drive if=none,id=raw,format=raw,file={} -device ide-hd,drive=raw -device virtio-blk-pci,drive=gone
         -drive if=none,id=gone,file={},format=raw,snapshot=on",
        drive("one"),
        drive("two"),
        path("before-one"),
        path("before-two"),
    ));

    let missing = machine.human("commit nope");
    let empty = machine.human("commit cd");
    let plain = machine.human("commit raw");
    let one = machine.human("commit one");
    tool("qemu-img", "compare -U -f raw -F raw base-two before-base-two", folder.path());
    let all = machine.human("commit all");
    let again = machine.human("commit all");
    machine.end();

    assert_eq!(missing, "Device 'nope' not found\n");
    assert_eq!(empty, "Device 'cd' has no medium\n");
    assert_eq!(plain, "'commit' error for 'raw': Operation not supported\n");
    assert_eq!((one, all, again), (String::new(), String::new(), String::new()));
    for name in ["one", "two"] {
        tool("qemu-io", &format!("-r -f raw -c read_-P_7_1M_2M base-{name}"), folder.path());
        let map = Command::new("qemu-img").args(["map", "--output=json", &path(name)]).output().expect("qemu-img");
        let map: Vec<Value> = serde_json::from_slice(&map.stdout).expect("a map");
        assert!(map.iter().all(|run| run["depth"] == 1), "{map:?}");
        tool("qemu-img", &format!("check -q {name}"), folder.path());
    }
}

#[test]
fn base_that_was_opened_for_reading_is_opened_again_for_writing() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (format, options) in [("qcow2", "-q"), ("raw", "-q")] {
        tool("qemu-img", &format!("create -f {format} {options} base 8M"), folder.path());
        tool("qemu-io", &format!("-f {format} -c write_-P_3_0_4M base"), folder.path());
        tool("qemu-img", &format!("create -q -f qcow2 -b base -F {format} top"), folder.path());
        tool("qemu-io", "-f qcow2 -c write_-P_7_1M_2M -c write_-z_3M_128k top", folder.path());
        tool("cp", "top before", folder.path());
        tool("cp", "base before-base", folder.path());
        let mut machine = Machine::start(&format!(
            "-drive if=none,id=d0,file={},format=qcow2 -device virtio-blk-pci,drive=d0,id=d",
            path("top")
        ));

        machine.ask("block-commit", &json!({"device": "d0"})).expect("a job");
        machine.until("d0", "ready");
        machine.ask("block-job-complete", &json!({"device": "d0"})).expect("completed");
        let over = machine.until("d0", "null");
        let now = machine.drive("d0")["inserted"].clone();

        assert!(story(&over).contains(&"BLOCK_JOB_COMPLETED"));
        assert_eq!((&now["file"], &now["ro"], &now["drv"]), (&path("base").into(), &false.into(), &format.into()));
        machine.end();
        tool(
            "qemu-img",
            "rebase -u -f qcow2 -b before-base -F raw before".replace("raw", format).as_str(),
            folder.path(),
        );
        tool("qemu-img", &format!("compare -f {format} -F qcow2 base before"), folder.path());
    }
}

#[test]
fn commit_is_refused_where_it_cannot_be_and_cancelled_leaves_the_disk() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    tool("qemu-img", "create -q -f qcow2 base 8M", folder.path());
    tool("qemu-img", "create -q -f qcow2 -b base -F qcow2 top", folder.path());
    let mut machine = Machine::start(&format!(
        "-drive if=none,id=d0,file={},format=qcow2 -device virtio-blk-pci,drive=d0,id=d",
        path("top")
    ));

    let stranger = machine.ask("block-commit", &json!({"device": "d0", "base-node": "x"}));
    let itself = machine.ask("block-commit", &json!({"device": "d0", "base": path("top")}));
    machine.ask("blockdev-snapshot-sync", &json!({"device": "d0", "snapshot-file": path("over")})).expect("a snapshot");
    machine.ask("block-commit", &json!({"device": "d0", "base": path("top"), "auto-dismiss": false})).expect("a job");
    machine.until("d0", "ready");
    machine.ask("block-job-cancel", &json!({"device": "d0", "force": true})).expect("cancelled");
    let over = machine.until("d0", "concluded");

    assert_eq!(stranger, Err("Cannot find device='' nor node-name='x'".into()));
    assert_eq!(itself, Err(format!("Can't find '{}' in the backing chain", path("top"))));
    assert_eq!(story(&over)[over.len() - 3..], ["aborting", "BLOCK_JOB_CANCELLED", "concluded"]);
    let now = machine.drive("d0")["inserted"].clone();
    assert_eq!((&now["file"], &now["backing_file_depth"]), (&path("over").into(), &2.into()));
}

#[test]
fn disk_is_mirrored_elsewhere_and_goes_over_or_stays() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    tool("qemu-img", "create -q -f qcow2 source 8M", folder.path());
    tool("qemu-io", "-f qcow2 -c write_-P_7_1M_2M source", folder.path());
    let mut machine = Machine::start(&format!(
        "-blockdev driver=qcow2,node-name=source,file.driver=file,file.filename={} -device virtio-blk-pci,drive=source,id=d",
        path("source")
    ));
    let add = |machine: &mut Machine, name: &str, size: &str| {
        tool("qemu-img", &format!("create -q -f raw {name} {size}"), folder.path());
        let node = json!({"driver": "raw", "node-name": name, "file": {"driver": "file", "filename": path(name)}});
        machine.ask("blockdev-add", &node).expect("a node");
    };
    for (name, size) in [("left", "8M"), ("taken", "8M"), ("short", "4M")] {
        add(&mut machine, name, size);
    }
    let mirror = |id: &str, target: &str| json!({"job-id": id, "device": "source", "target": target, "sync": "full"});

    machine.ask("blockdev-mirror", &mirror("j", "short")).expect("a job");
    let short = machine.until("j", "null");
    let itself = machine.ask("blockdev-mirror", &mirror("j", "source"));
    machine.ask("blockdev-mirror", &mirror("left", "left")).expect("a job");
    machine.until("left", "BLOCK_JOB_READY");
    machine.ask("block-job-cancel", &json!({"device": "left"})).expect("left");
    let left = machine.until("left", "null");
    let stayed = machine.drive("/machine/peripheral/d/virtio-backend")["inserted"]["node-name"].clone();
    machine.ask("blockdev-mirror", &mirror("taken", "taken")).expect("a job");
    machine.until("taken", "BLOCK_JOB_READY");
    machine.ask("block-job-complete", &json!({"device": "taken"})).expect("completed");
    machine.until("taken", "null");
    let now = machine.drive("/machine/peripheral/d/virtio-backend")["inserted"].clone();
    machine.ask("blockdev-del", &json!({"node-name": "source"})).expect("deleted");

    let error = short.iter().find_map(|event| event["data"]["error"].as_str());
    assert_eq!(error, Some("Source and target image have different sizes"));
    assert!(itself.is_err());
    assert_eq!(story(&left), ["waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"]);
    assert_eq!((stayed, &now["node-name"], &now["drv"]), ("source".into(), &"taken".into(), &"raw".into()));
    machine.end();
    let taken = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path("taken")).expect("the copy"));
    assert!(taken * 512 < 4 << 20, "holes are kept: {taken} blocks");
    tool("qemu-img", "compare -f qcow2 -F raw source left", folder.path());
    tool("qemu-img", "compare -f qcow2 -F raw source taken", folder.path());
}

#[test]
fn write_that_would_destroy_metadata_of_a_damaged_image_is_refused_and_told() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    tool("qemu-img", "create -q -f raw source 1M", folder.path());
    tool("qemu-io", "-f raw -c write_-P_7_0_1M source", folder.path());
    tool("qemu-img", "create -q -f qcow2 target 1M", folder.path());
    tool("qemu-io", "-f qcow2 -c write_-P_1_0_64k target", folder.path());
    let mut bytes = std::fs::read(path("target")).expect("the image");
    let word = |bytes: &[u8], at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let l1 = word(&bytes, 40);
    let l2 = word(&bytes, l1 as usize) as usize & 0xffff_fe00;
    // The guest's first cluster is the L1 table.
    bytes[l2..l2 + 8].copy_from_slice(&(l1 | 1 << 63).to_be_bytes());
    std::fs::write(path("target"), &bytes).expect("written");
    let mut machine = Machine::start(&format!(
        "-blockdev driver=raw,node-name=source,file.driver=file,file.filename={} -device virtio-blk-pci,drive=source,id=d",
        path("source")
    ));

    let checks = json!({"template": "none", "active-l1": true});
    let node = json!({"driver": "qcow2", "node-name": "target", "overlap-check": checks,
        "file": {"driver": "file", "filename": path("target")}});
    machine.ask("blockdev-add", &node).expect("a node");
    let job = json!({"job-id": "m", "device": "source", "target": "target", "sync": "full"});
    machine.ask("blockdev-mirror", &job).expect("a job");
    machine.until("m", "null");

    let is_told = |event: &&Value| event["event"] == "BLOCK_IMAGE_CORRUPTED";
    let told: Vec<_> = machine.events.iter().filter(is_told).map(|event| event["data"].clone()).collect();
    assert_eq!(told.len(), 1);
    let message = "Preventing invalid write on metadata (overlaps with active L1 table)";
    assert_eq!((&told[0]["msg"], &told[0]["fatal"]), (&message.into(), &true.into()));
    assert_eq!((&told[0]["device"], &told[0]["node-name"]), (&"".into(), &"target".into()));
    assert_eq!(told[0]["offset"], l1);
    drop(machine);
    let now = std::fs::read(path("target")).expect("the image");
    assert_eq!(now[l1 as usize..l1 as usize + 65536], bytes[l1 as usize..l1 as usize + 65536]);
    assert_eq!(word(&now, 72), 2);
}

/// A machine with a disk on `top`, which stands on `mid`, and that on `base`: each holds something of its own.
pub(crate) fn chain(folder: &Path) -> Machine {
    tool("qemu-img", "create -q -f qcow2 base 8M", folder);
    tool("qemu-io", "-f qcow2 -c write_-P_1_0_3M base", folder);
    tool("qemu-img", "create -q -f qcow2 -b base -F qcow2 mid", folder);
    tool("qemu-io", "-f qcow2 -c write_-P_2_2M_2M -c write_-z_64k_64k mid", folder);
    tool("qemu-img", "create -q -f qcow2 -b mid -F qcow2 top", folder);
    tool("qemu-io", "-f qcow2 -c write_-P_3_3M_2M top", folder);
    tool("qemu-img", "convert -f qcow2 -O raw top before", folder);
    let node = |name: &str, backing: &str| {
        let file = json!({"driver": "file", "filename": folder.join(name)});
        let mut node = json!({"driver": "qcow2", "node-name": name, "file": file});
        node.as_object_mut().expect("an object").extend([("backing".to_owned(), json!(backing))]);
        node
    };
    let mut machine = Machine::start(&format!(
        "-blockdev driver=qcow2,node-name=base,read-only=on,file.driver=file,file.filename={}",
        folder.join("base").display()
    ));
    let mut mid = node("mid", "base");
    mid["read-only"] = true.into();
    for node in [mid, node("top", "mid")] {
        machine.ask("blockdev-add", &node).expect("a node");
    }
    machine.ask("device_add", &json!({"driver": "virtio-blk-pci", "drive": "top", "id": "d"})).expect("a device");
    machine
}

impl Machine {
    /// Takes the device out: there is no guest to let go of it.
    pub(crate) fn end_device(&mut self) {
        self.ask("device_del", &json!({"id": "d"})).expect("asked");
        self.ask("system_reset", &json!({})).expect("reset");
    }

    fn depth(&mut self) -> Value {
        self.drive("/machine/peripheral/d/virtio-backend")["inserted"]["backing_file_depth"].clone()
    }
}

#[test]
fn image_in_the_middle_of_a_chain_takes_in_what_lies_beneath() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = chain(folder.path());

    machine.ask("block-stream", &json!({"job-id": "s", "device": "mid"})).expect("a job");
    let events = machine.until("s", "null");

    assert!(story(&events).contains(&"BLOCK_JOB_COMPLETED"), "{events:?}");
    assert_eq!(machine.depth(), 1);
    machine.ask("blockdev-del", &json!({"node-name": "base"})).expect("nobody needs it");
    // Nobody writes to it any more: QEMU's tools, which heed the locks, may read it.
    tool("qemu-img", "check -q mid", folder.path());
    machine.end();
    tool("mv", "base gone", folder.path());
    tool("qemu-img", "compare -f qcow2 -F raw top before", folder.path());
}

#[test]
fn base_of_a_stream_is_named_by_its_file_or_by_what_stands_on_it() {
    for word in ["base", "bottom"] {
        let folder = tempfile::tempdir().expect("directory");
        let mut machine = chain(folder.path());
        let value = if word == "base" { folder.path().join("base").display().to_string() } else { "mid".to_owned() };

        machine.ask("block-stream", &json!({"job-id": "s", "device": "top", word: value})).expect("a job");
        machine.until("s", "null");

        assert_eq!(machine.depth(), 1, "{word}");
        machine.end();
        tool("mv", "mid gone", folder.path());
        tool("qemu-img", "compare -f qcow2 -F raw top before", folder.path());
    }
}

#[test]
fn jobs_that_cannot_be_are_refused_in_the_words_of_qemu() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = chain(folder.path());
    tool("qemu-img", "create -q -f raw copy 8M", folder.path());
    let copy = json!({"driver": "raw", "node-name": "copy", "file": {"driver": "file", "filename": folder.path().join("copy")}});
    machine.ask("blockdev-add", &copy).expect("a node");
    let on = |more: Value| {
        let mut all = json!({"job-id": "j", "device": "top"});
        all.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        all
    };

    let cases = [
        (
            "block-stream",
            json!({"base": "x", "base-node": "x"}),
            "'base' and 'base-node' cannot be specified at the same time",
        ),
        (
            "block-stream",
            json!({"base": "x", "bottom": "x"}),
            "'base' and 'bottom' cannot be specified at the same time",
        ),
        ("block-stream", json!({"base": "x"}), "Can't find 'x' in the backing chain"),
        ("block-stream", json!({"bottom": "x"}), "Cannot find device='' nor node-name='x'"),
        ("block-stream", json!({"backing-file": "x"}), "backing file specified, but streaming the entire chain"),
        ("block-stream", json!({"on-error": "halt"}), "Parameter 'on-error' does not accept value 'halt'"),
        ("block-commit", json!({"device": "x"}), "Device 'x' not found"),
        ("block-commit", json!({"top": "x", "top-node": "x"}), "'top-node' and 'top' are mutually exclusive"),
        ("block-commit", json!({"base": "x", "base-node": "x"}), "'base-node' and 'base' are mutually exclusive"),
        ("block-commit", json!({"top": "x"}), "Top image file x not found"),
        ("block-commit", json!({"base": "x"}), "Can't find 'x' in the backing chain"),
        ("block-commit", json!({"top-node": "base", "base-node": "mid"}), "'mid' is not in this backing file chain"),
        ("block-commit", json!({"backing-file": "x"}), "'backing-file' specified, but 'top' is the active layer"),
        ("blockdev-mirror", json!({"target": "top", "sync": "full"}), "Can't mirror node into itself"),
        ("blockdev-mirror", json!({"target": "x", "sync": "full"}), "Cannot find device='x' nor node-name='x'"),
        (
            "blockdev-mirror",
            json!({"target": "copy", "sync": "full", "granularity": 500}),
            "Parameter 'granularity' expects a value in range [512B, 64MB]",
        ),
        (
            "blockdev-mirror",
            json!({"target": "copy", "sync": "full", "granularity": 513}),
            "Parameter 'granularity' expects a power of 2",
        ),
        ("blockdev-backup", json!({"target": "top", "sync": "full"}), "Source and target cannot be the same"),
        ("blockdev-backup", json!({"target": "x", "sync": "full"}), "Cannot find device='x' nor node-name='x'"),
    ];
    for (command, more, expected) in cases {
        assert_eq!(machine.ask(command, &on(more.clone())), Err(expected.into()), "{command} {more}");
    }
    assert_eq!(machine.ask("query-jobs", &json!({})), Ok(json!([])));
    machine.end();
}

#[test]
fn ready_job_that_is_paused_ends_when_it_goes_on() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = chain(folder.path());
    let id = json!({"id": "j"});
    machine.ask("block-commit", &json!({"job-id": "j", "device": "top"})).expect("a job");
    machine.until("j", "BLOCK_JOB_READY");

    let early = machine.ask("job-resume", &id);
    machine.ask("job-pause", &id).expect("paused");
    let twice = machine.ask("job-pause", &id);
    machine.ask("job-complete", &id).expect("taken down");
    let paused = machine.ask("query-block-jobs", &json!({})).expect("jobs");
    machine.ask("job-resume", &id).expect("goes on");
    let events = machine.until("j", "null");

    assert_eq!(early, Err("Can't resume a job that was not paused".into()));
    assert_eq!(twice, Err("Job is already paused".into()));
    assert_eq!((&paused[0]["status"], &paused[0]["paused"]), (&"standby".into(), &true.into()));
    let order = ["standby", "ready", "waiting", "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"];
    assert_eq!(story(&events), order);
    assert_eq!(machine.depth(), 0);
    machine.end();
}

#[test]
fn mirror_that_is_paused_as_it_becomes_ready_is_ready_when_it_goes_on() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = chain(folder.path());
    tool("qemu-img", "create -q -f raw copy 8M", folder.path());
    let copy = json!({"driver": "file", "node-name": "copy", "filename": folder.path().join("copy")});
    machine.ask("blockdev-add", &copy).expect("a node");

    // When the order comes is by chance: at a step, between the last one and its news, or after.
    for round in 0..20 {
        let id = json!({"id": "j"});
        machine
            .ask("blockdev-mirror", &json!({"job-id": "j", "device": "top", "target": "copy", "sync": "full"}))
            .expect("a job");
        std::thread::sleep(std::time::Duration::from_millis(round));
        machine.ask("job-pause", &id).expect("paused");
        let told = loop {
            let jobs = machine.ask("query-block-jobs", &json!({})).expect("jobs");
            if jobs[0]["busy"] == false {
                break jobs[0]["offset"].clone();
            }
        };
        std::thread::sleep(std::time::Duration::from_millis(20));
        let later = machine.ask("query-block-jobs", &json!({})).expect("jobs")[0]["offset"].clone();
        machine.ask("job-resume", &id).expect("goes on");
        machine.until("j", "BLOCK_JOB_READY");
        let status = machine.ask("query-jobs", &json!({})).expect("jobs")[0]["status"].clone();
        machine.ask("block-job-cancel", &json!({"device": "j"})).expect("cancelled");
        machine.until("j", "null");

        assert_eq!((later, status), (told, "ready".into()), "{round}");
    }
    machine.end();
}

#[test]
fn error_of_a_copy_is_told_before_the_job_ends() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = chain(folder.path());
    tool("qemu-img", "create -q -f raw copy 8M", folder.path());
    let failing = json!({"driver": "blkdebug", "node-name": "copy",
        "inject-error": [{"event": "write_aio", "errno": 28}],
        "image": {"driver": "file", "filename": folder.path().join("copy")}});
    machine.ask("blockdev-add", &failing).expect("a node");

    for command in ["blockdev-mirror", "blockdev-backup"] {
        let policy = json!({"job-id": "j", "device": "top", "target": "copy", "sync": "full",
            "on-source-error": "report", "on-target-error": "report"});
        machine.ask(command, &policy).expect("a job");
        let events = machine.until("j", "null");

        let order = ["created", "running", "BLOCK_JOB_ERROR", "aborting", "BLOCK_JOB_COMPLETED", "concluded", "null"];
        assert_eq!(story(&events), order, "{command}");
        assert_eq!(events[2]["data"], json!({"device": "j", "operation": "write", "action": "report"}), "{command}");
        let error = events[4]["data"]["error"].as_str().expect("an error");
        assert!(error.contains("No space left on device"), "{error}");
    }
    machine.end();
}

#[test]
fn disk_is_written_as_the_guest_would_while_a_backup_keeps_what_it_was() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = chain(folder.path());
    tool("qemu-img", "create -q -f raw copy 8M", folder.path());
    let copy = json!({"driver": "raw", "node-name": "copy", "file": {"driver": "file", "filename": folder.path().join("copy")}});
    machine.ask("blockdev-add", &copy).expect("a node");
    let slow = json!({"job-id": "j", "device": "top", "target": "copy", "sync": "full", "speed": 65536});
    machine.ask("blockdev-backup", &slow).expect("a job");

    let written = machine.human(r#"qemu-io -d d "write -P9 3M 1M; write -zu 4M 1M; discard 7M 64k; flush""#);
    let same = machine.human(r#"qemu-io d "read -P 9 3M 1M""#);
    let other = machine.human(r#"qemu-io d "read -P 9 3M 2M""#);
    let beyond = machine.human(r#"qemu-io d "write 8M 512""#);
    let target = machine.human(r#"qemu-io copy "write 0 512""#);
    let wrong = machine.human(r#"qemu-io d "write 0""#);
    machine.ask("block-job-set-speed", &json!({"device": "j", "speed": 0})).expect("faster");
    machine.until("j", "null");

    assert_eq!((written.as_str(), same.as_str()), ("", ""));
    assert_eq!(other, "Pattern verification failed at offset 4194304\n");
    assert_eq!(beyond, "Error: the disk ends at 8388608\n");
    assert_eq!(target, "Error: Node 'copy' is busy: block device is in use by block job: backup\n");
    assert!(wrong.starts_with("'write 0' is not understood"), "{wrong}");
    machine.end();
    tool("qemu-io", "-r -f qcow2 -c read_-P_9_3M_1M -c read_-P_0_4M_1M top", folder.path());
    tool("qemu-img", "compare -f raw -F raw copy before", folder.path());
}

#[test]
fn jobs_that_the_end_of_the_process_cancels_tell_so() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = chain(folder.path());
    let slow = json!({"job-id": "j", "device": "top", "speed": 65536});
    machine.ask("block-commit", &slow).expect("a job");

    machine.ask("quit", &json!({})).expect("it ends");
    let events = machine.until("j", "null");

    let order = ["created", "running", "aborting", "BLOCK_JOB_CANCELLED", "concluded", "null"];
    assert_eq!(story(&events), order);
    let others: Vec<_> = machine.events.iter().filter_map(|event| event["event"].as_str()).collect();
    // It ran: whether its client came in time to hear of that is chance.
    assert!(others == ["SHUTDOWN"] || others == ["RESUME", "SHUTDOWN"], "{others:?}");
}

#[test]
fn image_above_a_commit_that_is_only_read_gets_its_new_base() {
    for word in ["node", "file"] {
        let folder = tempfile::tempdir().expect("directory");
        let mut machine = chain(folder.path());
        machine.end_device();
        tool("qemu-img", "create -q -f qcow2 -b top -F qcow2 over", folder.path());
        let file = json!({"driver": "file", "filename": folder.path().join("top")});
        machine.ask("blockdev-del", &json!({"node-name": "top"})).expect("deleted");
        let top = json!({"driver": "qcow2", "node-name": "top", "read-only": true, "file": file, "backing": "mid"});
        machine.ask("blockdev-add", &top).expect("a node");
        let file = json!({"driver": "file", "filename": folder.path().join("over")});
        let over = json!({"driver": "qcow2", "node-name": "over", "file": file, "backing": "top"});
        machine.ask("blockdev-add", &over).expect("a node");
        machine.ask("device_add", &json!({"driver": "virtio-blk-pci", "drive": "over", "id": "d"})).expect("a device");

        let mut job = json!({"job-id": "j", "device": "over"});
        // The header of `top` has no folder.
        let (top, base) = if word == "node" { ("top-node", "base-node") } else { ("top", "base") };
        job.as_object_mut()
            .expect("an object")
            .extend([(top.to_owned(), json!("mid")), (base.to_owned(), json!("base"))]);
        machine.ask("block-commit", &job).expect("a job");
        let events = machine.until("j", "null");

        assert!(events.iter().all(|event| event["data"]["error"].is_null()), "{events:?}");
        assert_eq!(machine.depth(), 2);
        machine.end();
        tool("mv", "mid gone", folder.path());
        tool("qemu-img", "compare -f qcow2 -F raw over before", folder.path());
    }
}

#[test]
fn header_names_another_file_and_the_chain_stays() {
    let folder = tempfile::tempdir().expect("directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    tool("qemu-img", "create -q -f raw base 4M", folder.path());
    tool("qemu-img", "create -q -f qcow2 -b base -F raw middle", folder.path());
    tool("qemu-img", "create -q -f qcow2 -b middle -F qcow2 top", folder.path());
    let mut machine = Machine::start(&format!(
        "-drive if=none,id=x,node-name=top,file={},format=qcow2 -device virtio-blk-pci,drive=x,id=d",
        path("top")
    ));
    let nodes = machine.ask("query-named-block-nodes", &json!({})).expect("nodes");
    let named = |file: &str| {
        let ends =
            |node: &&Value| node["drv"] != "file" && node["file"].as_str().is_some_and(|name| name.ends_with(file));
        nodes.as_array().expect("a list").iter().find(ends).expect("the node")["node-name"].clone()
    };
    let change = |device: &str, node: &Value, file: &str| json!({"device": device, "image-node-name": node, "backing-file": file});
    let mut ask = |arguments: &Value| machine.ask("change-backing-file", arguments);

    ask(&change("x", &named("middle"), "./base")).expect("changed");
    ask(&change("top", &"top".into(), "/elsewhere/middle")).expect("changed");
    let bottom = ask(&change("x", &named("base"), "b"));
    let nobody = ask(&change("x", &"nobody".into(), "b"));
    let long = ask(&change("x", &"top".into(), &"b".repeat(1024)));

    assert_eq!(bottom, Err("not allowing backing file change on an image without a backing file".into()));
    assert_eq!(nobody, Err("Cannot find device='' nor node-name='nobody'".into()));
    assert_eq!(long, Err(format!("Could not change backing file to '{}': Invalid argument", "b".repeat(1024))));
    assert_eq!(machine.human("qemu-io x \"read -P 0 0 4M\""), "");
    machine.end();
    tool("qemu-img", "compare -f qcow2 -F raw middle base", folder.path());
    let info = Command::new("qemu-img").args(["info", "-U", &path("middle"), "--output=json"]).output().expect("info");
    let info: Value = serde_json::from_slice(&info.stdout).expect("JSON");
    assert_eq!((&info["backing-filename"], &info["backing-filename-format"]), (&"./base".into(), &"raw".into()));
}

#[test]
fn copy_that_could_not_be_made_durable_is_none() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = chain(folder.path());
    tool("qemu-img", "create -q -f raw copy 8M", folder.path());

    // The flush of the end, by the job and with the disk held still; the first one is that of a mirror that gets ready.
    for (flush, told) in [(2, true), (3, false)] {
        let count = |n: u32| json!({"event": "flush_to_disk", "state": n, "new_state": n + 1});
        let failing = json!({"driver": "blkdebug", "node-name": "copy", "set-state": (1..flush).map(count).collect::<Vec<_>>(),
            "inject-error": [{"event": "flush_to_disk", "state": flush, "errno": 5}],
            "image": {"driver": "file", "filename": folder.path().join("copy")}});
        machine.ask("blockdev-add", &failing).expect("a node");
        let mirror = json!({"job-id": "j", "device": "top", "target": "copy", "sync": "full"});
        machine.ask("blockdev-mirror", &mirror).expect("a job");
        machine.until("j", "BLOCK_JOB_READY");
        machine.ask("block-job-cancel", &json!({"device": "j"})).expect("it ends");
        let events = machine.until("j", "null");
        machine.ask("blockdev-del", &json!({"node-name": "copy"})).expect("nobody has it");

        let of_error = |event: &&Value| event["event"] == "BLOCK_JOB_ERROR";
        assert_eq!(events.iter().filter(of_error).count(), usize::from(told), "flush {flush}: {events:?}");
        let completed = events.iter().find(|event| event["event"] == "BLOCK_JOB_COMPLETED").expect("an end");
        assert!(completed["data"]["error"].is_string(), "flush {flush}: {completed}");
    }
    machine.end();
}

#[test]
fn base_comes_beneath_the_copy_before_the_disk_goes_over() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = chain(folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    machine.human(r#"qemu-io d "write -P 9 0 64k""#);
    tool("qemu-img", "create -q -f qcow2 -b mid -F qcow2 copy", folder.path());
    let file = |name: &str| json!({"driver": "file", "filename": path(name)});
    let copy = json!({"driver": "qcow2", "node-name": "copy", "backing": null, "file": file("copy")});
    machine.ask("blockdev-add", &copy).expect("the copy");
    let again = json!({"driver": "qcow2", "node-name": "again", "read-only": true, "file": file("mid")});
    machine.ask("blockdev-add", &again).expect("its base");
    let top = json!({"job-id": "j", "device": "top", "target": "copy", "sync": "top"});
    machine.ask("blockdev-mirror", &top).expect("a job");
    machine.until("j", "BLOCK_JOB_READY");

    machine.human(r#"qemu-io d "write -P 5 1M 512""#);
    let put = json!([{"type": "blockdev-snapshot", "data": {"node": "again", "overlay": "copy"}}]);
    machine.ask("transaction", &json!({"actions": put})).expect("it is beneath");
    machine.human(r#"qemu-io d "write -P 5 2M 512""#);
    machine.ask("block-job-complete", &json!({"device": "j"})).expect("it ends");
    machine.until("j", "null");

    assert_eq!(machine.depth(), 2);
    assert_eq!(machine.human(r#"qemu-io d "read -P 9 0 64k; read -P 5 1M 512; read -P 5 2M 512""#), "");
    machine.end();
    tool("qemu-img", "compare -f qcow2 -F qcow2 top copy", folder.path());
}

/// A machine whose device `d` has the image `n`, of 8 MiB on another, through the filter `th`.
fn filtered(folder: &Path) -> Machine {
    tool("qemu-img", "create -q -f qcow2 base 8M", folder);
    tool("qemu-io", "-f qcow2 -c write_-P_1_0_8M base", folder);
    tool("qemu-img", "create -q -f qcow2 -b base -F qcow2 n", folder);
    tool("qemu-img", "create -q -f raw copy 8M", folder);
    let path = |name: &str| folder.join(name).display().to_string();
    Machine::start(&format!(
        "-blockdev driver=qcow2,node-name=n,file.driver=file,file.filename={} -object throttle-group,id=g \
         -blockdev driver=throttle,node-name=th,file=n,throttle-group=g -device virtio-blk-pci,drive=th,id=d \
         -blockdev driver=raw,node-name=copy,file.driver=file,file.filename={}",
        path("n"),
        path("copy")
    ))
}

#[test]
fn backup_beneath_a_filter_is_of_one_moment() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = filtered(folder.path());
    let slow = json!({"job-id": "j", "device": "n", "target": "copy", "sync": "full", "speed": 65536});
    machine.ask("blockdev-backup", &slow).expect("a job");
    let written = machine.human(r#"qemu-io d "write -P 9 3M 1M""#);
    let mirror = json!({"job-id": "m", "device": "th", "target": "copy", "sync": "full"});
    let other = machine.ask("blockdev-mirror", &mirror);
    machine.ask("block-job-set-speed", &json!({"device": "j", "speed": 0})).expect("faster");
    machine.until("j", "null");
    let again = machine.human(r#"qemu-io d "write -P 9 5M 1M""#);

    assert_eq!((written.as_str(), again.as_str()), ("", ""));
    assert!(other.is_err(), "{other:?}");
    machine.end();
    tool("qemu-io", "-r -f raw -c read_-P_1_0_8M copy", folder.path());
    tool("qemu-io", "-r -f qcow2 -c read_-P_9_3M_1M -c read_-P_9_5M_1M n", folder.path());
}

#[test]
fn copies_of_a_filter_have_what_its_image_stands_on() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = filtered(folder.path());
    tool("qemu-img", "create -q -f qcow2 ov 8M", folder.path());
    tool("qemu-img", "create -q -f raw other 8M", folder.path());
    let add = |machine: &mut Machine, name: &str, driver: &str| {
        let file = json!({"driver": "file", "filename": folder.path().join(name)});
        machine.ask("blockdev-add", &json!({"driver": driver, "node-name": name, "file": file})).expect("a node");
    };
    let backup = |machine: &mut Machine, device: &str, target: &str| {
        let full = json!({"job-id": "j", "device": device, "target": target, "sync": "full"});
        machine.ask("blockdev-backup", &full).expect("a job");
        machine.until("j", "null");
    };
    add(&mut machine, "ov", "qcow2");
    add(&mut machine, "other", "raw");
    let first = machine.human(r#"qemu-io d "write -P 9 3M 1M""#);

    backup(&mut machine, "th", "copy");
    machine.ask("blockdev-snapshot", &json!({"node": "th", "overlay": "ov"})).expect("an overlay");
    let second = machine.human(r#"qemu-io d "write -P 7 5M 1M""#);
    backup(&mut machine, "ov", "other");

    assert_eq!((first.as_str(), second.as_str()), ("", ""));
    machine.end();
    let both = "-r -f raw -c read_-P_1_0_3M -c read_-P_9_3M_1M -c read_-P_1_4M_1M";
    tool("qemu-io", &format!("{both} -c read_-P_1_5M_3M copy"), folder.path());
    tool("qemu-io", &format!("{both} -c read_-P_7_5M_1M -c read_-P_1_6M_2M other"), folder.path());
}

#[test]
fn mirror_of_a_filter_takes_the_disk_along_with_all_it_shows() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = filtered(folder.path());
    tool("qemu-img", "create -q -f qcow2 -b base -F qcow2 over", folder.path());
    let file = json!({"driver": "file", "filename": folder.path().join("over")});
    let over = json!({"driver": "qcow2", "node-name": "over", "file": file, "backing": "base"});
    let base = json!({"driver": "qcow2", "node-name": "base", "read-only": true,
        "file": {"driver": "file", "filename": folder.path().join("base")}});
    machine.ask("blockdev-add", &base).expect("a node");
    machine.ask("blockdev-add", &over).expect("a node");
    let written = machine.human(r#"qemu-io d "write -P 9 3M 1M""#);

    let mirror = json!({"job-id": "j", "device": "th", "target": "over", "sync": "top"});
    machine.ask("blockdev-mirror", &mirror).expect("a job");
    machine.until("j", "ready");
    machine.ask("job-complete", &json!({"id": "j"})).expect("it ends");
    machine.until("j", "null");
    let reads = ["read -P 1 0 3M", "read -P 9 3M 1M", "read -P 1 4M 4M"];
    let reads = reads.map(|read| machine.human(&format!("qemu-io d \"{read}\"")));

    assert_eq!((written.as_str(), reads), ("", ["", "", ""].map(String::from)));
    machine.end();
    tool("qemu-io", "-r -f qcow2 -c read_-P_1_0_3M -c read_-P_9_3M_1M over", folder.path());
}

#[test]
fn jobs_beneath_a_filter_are_refused_where_they_would_miss_writes() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = filtered(folder.path());
    let commit = machine.ask("block-commit", &json!({"job-id": "j", "device": "n"}));
    let mirror =
        machine.ask("blockdev-mirror", &json!({"job-id": "j", "device": "n", "target": "copy", "sync": "full"}));
    machine.end_device();
    while !machine.events.iter().any(|event| event["event"] == "DEVICE_DELETED" && event["data"]["device"] == "d") {
        machine.wait();
    }
    let socket = json!({"type": "unix", "data": {"path": folder.path().join("nbd")}});
    machine.ask("nbd-server-start", &json!({"addr": socket})).expect("a server");
    let export = json!({"type": "nbd", "id": "e", "node-name": "th", "writable": true});
    machine.ask("block-export-add", &export).expect("an export");
    let stream = machine.ask("block-stream", &json!({"job-id": "j", "device": "n"}));
    let backup = json!({"job-id": "j", "device": "n", "target": "copy", "sync": "full"});
    let backup = machine.ask("blockdev-backup", &backup);

    assert_eq!(commit, Err("Need a root block node".into()));
    assert_eq!(mirror, Err("Need a root block node".into()));
    let busy = "Node 'th' is busy: block device is in use by an export that clients write to";
    assert_eq!(stream, Err(busy.into()));
    assert_eq!(backup, Err(busy.into()));
    machine.end();
}
