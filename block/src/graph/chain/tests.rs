use serde_json::json;

use super::*;
use crate::graph::DriveSpec;
use crate::graph::tests::qcow2_file;

/// A chain of three, opened as `-drive` does with `options`.
fn chain_with(folder: &Path, options: Value) -> (Graph, Result<Arc<Node>, BlockError>) {
    let image = |name: &str, below| qcow2_file(&folder.join(name), below);
    image("base", None);
    image("other", None);
    image("middle", Some(("base", Some("qcow2"))));
    image("top", Some(("middle", Some("qcow2"))));
    let graph = Graph::new();
    let Value::Object(block) = options else { panic!("no object") };
    let file = folder.join("top").display().to_string();
    let drive = DriveSpec { file, format: Some("qcow2".into()), block, ..DriveSpec::default() };
    let opened = graph.open_drive(&drive).map(|opened| opened.node);
    (graph, opened)
}

#[test]
fn nodes_of_a_chain_get_names_and_options_from_a_drive() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other").display().to_string();
    let names = json!({"node-name": "t", "file": {"node-name": "tf"}, "backing": {"node-name": "m",
        "l2-cache-size": "65536", "file": {"node-name": "mf"}, "backing": {"node-name": "b", "file.x": null}}});
    let mut good = names.clone();
    good["backing"]["backing"] = json!({"node-name": "b"});

    let (_, refused) = chain_with(folder.path(), names);
    let (graph, top) = chain_with(folder.path(), good);
    let top = top.unwrap();

    assert!(refused.err().unwrap().sentence().contains("does not support the option 'file.x'"));
    let below: Vec<_> = top.beneath().map(|node| node.name().to_owned()).collect();
    assert_eq!((top.name(), below), ("t", vec!["m".to_owned(), "b".to_owned()]));
    assert_eq!(graph.find("mf").unwrap().filename(), folder.path().join("middle").into());
    assert!(graph.find("tf").is_ok() && graph.find("m").unwrap().is_read_only());
    drop((graph, top));

    let (_graph, top) = chain_with(folder.path(), json!({"backing": {"file": {"filename": other}}}));
    assert_eq!(top.unwrap().beneath().map(|node| node.filename()).collect::<Vec<_>>(), [Path::new(&other).into()]);
    drop(_graph);
    let (_graph, top) =
        chain_with(folder.path(), json!({"backing": {"driver": "null-co", "size": "1M", "node-name": "n"}}));
    assert_eq!(top.unwrap().child("backing").unwrap().name(), "n");
}

#[test]
fn options_beneath_an_image_that_stands_on_nothing_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(chain_with(folder.path(), json!({})));
    let open = |format: &str, options: Value| {
        let Value::Object(block) = options else { panic!("no object") };
        let file = folder.path().join("base").display().to_string();
        let drive = DriveSpec { file, format: Some(format.into()), block, ..DriveSpec::default() };
        Graph::new().open_drive(&drive).err().unwrap().sentence()
    };

    let nothing = open("qcow2", json!({"backing": {"node-name": "b"}}));
    let driver = open("qcow2", json!({"backing": {"driver": "qcow2"}}));
    let raw = open("raw", json!({"backing": {"node-name": "b"}}));

    assert_eq!(nothing, "Could not open backing file: Must specify either driver or file");
    assert_eq!(driver, "Could not open backing file: A block device must be specified for \"file\"");
    assert_eq!(raw, "Driver doesn't support backing files");
}
