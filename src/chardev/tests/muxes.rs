use super::*;

struct Shared {
    fixture: Fixture,
    faces: [Arc<dyn Chardev>; 2],
    guest: Arc<Recorder>,
    monitor: Arc<Recorder>,
    person: UnixStream,
}

/// A console and a monitor on one socket; the console has the input.
fn shared() -> Shared {
    let fixture = Fixture::new();
    let path = fixture.path("s");
    let config = Config { mux: true, ..Config::new("m", Backend::Socket(unix(&path))) };
    fixture.chardevs.add(&config).unwrap();
    let faces = [fixture.chardevs.frontend("m").unwrap(), fixture.chardevs.frontend("m").unwrap()];
    let [console, other] = &faces;
    let guest = Fixture::attach(console);
    let monitor = Fixture::attach(other);
    let person = client(&path);
    guest.wait_event(CharEvent::Opened, 1);
    monitor.wait_event(CharEvent::Opened, 1);
    Shared { fixture, faces, guest, monitor, person }
}

#[test]
fn input_goes_to_one_and_output_comes_from_both() {
    let mut shared = shared();

    shared.person.write_all(b"hi").unwrap();
    shared.guest.wait_bytes(b"hi");
    shared.faces[0].write(b"one");
    shared.faces[1].write(b"two");

    assert_eq!(read_exactly(&mut shared.person, 6), b"onetwo");
    assert_eq!(shared.monitor.bytes(), b"");
}

#[test]
fn escape_c_switches_and_what_was_typed_before_stays_where_it_was() {
    let mut shared = shared();

    shared.person.write_all(b"ab\x01cxy\x01cz").unwrap();

    shared.guest.wait_bytes(b"abz");
    shared.monitor.wait_bytes(b"xy");
    shared.monitor.wait_event(CharEvent::MuxIn, 1);
    shared.monitor.wait_event(CharEvent::MuxOut, 2);
}

#[test]
fn escape_escape_is_itself_and_an_unknown_letter_nothing() {
    let mut shared = shared();
    shared.person.write_all(b"\x01\x01\x01q!").unwrap();
    shared.guest.wait_bytes(b"\x01!");
}

#[test]
fn escape_split_over_two_reads_is_one() {
    let mut shared = shared();
    shared.person.write_all(b"a\x01").unwrap();
    shared.guest.wait_bytes(b"a");
    shared.person.write_all(b"b").unwrap();
    shared.guest.wait_event(CharEvent::Break, 1);
    assert_eq!(shared.guest.bytes(), b"a");
}

#[test]
fn escape_s_saves_once() {
    let mut shared = shared();

    shared.person.write_all(b"s\x01ss").unwrap();
    shared.guest.wait_bytes(b"ss");

    assert_eq!(*shared.fixture.escapes.lock().unwrap(), [Escape::Commit]);
}

#[test]
fn escape_x_quits_even_when_the_guest_takes_no_input() {
    let mut shared = shared();
    shared.guest.room.store(0, Ordering::SeqCst);

    shared.person.write_all(b"typed in vain\x01x").unwrap();

    assert_eq!(read_exactly(&mut shared.person, 18), b"QEMU: Terminated\n\r");
    assert_eq!(*shared.fixture.escapes.lock().unwrap(), [Escape::Quit]);
}

#[test]
fn escape_h_says_what_there_is() {
    let mut shared = shared();
    shared.person.write_all(b"\x01h").unwrap();
    assert_eq!(read_exactly(&mut shared.person, 26), b"\n\rC-a h    print this help");
}

#[test]
fn escape_t_puts_the_time_before_lines() {
    let mut shared = shared();
    shared.person.write_all(b"\x01t.").unwrap();
    shared.guest.wait_bytes(b".");

    shared.faces[0].write(b"a\nb");

    let text = String::from_utf8(read_exactly(&mut shared.person, 33)).unwrap();
    let lines: Vec<&str> = text.split('\n').collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with("[00:00:00.0") && lines[0].ends_with("] a"), "{text}");
    assert!(lines[1].starts_with('[') && lines[1].ends_with("] b"), "{text}");
}

#[test]
fn guest_that_has_room_again_gets_what_was_held() {
    let mut shared = shared();
    shared.guest.room.store(0, Ordering::SeqCst);
    shared.person.write_all(b"held").unwrap();
    shared.person.write_all(b"\x01cm").unwrap();
    shared.monitor.wait_bytes(b"m");

    shared.person.write_all(b"\x01c").unwrap();
    shared.guest.wait_event(CharEvent::MuxIn, 2);
    shared.guest.room.store(1, Ordering::SeqCst);
    shared.faces[0].accept_input();

    shared.guest.wait_bytes(b"held");
}

#[test]
fn mux_has_a_bounded_number_of_front_ends() {
    let shared = shared();
    let more = std::iter::from_fn(|| shared.fixture.chardevs.frontend("m").ok()).take(10).count();
    assert_eq!(more, 2);
}

#[test]
fn mux_on_a_device_that_is_there_takes_it() {
    let fixture = Fixture::new();
    let path = fixture.path("s");
    fixture.chardevs.add(&Config::new("host", Backend::Socket(unix(&path)))).unwrap();
    fixture.chardevs.add(&Config::new("m", Backend::Mux { chardev: "host".into() })).unwrap();
    let face = fixture.chardevs.frontend("m").unwrap();
    let guest = Fixture::attach(&face);
    let mut person = client(&path);

    guest.wait_event(CharEvent::Opened, 1);
    person.write_all(b"hi").unwrap();

    guest.wait_bytes(b"hi");
    assert_eq!(face.label(), "m");
    assert!(matches!(fixture.chardevs.frontend("host"), Err(ChardevError::Busy(_))));
    let missing = fixture.chardevs.add(&Config::new("n", Backend::Mux { chardev: "nope".into() }));
    assert!(matches!(missing, Err(ChardevError::NotFound(name)) if name == "nope"));
}
