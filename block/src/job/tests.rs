use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::json;

use super::*;
use crate::disk::{Disk, rig};
use crate::format::qcow2::{BitmapChange, Bits, CreateOptions, NewBitmap, Qcow2, create};
use crate::graph::{Graph, Node};
use crate::layer::{Layer, read_vec, write_all};
use crate::protocol::file::{FileOptions, HostFile};

const BLOCK: u64 = 65536;
const BLOCKS: u64 = 24;
const SIZE: usize = (BLOCK * BLOCKS) as usize;

/// An image of `blocks` blocks as node `name`, on the node `backing`.
fn image(graph: &Graph, folder: &Path, name: &str, backing: Option<&str>, blocks: u64) -> Arc<Node> {
    let path = folder.join(name);
    std::fs::write(&path, b"").unwrap();
    let file: Arc<dyn Layer> = Arc::new(HostFile::open(&path, FileOptions::default()).unwrap());
    let beneath = backing.map(|below| (folder.join(below).display().to_string(), Some("qcow2".to_owned())));
    let options = CreateOptions { size: blocks * BLOCK, backing: beneath, ..CreateOptions::default() };
    create(&file, None, &options).unwrap().close().unwrap();
    drop(file);
    let spec = json!({"driver": "qcow2", "node-name": name, "backing": backing,
        "file": {"driver": "file", "filename": path}});
    graph.add(&serde_json::from_value(spec).unwrap()).unwrap()
}

/// An image of clusters of `cluster` bytes, with nothing beneath, whose header names `below`.
fn unknowing(graph: &Graph, folder: &Path, name: &str, below: &str, cluster: u64) -> Arc<Node> {
    let path = folder.join(name);
    std::fs::write(&path, b"").unwrap();
    let file: Arc<dyn Layer> = Arc::new(HostFile::open(&path, FileOptions::default()).unwrap());
    let beneath = Some((folder.join(below).display().to_string(), Some("qcow2".to_owned())));
    let options =
        CreateOptions { size: SIZE as u64, cluster_size: cluster, backing: beneath, ..CreateOptions::default() };
    create(&file, None, &options).unwrap().close().unwrap();
    drop(file);
    let spec = json!({"driver": "qcow2", "node-name": name, "backing": null,
        "file": {"driver": "file", "filename": path}});
    graph.add(&serde_json::from_value(spec).unwrap()).unwrap()
}

/// What an image shows with what its header names.
fn by_header(folder: &Path, name: &str) -> Vec<u8> {
    let file = json!({"driver": "file", "filename": folder.join(name)});
    let spec = json!({"driver": "qcow2", "node-name": "again", "read-only": true, "file": file});
    content(&Graph::new().add(&serde_json::from_value(spec).unwrap()).unwrap())
}

fn fill(node: &Node, blocks: std::ops::Range<u64>, byte: u8) {
    for block in blocks {
        write_all(node.layer().as_ref(), &vec![byte; BLOCK as usize], block * BLOCK).unwrap();
    }
}

/// A chain of three, the middle one shorter: data over data, zeroes over data, nothing over data, and the other way
/// round.
fn chain(graph: &Graph, folder: &Path) -> [Arc<Node>; 3] {
    let base = image(graph, folder, "base", None, BLOCKS);
    fill(&base, 0..BLOCKS, 1);
    let middle = image(graph, folder, "middle", Some("base"), 20);
    fill(&middle, 2..6, 2);
    middle.layer().write_zeroes(6 * BLOCK, 4 * BLOCK, true).unwrap();
    // Not a whole cluster: half of it is the base's.
    middle.layer().write_zeroes(12 * BLOCK, BLOCK / 2, true).unwrap();
    let top = image(graph, folder, "top", Some("middle"), BLOCKS);
    fill(&top, 4..8, 3);
    [base, middle, top]
}

fn content(node: &Node) -> Vec<u8> {
    read_vec(node.layer().as_ref(), 0, SIZE).unwrap()
}

/// A guest that writes all the time.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<(u64, u8)>>,
}

impl Writer {
    fn start(disk: &Disk) -> Self {
        let (disk, stop) = (disk.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut written = Vec::new();
            let mut next = 7_u64;
            while !stopped.load(Ordering::SeqCst) || written.is_empty() {
                next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (next >> 33) % (SIZE as u64 / 512) * 512;
                let byte = (next >> 25) as u8;
                rig::write(&disk, &[byte; 512], at);
                written.push((at, byte));
            }
            written
        });
        Self { stop, thread }
    }

    /// Puts all that was written into `expected`.
    fn end(self, expected: &mut [u8]) {
        self.stop.store(true, Ordering::SeqCst);
        for (at, byte) in self.thread.join().unwrap() {
            expected[at as usize..at as usize + 512].fill(byte);
        }
    }
}

#[test]
fn streamed_overlay_shows_the_same_without_what_was_beneath() {
    for keep_base in [false, true] {
        let (folder, graph) = (tempfile::tempdir().unwrap(), Graph::new());
        let [base, _, top] = chain(&graph, folder.path());
        let before = content(&top);
        let base = keep_base.then_some(base);
        let control = Control::default();

        Stream::new(top.clone(), base.clone(), Vec::new()).unwrap().run(&control).unwrap();
        let name = folder.path().join("base").display().to_string();
        graph.rebase(&top, base.as_ref(), base.as_ref().map(|_| (name.as_str(), Some("qcow2")))).unwrap();

        assert!(content(&top) == before, "keep_base {keep_base}");
        assert_eq!(control.progress(), (SIZE as u64, SIZE as u64));
        graph.remove("top").unwrap();
        graph.remove("middle").unwrap();
        assert!(graph.remove("base").is_ok());
        drop((top, base));
        let alone = Graph::new();
        let spec = json!({"driver": "qcow2", "node-name": "again",
            "file": {"driver": "file", "filename": folder.path().join("top")}});
        let again = alone.add(&serde_json::from_value(spec).unwrap()).unwrap();
        assert!(content(&again) == before, "by its header, keep_base {keep_base}");
        assert_eq!(again.beneath().count(), usize::from(keep_base));
    }
}

#[test]
fn writes_during_a_stream_are_kept() {
    let (folder, graph) = (tempfile::tempdir().unwrap(), Graph::new());
    let [base, _, top] = chain(&graph, folder.path());
    let mut expected = content(&top);
    let attached = graph.attach("top", true, "disk").unwrap();
    let writer = Writer::start(attached.disk());

    let stream = Stream::new(top.clone(), Some(base), vec![attached.disk().clone()]).unwrap();
    stream.run(&Control::default()).unwrap();
    writer.end(&mut expected);
    assert!(content(&top) == expected);
}

#[test]
fn committed_overlays_are_shown_by_their_base() {
    let (folder, graph) = (tempfile::tempdir().unwrap(), Graph::new());
    let [base, middle, top] = chain(&graph, folder.path());
    let before = content(&top);
    let control = Control::default();

    let commit = Copying::commit(middle, base.clone(), false).unwrap();
    assert!(commit.mirror().is_none());
    commit.run(&control).unwrap();
    let name = folder.path().join("base").display().to_string();
    graph.rebase(&top, Some(&base), Some((&name, Some("qcow2")))).unwrap();
    assert!(content(&top) == before);
    assert_eq!(top.beneath().count(), 1);

    Copying::commit(top, base.clone(), false).unwrap().run(&control).unwrap();
    assert!(content(&base) == before);
}

#[test]
fn writes_during_a_commit_of_the_disk_itself_go_to_both() {
    let (folder, graph) = (tempfile::tempdir().unwrap(), Graph::new());
    let [base, _, top] = chain(&graph, folder.path());
    let mut expected = content(&top);
    let attached = graph.attach("top", true, "disk").unwrap();
    let commit = Copying::commit(top.clone(), base.clone(), true).unwrap();
    let writer = Writer::start(attached.disk());

    attached.disk().swap(commit.mirror().unwrap());
    commit.run(&Control::default()).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let held = attached.disk().drain();
    commit.check().unwrap();
    assert!(content(&top) == content(&base), "nothing is in flight");
    graph.pivot(&top, &base, &[(&attached, &held)]);
    drop(held);
    writer.end(&mut expected);

    assert_eq!(attached.node().name(), "base");
    assert!(content(&base) == expected);
    assert!(top.child("backing").is_none());
    graph.remove("top").unwrap();
    graph.remove("middle").unwrap();
}

#[test]
fn mirrored_disk_goes_over_to_its_copy_with_all_that_was_written() {
    for extent in [Extent::Whole, Extent::Top] {
        let (folder, graph) = (tempfile::tempdir().unwrap(), Graph::new());
        let [_, _, top] = chain(&graph, folder.path());
        let below = if extent == Extent::Top { Some("middle") } else { None };
        let target = image(&graph, folder.path(), "copy", below, BLOCKS);
        // Something else was there before.
        fill(&target, if extent == Extent::Whole { 0..BLOCKS } else { 4..6 }, 9);
        let mut expected = content(&top);
        let attached = graph.attach("top", true, "disk").unwrap();
        let copy = Copying::mirror_to(top.clone(), target.clone(), extent, true).unwrap();
        let writer = Writer::start(attached.disk());

        attached.disk().swap(copy.mirror().unwrap());
        copy.run(&Control::default()).unwrap();
        let held = attached.disk().drain();
        copy.check().unwrap();
        graph.pivot(&top, &target, &[(&attached, &held)]);
        drop(held);
        writer.end(&mut expected);

        assert!(content(&target) == expected, "{extent:?}");
        assert_eq!(attached.node().name(), "copy");
        assert_eq!(top.beneath().count(), 2, "the source is left as it was");
    }
    let (folder, graph) = (tempfile::tempdir().unwrap(), Graph::new());
    let [_, middle, top] = chain(&graph, folder.path());
    let other = Copying::mirror_to(top, middle, Extent::Whole, true).unwrap();
    assert!(other.run(&Control::new(0)).is_err(), "the sizes differ");
}

#[test]
fn job_that_is_ready_ends_as_it_is_told() {
    for (end, look) in [(Some(End::Pivot), true), (Some(End::Leave), true), (None, true), (None, false)] {
        let control = Control::default();
        match end {
            Some(end) => control.end(end),
            None => control.cancel(),
        }
        let looked =
            || if look { Ok(()) } else { Err(BlockError::new(crate::ErrorKind::Io, "the copy failed").into()) };

        let ended = control.wait_for_end(looked);

        match ended {
            Ok(how) => assert_eq!(Some(how), end),
            Err(Halt::Cancelled) => assert!(look && end.is_none()),
            Err(Halt::Failed(error)) => assert_eq!((look, error.to_string().as_str()), (false, "the copy failed")),
        }
    }
}

#[test]
fn quota_or_limit_of_a_files_size_is_no_full_disk() {
    for errno in [libc::EFBIG, libc::EDQUOT] {
        let (send, told) = std::sync::mpsc::channel();
        let tell = Box::new(move |fault: Fault| send.send((fault.no_space, fault.action)).unwrap());
        let policy = Policy { target: OnError::Enospc, ..Policy::default() };
        let control = Control::default().with(policy, tell);
        let error = BlockError::io("a", std::io::Error::from_raw_os_error(errno));

        assert!(matches!(control.failed(error), Err(Halt::Failed(error)) if error.errno() == errno));
        assert_eq!(told.try_recv(), Ok((false, Action::Report)));
    }
}

#[test]
fn job_pauses_goes_on_keeps_to_its_speed_and_ends_when_told() {
    let control = Arc::new(Control::new(1 << 20));
    let begun = Instant::now();
    control.step(0, 1 << 17).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(120), "{:?}", begun.elapsed());
    control.set_speed(0);
    control.set_paused(true);
    assert!(!control.is_resting(), "the work has not heard of it");
    let (worker, reached) = (control.clone(), Arc::new(AtomicBool::new(false)));
    let seen = reached.clone();
    let thread = std::thread::spawn(move || {
        let first = worker.step(1, 1 << 30);
        seen.store(true, Ordering::SeqCst);
        first.and_then(|()| {
            loop {
                worker.step(2, 0)?;
                std::thread::yield_now();
            }
        })
    });
    std::thread::sleep(Duration::from_millis(30));
    assert!(!reached.load(Ordering::SeqCst) && control.is_resting(), "it is paused");

    control.set_paused(false);
    while control.progress().0 != 2 {
        std::thread::yield_now();
    }
    assert!(!control.is_resting());
    control.cancel();

    let ended: Result<(), Halt> = thread.join().unwrap();
    assert!(matches!(ended, Err(Halt::Cancelled)));
}

#[test]
fn what_cannot_be_streamed_is_refused() {
    let (folder, graph) = (tempfile::tempdir().unwrap(), Graph::new());
    let [base, middle, top] = chain(&graph, folder.path());
    let null = graph.add(&serde_json::from_value(json!({"driver": "null-co", "node-name": "n"})).unwrap()).unwrap();
    let refused = |top: &Arc<Node>, base: &Arc<Node>, disks: Vec<Disk>| {
        Stream::new(top.clone(), Some(base.clone()), disks).err().map(|error| error.to_string()).unwrap_or_default()
    };

    assert!(refused(&null, &base, Vec::new()).contains("is no overlay"));
    assert_eq!(refused(&middle, &top, Vec::new()), "Node 'top' is not a backing image of 'middle'");
    let held = graph.hold_for_job(vec![top.clone(), middle], "stream").unwrap();
    let again = graph.hold_for_job(vec![top], "commit").err().unwrap();
    assert_eq!(again.to_string(), "Node 'top' is busy: block device is in use by block job: stream");
    assert!(graph.remove("top").is_err());
    drop(held);
    graph.remove("top").unwrap();
}

/// A backup of the top of a chain with a writer at it; gives what the disk was, and what it became.
fn backed_up(graph: &Graph, top: &Arc<Node>, target: &Arc<Node>, part: Part) -> (Vec<u8>, Vec<u8>) {
    let before = content(top);
    let attached = graph.attach("top", true, "disk").unwrap();
    let backup = Backup::new(top, top.clone(), target.clone(), part, false).unwrap();
    attached.disk().swap(backup.filter());
    let writer = Writer::start(attached.disk());
    let control = Control::default();
    backup.run(&control).unwrap();
    let mut after = before.clone();
    writer.end(&mut after);
    attached.disk().swap(top.layer().clone());
    (before, after)
}

#[test]
fn backup_shows_the_moment_it_began_whatever_is_written_since() {
    let (folder, graph) = (tempfile::tempdir().unwrap(), Graph::new());
    let [.., top] = chain(&graph, folder.path());
    let target = image(&graph, folder.path(), "target", None, BLOCKS);

    let (before, after) = backed_up(&graph, &top, &target, Part::Whole);

    assert!(content(&target) == before, "the backup");
    assert!(content(&top) == after, "the disk");
    assert!(before != after);
}

#[test]
fn backup_of_the_top_shows_the_moment_on_the_same_base() {
    let (folder, graph) = (tempfile::tempdir().unwrap(), Graph::new());
    let [_, middle, top] = chain(&graph, folder.path());
    let target = image(&graph, folder.path(), "target", Some("middle"), BLOCKS);

    let (before, _) = backed_up(&graph, &top, &target, Part::Top);

    assert!(content(&target) == before);
    // Block 2 is the middle's alone.
    assert!(middle.layer().status(2 * BLOCK, BLOCK).unwrap().allocated);
}

#[test]
fn backup_of_what_is_marked_brings_an_older_one_up_to_the_moment() {
    let (folder, graph) = (tempfile::tempdir().unwrap(), Graph::new());
    let [.., top] = chain(&graph, folder.path());
    let full = image(&graph, folder.path(), "full", None, BLOCKS);
    let qcow2 = top.layer().clone();
    let image_of = || qcow2.as_any().downcast_ref::<Qcow2>().unwrap();
    let add = BitmapChange::Add(NewBitmap { granularity_bits: None, persistent: true, enabled: true });
    image_of().change_bitmap("since", &add).unwrap();
    let (_, _) = backed_up(&graph, &top, &full, Part::Whole);

    let marked = image_of().take_bitmap("since", true).unwrap();
    // What was written while the first backup ran is marked, and more is.
    let (now, after) = backed_up(&graph, &top, &full, Part::Marked(marked.clone()));

    assert!(marked.count() > 0);
    assert!(content(&full) == now, "the second backup");
    image_of().give_bitmap_back("since", None);
    let newer = image_of().take_bitmap("since", true).unwrap();
    let changed = (0..SIZE).filter(|at| now[*at] != after[*at]);
    let is_marked = |at: usize| newer.runs(at as u64..at as u64 + 1).next().is_some();
    assert!(changed.into_iter().step_by(97).all(is_marked), "a later change is not marked");
}

#[test]
fn backup_that_ends_early_says_what_is_left() {
    let (folder, graph) = (tempfile::tempdir().unwrap(), Graph::new());
    let [.., top] = chain(&graph, folder.path());
    let target = image(&graph, folder.path(), "target", None, BLOCKS);
    let mut bits = Bits { granularity_bits: 16, size: 24 << 16, bytes: vec![0; 3] };
    bits.set(2 * BLOCK, 5 * BLOCK);
    let backup = Backup::new(&top.clone(), top, target, Part::Marked(bits.clone()), false).unwrap();
    let control = Control::default();

    assert_eq!(backup.left(), Some(bits));
    control.cancel();
    assert!(matches!(backup.run(&control), Err(Halt::Cancelled)));
    write_all(backup.filter().as_ref(), &[1; 512], 3 * BLOCK).unwrap();

    let left = backup.left().unwrap();
    assert_eq!(left.runs(0..SIZE as u64).collect::<Vec<_>>(), [2 * BLOCK..3 * BLOCK, 4 * BLOCK..5 * BLOCK]);
}

#[test]
fn snapshot_on_the_disk_itself_shows_the_moment_until_it_is_ended() {
    let (folder, graph) = (tempfile::tempdir().unwrap(), Graph::new());
    let [.., top] = chain(&graph, folder.path());
    let attached = graph.attach("top", true, "disk").unwrap();
    let scratch = image(&graph, folder.path(), "scratch", Some("top"), BLOCKS);
    let before = content(&top);
    let backup = Backup::new(&top, top.clone(), scratch, Part::Changed, false).unwrap();
    attached.disk().swap(backup.filter());
    let writer = Writer::start(attached.disk());
    let snapshot = backup.snapshot().unwrap();
    let control = Control::default();

    let seen: Vec<_> = (0..4).map(|_| read_vec(snapshot.as_ref(), 0, SIZE).unwrap()).collect();
    control.cancel();
    let ended = backup.run(&control);

    let mut after = before.clone();
    writer.end(&mut after);
    assert!(matches!(ended, Err(Halt::Cancelled)));
    assert!(seen.iter().all(|seen| *seen == before));
    assert!(content(&top) == after);
}

#[test]
fn mirror_gives_whole_clusters_to_an_overlay_whose_base_nobody_has_opened() {
    for (extent, cluster) in [(Extent::Top, BLOCK), (Extent::Top, 4 * BLOCK), (Extent::Whole, 4 * BLOCK)] {
        let (folder, graph) = (tempfile::tempdir().unwrap(), Graph::new());
        let [base, middle, top] = chain(&graph, folder.path());
        let target = unknowing(&graph, folder.path(), "copy", "middle", cluster);
        let attached = graph.attach("top", true, "disk").unwrap();
        let copy = Copying::mirror_to(top.clone(), target.clone(), extent, true).unwrap().in_pieces_of(1);
        let mirror = copy.mirror().unwrap();

        // While it copies, at random, and when all is copied, where the top held nothing.
        let writer = Writer::start(attached.disk());
        attached.disk().swap(mirror.clone());
        copy.run(&Control::default()).unwrap();
        writer.end(&mut vec![0; SIZE]);
        let held = attached.disk().drain();
        write_all(mirror.as_ref(), &[5; 512], 2 * BLOCK + 512).unwrap();
        mirror.write_zeroes(14 * BLOCK - 4096, BLOCK + 8192, true).unwrap();
        mirror.discard(17 * BLOCK - 512, 1024).unwrap();
        copy.check().unwrap();

        let expected = content(&top);
        held.swap(top.layer().clone());
        drop((held, copy, mirror));
        drop((base, middle, top, target));
        drop(attached);
        graph.close_all().unwrap();
        drop(graph);
        let shown = by_header(folder.path(), "copy");
        let wrong = (0..SIZE).find(|at| shown[*at] != expected[*at]);
        assert_eq!(wrong, None, "{extent:?} {cluster}");
    }
}

#[test]
fn backup_gives_whole_clusters_to_an_overlay_whose_base_nobody_has_opened() {
    for (marked, cluster, compress) in
        [(false, 4 * BLOCK, false), (true, BLOCK, false), (true, 4 * BLOCK, false), (true, BLOCK, true)]
    {
        let (folder, graph) = (tempfile::tempdir().unwrap(), Graph::new());
        let [base, middle, top] = chain(&graph, folder.path());
        let mut part = Part::Top;
        if marked {
            // The last backup, and what was written and zeroed since.
            let last = image(&graph, folder.path(), "last", None, BLOCKS);
            write_all(last.layer().as_ref(), &content(&top), 0).unwrap();
            let mut bits = Bits { granularity_bits: 12, size: SIZE as u64, bytes: vec![0; SIZE / 4096 / 8] };
            write_all(top.layer().as_ref(), &[8; 4096], 2 * BLOCK + 4096).unwrap();
            top.layer().write_zeroes(16 * BLOCK, 2 * BLOCK, true).unwrap();
            bits.set(2 * BLOCK + 4096, 2 * BLOCK + 8192);
            bits.set(16 * BLOCK, 18 * BLOCK);
            part = Part::Marked(bits);
            drop(last);
        }
        let below = if marked { "last" } else { "middle" };
        let target = unknowing(&graph, folder.path(), "copy", below, cluster);
        let expected = content(&top);

        let backup = Backup::new(&top, top.clone(), target.clone(), part, compress).unwrap();
        backup.run(&Control::default()).unwrap();

        drop((backup, base, middle, top, target));
        graph.close_all().unwrap();
        drop(graph);
        let shown = by_header(folder.path(), "copy");
        let wrong = (0..SIZE).find(|at| shown[*at] != expected[*at]);
        assert_eq!(wrong, None, "{marked} {cluster} {compress}");
    }
}
