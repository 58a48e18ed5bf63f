//! The client node against our server, and against servers that break the rules.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::*;
use crate::layer::{read_vec, write_all};
use crate::nbd::proto::{
    CHUNK_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, SERVER_MAGIC, SIMPLE_REPLY_MAGIC, read_u32, read_u64,
};
use crate::nbd::server::{Export, Server};
use crate::nbd::{Address, Listener};
use crate::protocol::memory::Memory;

fn name(path: &Path) -> NbdName {
    NbdName { address: Address::Unix(path.to_owned()), export: "disk".into() }
}

fn serve(path: &Path, layer: Arc<dyn Layer>) -> Server {
    let mut server = Server::new(0).unwrap();
    let export = Export {
        name: "disk".into(),
        description: None,
        layer,
        writable: true,
        several: true,
        write_through: false,
        bitmaps: Vec::new(),
        chain: None,
    };
    server.add(export).unwrap();
    server.start(Listener::unix(path).unwrap()).unwrap();
    server
}

#[test]
fn what_is_written_comes_back_from_server_and_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("n");
    let below = Arc::new(Memory::new(vec![7; 1 << 20]));
    let _server = serve(&path, below.clone());
    let client = NbdClient::open(name(&path), ClientOptions::default()).unwrap();
    assert_eq!(client.size(), 1 << 20);

    write_all(&client, &[1; 5000], 333).unwrap();
    client.write_zeroes(100_000, 50_000, true).unwrap();
    client.flush().unwrap();

    let bytes = read_vec(&client, 0, 1 << 20).unwrap();
    assert_eq!(bytes, below.bytes());
    assert_eq!((bytes[332], bytes[333], bytes[5332], bytes[5333]), (7, 1, 1, 7));
    assert!(bytes[100_000..150_000].iter().all(|b| *b == 0));
}

#[test]
fn holes_are_told_across_the_wire() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("n");
    let file: Arc<dyn Layer> = Arc::new(Memory::new(Vec::new()));
    let options = crate::format::qcow2::CreateOptions { size: 1 << 30, ..Default::default() };
    let image = crate::format::qcow2::create(&file, None, &options).unwrap();
    write_all(&image, &[1; 65536], 1 << 20).unwrap();
    let _server = serve(&path, Arc::new(image));
    let client = NbdClient::open(name(&path), ClientOptions::default()).unwrap();

    let first = client.status(0, 1 << 30).unwrap();
    let second = client.status(1 << 20, 1 << 30).unwrap();

    assert_eq!((first.len, first.data, first.zero), (1 << 20, false, true));
    assert_eq!((second.len, second.data, second.zero), (65536, true, false));
}

#[test]
fn many_threads_read_what_they_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("n");
    let _server = serve(&path, Arc::new(Memory::new(vec![0; 1 << 20])));
    let client = NbdClient::open(name(&path), ClientOptions::default()).unwrap();
    std::thread::scope(|scope| {
        for n in 0..16u8 {
            let client = &client;
            scope.spawn(move || {
                for round in 0..50u8 {
                    write_all(client, &[n ^ round; 4096], u64::from(n) * 4096).unwrap();
                    assert_eq!(read_vec(client, u64::from(n) * 4096, 4096).unwrap(), [n ^ round; 4096]);
                }
            });
        }
    });
}

#[test]
fn requests_wait_for_a_server_that_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("n");
    let below = Arc::new(Memory::new(vec![7; 1 << 20]));
    let server = serve(&path, below.clone());
    let options = ClientOptions { reconnect_delay: Duration::from_secs(30), ..ClientOptions::default() };
    let client = NbdClient::open(name(&path), options).unwrap();
    drop(server);

    std::thread::scope(|scope| {
        let write = scope.spawn(|| write_all(&client, &[1; 512], 0));
        let _server = serve(&path, below.clone());
        write.join().unwrap().unwrap();
    });

    assert_eq!(below.bytes()[..513], [vec![1; 512], vec![7]].concat());
}

#[test]
fn without_a_delay_requests_fail_when_the_server_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("n");
    let server = serve(&path, Arc::new(Memory::new(vec![7; 1 << 20])));
    let client = NbdClient::open(name(&path), ClientOptions::default()).unwrap();
    drop(server);

    let error = read_vec(&client, 0, 512).unwrap_err();

    assert!(error.to_string().contains("is gone"), "{error}");
}

/// Stands on the socket `front` before the server on `back`, and counts who connects.
fn gateway(front: &Path, back: &Path) -> Arc<AtomicUsize> {
    let listener = UnixListener::bind(front).unwrap();
    let (back, counted) = (back.to_owned(), Arc::new(AtomicUsize::new(0)));
    let count = counted.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            count.fetch_add(1, Ordering::SeqCst);
            let server = UnixStream::connect(&back).unwrap();
            for (mut from, mut to) in [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))]
                .map(|(from, to)| (from.unwrap(), to.unwrap()))
            {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    counted
}

/// A disk whose reads take a while.
#[derive(Debug)]
struct Slow(Memory);

impl Layer for Slow {
    fn driver(&self) -> &'static str {
        "slow"
    }
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn limits(&self) -> Limits {
        self.0.limits()
    }
    fn read(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        std::thread::sleep(Duration::from_millis(20));
        self.0.read(into, offset)
    }
    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        self.0.write(from, offset)
    }
    fn flush(&self) -> Result<(), BlockError> {
        self.0.flush()
    }
    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.0.discard(offset, len)
    }
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.0.write_zeroes(offset, len, unmap)
    }
    fn status(&self, offset: u64, len: u64) -> Result<Status, BlockError> {
        self.0.status(offset, len)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[test]
fn further_connections_come_with_work_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let [front, back] = ["front", "back"].map(|name| folder.path().join(name));
    let _server = serve(&back, Arc::new(Slow(Memory::new(vec![7; 4096]))));
    let connections = gateway(&front, &back);
    let client = NbdClient::open(name(&front), ClientOptions::default()).unwrap();

    // One request after the other.
    (0..5).for_each(|_| assert_eq!(read_vec(&client, 0, 512).unwrap(), [7; 512]));
    assert_eq!(connections.load(Ordering::SeqCst), 1);

    // Many at once, until all connections are there.
    let deadline = Instant::now() + Duration::from_secs(30);
    while connections.load(Ordering::SeqCst) < 4 {
        assert!(Instant::now() < deadline, "{connections:?} connections");
        std::thread::scope(|scope| {
            (0..8).for_each(|_| drop(scope.spawn(|| assert_eq!(read_vec(&client, 0, 512).unwrap(), [7; 512]))));
        });
    }
}

#[test]
fn server_that_is_not_there_yet_is_waited_for_and_a_wrong_export_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("n");
    let error = NbdClient::open(name(&path), ClientOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);

    let patient = ClientOptions { open_timeout: Duration::from_secs(30), ..ClientOptions::default() };
    let opening = std::thread::spawn({
        let path = path.clone();
        let patient = patient.clone();
        move || NbdClient::open(name(&path), patient).map(drop)
    });
    let _server = serve(&path, Arc::new(Memory::new(vec![7; 512])));
    opening.join().unwrap().unwrap();

    let wrong = NbdName { export: "other".into(), ..name(&path) };
    let error = NbdClient::open(wrong, patient).unwrap_err();
    assert!(error.to_string().contains("Requested export not available"), "{error}");
}

/// A server of one client: newstyle, simple replies unless `structured`, an export of a megabyte, then `act`.
fn bad_server(path: &Path, structured: bool, act: impl FnOnce(UnixStream) + Send + 'static) {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        greet(&mut stream);
        agree(&mut stream, structured, None);
        act(stream);
    });
}

/// The rest of the handshake; `base:allocation` is there if it has a number.
fn agree(stream: &mut UnixStream, structured: bool, context: Option<u32>) {
    loop {
        let (option, _) = option(stream);
        match (option, context) {
            (8, _) if structured => answer(stream, 8, 1, &[]),
            (10, Some(number)) => {
                answer(stream, 10, 4, &[&number.to_be_bytes(), b"base:allocation".as_slice()].concat());
                answer(stream, 10, 1, &[]);
            }
            (7, _) => break,
            (other, _) => answer(stream, other, 0x8000_0001, &[]),
        }
    }
    let mut info = 0u16.to_be_bytes().to_vec();
    info.extend((1u64 << 20).to_be_bytes());
    info.extend(0x1u16.to_be_bytes());
    answer(stream, 7, 3, &info);
    answer(stream, 7, 1, &[]);
}

/// A server of many clients, one after the other, with chunks; `act` gets each with its number, from 0 on, which is also
/// that of its context.
fn server_of_many(path: &Path, act: impl Fn(u32, UnixStream) + Send + 'static) -> Arc<AtomicUsize> {
    let listener = UnixListener::bind(path).unwrap();
    let counted = Arc::new(AtomicUsize::new(0));
    let count = counted.clone();
    std::thread::spawn(move || {
        for (number, client) in (0..).zip(listener.incoming()) {
            let mut client = client.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            greet(&mut client);
            agree(&mut client, true, Some(number));
            act(number, client);
        }
    });
    counted
}

#[test]
fn server_that_hangs_up_after_each_handshake_is_left_alone_for_longer_and_longer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("n");
    let connections = server_of_many(&path, |_, client| drop(client));
    let _client = NbdClient::open(name(&path), ClientOptions::default()).unwrap();

    std::thread::sleep(Duration::from_millis(1500));

    // At the beginning, at once, after a second; the fourth is due after three.
    let count = connections.load(Ordering::SeqCst);
    assert!((1..=3).contains(&count), "{count} connections");
}

#[test]
fn server_may_number_its_contexts_anew_on_each_connection() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("n");
    server_of_many(&path, |number, mut client| {
        // The first one ends with its first request.
        let cookie = cookie(&mut client);
        let status = [number, 512, 3].map(u32::to_be_bytes).concat();
        if number > 0 {
            client.write_all(&chunk(1, 5, cookie, &status)).unwrap();
            let _ = client.read(&mut [0; 64]);
        }
    });
    let options = ClientOptions { reconnect_delay: Duration::from_secs(30), ..ClientOptions::default() };
    let client = NbdClient::open(name(&path), options).unwrap();

    let status = client.status(0, 512).unwrap();

    assert_eq!((status.len, status.data, status.zero), (512, false, true));
}

fn greet(stream: &mut UnixStream) {
    let mut greeting = SERVER_MAGIC.to_be_bytes().to_vec();
    greeting.extend(OPTION_MAGIC.to_be_bytes());
    greeting.extend(3u16.to_be_bytes());
    stream.write_all(&greeting).unwrap();
    read_u32(stream).unwrap();
}

fn option(stream: &mut UnixStream) -> (u32, Vec<u8>) {
    assert_eq!(read_u64(stream).unwrap(), OPTION_MAGIC);
    let option = read_u32(stream).unwrap();
    let mut payload = vec![0; read_u32(stream).unwrap() as usize];
    stream.read_exact(&mut payload).unwrap();
    (option, payload)
}

fn answer(stream: &mut UnixStream, option: u32, kind: u32, payload: &[u8]) {
    let mut bytes = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    // The client may have hung up on us already.
    let _ = stream.write_all(&bytes);
}

/// Takes one request and gives its cookie.
fn cookie(stream: &mut UnixStream) -> u64 {
    let mut header = [0; 28];
    stream.read_exact(&mut header).unwrap();
    u64::from_be_bytes(header[8..16].try_into().unwrap())
}

fn chunk(flags: u16, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = CHUNK_MAGIC.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes
}

#[test]
fn replies_that_break_the_rules_end_the_connection_and_the_request() {
    let at = |offset: u64, len: usize| [offset.to_be_bytes().to_vec(), vec![1; len]].concat();
    let hole = |len: u32| [0u64.to_be_bytes().to_vec(), len.to_be_bytes().to_vec()].concat();
    let simple = |cookie: u64| [SIMPLE_REPLY_MAGIC.to_be_bytes().to_vec(), vec![0; 4], cookie.to_be_bytes().to_vec()];
    type Wrong = Box<dyn Fn(u64) -> Vec<u8> + Send>;
    let wrong: Vec<(bool, Wrong)> = vec![
        (false, Box::new(|_| vec![0xff; 16])),
        (false, Box::new(move |cookie| simple(cookie + 1).concat())),
        (false, Box::new(|cookie| chunk(1, 0, cookie, &[]))),
        (true, Box::new(move |cookie| simple(cookie).concat())),
        (true, Box::new(move |cookie| chunk(1, 1, cookie, &at(0, 513)))),
        (true, Box::new(move |cookie| chunk(1, 1, cookie, &at(1, 512)))),
        (true, Box::new(move |cookie| chunk(1, 1, cookie, &at(0, 511)))),
        (true, Box::new(move |cookie| chunk(1, 2, cookie, &hole(u32::MAX)))),
        (true, Box::new(move |cookie| chunk(0, 2, cookie, &hole(512)).repeat(2))),
        (true, Box::new(|cookie| chunk(1, 0, cookie, &[]))),
        (true, Box::new(|cookie| chunk(0, 0, cookie, &[]))),
        (true, Box::new(|cookie| chunk(1, 5, cookie, &[0; 12]))),
        (true, Box::new(|cookie| chunk(1, 77, cookie, &[0; 12]))),
        (true, Box::new(|cookie| chunk(1, 0x8001, cookie, &[0; 1 << 16]))),
        (true, Box::new(|cookie| chunk(0, 0x8001, cookie, &[0; 6]).repeat(100))),
    ];
    for (n, (structured, wrong)) in wrong.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n");
        bad_server(&path, structured, move |mut stream| {
            let bytes = wrong(cookie(&mut stream));
            let _ = stream.write_all(&bytes);
            // Only the client ends the connection.
            let _ = stream.read(&mut [0; 64]);
        });
        let client = NbdClient::open(name(&path), ClientOptions::default()).unwrap();
        let error = read_vec(&client, 0, 512).unwrap_err();
        assert!(error.to_string().contains("is gone"), "case {n}: {error}");
    }
}

#[test]
fn giving_up_wakes_who_waits_for_a_silent_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("n");
    let (heard, hearing) = std::sync::mpsc::channel();
    bad_server(&path, true, move |mut stream| {
        heard.send(cookie(&mut stream)).unwrap();
        let _ = stream.read(&mut [0; 64]);
    });
    let options = ClientOptions { reconnect_delay: Duration::from_secs(3600), ..ClientOptions::default() };
    let client = NbdClient::open(name(&path), options).unwrap();
    std::thread::scope(|scope| {
        let read = scope.spawn(|| read_vec(&client, 0, 512));
        hearing.recv().unwrap();
        let before = Instant::now();
        client.give_up();
        assert!(read.join().unwrap().is_err());
        assert!(before.elapsed() < Duration::from_secs(60));
    });
}

#[test]
fn server_that_is_not_waited_for_serves_again_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("n");
    let (heard, hearing) = std::sync::mpsc::channel();
    server_of_many(&path, move |_, mut client| {
        // The first one gets no answer.
        let cookie = cookie(&mut client);
        if heard.send(()).is_err() {
            let bytes = [0u64.to_be_bytes().to_vec(), vec![5; 512]].concat();
            client.write_all(&chunk(1, 1, cookie, &bytes)).unwrap();
        }
        let _ = client.read(&mut [0; 64]);
    });
    let options = ClientOptions { reconnect_delay: Duration::from_secs(3600), ..ClientOptions::default() };
    let client = NbdClient::open(name(&path), options).unwrap();

    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| read_vec(&client, 0, 512));
        hearing.recv().unwrap();
        drop(hearing);
        let _unawaited = client.unawaited();
        (first.join().unwrap(), read_vec(&client, 0, 512))
    });

    assert!(first.is_err() && second.is_err());
    assert_eq!(read_vec(&client, 0, 512).unwrap(), [5; 512]);
}

#[test]
fn connection_on_which_nothing_waits_stays_when_the_server_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("n");
    let _server = serve(&path, Arc::new(Memory::new(vec![7; 512])));
    let client = NbdClient::open(name(&path), ClientOptions::default()).unwrap();

    let unawaited = client.unawaited();
    let meanwhile = read_vec(&client, 0, 512);
    drop(unawaited);

    assert!(meanwhile.is_err());
    assert_eq!(read_vec(&client, 0, 512).unwrap(), [7; 512]);
}

#[test]
fn nothing_past_the_end_is_asked_of_a_server_with_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("n");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        greet(&mut stream);
        while option(&mut stream).0 != 7 {
            answer(&mut stream, 8, 0x8000_0001, &[]);
        }
        let blocks = [4096u32, 4096, 1 << 20].map(u32::to_be_bytes).concat();
        answer(&mut stream, 7, 3, &[[0, 3].as_slice(), &blocks].concat());
        answer(&mut stream, 7, 3, &[[0, 0].as_slice(), &(1u64 << 20).to_be_bytes(), &[0, 1]].concat());
        answer(&mut stream, 7, 1, &[]);
        // A request would fail: the client hangs up first, or is hung up on.
        let _ = stream.read(&mut [0; 64]);
    });
    let client = NbdClient::open(name(&path), ClientOptions::default()).unwrap();

    assert_eq!(read_vec(&client, (1 << 20) + 100, 512).unwrap(), [0; 512]);
}

#[test]
fn handshakes_that_break_the_rules_are_refused() {
    type Act = fn(&mut UnixStream);
    let acts: [(&str, Act); 7] = [
        ("does not speak NBD", |stream| stream.write_all(&[0; 32]).unwrap()),
        ("old handshake", |stream| {
            stream.write_all(&SERVER_MAGIC.to_be_bytes()).unwrap();
            stream.write_all(&0x0000_4202_8186_1253u64.to_be_bytes()).unwrap();
        }),
        ("announced where at most", |stream| {
            greet(stream);
            let mut bytes = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
            bytes.extend([8u32, 1, u32::MAX].iter().flat_map(|n| n.to_be_bytes()));
            stream.write_all(&bytes).unwrap();
        }),
        ("reply is to another option", |stream| {
            greet(stream);
            answer(stream, 9, 1, &[]);
        }),
        ("wants TLS", |stream| {
            greet(stream);
            option(stream);
            answer(stream, 8, 0x8000_0005, b"no");
        }),
        ("no end of replies", |stream| {
            greet(stream);
            answer(stream, 8, 0x8000_0001, &[]);
            (0..300).for_each(|_| answer(stream, 7, 3, &[0, 1]));
        }),
        ("block sizes", |stream| {
            greet(stream);
            answer(stream, 8, 0x8000_0001, &[]);
            answer(stream, 7, 3, &[[0, 3].as_slice(), &[0; 12]].concat());
        }),
    ];
    for (expected, act) in acts {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            act(&mut stream);
            // Until the client hangs up: an end of ours would say something else.
            while stream.read(&mut [0; 64]).is_ok_and(|n| n > 0) {}
        });
        let error = NbdClient::open(name(&path), ClientOptions::default()).unwrap_err();
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text += &format!(": {cause}");
            source = cause.source();
        }
        assert!(text.contains(expected), "{expected}: {text}");
    }
}
