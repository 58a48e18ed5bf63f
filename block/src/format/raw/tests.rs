use super::*;
use crate::format::qcow2::{CreateOptions, OpenOptions, Qcow2, check, create};
use crate::layer::{read_vec, write_all};
use crate::protocol::file::{FileOptions, HostFile};
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

#[test]
fn nothing_behind_a_window_with_a_size_is_changed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [7; 8192]).unwrap();
    let host = HostFile::open(file.path(), FileOptions { discard: true, ..FileOptions::default() }).unwrap();
    let raw = Raw::new(Arc::new(host), 1024, Some(2048)).unwrap();

    for (offset, len) in [(2000, 100), (2048, 1), (u64::MAX, 2)] {
        let changes = [
            write_all(&raw, &vec![1; len as usize], offset),
            raw.write_zeroes(offset, len, true),
            raw.discard(offset, len),
        ];
        let refused = changes.map(|done| done.map_err(|e| e.kind()));
        assert_eq!(refused, [Err(ErrorKind::NoSpace); 3], "{offset}");
        let fast = [FastOp::Read, FastOp::Write].map(|op| raw.fast(op, offset, len));
        assert!(fast.iter().all(|fast| matches!(fast, Fast::Slow)), "{offset}");
    }
    assert!(raw.short_cut().is_none());
    assert_eq!(raw.status(1024, 4096).unwrap().len, 1024);
    assert_eq!(raw.status(2048, 4096).unwrap(), Status::zero(4096));
    assert_eq!(std::fs::read(file.path()).unwrap(), [7; 8192]);

    assert!(matches!(raw.fast(FastOp::Write, 0, 2048), Fast::Direct(_)));
    write_all(&raw, &[1; 2048], 0).unwrap();
    let now = std::fs::read(file.path()).unwrap();
    assert_eq!((&now[..1024], &now[1024..3072], &now[3072..]), (&[7; 1024][..], &[1; 2048][..], &[7; 5120][..]));
}

#[test]
fn window_without_a_size_ends_where_its_file_does() {
    let file = memory(1024);
    let raw = Raw::new(file.clone(), 512, None).unwrap();

    write_all(&raw, &[9; 100], 1000).unwrap();
    let grown = (raw.size(), read_vec(&raw, 1000, 101).unwrap());
    file.resize(256, Preallocation::Off).unwrap();

    assert_eq!(grown, (1536, [vec![9; 100], vec![0]].concat()));
    assert_eq!(raw.size(), 0);
}

/// What an image on `window` of a file of 256 KiB of nines, made there, shows of 1 MiB that is written to it, and the
/// file then.
fn image_in(size: Option<u64>) -> (Vec<Result<(), ErrorKind>>, Qcow2, Vec<u8>) {
    let file = Arc::new(Memory::new(vec![9; 256 << 10]));
    let options = CreateOptions { size: 64 << 20, cluster_size: 4096, ..CreateOptions::default() };
    let made = Arc::new(Memory::new(Vec::new()));
    drop(create(&(made.clone() as Arc<dyn Layer>), None, &options).unwrap());
    write_all(file.as_ref(), &made.bytes(), 0).unwrap();
    let raw: Arc<dyn Layer> = Arc::new(Raw::new(file.clone(), 0, size).unwrap());
    let disk = Qcow2::open(raw, &OpenOptions::default()).unwrap();
    let written = (0..16u64).map(|n| write_all(&disk, &[n as u8 + 1; 65536], n << 16).map_err(|e| e.kind()));
    let written: Vec<_> = written.collect();
    disk.flush().unwrap();
    (written, disk, file.bytes())
}

#[test]
fn image_in_a_slice_of_a_file_leaves_the_rest_alone() {
    let (written, disk, file) = image_in(Some(128 << 10));

    assert_eq!((written.first(), written.last()), (Some(&Ok(())), Some(&Err(ErrorKind::NoSpace))));
    assert_eq!(read_vec(&disk, 0, 65536).unwrap(), [1; 65536]);
    assert!(file[128 << 10..] == [9; 128 << 10]);
}

#[test]
fn image_on_a_window_that_grows_finds_what_it_wrote() {
    let (written, disk, file) = image_in(None);

    assert!(written.iter().all(Result::is_ok), "{written:?}");
    for n in 0..16u64 {
        // A part of two clusters: not by the fast way.
        assert_eq!(read_vec(&disk, (n << 16) + 2048, 4096).unwrap(), [n as u8 + 1; 4096]);
    }
    let file: Arc<dyn Layer> = Arc::new(Memory::new(file));
    assert_eq!(check(&file).unwrap().corruptions, 0);
}
