//! The same file under QEMU's tools and under ours, in turn.

use std::process::Command;
use std::sync::Arc;

use super::rig::{Dice, mixes, rounds};
use crate::format::qcow2::{CreateOptions, OpenOptions, Qcow2, create};
use crate::layer::{Layer, read_vec, write_all};
use crate::protocol::file::{FileOptions, HostFile};

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|_| panic!("{program} not found: install the package qemu-utils"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {text}");
    text
}

fn open(path: &std::path::Path) -> Qcow2 {
    let file = HostFile::open(path, FileOptions::default()).unwrap();
    Qcow2::open(Arc::new(file), &OpenOptions { discard: true, ..OpenOptions::default() }).unwrap()
}

fn make(path: &std::path::Path, options: &CreateOptions) {
    std::fs::write(path, b"").unwrap();
    let file: Arc<dyn Layer> = Arc::new(HostFile::open(path, FileOptions::default()).unwrap());
    create(&file, None, options).unwrap();
}

#[test]
fn writes_of_both_in_turn_are_all_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    let name = path.to_str().unwrap();
    for (seed, options) in mixes(2 << 20).into_iter().enumerate() {
        make(&path, &options);
        let mut dice = Dice::new(seed as u64 + 7);
        let mut model = vec![0u8; 2 << 20];
        for _ in 0..rounds(3) {
            let disk = open(&path);
            assert!(read_vec(&disk, 0, 2 << 20).unwrap() == model, "{options:?}");
            for _ in 0..8 {
                let at = dice.roll(4000) * 512;
                let sectors = 1 + dice.roll(40) as usize;
                let bytes = dice.bytes(512 * sectors);
                let bytes = &bytes[..bytes.len().min((2 << 20) - at as usize)];
                write_all(&disk, bytes, at).unwrap();
                model[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
            }
            drop(disk);
            let (at, byte) = (dice.roll(3000) * 512, 1 + dice.roll(255));
            let mut args = vec!["-f".to_owned(), "qcow2".to_owned()];
            args.extend(["-c".to_owned(), format!("write -P {byte} {at} 70656")]);
            args.extend(["-c".to_owned(), format!("write -z -u {} 8192", at + 512), name.to_owned()]);
            run("qemu-io", &args.iter().map(String::as_str).collect::<Vec<_>>());
            model[at as usize..at as usize + 70656].fill(byte as u8);
            model[at as usize + 512..at as usize + 512 + 8192].fill(0);
            run("qemu-img", &["check", "-f", "qcow2", name]);
        }
        assert!(read_vec(&open(&path), 0, 2 << 20).unwrap() == model, "{options:?}");
    }
}

#[test]
fn compressed_images_of_qemu_are_read_and_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, path) = (folder.path().join("raw"), folder.path().join("disk.qcow2"));
    let mut content: Vec<u8> = (0..1 << 20u32).map(|i| (i / 700 % 251) as u8).collect();
    std::fs::write(&raw, &content).unwrap();
    for (kind, cluster) in [("zlib", "65536"), ("zstd", "65536"), ("zlib", "4096"), ("zstd", "2097152")] {
        let options = format!("compression_type={kind},cluster_size={cluster}");
        let (raw, name) = (raw.to_str().unwrap(), path.to_str().unwrap());
        run("qemu-img", &["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &options, raw, name]);
        let disk = open(&path);
        assert!(read_vec(&disk, 0, 1 << 20).unwrap() == content, "{options}");

        write_all(&disk, &[0xee; 5000], 70_000).unwrap();
        disk.discard(512 << 10, 128 << 10).unwrap();
        let mut expected = content.clone();
        expected[70_000..75_000].fill(0xee);
        let got = read_vec(&disk, 0, 512 << 10).unwrap();
        assert!(got == expected[..512 << 10], "{options}");
        drop(disk);
        run("qemu-img", &["check", "-f", "qcow2", name]);
    }
    content.clear();
}

#[test]
fn qemus_snapshots_keep_their_content_when_we_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    let name = path.to_str().unwrap();
    make(&path, &CreateOptions { size: 4 << 20, cluster_size: 4096, ..CreateOptions::default() });
    write_all(&open(&path), &[1; 1 << 20], 0).unwrap();
    run("qemu-img", &["snapshot", "-c", "before", name]);

    let disk = open(&path);
    write_all(&disk, &[2; 300_000], 1000).unwrap();
    disk.discard(512 << 10, 256 << 10).unwrap();
    drop(disk);
    run("qemu-img", &["check", "-f", "qcow2", name]);

    run("qemu-img", &["snapshot", "-a", "before", name]);
    assert_eq!(read_vec(&open(&path), 0, 1 << 20).unwrap(), vec![1; 1 << 20]);
}

#[test]
fn resized_images_check_clean_and_keep_their_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    let name = path.to_str().unwrap();
    for options in mixes(1 << 20) {
        make(&path, &options);
        let disk = open(&path);
        write_all(&disk, &[5; 1 << 20], 0).unwrap();
        disk.resize(100 << 20, crate::layer::Preallocation::Off).unwrap();
        write_all(&disk, &[6; 4096], 99 << 20).unwrap();
        disk.resize(300 << 10, crate::layer::Preallocation::Off).unwrap();
        disk.resize(2 << 20, crate::layer::Preallocation::Off).unwrap();
        let mut expected = vec![0; 2 << 20];
        expected[..300 << 10].fill(5);
        assert!(read_vec(&disk, 0, 2 << 20).unwrap() == expected, "{options:?}");
        drop(disk);
        run("qemu-img", &["check", "-f", "qcow2", name]);
        let info = run("qemu-img", &["info", "--output=json", name]);
        assert!(info.contains("\"virtual-size\": 2097152"), "{info}");
    }
}

fn snapshot_names(name: &str) -> String {
    run("qemu-img", &["snapshot", "-l", name])
}

#[test]
fn our_snapshots_are_qemus_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    let name = path.to_str().unwrap();
    for options in mixes(2 << 20).into_iter().filter(|o| o.refcount_bits > 1) {
        make(&path, &options);
        let disk = open(&path);
        write_all(&disk, &[1; 1 << 20], 0).unwrap();
        disk.snapshot_create("one", (1_700_000_000, 5)).unwrap();
        write_all(&disk, &[2; 100_000], 50_000).unwrap();
        disk.snapshot_create("two", (1_700_000_001, 5)).unwrap();
        disk.discard(0, 1 << 20).unwrap();
        write_all(&disk, &[3; 70_000], 1 << 20).unwrap();
        drop(disk);
        run("qemu-img", &["check", "-f", "qcow2", name]);
        assert!(snapshot_names(name).contains("two"));

        let disk = open(&path);
        disk.snapshot_apply("one").unwrap();
        assert!(read_vec(&disk, 0, 1 << 20).unwrap() == vec![1; 1 << 20], "{options:?}");
        write_all(&disk, &[9; 5000], 123).unwrap();
        disk.snapshot_apply("2").unwrap();
        assert_eq!(read_vec(&disk, 50_000, 2).unwrap(), [2, 2]);
        drop(disk);
        run("qemu-img", &["check", "-f", "qcow2", name]);

        let disk = open(&path);
        disk.snapshot_delete("one").unwrap();
        disk.flush().unwrap();
        write_all(&disk, &[4; 5000], 300_000).unwrap();
        disk.snapshot_delete("two").unwrap();
        write_all(&disk, &[4; 5000], 300_000).unwrap();
        assert!(disk.snapshots().unwrap().is_empty());
        drop(disk);
        run("qemu-img", &["check", "-f", "qcow2", name]);
    }
}

#[test]
fn a_counter_of_one_bit_has_no_room_for_snapshots() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    make(&path, &CreateOptions { size: 1 << 20, refcount_bits: 1, ..CreateOptions::default() });
    let disk = open(&path);
    write_all(&disk, &[1; 1 << 20], 0).unwrap();
    assert!(disk.snapshot_create("one", (0, 0)).is_err());
    assert_eq!(read_vec(&disk, 0, 1 << 20).unwrap(), vec![1; 1 << 20]);
}

#[test]
fn imago_reads_what_we_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    for options in mixes(1 << 20).into_iter().filter(|o| !o.extended_l2) {
        make(&path, &options);
        let disk = open(&path);
        let content: Vec<u8> = (0..1 << 20u32).map(|i| (i / 333 % 250) as u8).collect();
        write_all(&disk, &content[..700_000], 0).unwrap();
        disk.write_zeroes(100_000, 200_000, true).unwrap();
        let ours = read_vec(&disk, 0, 1 << 20).unwrap();
        drop(disk);
        assert!(imago_bytes(&path) == ours, "{options:?}");
    }
}

/// The whole disk, read by the `imago` crate.
fn imago_bytes(path: &std::path::Path) -> Vec<u8> {
    use imago::{SyncFormatAccess, file::File, qcow2::Qcow2};
    let image = Qcow2::<File>::open_path_sync(path, false).unwrap();
    let access = SyncFormatAccess::new(image).unwrap();
    let mut bytes = vec![0; 1 << 20];
    access.read(&mut bytes[..], 0).unwrap();
    bytes
}
