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
    assert_eq!(part("        bus: ide.0"), part("          dev: ide-cd, id \"cd\"") - 1);
    let adapter = part("      dev: virtio-scsi-pci, id \"adapter\"");
    assert_eq!(part("        bus: adapter.0"), adapter + 1);
    assert_eq!(part("          dev: scsi-hd, id \"unit\""), adapter + 2);
    part("      dev: virtio-rng-pci, id \"\"");
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
