use super::*;

#[test]
fn other_end_that_always_has_another_byte_does_not_lengthen_the_time() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let writing = std::thread::spawn(move || while theirs.write_all(&[1]).is_ok() {});
    let socket = Socket::Unix(ours);
    let mut timed = Timed::within(Duration::from_millis(50), &socket);
    let (begin, mut ended) = (Instant::now(), None);

    while ended.is_none() && begin.elapsed() < Duration::from_secs(60) {
        ended = timed.read(&mut [0]).err();
    }

    drop(socket);
    writing.join().unwrap();
    assert_eq!(ended.map(|error| error.kind()), Some(io::ErrorKind::TimedOut));
}
