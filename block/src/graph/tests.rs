use super::*;
use crate::format::qcow2::{CreateOptions, create};
use crate::layer::{read_vec, write_all};
use crate::protocol::file::FileOptions;
use crate::spec::Discard;
use std::path::Path;

fn raw_file(path: &Path, byte: u8) {
    std::fs::write(path, vec![byte; 1 << 20]).unwrap();
}

fn qcow2_file(path: &Path, backing: Option<(&str, Option<&str>)>) {
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

    let info = serde_json::to_value(graph.info()).unwrap();
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
    let attached = graph.attach("n", true).unwrap();
    assert!(graph.attach("n", true).is_err());
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
fn chain_of_150_images_is_opened_and_read_by_a_worker() {
    let folder = tempfile::tempdir().unwrap();
    raw_file(&folder.path().join("0.qcow2"), 7);
    for n in 1..=150 {
        let format = if n == 1 { "raw" } else { "qcow2" };
        let below = format!("{}.qcow2", n - 1);
        qcow2_file(&folder.path().join(format!("{n}.qcow2")), Some((&below, Some(format))));
    }
    let graph = Graph::new();
    let opened = graph.open_drive(&drive(&folder.path().join("150.qcow2"))).unwrap();
    let layer = opened.node.layer().clone();
    let read = crate::thread::spawn(crate::thread::ThreadKind::Disk, "deep", move || {
        write_all(layer.as_ref(), &[1; 512], 512).unwrap();
        read_vec(layer.as_ref(), 0, 1024).unwrap()
    });
    assert_eq!(read.unwrap().join().unwrap(), [vec![7; 512], vec![1; 512]].concat());
}
