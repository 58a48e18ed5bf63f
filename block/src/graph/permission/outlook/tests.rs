//! What other programs are told of files: another graph has its own open files, and is one.

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::super::tests::{SHARED, qcow2_file};
use super::super::super::{Attached, Usage};
use super::*;

/// A program with raw nodes `a`, `b` and `c` on the files `file-a`, `file-b` and `file-c`.
struct Program(Arc<Graph>);

struct Rig {
    folder: TempDir,
    one: Program,
    other: Program,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        ["a", "b", "c"].iter().for_each(|name| std::fs::write(folder.path().join(name), [0; 1 << 16]).unwrap());
        let program = || {
            let program = Program(Arc::new(Graph::new().locking_by_use()));
            for name in ["a", "b", "c"] {
                let file = format!("file-{name}");
                program.add(json!({"driver": "file", "node-name": file, "filename": folder.path().join(name)}));
                program.add(json!({"driver": "raw", "node-name": name, "file": file}));
            }
            program
        };
        let (one, other) = (program(), program());
        Self { folder, one, other }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Whether the other program may have the file of its node for itself.
    fn is_free(&self, node: &str) -> bool {
        let free = self.other.device(node, Usage::default()).is_ok();
        self.other.0.lock_as_used(&self.other.node(node));
        free
    }
}

impl Program {
    fn add(&self, spec: Value) {
        self.0.add(&serde_json::from_value(spec).unwrap()).unwrap();
    }

    fn node(&self, name: &str) -> Arc<Node> {
        self.0.get(name).unwrap()
    }

    fn device(&self, node: &str, usage: Usage) -> Result<Attached, String> {
        self.0.attach_as(node, true, "d", usage).map_err(|error| error.to_string())
    }

    fn let_go(&self, device: Attached) {
        let node = device.node();
        drop(device);
        self.0.lock_as_used(&node);
    }

    fn reopen(&self, spec: &Value) -> Result<(), String> {
        self.0.reopen(&[serde_json::from_value(spec.clone()).unwrap()]).map_err(|error| error.to_string())
    }
}

fn a_on(file: &str) -> Value {
    json!({"driver": "raw", "node-name": "a", "file": file})
}

#[test]
fn node_is_not_put_onto_a_file_that_another_program_has() {
    let rig = Rig::new();
    let _device = rig.one.device("a", Usage::default()).unwrap();
    for (usage, lock) in [(Usage::default(), "\"write\""), (SHARED, "shared \"write\"")] {
        let writer = rig.other.device("b", usage).unwrap();

        let refused = rig.one.reopen(&a_on("file-b")).unwrap_err();

        assert!(refused.contains(&format!("Failed to get {lock} lock")), "{refused}");
        assert_eq!(rig.one.node("a").child("file").unwrap().name(), "file-a");
        assert!(!rig.is_free("a"));
        rig.other.let_go(writer);
    }

    rig.one.reopen(&a_on("file-b")).unwrap();

    assert_eq!(["a", "b"].map(|node| rig.is_free(node)), [true, false]);
}

#[test]
fn other_changes_are_taken_back_with_a_file_that_is_not_got() {
    let rig = Rig::new();
    let _device = rig.one.device("a", Usage::default()).unwrap();
    rig.one.add(json!({"driver": "file", "node-name": "read", "filename": rig.path("c"), "read-only": true}));
    let _writer = rig.other.device("b", Usage::default()).unwrap();
    let specs = [json!({"driver": "file", "node-name": "read", "filename": rig.path("c")}), a_on("file-b")];
    let specs = specs.map(|spec| serde_json::from_value(spec).unwrap());

    let refused = rig.one.0.reopen(&specs).unwrap_err();

    assert_eq!(refused.kind(), ErrorKind::Locked);
    assert!(rig.one.node("read").is_read_only());
    assert!(rig.is_free("c"));
}

#[test]
fn overlay_of_a_device_is_not_put_onto_what_another_program_writes_to() {
    let rig = Rig::new();
    qcow2_file(&rig.path("over"), None);
    let over = |backing: Value| {
        let file = json!({"driver": "file", "filename": rig.path("over")});
        json!({"driver": "qcow2", "node-name": "over", "file": file, "backing": backing})
    };
    rig.one.add(over(Value::Null));
    let _device = rig.one.device("over", Usage::default()).unwrap();
    let writer = rig.other.device("b", Usage::default()).unwrap();

    let refused = rig.one.reopen(&over("b".into())).unwrap_err();
    rig.other.let_go(writer);
    rig.one.reopen(&over("b".into())).unwrap();
    let beneath = rig.is_free("b");
    rig.one.reopen(&over(Value::Null)).unwrap();

    assert!(refused.contains("Failed to get shared \"write\" lock"), "{refused}");
    assert_eq!((beneath, rig.is_free("b")), (false, true));
}

#[test]
fn forced_sharing_reads_beside_a_writer_and_leaves_formats_one_writer() {
    let rig = Rig::new();
    qcow2_file(&rig.path("image"), None);
    let forced = |driver: &str, file: &str, read_only: bool| {
        json!({"driver": driver, "node-name": format!("{driver}-{read_only}"), "force-share": true,
            "read-only": read_only, "file": {"driver": "file", "filename": rig.path(file)}})
    };
    rig.other.add(forced("qcow2", "image", false));
    let _writer = rig.other.device("a", Usage::default()).unwrap();

    rig.one.add(forced("raw", "a", true));
    rig.one.add(forced("qcow2", "image", true));
    let beside = ["raw-true", "qcow2-true"].map(|node| rig.one.device(node, Usage::default()).map(drop));
    let second = rig.one.0.add(&serde_json::from_value(forced("qcow2", "image", false)).unwrap());

    assert_eq!(beside, [Ok(()), Ok(())]);
    assert_eq!(second.err().map(|error| error.kind()), Some(ErrorKind::Locked));
}

#[test]
fn target_of_a_job_is_kept_from_other_programs_until_it_ends() {
    let rig = Rig::new();
    let hold = |kind| rig.one.0.hold_with_target(&[rig.one.node("a")], &rig.one.node("b"), kind);
    let shared = || rig.other.device("b", SHARED);
    let writer = shared().unwrap();

    let refused = ["mirror", "backup"].map(|kind| hold(kind).err().map(|error| error.kind()));
    rig.other.let_go(writer);
    let held = hold("mirror").unwrap();
    let beside = shared().map(drop);
    drop(held);

    assert_eq!(refused, [Some(ErrorKind::Locked); 2]);
    assert!(beside.is_err_and(|text| text.contains("Failed to get \"write\" lock")));
    assert!(rig.is_free("b"));
}

#[test]
fn job_into_an_overlay_of_its_source_leaves_that_to_its_writers() {
    let rig = Rig::new();
    let _ours = rig.one.device("a", SHARED).unwrap();
    let _theirs = rig.other.device("a", SHARED).unwrap();
    qcow2_file(&rig.path("over"), None);
    rig.one.add(json!({"driver": "qcow2", "node-name": "over", "backing": "a",
        "file": {"driver": "file", "filename": rig.path("over")}}));

    rig.one.0.hold_with_target(&[rig.one.node("a")], &rig.one.node("over"), "backup").unwrap();
}

#[test]
fn what_a_device_left_for_the_copy_is_free() {
    let rig = Rig::new();
    let device = rig.one.device("a", Usage::default()).unwrap();
    let held = rig.one.0.hold_with_target(&[rig.one.node("a")], &rig.one.node("b"), "mirror").unwrap();

    rig.one.0.pivot(&rig.one.node("a"), &rig.one.node("b"), &[(&device, &device.disk().drain())]);
    drop(held);

    assert_eq!(["a", "b"].map(|node| rig.is_free(node)), [true, false]);
}

#[test]
fn node_that_goes_leaves_the_file_to_those_who_still_use_it() {
    let rig = Rig::new();
    rig.one.add(json!({"driver": "raw", "node-name": "second", "file": "file-a"}));
    let device = rig.one.device("a", Usage::default()).unwrap();

    rig.one.0.remove("second").unwrap();
    let used = rig.is_free("a");
    rig.one.let_go(device);

    assert_eq!((used, rig.is_free("a")), (false, true));
}

#[test]
fn image_that_cannot_be_opened_leaves_its_file() {
    let rig = Rig::new();
    let spec = json!({"driver": "qcow2", "node-name": "image", "file": "file-a"});

    // There are zeroes in it.
    assert!(rig.one.0.add(&serde_json::from_value(spec).unwrap()).is_err());

    assert!(rig.is_free("a"));
}

#[test]
fn drives_that_only_read_have_a_file_together() {
    let rig = Rig::new();
    let reads = Usage { only_reads: true, ..Usage::default() };

    let _drives = [&rig.one, &rig.one].map(|program| program.device("a", reads).unwrap());
    rig.other.let_go(rig.other.device("a", reads).unwrap());

    let writer = rig.other.device("a", Usage::default());
    assert!(writer.is_err_and(|text| text.contains("Failed to get \"write\" lock")));
}
