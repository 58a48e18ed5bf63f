//! The tree of objects.

use serde_json::{Value, json};

use crate::rig::Machine;

fn entries(machine: &mut Machine, path: &str) -> Vec<(String, String)> {
    let listed = machine.ask("qom-list", &json!({"path": path})).expect("a list");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = listed.as_array().expect("a list").iter().map(|entry| (text(&entry["name"]), text(&entry["type"])));
    entries.filter(|(name, _)| name != "type").collect()
}

#[test]
fn devices_are_listed_by_name_and_without_a_name_by_count() {
    let mut machine = Machine::start(
        "-drive if=virtio,format=raw,file.driver=null-co -device virtio-rng-pci,id=dice -device isa-debug-exit",
    );

    let named = entries(&mut machine, "/machine/peripheral");
    let unnamed = entries(&mut machine, "/machine/peripheral-anon");
    let r#type = machine.ask("qom-get", &json!({"path": "/machine/peripheral-anon/device[0]", "property": "type"}));

    assert_eq!(named, [("dice".to_owned(), "child<virtio-rng-pci>".to_owned())]);
    assert_eq!(unnamed.len(), 2, "{unnamed:?}");
    for (at, (name, r#type)) in unnamed.iter().enumerate() {
        assert_eq!(*name, format!("device[{at}]"));
        assert!(["child<virtio-blk-pci>", "child<isa-debug-exit>"].contains(&r#type.as_str()), "{type}");
    }
    let first = unnamed[0].1.trim_start_matches("child<").trim_end_matches('>');
    assert_eq!(r#type, Ok(Value::from(first)));
}

#[test]
fn objects_are_listed_as_they_come_and_go() {
    let mut machine = Machine::start("-object iothread,id=io0");

    machine.ask("object-add", &json!({"qom-type": "rng-builtin", "id": "dice"})).expect("an object");
    let both = entries(&mut machine, "/objects");
    machine.ask("object-del", &json!({"id": "io0"})).expect("deleted");
    let left = entries(&mut machine, "/objects");

    let entry = |name: &str, r#type: &str| (name.to_owned(), r#type.to_owned());
    assert_eq!(both, [entry("io0", "child<iothread>"), entry("dice", "child<rng-builtin>")]);
    assert_eq!(left, [entry("dice", "child<rng-builtin>")]);
}

#[test]
fn object_that_cannot_work_is_refused_and_its_name_stays_free() {
    let mut machine = Machine::start("-S");
    let refused = [
        (json!({"qom-type": "secret", "id": "one", "file": "/nosuch"}), "Unable to read /nosuch"),
        (json!({"qom-type": "secret", "id": "one", "data": "!", "format": "base64"}), "Base64"),
        (json!({"qom-type": "rng-random", "id": "one", "filename": "/nosuch"}), "Could not open '/nosuch'"),
        (json!({"qom-type": "throttle-group", "id": "one", "x-iops-total": 1, "x-iops-read": 1}), "cannot be used"),
    ];

    for (object, why) in refused {
        let told = machine.ask("object-add", &object).expect_err("refused");
        assert!(told.contains(why), "{told}");
        assert!(entries(&mut machine, "/objects").is_empty());
    }
    machine.ask("object-add", &json!({"qom-type": "rng-builtin", "id": "one"})).expect("an object");
}

#[test]
fn secret_that_is_added_opens_a_disk_until_it_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk");
    let made = std::process::Command::new(env!("CARGO_BIN_EXE_rhea"))
        .args([
            "img",
            "create",
            "-q",
            "--object",
            "secret,id=s,data=word",
            "-f",
            "luks",
            "-o",
            "key-secret=s,iter-time=10",
        ])
        .arg(&image)
        .arg("1M")
        .status();
    assert!(made.unwrap().success());
    let mut machine = Machine::start("-S");
    let node = json!({"driver": "luks", "node-name": "disk", "key-secret": "key",
        "file": {"driver": "file", "filename": image}});

    machine.ask("object-add", &json!({"qom-type": "secret", "id": "key", "data": "word"})).expect("a secret");
    machine.ask("blockdev-add", &node).expect("a disk");
    machine.ask("object-del", &json!({"id": "key"})).expect("deleted");
    machine.ask("blockdev-del", &json!({"node-name": "disk"})).expect("closed");
    let late = machine.ask("blockdev-add", &node).unwrap_err();

    assert_eq!(late, "No secret with id 'key'");
}

#[test]
fn threads_are_told_with_what_they_were_asked_for() {
    let mut machine = Machine::start("-object iothread,id=first,poll-max-ns=5");
    machine.ask("object-add", &json!({"qom-type": "iothread", "id": "second"})).expect("a thread");

    let threads = machine.ask("query-iothreads", &json!({})).expect("threads");

    let polls: Vec<_> = threads.as_array().unwrap().iter().map(|one| (&one["id"], &one["poll-max-ns"])).collect();
    assert_eq!(polls, [(&json!("first"), &json!(5)), (&json!("second"), &json!(0))]);
}

#[test]
fn device_that_was_asked_back_is_not_asked_again_at_once() {
    let mut machine = Machine::start("-device virtio-rng-pci,id=dice");

    machine.ask("device_del", &json!({"id": "dice"})).expect("asked");
    let again = machine.ask("device_del", &json!({"id": "dice"}));

    assert_eq!(again, Err("Device dice is already in the process of unplug".into()));
}

#[test]
fn memory_that_no_object_was_named_for_is_told_of() {
    let mut machine = Machine::start("-S");

    let memory = machine.ask("query-memdev", &json!({})).expect("memory");

    let told = [&memory[0]["id"], &memory[0]["size"], &memory[0]["reserve"]];
    assert_eq!(told, [&json!("pc.ram"), &json!(16 << 20), &json!(true)]);
}

#[test]
fn tree_of_devices_shows_each_on_its_bus_with_type_and_name() {
    let mut machine = Machine::start(
        "-device virtio-scsi-pci,id=adapter -blockdev null-co,node-name=n -device scsi-hd,drive=n,id=unit
         -device virtio-rng-pci -device ide-cd,id=cd",
    );

    let tree = machine.human("info qtree");

    let lines: Vec<&str> = tree.lines().filter(|line| line.contains("dev: ") || line.contains("bus: ")).collect();
    let part =
        |wanted: &str| lines.iter().position(|line| *line == wanted).unwrap_or_else(|| panic!("{wanted}:\n{tree}"));
    assert_eq!(part("bus: main-system-bus"), 0);
    assert_eq!(part("        bus: ide.1"), part("          dev: ide-cd, id \"cd\"") - 1);
    let adapter = part("      dev: virtio-scsi-pci, id \"adapter\"");
    assert_eq!(lines[adapter + 1], "        bus: virtio-bus");
    assert_eq!(part("          dev: virtio-scsi-device, id \"\""), adapter + 2);
    assert_eq!(part("            bus: adapter.0"), adapter + 3);
    assert_eq!(part("              dev: scsi-hd, id \"unit\""), adapter + 4);
    // What came last is shown first.
    assert!(part("      dev: virtio-rng-pci, id \"\"") < adapter);
    for line in [
        "                drive = \"n\"",
        "                lun = 0 (0x0)",
        "        addr = 02.0",
        "        multifunction = false",
    ] {
        assert!(tree.lines().any(|known| known == line), "{line}:\n{tree}");
    }
}

#[test]
fn ports_are_read_as_a_guest_reads_them() {
    let mut machine = Machine::start("-serial null");

    // The line status of COM1: nothing received, all sent; with the modem control before it; and what no chip answers
    // for.
    let mut read = |line: &str| machine.ask("human-monitor-command", &json!({"command-line": line})).expect("text");
    let answers = ["i /1xb 0x3fd", "i/xh 0x3fc", "i /x 0x300", "i /xb 65536"].map(|line| {
        let answer = read(line);
        answer.as_str().expect("text").replace('\r', "")
    });

    assert_eq!(answers[0], "portb[0x03fd] = 0x60\n");
    assert_eq!(answers[1], "portw[0x03fc] = 0x6008\n");
    assert_eq!(answers[2], "portl[0x0300] = 0xffffffff\n");
    assert!(answers[3].starts_with("0x10000 is no port\n"), "{}", answers[3]);
}

#[test]
fn devices_in_json_come_behind_all_others() {
    let mut machine = Machine::start(
        r#"-device {"driver":"virtio-rng-pci","id":"json"} -drive if=virtio,format=raw,file.driver=null-co
           -device virtio-rng-pci,id=text"#,
    );

    let pci = machine.ask("query-pci", &json!({})).expect("functions");

    let functions = pci[0]["devices"].as_array().expect("functions");
    let names: Vec<&str> = functions
        .iter()
        .filter(|function| function["slot"].as_u64() > Some(1))
        .map(|function| function["qdev_id"].as_str().expect("a name"))
        .collect();
    assert_eq!(names, ["text", "", "json"]);
}

#[test]
fn memory_that_nobody_uses_is_made_nevertheless() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("spare");
    let mut machine = Machine::start(&format!("-object memory-backend-file,id=m,size=4M,mem-path={}", path.display()));
    machine.ask("query-memdev", &json!({})).expect("memory");

    let length = std::fs::metadata(&path).expect("the file").len();
    let refused = std::process::Command::new(env!("CARGO_BIN_EXE_rhea"))
        .args(["-accel", "qtest", "-m", "16", "-display", "none"])
        .args(["-object", "memory-backend-file,id=m,size=4M,mem-path=/nonexistent/m"])
        .output()
        .expect("the program runs");

    assert_eq!(length, 4 << 20);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.ends_with("cannot open /nonexistent/m: No such file or directory\n"), "{said}");
}

#[test]
fn balloon_is_said_not_to_be_there() {
    let mut machine = Machine::start("-S");

    assert_eq!(machine.ask("query-balloon", &json!({})), Err("No balloon device has been activated".to_owned()));
    assert_eq!(machine.human("info balloon"), "Error: No balloon device has been activated\n");
}

/// Values of properties that QEMU 7.2.22 answered for the same command line.
#[test]
fn properties_are_told_as_in_qemu() {
    let mut machine = Machine::start(
        "-blockdev null-co,node-name=n0,size=1048576 -object iothread,id=it0 -object rng-random,id=r0
         -object memory-backend-ram,id=mb,size=16M -machine memory-backend=mb
         -device virtio-blk-pci,drive=n0,id=k1,serial=abc,iothread=it0 -device virtio-scsi-pci,id=j2
         -blockdev null-co,node-name=n1,size=1048576 -device scsi-hd,drive=n1,id=sh,lun=3
         -device isa-debug-exit,id=ex -chardev null,id=c0 -device isa-serial,id=port,chardev=c0 -device isa-serial,id=bare
         -device ide-cd,id=ide,bus=ide.1,unit=1",
    );
    machine.ask("device_add", &json!({"driver": "virtio-rng-pci", "id": "late"})).expect("plugged");

    for (path, property, value) in [
        ("/machine/peripheral/k1", "type", json!("virtio-blk-pci")),
        ("/machine/peripheral/k1", "realized", json!(true)),
        ("/machine/peripheral/k1", "hotplugged", json!(false)),
        ("/machine/peripheral/k1", "hotpluggable", json!(true)),
        ("/machine/peripheral/k1", "addr", json!(16)),
        ("/machine/peripheral/k1", "legacy-addr", json!("02.0")),
        ("/machine/peripheral/k1", "serial", json!("abc")),
        ("/machine/peripheral/k1", "iothread", json!("/objects/it0")),
        ("/machine/peripheral/k1", "queue-size", json!(256)),
        ("/machine/peripheral/k1", "virtio-backend", json!("/machine/peripheral/k1/virtio-backend")),
        ("/machine/peripheral/k1", "num-queues", json!(1)),
        ("/machine/peripheral/k1", "vectors", json!(2)),
        ("/machine/peripheral/k1", "bootindex", json!(-1)),
        ("/machine/peripheral/k1", "logical_block_size", json!(512)),
        ("/machine/peripheral/k1", "disable-legacy", json!("off")),
        ("/machine/peripheral/k1/virtio-backend", "type", json!("virtio-blk-device")),
        ("/machine/peripheral/k1/virtio-backend", "serial", json!("abc")),
        ("/machine/peripheral//j2/", "vectors", json!(4)),
        ("sh", "ver", json!("2.5+")),
        ("peripheral/sh", "product", json!("QEMU HARDDISK")),
        ("/machine/peripheral/port", "iobase", json!(0x3f8)),
        ("/machine/peripheral/port", "irq", json!(4)),
        ("/machine/peripheral/port", "chardev", json!("c0")),
        ("/machine/peripheral/bare", "chardev", json!("")),
        ("/machine/peripheral/bare", "index", json!(1)),
        ("/machine/peripheral/ide", "unit", json!(1)),
        ("/machine/peripheral/ide", "serial", json!("QM00004")),
        ("/machine/peripheral/late", "hotplugged", json!(true)),
        ("/machine/peripheral/sh", "drive", json!("n1")),
        ("/machine/peripheral/sh", "scsi-id", json!(0)),
        ("/machine/peripheral/sh", "lun", json!(3)),
        ("/machine/peripheral/ex", "iobase", json!(1281)),
        ("/machine/peripheral/ex", "hotpluggable", json!(false)),
        ("/objects/mb", "size", json!(16 << 20)),
        ("/objects/mb", "policy", json!("default")),
        ("/objects/it0", "thread-pool-max", json!(64)),
        ("/objects/r0", "filename", json!("/dev/urandom")),
        ("/machine", "memory-backend", json!("/objects/mb")),
        ("/machine", "memory", json!({"size": 16 << 20})),
        ("/", "machine", json!("/machine")),
    ] {
        assert_eq!(
            machine.ask("qom-get", &json!({"path": path, "property": property})),
            Ok(value),
            "{path} {property}"
        );
    }
    let behind = json!({"path": "/machine/peripheral/k1/virtio-backend", "property": "addr"});
    assert_eq!(machine.ask("qom-get", &behind), Err("Property 'virtio-blk-device.addr' not found".to_owned()));
    let lost = machine.ask("qom-get", &json!({"path": "k2", "property": "type"}));
    assert_eq!(lost, Err("Device 'k2' not found".to_owned()));
    assert_eq!(machine.ask("qom-list", &json!({"path": ""})), Err("Path '' is ambiguous".to_owned()));
    let unknown = machine.ask("qom-get", &json!({"path": "/machine/peripheral/k1", "property": "nope"}));
    assert_eq!(unknown, Err("Property 'virtio-blk-pci.nope' not found".to_owned()));
    let listed = entries(&mut machine, "/machine/peripheral/k1");
    for (name, r#type) in [("serial", "str"), ("realized", "bool"), ("virtio-backend", "child<virtio-blk-device>")] {
        assert!(listed.contains(&(name.to_owned(), r#type.to_owned())), "{name}: {listed:?}");
    }
}

/// Texts are QEMU's.
#[test]
fn limits_of_a_group_and_polling_of_a_thread_change_at_run_time() {
    let mut machine = Machine::start(
        "-object throttle-group,id=tg,limits.iops-total=100 -object iothread,id=io0 \
         -drive if=none,id=d0,format=raw,file.driver=null-co,throttling.group=other,iops=3 \
         -blockdev driver=throttle,node-name=t0,throttle-group=tg,file.driver=null-co \
         -device virtio-blk-pci,id=v0,drive=t0",
    );
    let set = |path: &str, property: &str, value: Value| json!({"path": path, "property": property, "value": value});
    let generic = |desc: &str| Err(desc.to_owned());
    let limits = |value: Value| set("/objects/tg", "limits", value);
    machine.ask("qom-set", &limits(json!({"bps-total": 200}))).expect("set");
    let now = machine.ask("qom-get", &json!({"path": "/objects/tg", "property": "limits"})).expect("limits");
    assert_eq!((&now["iops-total"], &now["bps-total"]), (&json!(100), &json!(200)));
    let told = machine.ask("query-block", &json!({})).expect("disks");
    let disk = told.as_array().expect("a list").iter().find(|disk| disk["qdev"].is_string()).expect("a disk");
    assert_eq!(disk["inserted"]["node-name"], "t0");
    let both = "bps/iops/max total values and read/write values cannot be used at the same time";
    assert_eq!(machine.ask("qom-set", &limits(json!({"bps-read": 200}))), generic(both));
    machine.ask("qom-set", &limits(json!({"bps-total": 0, "bps-read": 200}))).expect("set");
    let unknown = machine.ask("qom-set", &limits(json!({"foo": 200})));
    assert!(
        unknown.as_ref().is_err_and(|desc| desc.starts_with("Parameter 'limits.foo' is unexpected")),
        "{unknown:?}"
    );
    let object = "Invalid parameter type for 'limits', expected: object";
    assert_eq!(machine.ask("qom-set", &limits(json!(7))), generic(object));
    let old = json!({"path": "/objects/tg", "property": "x-bps-read"});
    assert_eq!(machine.ask("qom-get", &old), Ok(json!(200)));

    machine.ask("qom-set", &set("/objects/io0", "poll-max-ns", json!(7))).expect("set");
    machine.ask("qom-set", &set("/objects/io0", "poll-grow", json!(2))).expect("set");
    let threads = machine.ask("query-iothreads", &json!({})).expect("threads");
    assert_eq!((&threads[0]["poll-max-ns"], &threads[0]["poll-grow"]), (&json!(7), &json!(2)));
    for (path, property, value, desc) in [
        ("/objects/tg", "x-iops-total", json!(7), "Property cannot be set after initialization"),
        ("/objects/tg", "nosuch", json!(7), "Property 'throttle-group.nosuch' not found"),
        ("/objects/nosuch", "a", json!(7), "Device '/objects/nosuch' not found"),
        ("/objects/io0", "poll-max-ns", json!(-7), "poll-max-ns value must be in range [0, 9223372036854775807]"),
        ("/objects/io0", "poll-max-ns", json!("7"), "Invalid parameter type for 'poll-max-ns', expected: integer"),
        ("/objects/io0", "thread-pool-min", json!(65), "bad thread-pool-min/thread-pool-max values"),
        ("/objects/io0", "thread-pool-max", json!(0), "bad thread-pool-min/thread-pool-max values"),
        ("/objects/io0", "type", json!("x"), "Property 'iothread.type' is not writable"),
        ("/objects", "tg", json!(7), "Property 'container.tg' is not writable"),
        (
            "/machine/peripheral/v0",
            "num-queues",
            json!(1),
            "Attempt to set property 'num-queues' on anonymous device (type 'virtio-blk-device') after it was realized",
        ),
    ] {
        assert_eq!(machine.ask("qom-set", &set(path, property, value)), generic(desc), "{path} {property}");
    }
    assert_eq!(machine.ask("query-memory-devices", &json!({})), Ok(json!([])));
    assert_eq!(machine.ask("query-current-machine", &json!({})), Ok(json!({"wakeup-suspend-support": false})));
}

/// What is in a file of fw_cfg, through its ports (fw_cfg specification, "File Directory").
fn firmware_file(machine: &mut Machine, name: &str) -> Vec<u8> {
    fn read(machine: &mut Machine, key: u16, count: u32) -> Vec<u8> {
        machine.human(&format!("o /h 0x510 {key}"));
        let byte = |_| machine.human("i /b 0x511").rsplit("0x").next().expect("a number").trim().to_owned();
        (0..count).map(byte).map(|digits| u8::from_str_radix(&digits, 16).expect("a byte")).collect()
    }
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
    let count = number(&read(machine, 0x19, 4));
    let directory = read(machine, 0x19, 4 + 64 * count);
    let entry = directory[4..].chunks(64).find(|entry| entry[8..].starts_with(format!("{name}\0").as_bytes()));
    let entry = entry.expect("the file");
    read(machine, u16::try_from(number(&entry[4..6])).expect("a key"), number(&entry[..4]))
}

/// Texts are QEMU's.
#[test]
fn place_in_the_order_of_starting_changes_at_the_next_reset() {
    let mut machine = Machine::start(
        "-blockdev null-co,node-name=a -blockdev null-co,node-name=b -device virtio-rng-pci,id=r,addr=7 \
         -device virtio-blk-pci,id=a,drive=a,addr=5,bootindex=1 -device virtio-scsi-pci,id=s,addr=6 \
         -device scsi-hd,id=b,drive=b,bus=s.0,bootindex=2 -device ide-cd,id=c,bus=ide.0",
    );
    let [a, b, c] =
        ["/pci@i0cf8/scsi@5/disk@0,0", "/pci@i0cf8/scsi@6/channel@0/disk@0,0", "/pci@i0cf8/ide@1,1/drive@0/disk@0"];
    let list = |paths: &[&str]| format!("{}\0", paths.join("\n")).into_bytes();
    let set = |path: &str, value: Value| json!({"path": path, "property": "bootindex", "value": value});

    machine.ask("qom-set", &set("c", json!(0))).expect("set");
    let before = firmware_file(&mut machine, "bootorder");
    machine.ask("system_reset", &json!({})).expect("a reset");
    let after = firmware_file(&mut machine, "bootorder");
    machine.ask("qom-set", &set("/machine/peripheral/a/virtio-backend", json!(-3))).expect("set");
    let now = machine.ask("qom-get", &json!({"path": "/machine/peripheral/a", "property": "bootindex"}));
    machine.ask("system_reset", &json!({})).expect("a reset");
    let without = firmware_file(&mut machine, "bootorder");

    assert_eq!((before, after), (list(&[a, b]), list(&[c, a, b])));
    assert_eq!((now, without), (Ok(json!(-3)), list(&[c, b])));
    for (path, value, desc) in [
        ("b", json!(2), "The bootindex 2 has already been used"),
        ("b", json!("1"), "Invalid parameter type for 'bootindex', expected: integer"),
        ("b", json!(2_147_483_648_u32), "Parameter 'bootindex' expects int32_t"),
        ("/machine/peripheral/r", json!(1), "Property 'virtio-rng-pci.bootindex' not found"),
    ] {
        assert_eq!(machine.ask("qom-set", &set(path, value)), Err(desc.to_owned()), "{path}");
    }
}

/// The human monitor's words, each with what QEMU prints.
#[test]
fn people_add_and_look_at_devices_and_objects() {
    let mut machine = Machine::start("");
    for (line, printed) in [
        ("object_add throttle-group,id=tg,limits.iops-total=100", ""),
        (
            "object_add throttle-group,id=tg",
            "Error: attempt to add duplicate property 'tg' to object (type 'container')\n",
        ),
        ("object_add throttle-group", "Error: Parameter 'id' is missing\n"),
        (r#"object_add {"qom-type":"iothread","id":"io0"}"#, ""),
        ("object_del nosuch", "Error: object 'nosuch' not found\n"),
        ("device_add virtio-rng-pci,id=r0,max-bytes=100,period=1000", ""),
        ("device_add virtio-rng-pci,id=r0", "Error: Duplicate device ID 'r0'\n"),
        ("device_add nosuch", "Error: 'nosuch' is not a valid device model name\n"),
        ("device_add", "Error: Parameter 'driver' is missing\n"),
        ("device_del nosuch", "Error: Device 'nosuch' not found\n"),
        ("device_del r0", ""),
        ("qom-list", "/\n"),
        ("qom-list /objects", "type (string)\ntg (child<throttle-group>)\nio0 (child<iothread>)\n"),
        ("qom-list /nosuch", "Error: Device '/nosuch' not found\n"),
        ("qom-get /objects/tg x-iops-total", "100\n"),
        ("qom-get /objects/io0 type", "\"iothread\"\n"),
        ("qom-get /objects/tg nosuch", "Error: Property 'throttle-group.nosuch' not found\n"),
        ("qom-set /objects/io0 poll-max-ns 9", ""),
        ("qom-get /objects/io0 poll-max-ns", "9\n"),
        (r#"qom-set -j /objects/tg limits {"iops-total":7}"#, ""),
        ("qom-get /objects/tg x-iops-total", "7\n"),
        ("object_del io0", ""),
        ("qom-list /objects", "type (string)\ntg (child<throttle-group>)\n"),
    ] {
        assert_eq!(machine.human(line).replace("\r\n", "\n"), printed, "{line}");
    }
}

/// `device_add` reads as the command line does; `blockdev-add` has types. Texts are QEMU's.
#[test]
fn texts_stand_for_numbers_in_devices_and_not_in_nodes() {
    let mut machine = Machine::start("");
    let node = |more: Value| {
        let mut node = json!({"driver": "null-co", "node-name": "n", "size": 1 << 20});
        node.as_object_mut().expect("members").extend(more.as_object().expect("members").clone());
        node
    };
    let wrong = |name: &str, expected: &str| Err(format!("Invalid parameter type for '{name}', expected: {expected}"));
    assert_eq!(machine.ask("blockdev-add", &node(json!({"read-only": "yes"}))), wrong("read-only", "boolean"));
    assert_eq!(machine.ask("blockdev-add", &node(json!({"size": "100"}))), wrong("size", "integer"));
    assert_eq!(
        machine.ask("blockdev-add", &node(json!({"cache": {"direct": "on"}}))),
        wrong("cache.direct", "boolean")
    );
    assert_eq!(machine.ask("blockdev-add", &node(json!({"node-name": 7}))), wrong("node-name", "string"));
    let beneath = json!({"driver": "raw", "node-name": "r", "file": {"driver": "null-co", "read-only": "on"}});
    assert_eq!(machine.ask("blockdev-add", &beneath), wrong("file.read-only", "boolean"));
    let number = json!({"driver": "raw", "node-name": "r", "file": 7});
    assert_eq!(machine.ask("blockdev-add", &number), wrong("file", "BlockdevRef"));
    machine.ask("blockdev-add", &node(json!({}))).expect("a node");

    let disk =
        json!({"driver": "virtio-blk-pci", "id": "v0", "drive": "n", "logical_block_size": "4096", "num-queues": "1"});
    machine.ask("device_add", &disk).expect("a disk");
    let size = json!({"path": "/machine/peripheral/v0", "property": "logical_block_size"});
    assert_eq!(machine.ask("qom-get", &size), Ok(json!(4096)));
    let threaded = json!({"driver": "virtio-scsi-pci", "id": "s0", "iothread": "nosuch"});
    assert_eq!(machine.ask("device_add", &threaded), Err("Device 'nosuch' not found".to_owned()));
    assert_eq!(machine.ask("device_add", &disk), Err("Duplicate device ID 'v0'".to_owned()));
    let dice = |bytes: &str| json!({"driver": "virtio-rng-pci", "id": "r0", "max-bytes": bytes, "period": "1000"});
    assert_eq!(machine.ask("device_add", &dice("x")), Err("Parameter 'max-bytes' expects integer".to_owned()));
    machine.ask("device_add", &dice("100")).expect("a source");
}

#[test]
fn tree_of_objects_is_shown_from_a_path_on() {
    let mut machine = Machine::start("-device virtio-rng-pci,id=dice -object iothread,id=io0");

    assert_eq!(
        machine.human("info qom-tree"),
        "/machine (pc-i440fx-7.2-machine)\n  /peripheral (container)\n    /dice (virtio-rng-pci)\n      /virtio-backend \
         (virtio-rng-device)\n  /peripheral-anon (container)\n  /unattached (container)\n    /device[0] \
         (mc146818rtc)\n"
    );
    assert_eq!(machine.human("info qom-tree /objects"), "/objects (container)\n  /io0 (iothread)\n");
    assert_eq!(machine.human("info qom-tree nowhere"), "Path 'nowhere' could not be resolved.\n");
}
