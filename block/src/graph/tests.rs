use super::*;
use crate::format::qcow2::{CreateOptions, create};
use crate::layer::{Fast, FastOp, read_vec, write_all};
use crate::protocol::file::FileOptions;
use crate::spec::Discard;
use std::path::Path;

pub(super) const SHARED: Usage = Usage { only_reads: false, shares: true };

fn raw_file(path: &Path, byte: u8) {
    std::fs::write(path, vec![byte; 1 << 20]).unwrap();
}

pub(super) fn qcow2_file(path: &Path, backing: Option<(&str, Option<&str>)>) {
    std::fs::write(path, b"").unwrap();
    let file: Arc<dyn Layer> = Arc::new(HostFile::open(path, FileOptions::default()).unwrap());
    let backing = backing.map(|(name, format)| (name.to_owned(), format.map(str::to_owned)));
    create(&file, None, &CreateOptions { size: 1 << 20, backing, ..CreateOptions::default() }).unwrap();
}

fn drive(path: &Path) -> DriveSpec {
    DriveSpec { file: path.display().to_string(), ..DriveSpec::default() }
}

fn spec(json: &serde_json::Value) -> BlockdevSpec {
    serde_json::from_value(json.clone()).unwrap()
}

fn chain_text(error: &BlockError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

#[test]
fn libvirts_pair_of_nodes_is_made_queried_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.qcow2");
    qcow2_file(&path, None);
    let graph = Graph::new();
    graph.add(&spec(&serde_json::json!({"driver":"file","filename":path,"node-name":"sto"}))).unwrap();
    graph.add(&spec(&serde_json::json!({"driver":"qcow2","file":"sto","node-name":"fmt"}))).unwrap();

    let info = serde_json::to_value(graph.info(100).unwrap()).unwrap();
    assert_eq!(info[0]["node-name"], "fmt");
    assert_eq!(info[0]["image"]["virtual-size"], 1 << 20);
    assert_eq!(info[0]["image"]["format-specific"]["data"]["compat"], "1.1");
    assert_eq!(info[1]["drv"], "file");

    assert!(graph.remove("sto").is_err(), "it is beneath fmt");
    graph.remove("fmt").unwrap();
    graph.remove("sto").unwrap();
    assert!(graph.nodes().is_empty());
}

#[test]
fn attached_node_is_not_given_twice_nor_removed() {
    let graph = Graph::new();
    graph.add(&spec(&serde_json::json!({"driver":"null-co","node-name":"n","size":4096}))).unwrap();
    let attached = graph.attach("n", true, "disk").unwrap();
    assert!(graph.attach("n", true, "disk").is_err());
    assert!(graph.remove("n").is_err());
    drop(attached);
    graph.remove("n").unwrap();
}

#[test]
fn probed_raw_is_guarded_and_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.img");
    raw_file(&path, 0);
    let opened = Graph::new().open_drive(&drive(&path)).unwrap();
    assert!(opened.warning.unwrap().contains("probing guessed raw"));
    assert!(write_all(opened.node.layer().as_ref(), b"QFI\xfb", 0).is_err());
}

#[test]
fn probed_qcow2_is_qcow2_without_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.img");
    qcow2_file(&path, None);
    let opened = Graph::new().open_drive(&drive(&path)).unwrap();
    assert_eq!((opened.node.layer().driver(), opened.warning), ("qcow2", None));
}

#[test]
fn chain_is_opened_relative_to_the_image_with_formats_of_the_headers() {
    let folder = tempfile::tempdir().unwrap();
    raw_file(&folder.path().join("base.img"), 7);
    qcow2_file(&folder.path().join("mid.qcow2"), Some(("base.img", Some("raw"))));
    qcow2_file(&folder.path().join("top.qcow2"), Some(("mid.qcow2", Some("qcow2"))));
    let graph = Graph::new();
    let opened = graph.open_drive(&drive(&folder.path().join("top.qcow2"))).unwrap();
    let layer = opened.node.layer();
    write_all(layer.as_ref(), &[1; 512], 512).unwrap();
    assert_eq!(read_vec(layer.as_ref(), 0, 512).unwrap(), [7; 512]);
    assert_eq!(read_vec(layer.as_ref(), 512, 1024).unwrap(), [vec![1; 512], vec![7; 512]].concat());
    assert_eq!(opened.node.info(true).backing_file_depth, 2);
}

#[test]
fn backing_file_without_format_is_refused_unless_probing() {
    let folder = tempfile::tempdir().unwrap();
    raw_file(&folder.path().join("base.img"), 7);
    qcow2_file(&folder.path().join("top.qcow2"), Some(("base.img", None)));
    let drive = drive(&folder.path().join("top.qcow2"));
    let error = Graph::new().open_drive(&drive).err().unwrap();
    assert!(chain_text(&error).contains("without its format"), "{}", chain_text(&error));
    assert!(Graph::probing().open_drive(&drive).is_ok());
}

#[test]
fn chain_that_loops_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    qcow2_file(&folder.path().join("a.qcow2"), Some(("b.qcow2", Some("qcow2"))));
    qcow2_file(&folder.path().join("b.qcow2"), Some(("a.qcow2", Some("qcow2"))));
    let drive = DriveSpec { read_only: true, ..drive(&folder.path().join("a.qcow2")) };
    let error = Graph::new().open_drive(&drive).err().unwrap();
    assert!(chain_text(&error).contains("loop"), "{}", chain_text(&error));
}

#[test]
fn protocols_in_names_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["nbd:localhost:10809", "json:{\"driver\":\"file\"}", "https://example.org/x"] {
        qcow2_file(&folder.path().join("top.qcow2"), Some((name, Some("raw"))));
        let error = Graph::new().open_drive(&drive(&folder.path().join("top.qcow2"))).err().unwrap();
        let scheme = name.split(':').next().unwrap();
        assert!(chain_text(&error).contains(scheme), "{}", chain_text(&error));
    }
}

#[test]
fn snapshot_throws_writes_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.img");
    raw_file(&path, 7);
    let graph = Graph::new();
    let drive = DriveSpec { snapshot: true, format: Some("raw".into()), ..drive(&path) };
    let opened = graph.open_drive(&drive).unwrap();
    let layer = opened.node.layer();
    write_all(layer.as_ref(), &[1; 4096], 100).unwrap();
    assert_eq!(read_vec(layer.as_ref(), 99, 3).unwrap(), [7, 1, 1]);
    graph.close_all().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), vec![7; 1 << 20]);
}

#[test]
fn second_graph_does_not_write_to_the_same_image() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.qcow2");
    qcow2_file(&path, None);
    let (first, second) = (Graph::new(), Graph::new());
    first.open_drive(&drive(&path)).unwrap();
    let error = second.open_drive(&drive(&path)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Locked);
}

#[test]
fn failed_open_leaves_no_nodes() {
    let folder = tempfile::tempdir().unwrap();
    qcow2_file(&folder.path().join("top.qcow2"), Some(("gone.img", Some("raw"))));
    let graph = Graph::new();
    assert!(graph.open_drive(&drive(&folder.path().join("top.qcow2"))).is_err());
    assert!(graph.nodes().is_empty(), "{:?}", graph.nodes().iter().map(|n| n.name().to_owned()).collect::<Vec<_>>());
}

#[test]
fn shared_disk_may_be_opened_by_a_second_writer_that_shares() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.img");
    raw_file(&path, 0);
    let (first, second) = (Graph::new(), Graph::new());
    let shared = DriveSpec { format: Some("raw".into()), force_share: true, ..drive(&path) };
    let opened = first.open_drive(&DriveSpec { force_share: false, ..shared.clone() }).unwrap();
    assert!(second.open_drive(&shared).is_err());
    opened.node.relock(Access::WriteShared).unwrap();
    second.open_drive(&shared).unwrap();
}

#[test]
fn file_is_locked_as_the_front_ends_that_have_it_need_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.img");
    raw_file(&path, 0);
    let named = DriveSpec { format: Some("raw".into()), node_name: Some("n".into()), ..drive(&path) };
    let graph = || {
        let graph = Graph::new().locking_by_use();
        graph.open_drive(&named).unwrap();
        graph
    };
    let (one, other) = (graph(), graph());
    let refused = |attached: Result<Attached, BlockError>| attached.err().map(|error| error.kind());

    let shared = one.attach_as("n", true, "a", SHARED).unwrap();
    assert_eq!(refused(other.attach("n", true, "b")), Some(ErrorKind::Locked));
    let beside = other.attach_as("n", true, "b", SHARED).unwrap();
    let second = one.attach_as("n", true, "c", SHARED).unwrap();
    drop((shared, second));
    one.lock_as_used(&one.get("n").unwrap());
    assert_eq!(refused(one.attach("n", true, "a")), Some(ErrorKind::Locked));
    drop(beside);
    other.lock_as_used(&other.get("n").unwrap());
    let _alone = one.attach("n", true, "a").unwrap();
    assert_eq!(refused(other.attach_as("n", true, "b", SHARED)), Some(ErrorKind::Locked));
}

#[test]
fn image_that_a_job_writes_to_beneath_stays_locked_when_others_come_to_stand_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    raw_file(&path("base"), 0);
    let graph = Arc::new(Graph::new().locking_by_use());
    let base = DriveSpec { format: Some("raw".into()), node_name: Some("base".into()), ..drive(&path("base")) };
    let node = graph.open_drive(&base).unwrap().node;
    let refused = || {
        let other = Graph::new().locking_by_use();
        other.open_drive(&base).unwrap();
        let attached = other.attach("base", true, "b");
        attached.err().map(|error| error.kind())
    };

    let opened = graph.open_for_writing(&node).unwrap();
    assert_eq!(refused(), Some(ErrorKind::Locked));
    // As after a change anywhere above.
    graph.lock_as_used(&node);
    assert_eq!(refused(), Some(ErrorKind::Locked));
    drop(opened);

    assert_eq!(refused(), None);
}

#[test]
fn discards_do_nothing_unless_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.qcow2");
    for (discard, expected) in [(Discard::Ignore, 1), (Discard::Unmap, 0)] {
        qcow2_file(&path, None);
        let graph = Graph::new();
        let opened = graph.open_drive(&DriveSpec { discard, ..drive(&path) }).unwrap();
        let layer = opened.node.layer();
        write_all(layer.as_ref(), &[1; 65536], 0).unwrap();
        layer.discard(0, 65536).unwrap();
        assert_eq!(read_vec(layer.as_ref(), 0, 1).unwrap(), [expected], "{discard:?}");
        assert_eq!(layer.limits().discard, discard == Discard::Unmap);
    }
}

#[test]
fn chain_of_1000_images_is_opened_read_written_told_and_closed_on_a_workers_stack() {
    const IMAGES: usize = 1000;
    let folder = tempfile::tempdir().unwrap();
    let name = |n: usize| format!("{n}.qcow2");
    raw_file(&folder.path().join(name(0)), 7);
    qcow2_file(&folder.path().join(name(1)), Some((&name(0), Some("raw"))));
    // The others differ from the second in the name beneath alone.
    qcow2_file(&folder.path().join(name(2)), Some((&name(1), Some("qcow2"))));
    let image = std::fs::read(folder.path().join(name(2))).unwrap();
    let at = image.windows(7).position(|bytes| bytes == b"1.qcow2").unwrap();
    for n in 3..=IMAGES + 1 {
        let (below, mut image) = (name(n - 1), image.clone());
        image[at..at + below.len()].copy_from_slice(below.as_bytes());
        image[16..20].copy_from_slice(&(below.len() as u32).to_be_bytes());
        std::fs::write(folder.path().join(name(n)), image).unwrap();
    }
    // More files than a process may have open without asking.
    crate::sys::allow_open_files(2 * IMAGES as u64).unwrap();

    let (top, too_deep) = (folder.path().join(name(IMAGES)), folder.path().join(name(IMAGES + 1)));
    let work = move || {
        let graph = Graph::new();
        let refused = graph.open_drive(&drive(&too_deep)).err().map(|error| format!("{error:?}"));
        let opened = graph.open_drive(&drive(&top)).unwrap();
        let (layer, depth) = (opened.node.layer().clone(), opened.node.info(true).backing_file_depth);
        // A file beneath each image: these and all pairs, once each.
        assert_eq!(graph.info(2000).err(), Some((IMAGES + 1) * (IMAGES + 2) / 2 + IMAGES + 1));
        assert_eq!(graph.flat_info().len(), 2 * (IMAGES + 1));
        let asked = (layer.status(0, 512).unwrap(), layer.wants_ring(), layer.is_cached());
        let fast = layer.fast(FastOp::Read, 0, 512);
        write_all(layer.as_ref(), &[1; 512], 512).unwrap();
        let bytes = read_vec(layer.as_ref(), 0, 1024).unwrap();
        assert!(layer.discard(0, 1 << 16).is_ok() && !matches!(fast, Fast::Zero | Fast::Done));
        drop(layer);
        graph.remove(opened.node.name()).unwrap();
        assert_eq!(graph.nodes().len(), 0);
        drop((opened, graph));
        (refused, depth, asked.0.data, bytes)
    };
    let done = crate::thread::spawn(crate::thread::ThreadKind::Disk, "deep", work).unwrap().join().unwrap();

    let refused = done.0.unwrap_or_default();
    assert!(refused.contains("more than 1000 images beneath each other"), "{refused}");
    assert_eq!((done.1, done.2, done.3), (IMAGES, true, [vec![7; 512], vec![1; 512]].concat()));
}

fn object(json: &serde_json::Value) -> serde_json::Map<String, serde_json::Value> {
    json.as_object().unwrap().clone()
}

#[test]
fn drive_takes_the_options_of_its_format_and_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.qcow2");
    qcow2_file(&path, None);
    let block = object(&serde_json::json!({
        "driver": "qcow2", "l2-cache-size": "1M", "lazy-refcounts": "on", "cache": {"no-flush": "on"},
        "file": {"locking": "off", "node-name": "below"},
    }));
    let graph = Graph::new();
    let opened = graph.open_drive(&DriveSpec { block, ..drive(&path) }).unwrap();
    let info = serde_json::to_value(opened.node.info(true)).unwrap();
    assert_eq!(info["cache"], serde_json::json!({"writeback": true, "direct": false, "no-flush": true}));
    assert!(graph.get("below").is_some());
    // Without locks another may write at the same time.
    Graph::new().open_drive(&drive(&path)).unwrap();

    let block = object(&serde_json::json!({"file": {"driver": "null-co", "size": "4096"}}));
    let null = graph.open_drive(&DriveSpec { block, format: Some("raw".into()), ..DriveSpec::default() }).unwrap();
    assert_eq!(null.node.layer().size(), 4096);
}

#[test]
fn blkdebug_is_a_prefix_of_a_name_and_takes_options_for_itself_and_beneath() {
    let graph = Graph::new();
    let block = object(&serde_json::json!({"file": {"align": "4k", "image": {"size": "8192", "read-zeroes": "on"}}}));
    let drive =
        DriveSpec { file: "blkdebug::null-co://".into(), format: Some("raw".into()), block, ..DriveSpec::default() };

    let opened = graph.open_drive(&drive).unwrap();

    let beneath = &opened.node.children()[0].1;
    assert_eq!((beneath.layer().driver(), beneath.layer().size()), ("blkdebug", 8192));
    for name in ["blkdebug:conf", "blkdebug::blkdebug::a"] {
        let error = graph.open_drive(&DriveSpec { file: name.into(), ..DriveSpec::default() }).err().unwrap();
        assert_eq!(error.to_string(), format!("'{name}' names no image: write blkdebug:CONFIG:IMAGE"));
    }
}

#[test]
fn options_that_the_format_does_not_know_are_refused_and_leave_no_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.img");
    raw_file(&path, 0);
    for block in [serde_json::json!({"l2-cache-size": "1M"}), serde_json::json!({"file": {"colour": "red"}})] {
        let graph = Graph::new();
        let drive = DriveSpec { block: object(&block), format: Some("raw".into()), ..drive(&path) };
        let error = graph.open_drive(&drive).err().unwrap();
        assert!(chain_text(&error).contains("does not support the option"), "{}", chain_text(&error));
        assert!(graph.nodes().is_empty());
    }
}

#[test]
fn options_with_values_that_they_cannot_have_are_named_with_their_path() {
    let size = "a non-negative number below 2^64, with an optional suffix k, M, G, T, P or E";
    let cases = [
        (serde_json::json!({"driver": "null-co", "size": "x"}), format!("Parameter 'size' expects {size}")),
        // The value of one option may be that of another.
        (
            serde_json::json!({"driver": "null-co", "read-zeroes": "on", "read-only": "x", "discard": "x"}),
            "Parameter 'read-only' expects 'on' or 'off'".to_owned(),
        ),
        (
            serde_json::json!({"file": {"driver": "null-co", "node-name": "x", "cache": {"direct": "x"}}}),
            "Parameter 'cache.direct' expects 'on' or 'off'".to_owned(),
        ),
        (
            serde_json::json!({"driver": "null-co", "detect-zeroes": "x"}),
            "Parameter 'detect-zeroes' does not accept value 'x'".to_owned(),
        ),
    ];
    for (block, expected) in cases {
        let graph = Graph::new();
        let error = graph.open_drive(&DriveSpec { block: object(&block), ..DriveSpec::default() }).err().unwrap();
        assert_eq!(chain_text(&error), expected, "{block}");
    }
}

#[test]
fn format_that_there_is_not_is_told_before_a_file_is_opened() {
    let drive = DriveSpec { file: "/nosuch".into(), format: Some("floppy".into()), ..DriveSpec::default() };

    let error = Graph::new().open_drive(&drive).err().unwrap();

    assert_eq!(chain_text(&error), "Unknown driver 'floppy'");
}

#[test]
fn limits_of_a_drive_hold_for_who_gets_it() {
    let graph = Graph::new();
    graph.add(&spec(&serde_json::json!({"driver":"null-co","node-name":"n","size":4096}))).unwrap();
    let rate = crate::throttle::Rate { average: 100, burst: 200, length: 3 };
    let none = crate::throttle::Rate::default();
    let limits = crate::throttle::Limits { requests: [rate, none, none], ..Default::default() };
    let group = graph.add_throttle_group("g", limits).unwrap();
    graph.get("n").unwrap().limit(group.clone());

    let attached = graph.attach("n", true, "disk").unwrap();

    let of_disk = attached.disk().throttle().unwrap();
    let told = serde_json::to_value(ThrottleInfo::from(&*of_disk)).unwrap();
    assert_eq!((&told["iops"], &told["iops_max"]), (&100.into(), &200.into()));
    assert_eq!((&told["iops_max_length"], &told["group"]), (&3.into(), &"g".into()));
    assert!(graph.remove_throttle_group("g").is_err(), "it is in use");
}

#[test]
fn node_under_limits_names_its_group() {
    let graph = Graph::new();
    let below = serde_json::json!({"driver": "null-co", "size": 4096});
    let node = serde_json::json!({"driver":"throttle","node-name":"t","throttle-group":"g","file":below});
    assert!(graph.add(&spec(&node)).is_err());
    let limits = crate::throttle::Limits::default();
    graph.add_throttle_group("g", limits).unwrap();
    assert!(graph.add_throttle_group("g", limits).is_err());
    graph.add(&spec(&node)).unwrap();
    assert!(graph.remove_throttle_group("g").is_err());
    graph.remove("t").unwrap();
    graph.remove_throttle_group("g").unwrap();
}

#[test]
fn copy_on_read_keeps_what_many_threads_read_and_write_at_once() {
    let folder = tempfile::tempdir().unwrap();
    raw_file(&folder.path().join("base.img"), 7);
    let path = folder.path().join("top.qcow2");
    qcow2_file(&path, Some(("base.img", Some("raw"))));
    let graph = Graph::new();
    let opened = graph.open_drive(&DriveSpec { copy_on_read: true, ..drive(&path) }).unwrap();
    let layer = opened.node.layer();
    assert_eq!(layer.driver(), "copy-on-read");
    std::thread::scope(|scope| {
        for n in 0..8u64 {
            scope.spawn(move || {
                for round in 0..64u64 {
                    let at = (round * 37 + n * 5) % 255 * 4096;
                    if n % 2 == 0 {
                        write_all(layer.as_ref(), &[1; 512], at).unwrap();
                    }
                    let read = read_vec(layer.as_ref(), at, 4096).unwrap();
                    assert!(read.iter().enumerate().all(|(n, b)| *b == 7 || (n < 512 && *b == 1)));
                }
            });
        }
    });
    read_vec(layer.as_ref(), 0, 1 << 20).unwrap();
    graph.close_all().unwrap();
    let format = opened.node.child("file").unwrap();
    let status = format.layer().status(0, 1 << 20).unwrap();
    assert!(status.allocated, "it is in the overlay: {status:?}");
    let check = crate::format::qcow2::check(format.child("file").unwrap().layer()).unwrap();
    assert_eq!((check.corruptions, check.leaks), (0, 0), "{:?}", check.messages);
}

#[test]
fn failed_add_closes_what_it_opened() {
    let folder = tempfile::tempdir().unwrap();
    let (path, top) = (folder.path().join("a.img"), folder.path().join("top.qcow2"));
    raw_file(&path, 7);
    qcow2_file(&top, Some(("gone.img", Some("raw"))));
    let graph = Graph::new();
    let refused = [
        // It is not of this format.
        serde_json::json!({"driver":"qcow2","node-name":"x","file":{"driver":"file","filename":path,"node-name":"y"}}),
        // Nothing lies where the header says.
        serde_json::json!({"driver":"qcow2","node-name":"x","file":{"driver":"file","filename":top}}),
    ];
    for refused in refused {
        assert!(graph.add(&spec(&refused)).is_err());
        assert!(graph.nodes().is_empty());
    }
    // Nobody holds the lock any more.
    graph.add(&spec(&serde_json::json!({"driver":"file","node-name":"a","filename":path}))).unwrap();
    let twice = serde_json::json!({"driver":"qcow2","node-name":"x","file":"a"});
    assert!(graph.add(&spec(&twice)).is_err());
    assert!(graph.get("a").is_some(), "it was there before");
}
