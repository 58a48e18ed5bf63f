use super::*;

#[test]
fn server_serves_one_client_after_the_other() {
    let fixture = Fixture::new();
    let path = fixture.path("s");
    let device = fixture.add(Backend::Socket(unix(&path)));
    let guest = Fixture::attach(&device);

    for round in 1..=2 {
        let mut other = client(&path);
        guest.wait_event(CharEvent::Opened, round);
        assert_eq!(device.write(b"hello"), 5);
        assert_eq!(read_exactly(&mut other, 5), b"hello");
        other.write_all(b"x").unwrap();
        guest.wait_bytes(&b"xx"[..round]);
        drop(other);
        guest.wait_event(CharEvent::Closed, round);
    }
}

#[test]
fn output_to_nobody_is_dropped() {
    let fixture = Fixture::new();
    let device = fixture.add(Backend::Socket(unix(&fixture.path("s"))));

    assert_eq!(device.write(&[0; 1 << 20]), 1 << 20);
}

#[test]
fn reader_that_stalls_limits_what_is_taken_and_room_is_told() {
    let fixture = Fixture::new();
    let path = fixture.path("s");
    let device = fixture.add(Backend::Socket(unix(&path)));
    let guest = Fixture::attach(&device);
    let mut other = client(&path);
    guest.wait_event(CharEvent::Opened, 1);

    let mut sent = 0;
    let chunk = [7; 4096];
    loop {
        let taken = device.write(&chunk);
        sent += taken;
        assert!(sent < 16 << 20, "nothing bounds the output");
        if taken < chunk.len() && guest.heard.lock().unwrap().writable == 0 {
            break;
        }
    }

    assert_eq!(read_exactly(&mut other, sent).len(), sent);
    guest.wait("room", |heard| heard.writable > 0);
}

#[test]
fn input_waits_until_the_guest_has_room() {
    let fixture = Fixture::new();
    let path = fixture.path("s");
    let device = fixture.add(Backend::Socket(unix(&path)));
    let guest = Recorder::new();
    guest.room.store(0, Ordering::SeqCst);
    device.attach(Some(guest.clone()));
    let mut other = client(&path);
    guest.wait_event(CharEvent::Opened, 1);
    other.write_all(b"abc").unwrap();
    assert_eq!(guest.bytes(), b"");

    guest.room.store(2, Ordering::SeqCst);
    device.accept_input();

    guest.wait_bytes(b"abc");
}

#[test]
fn socket_file_is_removed_at_the_end_and_an_old_one_replaced() {
    let fixture = Fixture::new();
    let path = fixture.path("s");
    drop(UnixListener::bind(&path).unwrap());
    let device = fixture.add(Backend::Socket(unix(&path)));

    assert_eq!(device.filename(), format!("disconnected:unix:{},server=on", path.display()));
    drop(client(&path));
    fixture.chardevs.shut_down();

    assert!(!path.exists());
}

#[test]
fn file_in_the_way_is_not_removed() {
    let fixture = Fixture::new();
    let path = fixture.path("s");
    std::fs::write(&path, "precious").unwrap();

    let error = fixture.chardevs.add(&Config::new("c0", Backend::Socket(unix(&path)))).unwrap_err();

    assert!(matches!(error, ChardevError::Listen { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn client_connects_again_after_the_server_left() {
    let fixture = Fixture::new();
    let path = fixture.path("s");
    let config = SocketConfig { server: false, reconnect: Duration::from_millis(20), ..unix(&path) };
    let device = fixture.add(Backend::Socket(config));
    let guest = Fixture::attach(&device);

    for round in 1..=2 {
        let server = UnixListener::bind(&path).unwrap();
        let (mut other, _) = server.accept().unwrap();
        guest.wait_event(CharEvent::Opened, round);
        device.write(b"again");
        assert_eq!(read_exactly(&mut other, 5), b"again");
        drop((server, other));
        std::fs::remove_file(&path).unwrap();
        guest.wait_event(CharEvent::Closed, round);
    }
}

#[test]
fn client_without_a_server_is_refused_at_once() {
    let fixture = Fixture::new();
    let config = SocketConfig { server: false, ..unix(&fixture.path("nobody")) };

    let error = fixture.chardevs.add(&Config::new("c0", Backend::Socket(config))).unwrap_err();

    assert!(error.to_string().starts_with("cannot connect to unix:"), "{error}");
}

#[test]
fn tcp_server_takes_the_next_free_port_and_names_both_ends() {
    let fixture = Fixture::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let address = SocketAddress::Inet {
        host: "127.0.0.1".into(),
        port: port.to_string(),
        to: Some(port.saturating_add(50)),
        ipv4: None,
        ipv6: None,
    };
    let device = fixture.add(Backend::Socket(SocketConfig { address, nodelay: true, ..unix(Path::new("")) }));
    let guest = Fixture::attach(&device);
    let found =
        (port + 1..=port.saturating_add(50)).find_map(|port| std::net::TcpStream::connect(("127.0.0.1", port)).ok());

    let mut other = found.unwrap();
    guest.wait_event(CharEvent::Opened, 1);
    device.write(b"tcp");

    assert_eq!(read_exactly(&mut other, 3), b"tcp");
    let names = format!("tcp:{},server=on <-> {}", other.peer_addr().unwrap(), other.local_addr().unwrap());
    assert_eq!(device.filename(), names);
}

#[test]
fn abstract_name_is_not_in_the_file_system() {
    use std::os::linux::net::SocketAddrExt;
    let fixture = Fixture::new();
    let name = format!("rhea-test-{}", std::process::id());
    let address = SocketAddress::Unix { path: name.clone().into(), is_abstract: true, tight: true };
    let device = fixture.add(Backend::Socket(SocketConfig { address, ..unix(Path::new("")) }));
    let guest = Fixture::attach(&device);

    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    let _other = UnixStream::connect_addr(&address).unwrap();

    guest.wait_event(CharEvent::Opened, 1);
}

#[test]
fn telnet_commands_are_not_input_and_255_is_doubled() {
    let fixture = Fixture::new();
    let path = fixture.path("s");
    let device = fixture.add(Backend::Socket(SocketConfig { telnet: true, ..unix(&path) }));
    let guest = Fixture::attach(&device);
    let mut other = client(&path);
    assert_eq!(read_exactly(&mut other, 12), [255, 251, 1, 255, 251, 3, 255, 251, 0, 255, 253, 0]);

    other.write_all(&[b'a', 255, 253, 1, b'b', 255, 255, 255, 250, 24, 1, 255, 240, 255, 243, b'c']).unwrap();
    guest.wait_bytes(&[b'a', b'b', 255, b'c']);
    guest.wait_event(CharEvent::Break, 1);
    device.write(&[1, 255, 2]);

    assert_eq!(read_exactly(&mut other, 4), [1, 255, 255, 2]);
}

#[test]
fn listening_descriptor_is_taken_over_once() {
    use std::os::fd::IntoRawFd;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let number = UnixListener::bind(&path).unwrap().into_raw_fd();
    let fixture = Fixture::new();
    let config = SocketConfig { address: SocketAddress::Fd(number.to_string()), ..unix(&path) };
    let device = fixture.add(Backend::Socket(config.clone()));
    let guest = Fixture::attach(&device);

    let _other = client(&path);

    guest.wait_event(CharEvent::Opened, 1);
    let error = fixture.chardevs.add(&Config::new("c1", Backend::Socket(config))).unwrap_err();
    assert!(error.to_string().contains("was not passed"), "{error}");
}

#[test]
fn numbers_name_nothing_once_monitors_can_say_them() {
    use std::os::fd::AsRawFd;
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("s")).unwrap();
    let fixture = Fixture::new();
    fixture.chardevs.fds().close_inheritance();
    let address = SocketAddress::Fd(listener.as_raw_fd().to_string());

    let result =
        fixture.chardevs.add(&Config::new("c0", Backend::Socket(SocketConfig { address, ..unix(Path::new("")) })));

    assert!(matches!(result, Err(ChardevError::Fd { .. })));
}

#[test]
fn descriptors_that_come_along_are_kept_in_order_and_bounded() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::os::fd::AsFd;
    let fixture = Fixture::new();
    let path = fixture.path("s");
    let device = fixture.add(Backend::Socket(unix(&path)));
    let guest = Fixture::attach(&device);
    let other = client(&path);
    let file = tempfile::tempfile().unwrap();

    for round in 1..=3_usize {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(10))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [file.as_fd(); 10];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&other, &[std::io::IoSlice::new(b"!")], &mut control, SendFlags::empty()).unwrap();
        guest.wait("bytes", |heard| heard.bytes.len() == round);
    }

    let kept = std::iter::from_fn(|| device.take_fd()).count();
    assert_eq!(kept, 16);
}

#[test]
fn what_the_program_opened_itself_is_not_to_be_had_by_number() {
    use std::os::fd::AsRawFd;
    let fixture = Fixture::new();
    let listener = UnixListener::bind(fixture.path("s")).unwrap();

    // A number that no other test has had open.
    let own = rustix::io::fcntl_dupfd_cloexec(&listener, 900).unwrap();

    let claimed = fixture.chardevs.fds().claim(own.as_raw_fd());

    assert!(claimed.unwrap_err().desc.contains("was not passed to this process"));
    for standard in 0..3 {
        assert!(fixture.chardevs.fds().claim(standard).is_err());
    }
}

#[test]
fn port_that_the_host_chose_is_told() {
    let fixture = Fixture::new();
    let address = SocketAddress::Inet { host: "127.0.0.1".into(), port: "0".into(), to: None, ipv4: None, ipv6: None };
    let device = fixture.add(Backend::Socket(SocketConfig { address, ..unix(&fixture.path("unused")) }));

    let name = device.filename();

    let port: u16 = name.trim_end_matches(",server=on").rsplit(':').next().unwrap().parse().unwrap();
    assert!(name.starts_with("disconnected:tcp:127.0.0.1:") && port != 0, "{name}");
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
}
