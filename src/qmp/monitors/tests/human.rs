use super::*;

const PROMPT: &str = "(qemu) ";

/// A human monitor with its first prompt read.
fn person(fixture: &Fixture) -> Client {
    let mut client = Client::connect(&fixture.add("h", Mode::Readline));
    let greeting = client.until(PROMPT);
    assert_eq!(greeting, "QEMU 7.2.0 monitor - type 'help' for more information\r\n(qemu) ");
    client
}

/// Types a line and gives back what is printed before the next prompt, without the echo.
fn say(client: &mut Client, line: &str) -> String {
    client.send(format!("{line}\r"));
    let text = client.until(PROMPT);
    let printed = text.strip_prefix(&format!("{line}\r\n")).unwrap_or_else(|| panic!("no echo in {text:?}"));
    printed.strip_suffix(PROMPT).unwrap().to_owned()
}

#[test]
fn commands_do_what_they_do_in_qmp() {
    let fixture = Fixture::new();
    let mut client = person(&fixture);

    assert_eq!(say(&mut client, "info status"), "VM status: paused (prelaunch)\r\n");
    assert_eq!(say(&mut client, "c"), "");
    assert_eq!(say(&mut client, "info status"), "VM status: running\r\n");
    assert_eq!(say(&mut client, "stop"), "");
    assert_eq!(say(&mut client, "info status"), "VM status: paused\r\n");
    assert_eq!(say(&mut client, "info name"), "test\r\n");
    assert_eq!(say(&mut client, "info version"), "7.2.0rhea-test\r\n");
}

#[test]
fn mistakes_are_told_in_qemus_words() {
    let fixture = Fixture::new();
    let mut client = person(&fixture);

    assert_eq!(say(&mut client, "bogus"), "unknown command: 'bogus'\r\n");
    assert_eq!(say(&mut client, "info bogus"), "unknown command: 'info bogus'\r\n");
    assert_eq!(
        say(&mut client, "stop now"),
        "stop|s: extraneous characters at the end of line\r\nTry \"help stop\" for more information\r\n"
    );
    assert_eq!(say(&mut client, "info uuid"), "Error: query-uuid is not in this machine\r\n");
    assert_eq!(say(&mut client, ""), "");
    assert_eq!(say(&mut client, "print \"open"), "unterminated string\r\n");
    assert!(say(&mut client, "help").contains("stop|s  -- stop emulation\r\n"));
    assert_eq!(say(&mut client, "help info status"), "info status  -- show the current VM status (running|paused)\r\n");
}

#[test]
fn chosen_cpu_is_kept_and_an_unknown_one_refused() {
    let fixture = Fixture::new();
    let mut client = person(&fixture);

    assert_eq!(say(&mut client, "info registers"), "registers of Some(0)\r\n");
    assert_eq!(say(&mut client, "cpu 1"), "");
    assert_eq!(say(&mut client, "info registers"), "registers of Some(1)\r\n");
    assert_eq!(say(&mut client, "info cpus"), "  CPU #0: thread_id=7\r\n* CPU #1: thread_id=8\r\n");
    assert_eq!(say(&mut client, "cpu 5"), "invalid CPU index\r\n");
    assert_eq!(say(&mut client, "info registers -a"), "registers of None\r\n");
}

#[test]
fn keys_edit_the_line() {
    let fixture = Fixture::new();
    let mut client = person(&fixture);

    client.send("inof\x7f\x7ffo statuss\x1b[D\x1b[3~\x1b[H\x05\r");
    assert!(client.until(PROMPT).contains("VM status: paused (prelaunch)"));
    client.send("\x1b[A\r");
    assert!(client.until(PROMPT).contains("VM status: paused (prelaunch)"));
    client.send("info sta\t\r");
    assert!(client.until(PROMPT).contains("VM status: paused (prelaunch)"));
}

#[test]
fn qmp_client_speaks_to_it_too() {
    let fixture = Fixture::new();
    let mut client = fixture.client("q");
    let mut run =
        |arguments: Value| client.ask(json!({"execute": "human-monitor-command", "arguments": arguments}).to_string());

    assert_eq!(run(json!({"command-line": "info status"}))["return"], "VM status: paused (prelaunch)\r\n");
    assert_eq!(run(json!({"command-line": "info registers", "cpu-index": 1}))["return"], "registers of Some(1)\r\n");
    let wrong = run(json!({"command-line": "info status", "cpu-index": 7}));
    assert_eq!(wrong["error"]["desc"], "Parameter 'cpu-index' expects a CPU number");
}

#[test]
fn memory_is_shown_in_the_formats_asked_for() {
    let fixture = Fixture::new();
    let mut client = person(&fixture);

    assert_eq!(say(&mut client, "xp /4xb 0x10"), "0000000000000010: 0x10 0x11 0x12 0x13\r\n");
    assert_eq!(say(&mut client, "xp/2xg 0"), "0000000000000000: 0x0706050403020100 0x0f0e0d0c0b0a0908\r\n");
    assert_eq!(say(&mut client, "x /3ub 254"), "00000000000000fe: 254 255   0\r\n");
    assert_eq!(say(&mut client, "x /2db 254"), "00000000000000fe:  -2  -1\r\n");
    assert_eq!(say(&mut client, "x /1c 0x41"), "0000000000000041: 'A' 'B' 'C' 'D'\r\n");
    assert_eq!(say(&mut client, "x /3ob 0x41"), "0000000000000041: 0101 0102 0103\r\n");
    assert_eq!(
        say(&mut client, "xp /17xb 0"),
        "0000000000000000: 0x00 0x01 0x02 0x03 0x04 0x05 0x06 0x07 0x08 0x09 0x0a 0x0b 0x0c 0x0d 0x0e 0x0f\r\n\
         0000000000000010: 0x10\r\n"
    );
    assert_eq!(say(&mut client, "x /1xw 0xffffffffff"), "Error: Cannot access memory\r\n");
    assert_eq!(say(&mut client, "x /99999999999xg 0"), "Error: at most 65536 bytes can be shown at once\r\n");
}

#[test]
fn numbers_are_reckoned() {
    let fixture = Fixture::new();
    let mut client = person(&fixture);

    for (text, value) in [
        ("1+2*3", "0x7"),
        ("/x 0x10|0xf", "0x1f"),
        ("/d (1 + 2) * 3 - -1", "10"),
        ("/d ~0", "-1"),
        ("~0", "0xffffffffffffffff"),
        ("0", "0"),
        ("/u -1", "18446744073709551615"),
    ] {
        assert_eq!(say(&mut client, &format!("print {text}")), format!("{value}\r\n"), "{text}");
    }
    for (text, why) in [
        ("1/0", "division by zero"),
        ("$rip", "unknown register"),
        ("1+", "unexpected end of expression"),
        ("1 1", "extraneous characters at the end of line"),
    ] {
        assert!(say(&mut client, &format!("print {text}")).starts_with(&format!("{why}\r\n")), "{text}");
    }
    let deep = "(".repeat(1000);
    assert!(say(&mut client, &format!("print {deep}")).starts_with("the expression is too deep"));
}

#[test]
fn endless_line_without_an_end_is_cut_off() {
    let fixture = Fixture::new();
    let mut client = person(&fixture);
    client.send(vec![b'a'; 100_000]);
    client.send("\r");
    assert!(client.until(PROMPT).len() < 10_000);
}

#[test]
fn monitor_behind_a_mux_speaks_when_it_has_the_keys() {
    let fixture = Fixture::new();
    let path = fixture.path("m");
    let config = Config { mux: true, ..Config::new("m", Backend::Socket(socket(&path))) };
    fixture.chardevs.add(&config).unwrap();
    let console = fixture.chardevs.frontend("m").unwrap();
    assert!(console.attach(Some(Arc::new(Quiet))));
    assert!(fixture.monitors.add(fixture.chardevs.frontend("m").unwrap(), Mode::Readline));
    let mut client = Client::connect(&path);

    client.send("\x01c");
    assert!(client.until(PROMPT).starts_with("QEMU 7.2.0 monitor"));
    assert_eq!(say(&mut client, "info name"), "test\r\n");
    client.send("\x01c");
    client.until("\r\n");
    console.write(b"console");
    assert_eq!(client.until("console"), "console");
    client.send("\x01c");
    assert_eq!(client.until(PROMPT), PROMPT);
}

/// A guest that says and hears nothing.
struct Quiet;

impl rhea_devices::chardev::CharFrontend for Quiet {
    fn room(&self) -> usize {
        64
    }
    fn receive(&self, _: &[u8]) {}
    fn event(&self, _: rhea_devices::chardev::CharEvent) {}
}
