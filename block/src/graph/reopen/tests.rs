use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::tests::qcow2_file;
use super::super::{Graph, Node};
use crate::disk::rig;
use crate::error::BlockError;
use crate::format::qcow2::{CreateOptions, create};
use crate::layer::{Layer, read_vec};
use crate::protocol::file::{FileOptions, HostFile, Ways};
use crate::throttle;

/// A qcow2 node `disk` on a file node `file`, both by name, and `slow`, a filter on another file.
struct Rig {
    folder: TempDir,
    graph: Arc<Graph>,
}

impl Rig {
    fn new() -> Self {
        let rig = Self { folder: tempfile::tempdir().unwrap(), graph: Arc::new(Graph::new()) };
        rig.graph.add_throttle_group("group", throttle::Limits::default()).unwrap();
        qcow2_file(&rig.folder.path().join("a"), None);
        rig.add(rig.file(&json!({})));
        rig.add(json!({"driver": "qcow2", "node-name": "disk", "file": "file"}));
        rig.add(json!({"driver": "throttle", "node-name": "slow", "file": "file", "throttle-group": "group"}));
        rig
    }

    fn file(&self, more: &Value) -> Value {
        let mut file = json!({"driver": "file", "node-name": "file", "filename": self.folder.path().join("a")});
        file.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        file
    }

    fn add(&self, spec: Value) {
        self.graph.add(&serde_json::from_value(spec).unwrap()).unwrap();
    }

    fn node(&self, name: &str) -> Arc<Node> {
        self.graph.get(name).unwrap()
    }

    fn reopen(&self, specs: &[Value]) -> Result<(), BlockError> {
        let specs: Vec<_> = specs.iter().map(|spec| serde_json::from_value(spec.clone()).unwrap()).collect();
        self.graph.reopen(&specs)
    }

    fn ways(&self) -> Ways {
        self.node("file").layer().as_any().downcast_ref::<HostFile>().unwrap().ways()
    }
}

#[test]
fn nothing_is_changed_when_the_last_of_many_is_refused() {
    let rig = Rig::new();
    let before = rig.ways();
    let changed = rig.file(&json!({"cache": {"direct": true, "no-flush": true}, "discard": "unmap"}));
    let gone = json!({"driver": "qcow2", "node-name": "disk", "file": "nobody"});

    rig.reopen(&[changed.clone(), gone]).unwrap_err();
    let after = rig.ways();
    rig.reopen(&[changed]).unwrap();

    assert_eq!(before, after);
    assert_eq!(rig.ways(), Ways { direct: true, no_flush: true, discard: true });
    assert!(rig.node("file").layer().limits().alignment >= 512);
}

#[test]
fn host_that_refuses_one_change_has_the_others_taken_back() {
    let rig = Rig::new();
    // Between, the second node's file goes: it cannot be opened for writing.
    let path = rig.folder.path().join("b");
    std::fs::write(&path, [0; 4096]).unwrap();
    let other = |read_only: bool| json!({"driver": "file", "node-name": "b", "filename": path, "read-only": read_only});
    rig.add(other(true));
    std::fs::remove_file(&path).unwrap();

    let before = rig.ways();
    crate::layer::write_all(rig.node("disk").layer().as_ref(), &[7; 512], 0).unwrap();
    let disk = json!({"driver": "qcow2", "node-name": "disk", "file": "file", "lazy-refcounts": true});
    let error = rig.reopen(&[rig.file(&json!({"cache": {"direct": true}})), disk.clone(), other(false)]).unwrap_err();
    let counted = std::fs::read(rig.folder.path().join("a")).unwrap()[79] & 1;
    rig.reopen(&[disk]).unwrap();

    assert!(error.to_string().contains("Could not open"), "{error}");
    // The bit in the header that says that counts are postponed.
    assert_eq!((counted, std::fs::read(rig.folder.path().join("a")).unwrap()[79] & 1), (0, 1));
    assert_eq!(rig.ways(), before);
    assert_eq!(rig.node("file").layer().limits().alignment, 1);
}

#[test]
fn one_rule_for_who_stands_beside_whom() {
    let rig = Rig::new();
    let raw = |file: &str| json!({"driver": "raw", "node-name": "raw", "file": file});
    qcow2_file(&rig.folder.path().join("b"), None);
    rig.add(json!({"driver": "file", "node-name": "b", "filename": rig.folder.path().join("b")}));
    rig.add(raw("b"));
    let device = rig.graph.attach("raw", true, "d").unwrap();

    let error = rig.reopen(&[raw("file")]).unwrap_err().to_string();
    // Two nodes that change places with each other at once stand against nobody.
    let disk = |file: &str| json!({"driver": "qcow2", "node-name": "disk", "file": file});
    rig.reopen(&[raw("file"), disk("b")]).unwrap();

    let text = "Permission conflict on node 'file': permissions 'write' are both required by node 'disk' (uses node \
                'file' as 'file' child) and unshared by node 'raw' (uses node 'file' as 'file' child).";
    assert_eq!(error, text);
    assert_eq!(&*rig.node("disk").filename(), rig.folder.path().join("b"));
    assert!(
        rig.reopen(&[json!({"driver": "file", "node-name": "file", "filename": rig.folder.path().join("a"),
        "read-only": true})])
            .unwrap_err()
            .to_string()
            .starts_with("Read-only block node 'file' cannot")
    );
    drop(device);
}

#[test]
fn two_nodes_cannot_come_to_stand_on_each_other() {
    let rig = Rig::new();
    let raw = |name: &str, file: &str| json!({"driver": "raw", "node-name": name, "file": file});
    rig.add(raw("one", "file"));
    rig.add(raw("two", "file"));

    let error = rig.reopen(&[raw("one", "two"), raw("two", "one")]).unwrap_err();

    assert_eq!(error.to_string(), "Making 'one' a file child of 'two' would create a cycle");
    assert_eq!(rig.node("one").child("file").unwrap().name(), "file");
}

#[test]
fn disk_is_written_while_its_nodes_change() {
    let rig = Rig::new();
    let attached = rig.graph.attach("disk", true, "d").unwrap();
    let (disk, done) = (attached.disk().clone(), AtomicBool::new(false));
    let bytes = |n: u64| vec![(n % 251) as u8; 4096 + 512];
    let place = |n: u64| n % 97 * 8192;
    let disk_node = |file: &str, zeroes: &str, slice: u64| {
        json!({"driver": "qcow2", "node-name": "disk", "file": file, "detect-zeroes": zeroes, "discard": "unmap",
            "l2-cache-entry-size": slice, "l2-cache-size": 8 * slice, "lazy-refcounts": slice == 512})
    };

    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut n = 0;
            while !done.load(Ordering::Relaxed) || n < 97 {
                rig::write(&disk, &bytes(n), place(n));
                n += 1;
            }
            n
        });
        // Beside the disk, as an export does it: by the methods, held still by nobody.
        let reader = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                read_vec(rig.node("disk").layer().as_ref(), 100, 5000).unwrap();
            }
        });
        for n in 0..60 {
            let held = disk.drain();
            let file = if n % 2 == 0 { "slow" } else { "file" };
            let cache = json!({"direct": n % 3 == 0, "no-flush": n % 5 == 0});
            let (zeroes, slice) = (["off", "on", "unmap"][n % 3], [512, 4096, 65536][n % 3]);
            let file_node = rig.file(&json!({"cache": cache, "discard": "unmap"}));
            rig.reopen(&[file_node, disk_node(file, zeroes, slice)]).unwrap();
            drop(held);
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
        writer.join().unwrap()
    });

    for n in written - 97..written {
        assert_eq!(read_vec(rig.node("disk").layer().as_ref(), place(n), 4096 + 512).unwrap(), bytes(n), "{n}");
    }
    drop(attached);
    rig.graph.close_all().unwrap();
    let report = crate::format::qcow2::check(rig.node("file").layer()).unwrap();
    assert_eq!((report.corruptions, report.leaks), (0, 0));
}

#[test]
fn images_that_change_files_show_each_others_content() {
    let rig = Rig::new();
    let image = |name: &str, file: &str| json!({"driver": "qcow2", "node-name": name, "file": file});
    // Two files that come with their images.
    for (name, file) in [("one", "b"), ("other", "c")] {
        let path = rig.folder.path().join(file);
        qcow2_file(&path, None);
        rig.add(json!({"driver": "qcow2", "node-name": name,
            "file": {"driver": "file", "node-name": file, "filename": path}}));
    }
    let write = |name: &str, byte: u8, at: u64| {
        crate::layer::write_all(rig.node(name).layer().as_ref(), &[byte; 512], at).unwrap();
    };
    let read = |name: &str| read_vec(rig.node(name).layer().as_ref(), 0, 512).unwrap();
    // The same place of the disk is at another of the file.
    write("other", 9, 1 << 17);
    write("one", 7, 0);
    write("other", 8, 0);

    rig.reopen(&[image("one", "c"), image("other", "b")]).unwrap();
    let crossed = (read("one"), read("other"));
    rig.reopen(&[image("one", "b"), image("other", "c")]).unwrap();

    assert_eq!(crossed, (vec![8; 512], vec![7; 512]));
    assert_eq!((read("one"), read("other")), (vec![7; 512], vec![8; 512]));
}

#[test]
fn overlay_that_stands_on_nothing_has_to_say_so() {
    let rig = Rig::new();
    let path = rig.folder.path().join("over");
    qcow2_file(&path, Some(("a", Some("qcow2"))));
    let over = |backing: &Value| {
        let mut node = json!({"driver": "qcow2", "node-name": "over", "file": {"driver": "file", "filename": path}});
        node.as_object_mut().unwrap().extend(backing.as_object().unwrap().clone());
        node
    };
    rig.add(over(&json!({"backing": null})));

    let error = rig.reopen(&[over(&json!({}))]).unwrap_err();
    rig.reopen(&[over(&json!({"backing": null}))]).unwrap();

    assert_eq!(error.to_string(), "backing is missing for 'over'");
}

#[test]
fn data_file_may_be_named_whether_it_was_described_or_named_before() {
    let rig = Rig::new();
    let path = rig.folder.path().join("image");
    let data = rig.folder.path().join("data");
    [&path, &data].iter().for_each(|path| std::fs::write(path, []).unwrap());
    let open = |path: &Path| -> Arc<dyn Layer> { Arc::new(HostFile::open(path, FileOptions::default()).unwrap()) };
    let options = CreateOptions { size: 1 << 20, data_file: Some(("data".into(), false)), ..CreateOptions::default() };
    create(&open(&path), Some(open(&data)), &options).unwrap();
    let image = |data_file: &Value| {
        json!({"driver": "qcow2", "node-name": "image", "discard": "unmap", "data-file": data_file,
            "file": {"driver": "file", "node-name": "below", "filename": path}})
    };
    let described = json!({"driver": "file", "node-name": "data", "filename": data});
    rig.add(image(&described));

    let mut without = image(&json!("data"));
    without.as_object_mut().unwrap().remove("data-file");
    let refused = |spec: Value| rig.reopen(&[spec]).unwrap_err().to_string();
    let errors = [refused(without.clone()), refused(image(&json!("file")))];
    for spec in [image(&described), image(&json!("data")), image(&json!("data")), without] {
        rig.reopen(&[spec]).unwrap();
    }

    let [reset, changed] =
        ["Option 'data-file' cannot be reset to its default value", "Cannot change the option 'data-file'"];
    assert_eq!(errors, [reset, changed]);
}
