use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::Attached;
use super::super::tests::qcow2_file;
use super::*;
use crate::format::qcow2::{CreateOptions, create};
use crate::layer::Layer;
use crate::protocol::file::HostFile;

/// A qcow2 node `fmt` on a file node `file`, another file with an empty image, and a group of limits.
struct Rig {
    folder: TempDir,
    graph: Arc<Graph>,
}

impl Rig {
    fn new() -> Self {
        let rig = Self { folder: tempfile::tempdir().unwrap(), graph: Arc::new(Graph::new()) };
        rig.graph.add_throttle_group("group", crate::throttle::Limits::default()).unwrap();
        for name in ["a", "b"] {
            qcow2_file(&rig.path(name), None);
        }
        rig.add(json!({"driver": "file", "node-name": "file", "filename": rig.path("a")})).unwrap();
        rig.add(json!({"driver": "qcow2", "node-name": "fmt", "file": "file"})).unwrap();
        rig
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn add(&self, spec: Value) -> Result<Arc<Node>, String> {
        self.graph.add(&serde_json::from_value(spec).unwrap()).map_err(|error| error.to_string())
    }

    fn node(&self, name: &str) -> Arc<Node> {
        self.graph.get(name).unwrap()
    }

    fn device(&self, id: &str, node: &str) -> Result<Attached, String> {
        self.graph.attach(node, true, id).map_err(|error| error.to_string())
    }

    fn resize(&self, node: &str) -> Result<(), String> {
        self.graph.check_resize(&self.node(node)).map_err(|error| error.to_string())
    }

    fn export(&self, node: &str, writable: bool) -> Result<super::super::Shown, String> {
        self.graph.show(self.node(node), "e", writable).map_err(|error| error.to_string())
    }

    fn overlay(&self) {
        let file = json!({"driver": "file", "filename": self.path("b")});
        self.add(json!({"driver": "qcow2", "node-name": "top", "file": file, "backing": "fmt"})).unwrap();
    }
}

/// QEMU's sentence; each side is who it is, and what the node is to it.
fn sentence(node: &str, rights: &str, needs: (&str, &str), refuses: (&str, &str)) -> String {
    let uses = |(who, role): (&str, &str)| format!("{who} (uses node '{node}' as '{role}' child)");
    format!(
        "Permission conflict on node '{node}': permissions '{rights}' are both required by {} and unshared by {}.",
        uses(needs),
        uses(refuses)
    )
}

#[test]
fn file_of_a_format_is_its_own_with_and_without_a_device() {
    let rig = Rig::new();
    let refused = || {
        let fmt = ("node 'fmt'", "file");
        let device = rig.device("d", "file").err().unwrap();
        assert_eq!(device, sentence("file", "write", fmt, ("block device 'd'", "root")));
        let resize = rig.resize("file").unwrap_err();
        assert_eq!(resize, sentence("file", "resize", ("'block_resize'", "root"), fmt));
        let clients = rig.export("file", false).err().unwrap();
        assert_eq!(clients, sentence("file", "resize", fmt, ("export 'e'", "root")));
        for read_only in [false, true] {
            let second = json!({"driver": "qcow2", "node-name": "second", "file": "file", "read-only": read_only});
            let error = rig.add(second).err().unwrap();
            assert_eq!(error, sentence("file", "write, resize", fmt, ("node 'second'", "file")));
            assert!(rig.graph.get("second").is_none());
        }
        rig.resize("fmt").unwrap();
    };
    refused();
    let _device = rig.device("first", "fmt").unwrap();
    refused();
}

#[test]
fn what_is_above_a_filter_is_asked_for_beneath_it() {
    let filters = [
        json!({"driver": "throttle", "node-name": "above", "throttle-group": "group", "file": "fmt"}),
        json!({"driver": "raw", "node-name": "above", "file": "fmt"}),
        json!({"driver": "copy-on-read", "node-name": "above", "file": "fmt"}),
        json!({"driver": "blkdebug", "node-name": "above", "image": "fmt"}),
    ];
    for filter in filters {
        let rig = Rig::new();
        let role = if filter["driver"] == "blkdebug" { "image" } else { "file" };
        let (above, first) = (("node 'above'", role), ("block device 'first'", "root"));
        rig.add(filter).unwrap();

        let device = rig.device("first", "fmt").unwrap();
        let error = rig.device("second", "above").err().unwrap();
        assert_eq!(error, sentence("fmt", "write", first, above));
        assert!(rig.export("above", true).is_err());
        rig.resize("above").unwrap();

        drop(device);
        let device = rig.device("second", "above").unwrap();
        let error = rig.device("first", "fmt").err().unwrap();
        assert_eq!(error, sentence("fmt", "write", above, first));
        drop(device);
        rig.device("first", "fmt").unwrap();
    }
}

#[test]
fn raw_beside_a_format_cannot_be_written_to() {
    let rig = Rig::new();
    rig.add(json!({"driver": "raw", "node-name": "raw", "file": "file"})).unwrap();
    let (fmt, raw) = (("node 'fmt'", "file"), ("node 'raw'", "file"));
    assert_eq!(rig.device("d", "raw").err().unwrap(), sentence("file", "write", fmt, raw));
    assert_eq!(rig.resize("raw").unwrap_err(), sentence("file", "resize", raw, fmt));
    let refused = rig.graph.hold_with_target(&[], &rig.node("raw"), "mirror").err().unwrap();
    assert_eq!(refused.to_string(), sentence("file", "resize", fmt, raw));
    let refused = rig.graph.check_write(&rig.node("raw"), "qemu-io").unwrap_err();
    assert_eq!(refused.to_string(), sentence("file", "write", raw, fmt));
    rig.device("d", "fmt").unwrap();
}

#[test]
fn file_that_a_raw_node_shows_a_part_of_is_not_resized() {
    for (window, refused) in [
        (json!({"offset": 4096, "size": 4096}), true),
        (json!({"size": 4096}), true),
        (json!({"offset": 4096}), true),
        (json!({"offset": 0}), false),
    ] {
        let rig = Rig::new();
        std::fs::write(rig.path("c"), [0; 16384]).unwrap();
        rig.add(json!({"driver": "file", "node-name": "bytes", "filename": rig.path("c")})).unwrap();
        let mut part = json!({"driver": "raw", "node-name": "part", "file": "bytes"});
        part.as_object_mut().unwrap().extend(window.as_object().unwrap().clone());
        rig.add(part).unwrap();
        rig.add(json!({"driver": "raw", "node-name": "all", "file": "bytes"})).unwrap();

        let resized = ["bytes", "all"].map(|node| rig.resize(node));

        let who = [("'block_resize'", "root"), ("node 'all'", "file")];
        let expected = who.map(|who| match refused {
            true => Err(sentence("bytes", "resize", who, ("node 'part'", "file"))),
            false => Ok(()),
        });
        assert_eq!(resized, expected, "{window}");
        let _device = rig.device("d", "part").unwrap();
        assert_eq!(["bytes", "all"].map(|node| rig.resize(node)), expected, "{window}");
        if window["size"].is_null() {
            rig.resize("part").unwrap();
        }
    }
}

#[test]
fn clients_who_write_and_a_device_exclude_each_other() {
    let rig = Rig::new();
    let (clients, disk) = (("export 'e'", "root"), ("block device 'd'", "root"));
    let shown = rig.export("fmt", true).unwrap();
    assert_eq!(rig.device("d", "fmt").err().unwrap(), sentence("fmt", "write", clients, disk));
    assert_eq!(rig.resize("fmt").unwrap_err(), sentence("fmt", "resize", ("'block_resize'", "root"), clients));
    drop(shown);
    let device = rig.device("d", "fmt").unwrap();
    assert_eq!(rig.export("fmt", true).err().unwrap(), sentence("fmt", "write", clients, disk));
    rig.export("fmt", false).unwrap();
    drop(device);
    rig.export("fmt", true).unwrap();
}

#[test]
fn what_lies_beneath_changes_only_if_nobody_on_the_overlay_minds() {
    let rig = Rig::new();
    let (disk, top) = (("block device 'd'", "root"), ("node 'top'", "backing"));
    let device = rig.device("d", "fmt").unwrap();
    // As for a backup that is read while the guest runs.
    rig.overlay();
    let shown = rig.export("top", false).unwrap();
    assert_eq!(rig.device("other", "top").err().unwrap(), sentence("fmt", "write", disk, top));
    assert_eq!(rig.resize("fmt").unwrap_err(), sentence("fmt", "resize", ("'block_resize'", "root"), top));
    drop((shown, device));

    let _device = rig.device("other", "top").unwrap();
    assert_eq!(rig.device("d", "fmt").err().unwrap(), sentence("fmt", "write", disk, top));
    assert!(rig.export("fmt", true).is_err());
    rig.export("fmt", false).unwrap();
}

#[test]
fn job_does_not_write_beneath_an_overlay_to_what_a_guest_writes_to() {
    let rig = Rig::new();
    let device = rig.device("d", "fmt").unwrap();
    rig.overlay();
    let error = rig.graph.open_for_writing(&rig.node("fmt")).err().unwrap();
    assert!(error.to_string().starts_with("Permission conflict on node 'fmt'"), "{error}");
    drop(device);
    rig.graph.open_for_writing(&rig.node("fmt")).unwrap();
}

#[test]
fn target_of_a_job_is_kept_from_others_beneath_it_too() {
    let rig = Rig::new();
    std::fs::write(rig.path("c"), [0; 4096]).unwrap();
    rig.add(json!({"driver": "file", "node-name": "bytes", "filename": rig.path("c")})).unwrap();
    rig.add(json!({"driver": "raw", "node-name": "target", "file": "bytes"})).unwrap();
    let held = rig.graph.hold_with_target(&[rig.node("fmt")], &rig.node("target"), "mirror").unwrap();
    let (target, disk) = (("node 'target'", "file"), ("block device 'd'", "root"));
    assert_eq!(rig.device("d", "bytes").err().unwrap(), sentence("bytes", "write", target, disk));
    drop(held);
    rig.device("d", "bytes").unwrap();
}

#[test]
fn source_of_a_job_keeps_its_size_beneath_it_too_and_its_writers() {
    let rig = Rig::new();
    for name in ["c", "d"] {
        std::fs::write(rig.path(name), [0; 4096]).unwrap();
        let file = json!({"driver": "file", "node-name": format!("file-{name}"), "filename": rig.path(name)});
        rig.add(file).unwrap();
        rig.add(json!({"driver": "raw", "node-name": name, "file": format!("file-{name}")})).unwrap();
    }
    let _device = rig.device("guest", "c").unwrap();

    let held = rig.graph.hold_with_target(&[rig.node("c")], &rig.node("d"), "backup").unwrap();
    let refused = rig.resize("file-c").unwrap_err();
    rig.export("c", false).unwrap();
    drop(held);

    assert_eq!(refused, sentence("file-c", "resize", ("'block_resize'", "root"), ("node 'c'", "file")));
    rig.resize("file-c").unwrap();
}

#[test]
fn two_formats_that_only_read_a_file_go_together_until_one_is_to_write() {
    let rig = Rig::new();
    rig.graph.remove("fmt").unwrap();
    for name in ["one", "two"] {
        rig.add(json!({"driver": "qcow2", "node-name": name, "file": "file", "read-only": true})).unwrap();
    }
    let spec = json!({"driver": "qcow2", "node-name": "one", "file": "file"});
    let error = rig.graph.reopen(&[serde_json::from_value(spec.clone()).unwrap()]).unwrap_err();
    let (one, two) = (("node 'one'", "file"), ("node 'two'", "file"));
    assert_eq!(error.to_string(), sentence("file", "write, resize", one, two));
    rig.graph.remove("two").unwrap();
    let spec = json!({"driver": "qcow2", "node-name": "one", "file": "file", "read-only": false});
    rig.graph.reopen(&[serde_json::from_value(spec).unwrap()]).unwrap();
    assert!(!rig.node("one").is_read_only());
}

#[test]
fn file_of_the_data_is_not_resized_and_has_one_writer() {
    let rig = Rig::new();
    std::fs::write(rig.path("data"), [0; 4096]).unwrap();
    let layer: Arc<dyn Layer> = Arc::new(HostFile::make(&rig.path("x")).unwrap());
    let data: Arc<dyn Layer> = Arc::new(HostFile::make(&rig.path("data")).unwrap());
    let options = CreateOptions { size: 1 << 20, data_file: Some(("data".to_owned(), false)), ..Default::default() };
    create(&layer, Some(data.clone()), &options).unwrap().close().unwrap();
    drop((layer, data));
    rig.add(json!({"driver": "file", "node-name": "data", "filename": rig.path("data")})).unwrap();
    let file = json!({"driver": "file", "filename": rig.path("x")});
    rig.add(json!({"driver": "qcow2", "node-name": "image", "file": file, "data-file": "data"})).unwrap();

    let image = ("node 'image'", "data-file");
    assert_eq!(rig.resize("data").unwrap_err(), sentence("data", "resize", ("'block_resize'", "root"), image));
    let device = rig.device("d", "image").unwrap();
    assert!(rig.device("other", "data").is_err());
    drop(device);
    rig.device("other", "data").unwrap();
}
