use crate::format::qcow2::{CreateOptions, create};
use crate::layer::Layer;
use crate::protocol::file::HostFile;
use std::sync::atomic::AtomicBool;

use serde_json::json;

use super::*;
use crate::disk::rig;
use crate::layer::read_vec;
use crate::protocol::file::FileOptions;

const BLOCK: usize = 4096;
const BLOCKS: usize = 512;

/// A qcow2 image in a file of its own, as node `base`.
fn base(graph: &Graph) -> (tempfile::TempDir, Arc<Node>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.qcow2");
    std::fs::write(&path, b"").unwrap();
    let file: Arc<dyn Layer> = Arc::new(HostFile::open(&path, FileOptions::default()).unwrap());
    let options = CreateOptions { size: (BLOCK * BLOCKS) as u64, ..CreateOptions::default() };
    create(&file, None, &options).unwrap().close().unwrap();
    drop(file);
    let node =
        add(graph, json!({"driver": "qcow2", "node-name": "base", "file": {"driver": "file", "filename": path}}));
    (folder, node)
}

fn add(graph: &Graph, spec: serde_json::Value) -> Arc<Node> {
    graph.add(&serde_json::from_value(spec).unwrap()).unwrap()
}

fn overlay(graph: &Graph, node: &Arc<Node>, file: &Path, name: &str) -> Result<Arc<Node>, BlockError> {
    graph.add_overlay(node, NewOverlay { file, format: "qcow2", node_name: Some(name), exists: false })
}

/// What the image in `file` shows, to a program of its own.
fn content(file: &Path) -> Vec<u8> {
    let graph = Graph::new();
    let node = add(
        &graph,
        json!({"driver": "qcow2", "read-only": true, "file": {"driver": "file", "filename": file}, "node-name": "x"}),
    );
    read_vec(node.layer().as_ref(), 0, BLOCK * BLOCKS).unwrap()
}

#[test]
fn snapshot_under_writes_holds_those_before_it_and_the_overlay_those_after() {
    let graph = Graph::new();
    let (folder, node) = base(&graph);
    let attached = graph.attach("base", true, "disk").unwrap();
    let (disk, over) = (attached.disk().clone(), Arc::new(AtomicBool::new(false)));
    let seen = over.clone();
    let writer = std::thread::spawn(move || {
        // At least one write before, and one after.
        let mut after = 0;
        for block in 0..BLOCKS {
            rig::write(&disk, &[1; BLOCK], (block * BLOCK) as u64);
            after += usize::from(seen.load(Ordering::SeqCst));
            if after > 8 {
                return block + 1;
            }
        }
        BLOCKS
    });
    while attached.node().layer().status(0, BLOCK as u64).unwrap().zero {
        std::thread::yield_now();
    }

    let held = attached.disk().drain();
    let top = overlay(&graph, &node, &folder.path().join("top.qcow2"), "top").unwrap();
    let snapshot = graph.prepare_snapshot("base", "top").unwrap();
    graph.take_snapshot(snapshot, &[(&attached, &held)]);
    drop(held);
    over.store(true, Ordering::SeqCst);
    let written = writer.join().unwrap();

    assert_eq!(attached.node().name(), "top");
    assert_eq!(top.child("backing").unwrap().name(), "base");
    let all = read_vec(attached.disk().layer().as_ref(), 0, BLOCK * BLOCKS).unwrap();
    let marks = |bytes: &[u8]| bytes.chunks(BLOCK).take_while(|block| block.iter().all(|b| *b == 1)).count();
    assert_eq!(marks(&all), written);
    // Another program may read it while the guest runs on.
    let kept = content(&folder.path().join("base.qcow2"));
    let before = marks(&kept);
    assert!((1..written).contains(&before), "{before} of {written}");
    assert!(kept[before * BLOCK..].iter().all(|b| *b == 0), "a write came after the snapshot");
    attached.disk().layer().close().unwrap();
    drop((attached, top, node));
    graph.close_all().unwrap();
    drop(graph);
    assert_eq!(content(&folder.path().join("top.qcow2")), all, "the header names what is beneath");
}

#[test]
fn what_cannot_be_an_overlay_is_refused_and_changes_nothing() {
    let graph = Graph::new();
    let (folder, node) = base(&graph);
    let refused = |node: &str, overlay: &str| graph.prepare_snapshot(node, overlay).err().map(|e| e.to_string());
    add(&graph, json!({"driver": "null-co", "node-name": "null"}));
    add(&graph, json!({"driver": "raw", "node-name": "above", "file": "null"}));
    let top = overlay(&graph, &node, &folder.path().join("top.qcow2"), "top").unwrap();

    assert_eq!(refused("base", "null").unwrap(), "The overlay is already in use");
    assert_eq!(refused("base", "base").unwrap(), "The overlay is already in use");
    assert_eq!(refused("base", "above").unwrap(), "The overlay does not support backing images");
    assert_eq!(refused("base", "none").unwrap(), "Cannot find device='' nor node-name='none'");
    assert!(refused("null", "top").unwrap().contains("is beneath node 'above'"));
    let again = overlay(&graph, &node, &folder.path().join("other.qcow2"), "top");
    assert_eq!(again.err().unwrap().to_string(), "New overlay node-name already in use");
    let raw = NewOverlay { file: &folder.path().join("r"), format: "raw", node_name: None, exists: false };
    assert!(graph.add_overlay(&node, raw).is_err());
    assert!(top.child("backing").is_none() && !node.is_read_only());

    graph.take_snapshot(graph.prepare_snapshot("base", "top").unwrap(), &[]);
    assert_eq!(refused("base", "top").unwrap(), "The overlay already has a backing image");
    assert!(node.is_read_only() && !top.is_read_only());
}

#[test]
fn node_under_an_overlay_is_not_given_to_a_device_that_would_write_to_it() {
    let graph = Graph::new();
    let (folder, node) = base(&graph);
    overlay(&graph, &node, &folder.path().join("top.qcow2"), "top").unwrap();
    graph.take_snapshot(graph.prepare_snapshot("base", "top").unwrap(), &[]);

    let error = graph.attach("base", true, "disk").err().unwrap();

    let conflict = "Permission conflict on node 'base': permissions 'write' are both required by block device 'disk' \
                    (uses node 'base' as 'root' child) and unshared by node 'top' (uses node 'base' as 'backing' child).";
    assert_eq!(error.to_string(), conflict);
    assert!(graph.remove("base").is_err());
    assert!(graph.attach("top", true, "disk").is_ok());
}

#[test]
fn refused_overlay_leaves_the_file_as_it_was() {
    let graph = Graph::new();
    let (folder, node) = base(&graph);
    let path = folder.path().join("precious");
    std::fs::write(&path, "precious").unwrap();
    let refused = |name: &str| overlay(&graph, &node, &path, name).err().unwrap().to_string();

    assert_eq!(refused("no name"), "Invalid node-name: 'no name'");
    let held = graph.hold_for_job(vec![node.clone()], "stream").unwrap();
    assert!(refused("top").contains("block device is in use by block job: stream"));
    drop(held);
    overlay(&graph, &node, &folder.path().join("top.qcow2"), "top").unwrap();
    graph.take_snapshot(graph.prepare_snapshot("base", "top").unwrap(), &[]);
    assert!(refused("second").contains("is beneath node 'top'"));

    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn what_a_mirror_writes_to_can_be_put_on_its_base_and_nothing_else_that_is_busy() {
    let graph = Arc::new(Graph::new());
    let (folder, node) = base(&graph);
    let top = overlay(&graph, &node, &folder.path().join("top.qcow2"), "top").unwrap();
    let refused = || graph.prepare_snapshot("base", "top").err().map(|error| error.to_string());
    let busy = |job: &str| Some(format!("Node 'top' is busy: block device is in use by block job: {job}"));

    let backup = graph.hold_with_target(&[], &top, "backup").unwrap();
    assert_eq!(refused(), busy("backup"));
    drop(backup);
    let source = graph.hold_for_job(vec![top.clone()], "mirror").unwrap();
    assert_eq!(refused(), busy("mirror"));
    drop(source);
    let target = graph.hold_with_target(&[], &top, "mirror").unwrap();
    graph.take_snapshot(graph.prepare_snapshot("base", "top").unwrap(), &[]);
    drop(target);

    assert_eq!(top.child("backing").unwrap().name(), "base");
}
