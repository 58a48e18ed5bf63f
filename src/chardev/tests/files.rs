use super::*;

fn file(path: PathBuf, append: bool, input: Option<PathBuf>) -> Backend {
    Backend::File { path, append, input }
}

#[test]
fn file_gets_all_output_in_order_by_the_end() {
    let fixture = Fixture::new();
    let path = fixture.path("out");
    let device = fixture.add(file(path.clone(), false, None));
    let mut expected = Vec::new();
    for number in 0..1000_u32 {
        let line = format!("line {number}\n");
        assert_eq!(device.write(line.as_bytes()), line.len());
        expected.extend(line.into_bytes());
    }

    fixture.chardevs.shut_down();

    assert_eq!(std::fs::read(&path).unwrap(), expected);
}

#[test]
fn append_keeps_what_was_there_and_its_absence_does_not() {
    for (append, expected) in [(true, "oldnew"), (false, "new")] {
        let fixture = Fixture::new();
        let path = fixture.path("out");
        std::fs::write(&path, "old").unwrap();
        let device = fixture.add(file(path.clone(), append, None));

        device.write(b"new");
        fixture.chardevs.shut_down();

        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    }
}

#[test]
fn input_path_is_read_to_its_end_and_output_goes_on() {
    let fixture = Fixture::new();
    let (input, output) = (fixture.path("in"), fixture.path("out"));
    std::fs::write(&input, vec![b'i'; 10_000]).unwrap();
    let device = fixture.add(file(output.clone(), false, Some(input)));
    let guest = Fixture::attach(&device);

    guest.wait_bytes(&vec![b'i'; 10_000]);
    device.write(b"after");
    fixture.chardevs.shut_down();

    assert_eq!(std::fs::read(&output).unwrap(), b"after");
}

#[test]
fn log_file_has_a_copy_even_while_nobody_is_connected() {
    let fixture = Fixture::new();
    let log = fixture.path("log");
    std::fs::write(&log, "before ").unwrap();
    let backend = Backend::Socket(unix(&fixture.path("s")));
    let config = Config { logfile: Some(log.clone()), logappend: true, ..Config::new("c0", backend) };
    fixture.chardevs.add(&config).unwrap();

    fixture.chardevs.frontend("c0").unwrap().write(b"words");

    assert_eq!(std::fs::read_to_string(&log).unwrap(), "before words");
}

#[test]
fn set_member_is_used_where_a_path_names_its_set() {
    let fixture = Fixture::new();
    let path = fixture.path("out");
    let opened = std::fs::File::create(&path).unwrap();
    let set = fixture.chardevs.fds().add(None, opened.into(), Some("console".into())).unwrap().fdset_id;
    let device = fixture.add(file(format!("/dev/fdset/{set}").into(), false, None));

    device.write(b"through a set");
    fixture.chardevs.shut_down();

    assert_eq!(std::fs::read(&path).unwrap(), b"through a set");
    let listed = fixture.chardevs.fds().query();
    assert_eq!(listed[0].fds[0].opaque.as_deref(), Some("console"));
}

#[test]
fn set_without_a_fitting_member_is_refused() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("f"), "").unwrap();
    let read_only = std::fs::File::open(fixture.path("f")).unwrap();
    fixture.chardevs.fds().add(Some(3), read_only.into(), None).unwrap();

    let result = fixture.chardevs.add(&Config::new("c0", file("/dev/fdset/3".into(), false, None)));

    assert!(matches!(result, Err(ChardevError::Open { .. })));
}

#[test]
fn named_pipes_carry_both_ways() {
    let fixture = Fixture::new();
    for name in ["p.in", "p.out"] {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            fixture.path(name),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
    }
    let device = fixture.add(Backend::Pipe { path: fixture.path("p") });
    let guest = Fixture::attach(&device);

    std::fs::OpenOptions::new().write(true).open(fixture.path("p.in")).unwrap().write_all(b"to guest").unwrap();
    device.write(b"to host");

    guest.wait_bytes(b"to guest");
    assert_eq!(read_exactly(&mut std::fs::File::open(fixture.path("p.out")).unwrap(), 7), b"to host");
}

#[test]
fn missing_folder_is_named() {
    let fixture = Fixture::new();
    let error = fixture.chardevs.add(&Config::new("c0", file("/nowhere/at/all".into(), false, None))).unwrap_err();
    assert_eq!(error.to_string(), "cannot open /nowhere/at/all");
}

#[test]
fn ring_keeps_the_last_bytes_and_reading_empties_it() {
    let fixture = Fixture::new();
    let device = fixture.add(Backend::Ringbuf { size: Some(8) });

    device.write(b"0123456789");
    device.write(b"ab");

    assert_eq!(device.ring_read(3).unwrap(), b"456");
    assert_eq!(device.ring_read(100).unwrap(), b"789ab");
    assert_eq!(device.ring_read(100).unwrap(), b"");
}

#[test]
fn ring_size_must_be_a_power_of_two_within_bounds() {
    let fixture = Fixture::new();
    for size in [0, 3, 1 << 40] {
        let result = fixture.chardevs.add(&Config::new("c0", Backend::Ringbuf { size: Some(size) }));
        assert!(matches!(result, Err(ChardevError::RingSize)), "{size}");
    }
}

#[test]
fn names_are_unique_and_busy_devices_stay() {
    let fixture = Fixture::new();
    let device = fixture.add(Backend::Null);
    let _guest = Fixture::attach(&device);

    assert!(matches!(fixture.chardevs.add(&Config::new("c0", Backend::Null)), Err(ChardevError::Exists(_))));
    assert!(matches!(fixture.chardevs.frontend("c0"), Err(ChardevError::Busy(_))));
    assert_eq!(fixture.chardevs.remove("c0").unwrap_err().to_string(), "Chardev 'c0' is busy");
    assert_eq!(fixture.chardevs.remove("c1").unwrap_err().to_string(), "Chardev 'c1' not found");
    device.attach(None);
    fixture.chardevs.remove("c0").unwrap();
    assert!(fixture.chardevs.query().is_empty());
}
