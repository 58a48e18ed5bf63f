//! Bytes, rates and sources that run dry.

use std::io::{Write, pipe};
use std::os::fd::OwnedFd;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::lifecycle::Lifecycle;
use crate::virtio::testing::{Buf, DriverRing, Guest, GuestBuilder};

const BUFFER: u64 = 0x8_0000;

fn live(source: RngSource, rate: Option<RngRate>) -> (Guest, DriverRing) {
    let config = RngConfig { id: "rng0".to_owned(), rate };
    let guest = GuestBuilder::default().build(VirtioRng::new(config, source, Placement::PerQueue).unwrap());
    let ring = DriverRing::new(&guest.ram, 0x1_0000, 8);
    guest.enable_msix();
    guest.negotiate(u64::MAX);
    guest.setup_queue(0, &ring);
    guest.driver_ok();
    (guest, ring)
}

fn draw(guest: &Guest, ring: &mut DriverRing, len: u32) -> u32 {
    ring.post(&[Buf::writable(BUFFER, len)]);
    guest.kick(0);
    guest.wait_used(ring).1
}

#[test]
fn buffer_is_filled_with_what_differs() {
    let (guest, mut ring) = live(RngSource::Builtin, None);
    let mut draws = [[0; 64]; 2];
    for bytes in &mut draws {
        assert_eq!(draw(&guest, &mut ring, 64), 64);
        guest.ram.read_slice(bytes, GuestAddress(BUFFER)).unwrap();
    }
    assert_ne!(draws[0], draws[1]);
}

#[test]
fn huge_buffer_is_filled_in_part() {
    let (guest, mut ring) = live(RngSource::Builtin, None);
    assert_eq!(draw(&guest, &mut ring, 1 << 20), 64 << 10);
}

#[test]
fn chain_without_room_goes_back_at_once() {
    let (guest, mut ring) = live(RngSource::Builtin, None);
    ring.post(&[Buf::readable(BUFFER, 8)]);
    guest.kick(0);
    assert_eq!(guest.wait_used(&mut ring).1, 0);
}

#[test]
fn rate_gives_no_more_than_it_may_until_the_period_is_over() {
    let period = Duration::from_millis(20);
    let (guest, mut ring) = live(RngSource::Builtin, Some(RngRate { max_bytes: 10, period }));
    let began = std::time::Instant::now();
    let given: Vec<u32> = (0..3).map(|_| draw(&guest, &mut ring, 8)).collect();
    assert_eq!(given, [8, 2, 8]);
    assert!(began.elapsed() >= period);
}

#[test]
fn rate_of_nothing_is_refused() {
    for (max_bytes, period) in [(0, Duration::from_secs(1)), (1, Duration::ZERO)] {
        let config = RngConfig { id: "rng0".to_owned(), rate: Some(RngRate { max_bytes, period }) };
        assert!(VirtioRng::new(config, RngSource::Builtin, Placement::PerQueue).is_err());
    }
}

#[test]
fn empty_pipe_makes_the_guest_wait_and_a_stop_does_not() {
    let (reader, mut writer) = pipe().unwrap();
    let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
    let source = RngSource::open(Path::new(&path)).unwrap();
    drop(OwnedFd::from(reader));
    let (guest, mut ring) = live(source, None);
    ring.post(&[Buf::writable(BUFFER, 4)]);
    guest.kick(0);
    guest.pause();
    assert_eq!(ring.used_index(), 0);
    guest.function.resume();
    writer.write_all(b"abcd").unwrap();
    assert_eq!(guest.wait_used(&mut ring).1, 4);
    let mut bytes = [0; 4];
    guest.ram.read_slice(&mut bytes, GuestAddress(BUFFER)).unwrap();
    assert_eq!(&bytes, b"abcd");
}

#[test]
fn source_at_its_end_gives_nothing_and_does_not_stick() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let (guest, mut ring) = live(RngSource::open(file.path()).unwrap(), None);
    assert_eq!(draw(&guest, &mut ring, 4), 0);
}
