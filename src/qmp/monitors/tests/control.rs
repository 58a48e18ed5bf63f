use super::*;

fn not_found(desc: &str) -> (String, String) {
    ("CommandNotFound".into(), desc.into())
}

#[test]
fn greeting_names_the_version_and_the_program() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.add("q", Mode::Control { pretty: false }));

    let line = client.line();

    assert!(line.ends_with("}\r\n"), "{line:?}");
    let version = json!({"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": "rhea-test"});
    let greeting: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(greeting, json!({"QMP": {"version": version, "capabilities": []}}));
}

#[test]
fn nothing_but_capabilities_is_taken_before_them_and_they_only_once() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.add("q", Mode::Control { pretty: false }));
    client.read();

    let expecting = "Expecting capabilities negotiation with 'qmp_capabilities'";
    assert_eq!(client.error("{\"execute\":\"query-status\"}"), not_found(expecting));
    let oob = "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}";
    assert_eq!(client.error(oob).1, "Capability 'oob' not available");
    assert_eq!(client.ask("{'execute':'qmp_capabilities'}"), json!({"return": {}}));
    let done = "Capabilities negotiation is already complete, command ignored";
    assert_eq!(client.error("{\"execute\":\"qmp_capabilities\"}"), not_found(done));
}

#[test]
fn id_of_any_type_is_given_back_with_results_and_errors() {
    let fixture = Fixture::new();
    let mut client = fixture.client("q");

    for id in [json!("libvirt-7"), json!(5), json!(null), json!([1, {"a": 1.5}]), json!(false)] {
        let good = client.ask(json!({"execute": "query-name", "id": id}).to_string());
        assert_eq!(good, json!({"return": {"name": "test"}, "id": id}));
        let bad = client.ask(json!({"execute": "nope", "id": id}).to_string());
        assert_eq!(bad["id"], id);
    }
}

#[test]
fn reply_has_the_spaces_that_scripts_look_for() {
    let fixture = Fixture::new();
    let mut client = fixture.client("q");
    client.send("{\"execute\":\"query-status\",\"id\":1}");
    assert_eq!(
        client.line(),
        "{\"return\": {\"running\": false, \"singlestep\": false, \"status\": \"prelaunch\"}, \"id\": 1}\r\n"
    );
}

#[test]
fn pretty_monitor_writes_over_several_lines() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.add("q", Mode::Control { pretty: true }));
    client.until("\r\n");
    client.send("{\"execute\":\"qmp_capabilities\"}");
    assert_eq!(client.until("\r\n"), "{\n    \"return\": {}\n}\r\n");
}

#[test]
fn malformed_commands_are_answered_in_qemus_words() {
    let fixture = Fixture::new();
    let mut client = fixture.client("q");
    let cases = [
        ("[1]", "QMP input must be a JSON object"),
        ("{}", "QMP input lacks member 'execute'"),
        ("{\"exec\":\"foo\"}", "QMP input member 'exec' is unexpected"),
        ("{\"exec-oob\":\"foo\"}", "QMP input member 'exec-oob' is unexpected"),
        ("{\"execute\":5}", "QMP input member 'execute' must be a string"),
        ("{\"execute\":\"query-status\",\"arguments\":[]}", "QMP input member 'arguments' must be an object"),
        ("{\"execute\":\"query-status\",\"arguments\":{\"x\":1}}", "Parameter 'x' is unexpected"),
        ("{\"execute\":\"block_resize\",\"arguments\":{}}", "Parameter 'size' is missing"),
    ];
    for (text, desc) in cases {
        assert_eq!(client.error(text), ("GenericError".into(), desc.into()), "{text}");
    }
    assert_eq!(client.error("{\"execute\":\"foo\"}"), not_found("The command foo has not been found"));
}

#[test]
fn event_comes_before_the_reply_it_was_emitted_before_and_to_all_clients() {
    let fixture = Fixture::new();
    let (mut one, mut other) = (fixture.client("a"), fixture.client("b"));

    let first = one.ask("{\"execute\":\"cont\",\"id\":1}");

    assert_eq!(first["event"], "RESUME");
    assert!(first["timestamp"]["seconds"].as_u64().unwrap() > 1_600_000_000);
    assert_eq!(one.read(), json!({"return": {}, "id": 1}));
    assert_eq!(other.read()["event"], "RESUME");
}

#[test]
fn client_that_has_not_negotiated_hears_no_events() {
    let fixture = Fixture::new();
    let mut quiet = Client::connect(&fixture.add("a", Mode::Control { pretty: false }));
    quiet.read();
    let mut other = fixture.client("b");

    fixture.bus.emit(&Event::Stop);
    assert_eq!(other.read()["event"], "STOP");

    assert_eq!(quiet.ask("{\"execute\":\"qmp_capabilities\"}"), json!({"return": {}}));
}

#[test]
fn new_client_after_the_old_one_begins_anew() {
    let fixture = Fixture::new();
    let path = fixture.add("q", Mode::Control { pretty: false });
    for _ in 0..5 {
        let mut client = Client::connect(&path);
        client.negotiate();
        assert_eq!(client.ask("{\"execute\":\"query-name\"}"), json!({"return": {"name": "test"}}));
        client.send("{\"execute\":");
    }
}

#[test]
fn answer_for_a_client_that_left_does_not_reach_the_next() {
    let fixture = Fixture::new();
    let path = fixture.add("q", Mode::Control { pretty: false });
    let mut old = Client::connect(&path);
    old.negotiate();
    let held = fixture.hold.lock().unwrap();
    old.send("{\"execute\":\"query-status\",\"id\":\"old\"}");
    drop(old);
    let mut new = Client::connect(&path);
    assert!(new.read()["QMP"].is_object());
    drop(held);

    assert_eq!(new.ask("{\"execute\":\"qmp_capabilities\",\"id\":\"new\"}"), json!({"return": {}, "id": "new"}));
}

#[test]
fn commands_sent_at_once_are_answered_in_order() {
    let fixture = Fixture::new();
    let mut client = fixture.client("q");
    let commands: String = (0..200).map(|id| format!("{{\"execute\":\"query-name\",\"id\":{id}}}\r\n")).collect();
    client.send(commands);
    for id in 0..200 {
        assert_eq!(client.read()["id"], id);
    }
}

#[test]
fn command_that_is_not_offered_is_not_found() {
    let fixture = Fixture::with(Offer::all().without(&["query-name"]));
    let mut client = fixture.client("q");

    assert_eq!(client.error("{\"execute\":\"query-name\"}"), not_found("The command query-name has not been found"));
    let commands = client.ask("{\"execute\":\"query-commands\"}");
    assert!(!commands["return"].as_array().unwrap().contains(&json!({"name": "query-name"})));
    assert!(commands["return"].as_array().unwrap().contains(&json!({"name": "query-status"})));
}

#[test]
fn run_state_refuses_what_the_table_refuses() {
    let fixture = Fixture::new();
    let mut client = fixture.client("q");
    let refused = client.error("{\"execute\":\"system_wakeup\"}");
    assert_eq!(refused.1, "Unable to wake up: guest is not in suspended state");
}

#[test]
fn descriptor_that_comes_with_a_command_is_named_used_and_closed() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::os::fd::AsFd;
    let fixture = Fixture::new();
    let mut client = fixture.client("q");
    let getfd = "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"tap0\"}}";
    assert_eq!(client.error(getfd).1, "No file descriptor supplied via SCM_RIGHTS");

    let file = tempfile::tempfile().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [file.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let text = [io::IoSlice::new(getfd.as_bytes())];
    sendmsg(client.stream.get_ref(), &text, &mut control, SendFlags::empty()).unwrap();

    assert_eq!(client.read(), json!({"return": {}}));
    let closefd = "{\"execute\":\"closefd\",\"arguments\":{\"fdname\":\"tap0\"}}";
    assert_eq!(client.ask(closefd), json!({"return": {}}));
    assert_eq!(client.error(closefd).1, "File descriptor named 'tap0' not found");
}

#[test]
fn ring_buffer_is_written_and_read_as_text_and_base64() {
    let fixture = Fixture::new();
    fixture.chardevs.add(&Config::new("rb", Backend::Ringbuf { size: Some(64) })).unwrap();
    let mut client = fixture.client("q");
    let mut run =
        |name: &str, arguments: Value| client.ask(json!({"execute": name, "arguments": arguments}).to_string());

    run("ringbuf-write", json!({"device": "rb", "data": "hé"}));
    assert_eq!(run("ringbuf-read", json!({"device": "rb", "size": 99, "format": "base64"}))["return"], "aMOp");
    run("ringbuf-write", json!({"device": "rb", "data": "aGk=", "format": "base64"}));
    assert_eq!(run("ringbuf-read", json!({"device": "rb", "size": 99}))["return"], "hi");
    let errors = [
        (json!({"device": "rb", "size": 0}), "size must be greater than zero"),
        (json!({"device": "nope", "size": 1}), "Device 'nope' not found"),
        (json!({"device": "q", "size": 1}), "q is not a ringbuf device"),
    ];
    for (arguments, desc) in errors {
        assert_eq!(run("ringbuf-read", arguments)["error"]["desc"], desc);
    }
    let bad = run("ringbuf-write", json!({"device": "rb", "data": "!!", "format": "base64"}));
    assert_eq!(bad["error"]["desc"], "Base64 data contains invalid characters");
}

#[test]
fn character_devices_are_listed_with_who_is_there() {
    let fixture = Fixture::new();
    let mut client = fixture.client("q");
    let path = fixture.path("q");
    let expected =
        json!([{"label": "q", "filename": format!("unix:{},server=on", path.display()), "frontend-open": true}]);
    assert_eq!(client.ask("{\"execute\":\"query-chardev\"}")["return"], expected);
}

#[test]
fn all_that_was_posted_before_the_end_is_sent() {
    let fixture = Fixture::new();
    let mut client = fixture.client("q");

    fixture.bus.emit(&Event::Shutdown(crate::qmp::event::ShutdownCause::HostQmpQuit.into()));
    fixture.monitors.stop();
    fixture.chardevs.shut_down();

    assert_eq!(client.read()["data"], json!({"guest": false, "reason": "host-qmp-quit"}));
    assert_eq!(client.line(), "");
}

#[test]
fn character_device_is_added_used_and_removed() {
    let fixture = Fixture::new();
    let mut client = fixture.client("q");
    let path = fixture.path("late");
    let mut run =
        |name: &str, arguments: Value| client.ask(json!({"execute": name, "arguments": arguments}).to_string());
    let socket = json!({"type": "socket", "data": {"addr": {"type": "unix", "data": {"path": path}}}});

    assert_eq!(run("chardev-add", json!({"id": "late", "backend": socket})), json!({"return": {}}));
    drop(UnixStream::connect(&path).unwrap());
    assert_eq!(run("chardev-remove", json!({"id": "late"})), json!({"return": {}}));
    assert!(!path.exists());
    let pty = run("chardev-add", json!({"id": "p", "backend": {"type": "pty", "data": {}}}));
    assert!(pty["return"]["pty"].as_str().unwrap().starts_with("/dev/pts/"));
    let taken = run("chardev-add", json!({"id": "p", "backend": {"type": "null", "data": {}}}));
    assert_eq!(taken["error"]["desc"], "Chardev with id 'p' already exists");
    let busy = run("chardev-remove", json!({"id": "q"}));
    assert_eq!(busy["error"]["desc"], "Chardev 'q' is busy");
    let missing = run("chardev-add", json!({"id": "x"}));
    assert_eq!(missing["error"]["desc"], "Parameter 'backend' is missing");
}

#[test]
fn monitor_cannot_take_a_descriptor_by_number_once_the_machine_runs() {
    let fixture = Fixture::new();
    fixture.chardevs.fds().close_inheritance();
    let mut client = fixture.client("q");
    let backend = json!({"type": "socket", "data": {"addr": {"type": "fd", "data": {"str": "7"}}}});
    let refused =
        client.error(json!({"execute": "chardev-add", "arguments": {"id": "x", "backend": backend}}).to_string());
    assert!(refused.1.contains("was not passed to this process"), "{}", refused.1);
}

#[test]
fn schema_over_the_wire_describes_exactly_the_commands_there_are() {
    let fixture = Fixture::new();
    let mut client = fixture.client("q");
    let schema = client.ask("{\"execute\":\"query-qmp-schema\"}");
    let commands = client.ask("{\"execute\":\"query-commands\"}");
    let described = schema["return"].as_array().unwrap().iter().filter(|entity| entity["meta-type"] == "command");
    let mut described: Vec<&str> = described.map(|entity| entity["name"].as_str().unwrap()).collect();
    let mut listed: Vec<&str> =
        commands["return"].as_array().unwrap().iter().map(|command| command["name"].as_str().unwrap()).collect();
    described.sort_unstable();
    listed.sort_unstable();
    assert_eq!(described, listed);
}
