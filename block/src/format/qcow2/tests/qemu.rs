//! The same file under QEMU's tools and under ours, in turn.

use std::process::Command;
use std::sync::Arc;

use super::rig::{self, Dice, mixes, rounds};
use crate::format::qcow2::{Amend, CreateOptions, OpenOptions, Qcow2, create};
use crate::layer::{Layer, read_vec, write_all};
use crate::protocol::file::{FileOptions, HostFile};

fn run(program: &str, args: &[&str]) -> String {
    run_in(std::path::Path::new("."), program, args)
}

/// Runs one of QEMU's programs in `folder`; it must succeed.
pub(super) fn run_in(folder: &std::path::Path, program: &str, args: &[&str]) -> String {
    let once = || {
        let output = Command::new(program).args(args).current_dir(folder).output();
        let output = output.unwrap_or_else(|_| panic!("{program} not found: install the package qemu-utils"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output, text)
    };
    // A child that another test starts holds our files, and so their locks, until it becomes the other program.
    let held = |text: &str| text.contains("Is another process using the image");
    let (output, text) = (0..200).map(|_| once()).find(|(_, text)| !held(text)).unwrap_or_else(once);
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

#[test]
fn imago_reads_compressed_clusters_a_chain_and_a_data_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let named = |name: &str| Some((at(name).display().to_string(), Some("qcow2".to_owned())));
    let base = CreateOptions { size: 1 << 20, ..CreateOptions::default() };
    // imago knows zlib, and no subclusters.
    make(&at("bottom"), &CreateOptions { cluster_size: 4096, ..base.clone() });
    let bottom = open(&at("bottom"));
    for n in 0..256 {
        rig::write_compressed(&bottom, &[n as u8; 4096], n * 4096);
    }
    drop(bottom);
    make(
        &at("middle"),
        &CreateOptions { backing: named("bottom"), cluster_size: 512, refcount_bits: 2, ..base.clone() },
    );
    let middle = open(&at("middle"));
    middle.set_backing(Some(Arc::new(open(&at("bottom")))));
    write_all(&middle, &[0x55; 100_000], 333_333).unwrap();
    middle.write_zeroes(600_000, 90_000, true).unwrap();
    drop(middle);
    make(&at("top"), &CreateOptions { backing: named("middle"), lazy_refcounts: true, ..base.clone() });
    let top = open(&at("top"));
    let middle = open(&at("middle"));
    middle.set_backing(Some(Arc::new(open(&at("bottom")))));
    top.set_backing(Some(Arc::new(middle)));
    write_all(&top, &[0x77; 70_000], 640_000).unwrap();
    let ours = read_vec(&top, 0, 1 << 20).unwrap();
    drop(top);
    let data_name = at("data").display().to_string();
    std::fs::write(at("data"), b"").unwrap();
    std::fs::write(at("apart"), b"").unwrap();
    let file = |name: &str| Arc::new(HostFile::open(&at(name), FileOptions::default()).unwrap());
    let options = CreateOptions { data_file: Some((data_name, false)), ..base };
    let apart = create(&(file("apart") as Arc<dyn Layer>), Some(file("data")), &options).unwrap();
    write_all(&apart, &ours[..700_000], 0).unwrap();
    let ours_apart = read_vec(&apart, 0, 1 << 20).unwrap();
    drop(apart);

    let (chain, apart) = (imago_bytes(&at("top")), imago_bytes(&at("apart")));

    assert!(chain == ours);
    assert!(apart == ours_apart);
}

/// The whole disk, read by the `imago` crate.
fn imago_bytes(path: &std::path::Path) -> Vec<u8> {
    use imago::{SyncFormatAccess, file::File, qcow2::Qcow2};
    let mut image = Qcow2::<File>::open_path_sync(path, false).unwrap();
    image.open_implicit_dependencies_sync().unwrap();
    let access = SyncFormatAccess::new(image).unwrap();
    let mut bytes = vec![0; 1 << 20];
    access.read(&mut bytes[..], 0).unwrap();
    bytes
}

#[test]
fn our_compressed_clusters_are_read_by_qemu() {
    let folder = tempfile::tempdir().unwrap();
    let (path, raw) = (folder.path().join("disk.qcow2"), folder.path().join("raw"));
    let content: Vec<u8> = (0..1_500_000u32).map(|i| (i / 90 % 251) as u8 ^ u8::from(i % 7 == 0)).collect();
    let content = [content, vec![0; 512]].concat()[..1_500_160].to_vec();
    for compression in [crate::format::qcow2::Compression::Zlib, crate::format::qcow2::Compression::Zstd] {
        for mix in mixes(content.len() as u64) {
            if mix.version == 2 || mix.preallocation != crate::layer::Preallocation::Off {
                continue;
            }
            let options = CreateOptions { compression, ..mix };
            make(&path, &options);
            let disk = open(&path);
            let cluster = options.cluster_size as usize;
            let pieces: Vec<_> = content.chunks(cluster).enumerate().collect();
            std::thread::scope(|scope| {
                for half in pieces.chunks(pieces.len().div_ceil(2)) {
                    let disk = &disk;
                    scope.spawn(move || {
                        for (n, piece) in half {
                            rig::write_compressed(disk, piece, (n * cluster) as u64);
                        }
                    });
                }
            });
            assert!(read_vec(&disk, 0, content.len()).unwrap() == content, "{options:?}");
            write_all(&disk, &[7; 3000], 40_000).unwrap();
            drop(disk);
            let (name, raw_name) = (path.to_str().unwrap(), raw.to_str().unwrap());
            run("qemu-img", &["check", "-f", "qcow2", name]);
            run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", name, raw_name]);
            let mut expected = content.clone();
            expected[40_000..43_000].fill(7);
            assert!(std::fs::read(&raw).unwrap() == expected, "{options:?}");
        }
    }
}

#[test]
fn damaged_counts_are_repaired_as_qemu_sees_it() {
    use crate::format::qcow2::{Repair, check, repair};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    let name = path.to_str().unwrap();
    for options in mixes(1 << 20) {
        make(&path, &options);
        write_all(&open(&path), &[1; 900_000], 0).unwrap();
        let file: Arc<dyn Layer> = Arc::new(HostFile::open(&path, FileOptions::default()).unwrap());
        let table = u64::from_be_bytes(read_vec(file.as_ref(), 48, 8).unwrap().try_into().unwrap());
        // The first table entry is gone, and with it all counts of the first block.
        write_all(file.as_ref(), &[0; 8], table).unwrap();
        assert!(check(&file).unwrap().corruptions > 0, "{options:?}");

        let repaired = repair(&file, Repair::All).unwrap();
        assert_eq!((repaired.after.corruptions, repaired.after.leaks), (0, 0), "{options:?}: {:?}", repaired.after);
        drop(file);
        run("qemu-img", &["check", "-f", "qcow2", name]);
        let disk = open(&path);
        assert_eq!(read_vec(&disk, 0, 900_000).unwrap(), vec![1; 900_000]);
        write_all(&disk, &[2; 100_000], 100_000).unwrap();
        drop(disk);
        run("qemu-img", &["check", "-f", "qcow2", name]);
    }
}

#[test]
fn renamed_backing_file_and_emptied_overlay_are_what_qemu_sees() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    let name = path.to_str().unwrap();
    make(&path, &CreateOptions { size: 1 << 20, ..CreateOptions::default() });
    let disk = open(&path);
    write_all(&disk, &[1; 300_000], 0).unwrap();
    disk.set_backing_name(Some(("some.img", Some("raw")))).unwrap();
    disk.amend(&Amend { lazy_refcounts: Some(true), ..Amend::default() }).unwrap();
    disk.make_empty().unwrap();
    drop(disk);
    let info = run("qemu-img", &["info", "-U", name]);
    assert!(info.contains("backing file: some.img") && info.contains("lazy refcounts: true"), "{info}");
    let disk = open(&path);
    disk.set_backing_name(None).unwrap();
    assert_eq!(read_vec(&disk, 0, 4096).unwrap(), [0; 4096]);
    drop(disk);
    run("qemu-img", &["check", "-f", "qcow2", name]);
}

#[test]
fn measure_agrees_with_qemu() {
    for (cluster, bits, size) in
        [(65536u64, 16u32, 1u64 << 30), (512, 64, 3 << 20), (2 << 20, 1, 1 << 40), (4096, 8, 0)]
    {
        let options = format!("cluster_size={cluster},refcount_bits={bits}");
        let size_text = size.to_string();
        let text = run("qemu-img", &["measure", "-O", "qcow2", "-o", &options, "--size", &size_text]);
        let ours = CreateOptions { size, cluster_size: cluster, refcount_bits: bits, ..CreateOptions::default() };
        let ours = crate::format::qcow2::measure(&ours, 0).unwrap();
        let expected = format!("required size: {}\nfully allocated size: {}\n", ours.required, ours.fully_allocated);
        assert!(text.starts_with(&expected), "{options} {size}: {text} ours {ours:?}");
    }
}

#[test]
fn snapshot_name_that_is_no_utf8_stays_as_it_is_when_the_table_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    make(&path, &CreateOptions { size: 1 << 20, ..CreateOptions::default() });
    open(&path).snapshot_create("abcde", (1_700_000_000, 5)).unwrap();
    let place = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|window| window == what);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = place(&bytes, b"abcde").unwrap();
    let strange = b"a\xff\xfe\x80e";
    bytes[at..at + 5].copy_from_slice(strange);
    std::fs::write(&path, &bytes).unwrap();

    let disk = open(&path);
    let shown = disk.snapshots().unwrap()[0].name.clone();
    disk.snapshot_create("other", (1_700_000_001, 5)).unwrap();
    disk.snapshot_delete("other").unwrap();
    let table = disk.snapshots().unwrap();
    drop(disk);

    assert_eq!(
        (shown.as_str(), table[0].name.as_str(), table.len()),
        ("a\u{fffd}\u{fffd}\u{fffd}e", shown.as_str(), 1)
    );
    let header = |at: usize| u64::from_be_bytes(std::fs::read(&path).unwrap()[at..at + 8].try_into().unwrap()) as usize;
    // The new table lies elsewhere: "snapshots_offset" is at byte 64 of the header.
    let now = header(64);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(place(&bytes[now..now + 4096], strange), Some(40 + 24 + 1));
    open(&path).snapshot_delete(&shown).unwrap();
    run("qemu-img", &["check", "-f", "qcow2", path.to_str().unwrap()]);
}

/// Where writer `k` puts its generations: first here, then there, in other tables and clusters.
fn pair(k: u64) -> [u64; 2] {
    [k * 70_000, (40 << 20) + k * 70_000]
}

#[test]
fn snapshot_is_one_point_in_time_of_a_disk_that_many_write_to() {
    let folder = tempfile::tempdir().unwrap();
    let (path, raw) = (folder.path().join("disk.qcow2"), folder.path().join("raw"));
    let name = path.to_str().unwrap();
    let size = 64 << 20;
    for cluster_size in [65536, 4096] {
        make(&path, &CreateOptions { size, cluster_size, ..CreateOptions::default() });
        let (disk, done) = (open(&path), std::sync::atomic::AtomicBool::new(false));
        let writers = 4;
        std::thread::scope(|scope| {
            for k in 0..writers {
                let (disk, done) = (&disk, &done);
                scope.spawn(move || {
                    let mut generation: u32 = 0;
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        generation += 1;
                        let bytes = generation.to_be_bytes().repeat(1500);
                        pair(k).iter().for_each(|place| write_all(disk, &bytes, *place).unwrap());
                        if generation.is_multiple_of(64) {
                            disk.flush().unwrap();
                        }
                    }
                });
            }
            for n in 0..6 {
                std::thread::sleep(std::time::Duration::from_millis(20));
                disk.snapshot_create(&format!("s{n}"), (1_700_000_000 + n, 0)).unwrap();
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        drop(disk);
        run("qemu-img", &["check", "-f", "qcow2", name]);
        let mut before = vec![0; writers as usize];
        for n in 0..6 {
            let snapshot = format!("snapshot.name=s{n}");
            run("qemu-img", &["convert", "-l", &snapshot, "-f", "qcow2", "-O", "raw", name, raw.to_str().unwrap()]);
            let bytes = std::fs::read(&raw).unwrap();
            for k in 0..writers {
                // A write is whole in it, or not there.
                let [first, then] = pair(k).map(|place| {
                    let all = bytes[place as usize..place as usize + 6000].chunks(4);
                    let mut all: Vec<_> = all.map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect();
                    all.dedup();
                    assert_eq!(all.len(), 1, "snapshot {n} has a part of a write: {all:?}");
                    all[0]
                });
                assert!(first == then || first == then + 1, "snapshot {n} has {then} and {first} of writer {k}");
                assert!(first >= before[k as usize] && (n == 0 || first > 0), "snapshot {n}: {first}");
                before[k as usize] = first;
            }
        }
    }
}
