use std::sync::Barrier;

use super::*;
use crate::layer::{read_vec, write_all};

/// Direct I/O on a file of a real file system, which the folder of temporary files need not be.
fn direct(path: &Path) -> HostFile {
    HostFile::open(path, FileOptions { direct: true, ..FileOptions::default() }).unwrap()
}

#[test]
fn write_of_whole_units_and_one_within_them_both_arrive_with_direct_io() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, vec![0; 1 << 16]).unwrap();
    let file = direct(&path);
    let unit = file.alignment() as usize;
    let (small, len) = (unit / 2..unit / 2 + 16, 2 * unit);
    let turn = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..200u8 {
                turn.wait();
                write_all(&file, &[!n; 16], small.start as u64).unwrap();
                turn.wait();
            }
        });
        for n in 1..200u8 {
            turn.wait();
            write_all(&file, &vec![n; len], 0).unwrap();
            turn.wait();
            let bytes = read_vec(&file, 0, len).unwrap();
            let (before, after) = (&bytes[..small.start], &bytes[small.end..]);
            assert!(before.iter().chain(after).all(|byte| *byte == n), "round {n} lost bytes of the larger write");
        }
    });
}

#[test]
fn highest_write_is_where_the_farthest_one_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, [1; 4096]).unwrap();
    let file = HostFile::open(&path, FileOptions::default()).unwrap();
    let before = file.highest_write();

    write_all(&file, &[2; 100], 1000).unwrap();
    write_all(&file, &[2; 100], 0).unwrap();
    let written = file.highest_write();
    assert!(matches!(file.fast(FastOp::Read, 3000, 100), Fast::Direct(_)));
    let read = file.highest_write();
    assert!(matches!(file.fast(FastOp::Write, 2000, 100), Fast::Direct(_)));
    let overwritten = file.highest_write();
    file.write_zeroes(3000, 100, false).unwrap();

    assert_eq!((before, written, read, overwritten, file.highest_write()), (0, 1100, 1100, 2100, 3100));
}

#[test]
fn write_past_a_threshold_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, [1; 4096]).unwrap();
    let file = HostFile::open(&path, FileOptions::default()).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let list = told.clone();
    file.set_write_threshold(2048, Arc::new(move |past, place| list.lock().unwrap().push((past, place))));

    write_all(&file, &[2; 48], 2000).unwrap();
    let before = (told.lock().unwrap().len(), file.write_threshold());
    assert!(matches!(file.fast(FastOp::Write, 2000, 100), Fast::Direct(_)));
    write_all(&file, &[2; 100], 3000).unwrap();

    assert_eq!(before, (0, 2048));
    assert_eq!((told.lock().unwrap().as_slice(), file.write_threshold()), (&[(52, 2048)][..], 0));
}
