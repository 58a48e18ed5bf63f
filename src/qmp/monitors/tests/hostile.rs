//! Clients that do what they should not.

use super::*;
use crate::qmp::framing::MAX_MESSAGE;

#[test]
fn line_over_the_bound_is_refused_and_the_next_one_served() {
    let fixture = Fixture::new();
    let mut client = fixture.client("q");
    let mut text = b"{\"execute\":\"".to_vec();
    text.extend(vec![b'x'; MAX_MESSAGE + 10]);
    text.extend(b"\"}\n");

    let (class, desc) = client.error(&text);

    assert_eq!(
        (class.as_str(), desc.as_str()),
        ("GenericError", "JSON parse error, message longer than 1048576 bytes")
    );
    assert_eq!(client.ask("{\"execute\":\"query-name\"}")["return"]["name"], "test");
}

#[test]
fn invalid_utf8_garbage_and_depth_get_an_error_each_and_the_client_goes_on() {
    let fixture = Fixture::new();
    let mut client = fixture.client("q");
    let deep = format!("{{\"execute\":{}\n", "[".repeat(500));
    let cases: [&[u8]; 5] =
        [b"{\"execute\":\"\xff\xfe\"}\n", b"\xff\n", b"garbage\n", b"{\"execute\":}\n", deep.as_bytes()];
    for text in cases {
        let (class, desc) = client.error(text);
        assert_eq!(class, "GenericError");
        assert!(desc.starts_with("JSON parse error, "), "{desc}");
    }
    assert_eq!(client.ask("{\"execute\":\"query-name\"}")["return"]["name"], "test");
}

#[test]
fn key_that_stands_twice_is_refused() {
    let fixture = Fixture::new();
    let mut client = fixture.client("q");
    for text in [
        "{\"execute\":\"query-name\",\"execute\":\"query-name\"}\n",
        "{'execute':'object-add','arguments':{'qom-type':'iothread','id':'a','id':'b'}}\n",
        "{'execute':'qom-list','arguments':{'path':[{'b':1,'b':2}]}}\n",
    ] {
        assert_eq!(client.error(text.as_bytes()).1, "JSON parse error, duplicate key");
    }
    assert_eq!(client.ask("{\"execute\":\"query-name\"}")["return"]["name"], "test");
}

#[test]
fn half_a_line_and_silence_holds_up_nobody_else() {
    let fixture = Fixture::new();
    let mut silent = fixture.client("a");
    silent.send("{\"execute\":\"query-");

    let mut other = fixture.client("b");

    assert_eq!(other.ask("{\"execute\":\"query-name\"}")["return"]["name"], "test");
    assert_eq!(silent.ask("name\"}")["return"]["name"], "test");
}

#[test]
fn client_that_sends_and_never_reads_is_not_read_from_without_bound() {
    let fixture = Fixture::new();
    let mut greedy = fixture.client("a");
    greedy.stream.get_ref().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let commands = "{\"execute\":\"query-commands\"}\n".repeat(1000);
    let mut sent = 0_usize;

    let stopped = (0..10_000).any(|_| {
        sent += commands.len();
        greedy.stream.get_mut().write_all(commands.as_bytes()).is_err()
    });

    assert!(stopped && sent < 16 << 20, "{sent} bytes of commands were taken without an answer read");
    let mut other = fixture.client("b");
    assert_eq!(other.ask("{\"execute\":\"query-name\"}")["return"]["name"], "test");
}

#[test]
fn client_that_never_reads_events_is_sent_away_and_the_next_one_served() {
    let fixture = Fixture::new();
    let path = fixture.add("a", Mode::Control { pretty: false });
    let mut deaf = Client::connect(&path);
    deaf.negotiate();
    let mut other = fixture.client("b");
    let until = Instant::now() + PATIENCE;

    let mut was_sent_away = false;
    while !was_sent_away && Instant::now() < until {
        for _ in 0..2000 {
            fixture.bus.emit(&Event::Stop);
        }
        for _ in 0..2000 {
            assert_eq!(other.read()["event"], "STOP");
        }
        let label = fixture.chardevs.device("a").unwrap();
        was_sent_away = label.filename().starts_with("disconnected:");
    }

    assert!(was_sent_away);
    drop(deaf);
    let mut next = Client::connect(&path);
    next.negotiate();
}

#[test]
fn random_bytes_are_survived() {
    let fixture = Fixture::new();
    let path = fixture.add("a", Mode::Control { pretty: false });
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..20 {
        let mut client = Client::connect(&path);
        client.stream.get_ref().set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let bytes: Vec<u8> = (0..20_000)
            .map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed.to_le_bytes()[3]
            })
            .collect();
        // The write may time out: nobody reads the errors that come back.
        let _ = client.stream.get_mut().write_all(&bytes);
    }
    Client::connect(&path).negotiate();
}
