use serde_json::{Value, json};

use super::super::tests::{SHARED, qcow2_file};
use super::*;

/// A qcow2 node `n` on a file node `file`, beneath a filter `th`; and another filter `other` on `n`.
fn filtered() -> (tempfile::TempDir, Arc<Graph>) {
    let (folder, graph) = (tempfile::tempdir().unwrap(), Arc::new(Graph::new()));
    let path = folder.path().join("a");
    qcow2_file(&path, None);
    graph.add_throttle_group("group", crate::throttle::Limits::default()).unwrap();
    let add = |spec: Value| drop(graph.add(&serde_json::from_value(spec).unwrap()).unwrap());
    add(json!({"driver": "file", "node-name": "file", "filename": path}));
    add(json!({"driver": "qcow2", "node-name": "n", "file": "file"}));
    add(json!({"driver": "throttle", "node-name": "th", "file": "n", "throttle-group": "group"}));
    add(json!({"driver": "copy-on-read", "node-name": "other", "file": "n"}));
    (folder, graph)
}

fn writers(graph: &Graph, node: &str) -> Vec<String> {
    let writers = graph.writers_of(&graph.get(node).unwrap());
    writers.iter().map(|writer| writer.name().to_owned()).collect()
}

#[test]
fn who_writes_is_found_above_beneath_and_beside_a_node() {
    let (_folder, graph) = filtered();
    assert!(writers(&graph, "n").is_empty());
    let first = graph.attach_as("th", true, "first", SHARED).unwrap();
    for node in ["th", "n", "file", "other"] {
        assert_eq!(writers(&graph, node), ["th"], "{node}");
    }
    let second = graph.attach_as("n", true, "second", SHARED).unwrap();
    assert_eq!(writers(&graph, "th"), ["n", "th"]);
    drop((first, second));

    let (th, n) = (graph.get("th").unwrap(), graph.get("n").unwrap());
    assert!(Arc::ptr_eq(&th.same_beneath().unwrap(), &n));
    assert!(n.same_beneath().is_none(), "its file is another thing");
    assert!(th.stands_on(&graph.get("file").unwrap()) && !n.stands_on(&th));
}

#[test]
fn nobody_comes_to_write_to_the_node_of_a_job_through_another() {
    let (_folder, graph) = filtered();
    let n = graph.get("n").unwrap();
    let held = graph.hold_for_job(vec![n.clone()], "stream").unwrap();
    let busy = "Node 'n' is busy: block device is in use by block job: stream";
    let th = graph.get("th").unwrap();
    let refused = [
        graph.attach("th", true, "d").map(drop),
        graph.check_resize(&th),
        graph.check_write(&th, "qemu-io"),
        graph.hold_with_target(&[], &th, "mirror").map(drop),
    ];
    for refused in refused {
        assert_eq!(refused.unwrap_err().to_string(), busy);
    }
    drop(held);
    let held = graph.hold_for_job(vec![th.clone()], "mirror").unwrap();
    let beneath = graph.attach_as("n", true, "d", SHARED).map(drop).unwrap_err().to_string();
    assert_eq!(beneath, "Node 'th' is busy: block device is in use by block job: mirror");
    drop(held);
    let held = graph.hold_for_job(vec![n], EXPORT).unwrap();
    let _device = graph.attach("th", true, "d").unwrap();
    drop(held);
}
