//! The server's answers to clients that keep the rules and to those that do not. The client node's tests play the
//! other half; other people's clients are in the program's tests.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::*;
use crate::nbd::proto::{
    CHUNK_MAGIC, MOST_PAYLOAD, OPTION_MAGIC, OPTION_REPLY_MAGIC, RequestHeader, SERVER_MAGIC, SIMPLE_REPLY_MAGIC,
    command, option, put_string, read_u16, read_u32, read_u64, reply,
};
use crate::protocol::memory::Memory;

pub(crate) fn export(name: &str, bytes: Vec<u8>) -> Export {
    Export {
        name: name.to_owned(),
        description: None,
        layer: Arc::new(Memory::new(bytes)),
        writable: true,
        several: true,
        write_through: false,
        bitmaps: Vec::new(),
        chain: None,
    }
}

#[test]
fn texts_that_no_client_would_take_are_refused() {
    let server = Server::new(1).unwrap();
    let described = Export { description: Some("y".repeat(4097)), ..export("", vec![0]) };

    let refusals = [export(&"y".repeat(4097), vec![0]), described].map(|e| server.add(e).unwrap_err().to_string());

    let expected = ["name", "description"].map(|what| format!("an export's {what} has at most 4096 bytes"));
    assert_eq!(refusals, expected);
}

struct Rig {
    server: Server,
    folder: tempfile::TempDir,
}

fn rig(most: usize) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let listener = Listener::unix(&folder.path().join("n")).unwrap();
    let mut server = Server::new(most).unwrap();
    server.add(export("", vec![7; 1 << 20])).unwrap();
    server.start(listener).unwrap();
    Rig { server, folder }
}

impl Rig {
    /// A connection after the greeting.
    fn connect(&self) -> UnixStream {
        let mut stream = UnixStream::connect(self.folder.path().join("n")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(read_u64(&mut stream).unwrap(), SERVER_MAGIC);
        assert_eq!(read_u64(&mut stream).unwrap(), OPTION_MAGIC);
        assert_eq!(read_u16(&mut stream).unwrap(), 3);
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        stream
    }

    /// A connection in the transmission phase with simple replies.
    fn transmit(&self) -> UnixStream {
        let mut stream = self.connect();
        let mut payload = Vec::new();
        put_string(&mut payload, "");
        payload.extend(0u16.to_be_bytes());
        ask(&mut stream, option::GO, &payload);
        while take(&mut stream).0 != reply::ACK {}
        stream
    }
}

fn ask(stream: &mut UnixStream, option: u32, payload: &[u8]) {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    stream.write_all(&bytes).unwrap();
}

fn take(stream: &mut UnixStream) -> (u32, Vec<u8>) {
    assert_eq!(read_u64(stream).unwrap(), OPTION_REPLY_MAGIC);
    read_u32(stream).unwrap();
    let kind = read_u32(stream).unwrap();
    let mut payload = vec![0; read_u32(stream).unwrap() as usize];
    stream.read_exact(&mut payload).unwrap();
    (kind, payload)
}

fn request(stream: &mut UnixStream, command: u16, offset: u64, len: u32) {
    let header = RequestHeader { flags: 0, command, cookie: 5, offset, len };
    stream.write_all(&header.to_bytes()).unwrap();
}

fn simple_reply(stream: &mut UnixStream) -> u32 {
    assert_eq!(read_u32(stream).unwrap(), SIMPLE_REPLY_MAGIC);
    let error = read_u32(stream).unwrap();
    assert_eq!(read_u64(stream).unwrap(), 5);
    error
}

fn is_closed(stream: &mut UnixStream) -> bool {
    matches!(stream.read(&mut [0; 64]), Ok(0) | Err(_))
}

#[test]
fn requests_outside_the_export_are_refused_and_the_connection_goes_on() {
    let rig = rig(0);
    let mut stream = rig.transmit();
    request(&mut stream, command::READ, 1 << 20, 1);
    assert_eq!(simple_reply(&mut stream), 22);
    request(&mut stream, command::TRIM, u64::MAX, 2);
    assert_eq!(simple_reply(&mut stream), 28);
    request(&mut stream, 99, 0, 0);
    assert_eq!(simple_reply(&mut stream), 22);
    request(&mut stream, command::READ, 0, 1);
    assert_eq!(simple_reply(&mut stream), 0);
    stream.read_exact(&mut [0]).unwrap();
}

#[test]
fn read_longer_than_agreed_is_refused_and_write_hung_up_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::new(0).unwrap();
    let null = crate::protocol::null::Null::new("null-co", 1 << 40, true, false);
    server.add(Export { layer: Arc::new(null), ..export("", Vec::new()) }).unwrap();
    server.start(Listener::unix(&folder.path().join("n")).unwrap()).unwrap();
    let rig = Rig { server, folder };
    let mut stream = rig.transmit();
    request(&mut stream, command::READ, 0, MOST_PAYLOAD + 1);
    assert_eq!(simple_reply(&mut stream), 22);
    request(&mut stream, command::WRITE, 0, MOST_PAYLOAD + 1);
    assert!(is_closed(&mut stream));
}

#[test]
fn flags_that_a_command_has_not_are_refused() {
    let rig = rig(0);
    let mut stream = rig.transmit();
    // FUA, NO_HOLE, DF, REQ_ONE, and one of no command's.
    let mut refused = |command: u16| {
        [1u16, 2, 4, 8, 0x8000].map(|flags| {
            let header = RequestHeader { flags, command, cookie: 5, offset: 0, len: 0 };
            stream.write_all(&header.to_bytes()).unwrap();
            simple_reply(&mut stream)
        })
    };
    assert_eq!(refused(command::WRITE), [0, 22, 22, 22, 22]);
    assert_eq!(refused(command::WRITE_ZEROES), [0, 0, 22, 22, 22]);
    assert_eq!(refused(command::READ), [0, 22, 22, 22, 22], "no chunks were agreed on");
    assert_eq!(refused(command::FLUSH), [0, 22, 22, 22, 22]);
}

#[test]
fn options_that_make_no_sense_are_refused_or_hung_up_on() {
    let rig = rig(0);
    let mut stream = rig.connect();
    ask(&mut stream, 5, &[]);
    assert_eq!(take(&mut stream).0, reply::ERR_UNSUP);
    ask(&mut stream, option::GO, &[0xff; 9]);
    assert_eq!(take(&mut stream).0, reply::ERR_INVALID);
    ask(&mut stream, option::SET_META_CONTEXT, &[0; 8]);
    assert_eq!(take(&mut stream).0, reply::ERR_INVALID, "structured replies come first");
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option::GO.to_be_bytes());
    bytes.extend(u32::MAX.to_be_bytes());
    stream.write_all(&bytes).unwrap();
    assert!(is_closed(&mut stream), "four gigabytes of option");
}

#[test]
fn unknown_export_is_refused_and_another_may_be_asked_for() {
    let rig = rig(0);
    let mut stream = rig.connect();
    for (name, expected) in [("other", reply::ERR_UNKNOWN), ("", reply::INFO)] {
        let mut payload = Vec::new();
        put_string(&mut payload, name);
        payload.extend(0u16.to_be_bytes());
        ask(&mut stream, option::INFO, &payload);
        assert_eq!(take(&mut stream).0, expected, "{name}");
    }
}

#[test]
fn client_that_never_reads_its_replies_holds_up_nobody() {
    let rig = rig(0);
    let mut greedy = rig.transmit();
    greedy.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    let header = RequestHeader { flags: 0, command: command::READ, cookie: 5, offset: 0, len: 1 << 20 };
    // Until the server reads no more from it.
    while greedy.write_all(&header.to_bytes().repeat(100)).is_ok() {}
    let mut other = rig.transmit();
    request(&mut other, command::READ, 0, 4096);
    assert_eq!(simple_reply(&mut other), 0);
    drop(rig);
}

#[test]
fn clients_beyond_the_limit_wait_for_a_place() {
    let rig = rig(1);
    let first = rig.connect();
    let mut second = UnixStream::connect(rig.folder.path().join("n")).unwrap();
    second.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(read_u64(&mut second).is_err());
    drop(first);
    second.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(read_u64(&mut second).unwrap(), SERVER_MAGIC);
}

#[test]
fn client_that_hangs_up_amid_a_write_leaves_its_place() {
    let rig = rig(1);
    let mut first = rig.transmit();
    request(&mut first, command::WRITE, 0, 4096);
    first.write_all(&[1; 100]).unwrap();
    drop(first);
    let mut second = UnixStream::connect(rig.folder.path().join("n")).unwrap();
    second.set_read_timeout(Some(Duration::from_secs(10))).unwrap();

    let greeted = read_u64(&mut second);

    if greeted.is_err() {
        // It would wait for the first.
        std::mem::forget(rig);
    }
    assert_eq!(greeted.unwrap(), SERVER_MAGIC);
}

#[test]
fn client_counts_until_it_leaves() {
    let rig = rig(0);
    let [first, second] = [(); 2].map(|()| {
        let mut stream = rig.transmit();
        request(&mut stream, command::READ, 0, 4096);
        assert_eq!(simple_reply(&mut stream), 0);
        stream
    });
    let both = rig.server.users("");
    drop(first);
    let one = rig.server.users("");
    drop(second);
    assert_eq!((both, one, rig.server.users("")), (Some(2), Some(1), Some(0)));
}

#[test]
fn removed_export_is_hung_up_on() {
    let rig = rig(0);
    let mut stream = rig.transmit();
    let leaving = rig.server.remove("").unwrap();
    assert!(is_closed(&mut stream));
    leaving.wait();
    assert!(leaving.is_over() && rig.server.remove("").is_none());
    assert_eq!(rig.server.users(""), None);
}

#[test]
fn chunks_leave_out_zeroes_unless_told_not_to() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::new(0).unwrap();
    let null = crate::protocol::null::Null::new("null-co", 1 << 20, true, false);
    server.add(Export { layer: Arc::new(null), ..export("", Vec::new()) }).unwrap();
    server.start(Listener::unix(&folder.path().join("n")).unwrap()).unwrap();
    let rig = Rig { server, folder };
    let mut stream = rig.connect();
    ask(&mut stream, option::STRUCTURED_REPLY, &[]);
    assert_eq!(take(&mut stream).0, reply::ACK);
    let mut payload = Vec::new();
    put_string(&mut payload, "");
    payload.extend(0u16.to_be_bytes());
    ask(&mut stream, option::GO, &payload);
    while take(&mut stream).0 != reply::ACK {}
    for (flags, kind, len) in [(0u16, 2u16, 12u32), (4, 1, 8 + 4096)] {
        let header = RequestHeader { flags, command: command::READ, cookie: 5, offset: 0, len: 4096 };
        stream.write_all(&header.to_bytes()).unwrap();
        assert_eq!(read_u32(&mut stream).unwrap(), CHUNK_MAGIC);
        assert_eq!(read_u16(&mut stream).unwrap(), 1, "the last one");
        assert_eq!(read_u16(&mut stream).unwrap(), kind);
        read_u64(&mut stream).unwrap();
        assert_eq!(read_u32(&mut stream).unwrap(), len);
        stream.read_exact(&mut vec![0; len as usize]).unwrap();
    }
}

#[test]
fn client_that_knows_no_replies_to_options_is_served_what_it_names_and_nothing_else() {
    let rig = rig(0);
    let old = || {
        let mut stream = UnixStream::connect(rig.folder.path().join("n")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.read_exact(&mut [0; 18]).unwrap();
        stream.write_all(&0u32.to_be_bytes()).unwrap();
        stream
    };
    let mut stream = old();
    ask(&mut stream, option::EXPORT_NAME, &[]);
    assert_eq!(read_u64(&mut stream).unwrap(), 1 << 20);
    // Flags, and the zeroes that it did not do without.
    stream.read_exact(&mut [0; 2 + 124]).unwrap();
    request(&mut stream, command::READ, 0, 4);
    assert_eq!(simple_reply(&mut stream), 0);
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, [7; 4]);

    let mut stream = old();
    ask(&mut stream, option::LIST, &[]);
    assert!(is_closed(&mut stream));
}
