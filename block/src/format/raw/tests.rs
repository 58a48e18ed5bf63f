use super::*;
use crate::layer::{read_vec, write_all};
use crate::protocol::memory::Memory;

fn memory(len: usize) -> Arc<Memory> {
    Arc::new(Memory::new((0..len).map(|i| i as u8).collect()))
}

#[test]
fn window_shows_its_part_only() {
    let raw = Raw::new(memory(2048), 512, Some(1024)).unwrap();

    assert_eq!(raw.size(), 1024);
    assert_eq!(read_vec(&raw, 10, 2).unwrap(), [10, 11]);
    assert_eq!(read_vec(&raw, 1022, 4).unwrap(), [254, 255, 0, 0], "past the window reads as zeroes");
}

#[test]
fn window_past_the_file_is_refused() {
    assert_eq!(Raw::new(memory(1024), 2048, None).err().map(|e| e.kind()), Some(ErrorKind::Invalid));
    assert_eq!(Raw::new(memory(1024), 512, Some(513)).err().map(|e| e.kind()), Some(ErrorKind::Invalid));
}

#[test]
fn guard_refuses_a_header_in_one_write_and_in_two() {
    let raw = Raw::new(memory(4096), 0, None).unwrap().guarded();

    assert!(write_all(&raw, b"QFI\xfb\0\0\0\x03", 0).is_err());
    write_all(&raw, b"QF", 0).unwrap();
    assert!(write_all(&raw, b"I\xfb", 2).is_err());
    write_all(&raw, b"plain", 0).unwrap();
    write_all(&raw, b"QFI\xfb", 512).unwrap();
}

#[test]
fn unguarded_takes_any_header() {
    let raw = Raw::new(memory(4096), 0, None).unwrap();
    write_all(&raw, b"QFI\xfb\0\0\0\x03", 0).unwrap();
}

#[test]
fn resize_follows_unless_fixed() {
    let file = memory(1024);
    let raw = Raw::new(file.clone(), 512, None).unwrap();
    raw.resize(1024, Preallocation::Off).unwrap();
    assert_eq!((raw.size(), file.size()), (1024, 1536));

    let fixed = Raw::new(file, 0, Some(512)).unwrap();
    assert!(fixed.resize(1024, Preallocation::Off).is_err());
}
