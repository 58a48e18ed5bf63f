//! `blockdev-reopen`: what of a node can be changed, and what is refused in QEMU's words.

use serde_json::{Value, json};

use crate::jobs::tool;
use crate::rig::Machine;

/// `top` on `mid` on `base`, and `other`, each a node that a client made, with a disk on the first.
fn machine(folder: &std::path::Path) -> Machine {
    tool("qemu-img", "create -q -f qcow2 base 4M", folder);
    tool("qemu-io", "-f qcow2 -c write_-P_7_0_64k base", folder);
    tool("qemu-img", "create -q -f qcow2 other 4M", folder);
    tool("qemu-io", "-f qcow2 -c write_-P_8_0_64k other", folder);
    tool("qemu-img", "create -q -f qcow2 -b base -F qcow2 mid", folder);
    tool("qemu-img", "create -q -f qcow2 -b mid -F qcow2 top", folder);
    let mut words = String::from("-object throttle-group,id=g -object throttle-group,id=h,x-iops-total=1");
    for (name, backing) in [("base", ""), ("other", ""), ("mid", ",backing=base"), ("top", ",backing=mid")] {
        let file = folder.join(name);
        words += &format!(
            " -blockdev driver=file,node-name={name}f,filename={} -blockdev driver=qcow2,node-name={name},file={name}f{}",
            file.display(),
            if backing.is_empty() { ",read-only=on" } else { backing }
        );
    }
    words += " -device virtio-blk-pci,drive=top,id=d";
    Machine::start(&words)
}

fn reopen(machine: &mut Machine, changes: &[Value]) -> Result<Value, String> {
    let options = |change: &Value| {
        let mut node = json!({"driver": "qcow2", "node-name": "top", "file": "topf", "backing": "mid"});
        node.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        node
    };
    let options: Vec<_> = changes.iter().map(options).collect();
    machine.ask("blockdev-reopen", &json!({"options": options}))
}

#[test]
fn overlay_stands_on_what_it_is_told_while_the_disk_goes_on() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path());
    let mut shows = |backing: Value, byte: u8| {
        reopen(&mut machine, &[json!({"backing": backing})]).expect("reopened");
        assert_eq!(machine.human(&format!("qemu-io d \"read -P {byte} 0 64k\"")), "", "{backing}");
        machine.drive("/machine/peripheral/d/virtio-backend")["inserted"]["backing_file_depth"].clone()
    };

    let depths = [shows("mid".into(), 7), shows(Value::Null, 0), shows("other".into(), 8), shows("base".into(), 7)];

    assert_eq!(depths, [2, 0, 1, 1]);
    machine.ask("blockdev-del", &json!({"node-name": "mid"})).expect("nobody needs it");
}

#[test]
fn what_cannot_be_changed_is_refused_in_qemus_words() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path());
    let image = json!({"driver": "file", "filename": "top"});

    for (change, words) in [
        (json!({"node-name": "nobody"}), "Failed to find node with node-name='nobody'"),
        (json!({"backing": "nobody"}), "Cannot find device='' nor node-name='nobody'"),
        (json!({"backing": "top"}), "Making 'top' a backing child of 'top' would create a cycle"),
        (json!({"backing": {"driver": "null-co"}}), "Cannot change the option 'backing.driver'"),
        (json!({"file": image}), "Cannot change the option 'file'"),
        (json!({"force-share": true}), "Cannot change the option 'force-share'"),
        (json!({"detect-zeroes": "on"}), "Cannot change the option 'detect-zeroes'"),
        (json!({"read-only": true}), "Read-only block node 'top' cannot support read-write users"),
        (
            json!({"node-name": "mid", "file": "midf", "backing": "top"}),
            "Making 'top' a backing child of 'mid' would create a cycle",
        ),
    ] {
        assert_eq!(reopen(&mut machine, std::slice::from_ref(&change)), Err(words.into()), "{change}");
    }
    let missing = json!({"options": [{"driver": "qcow2", "node-name": "top", "file": "topf"}]});
    assert_eq!(machine.ask("blockdev-reopen", &missing), Err("backing is missing for 'top'".into()));
    let file = json!({"options": [{"driver": "file", "node-name": "topf", "filename": "elsewhere"}]});
    assert_eq!(machine.ask("blockdev-reopen", &file), Err("Cannot change the option 'filename'".into()));
    let defaults = json!({"discard": "ignore", "detect-zeroes": "off", "cache": {"direct": false}, "read-only": false});
    assert_eq!(reopen(&mut machine, &[defaults]), Ok(json!({})));
}

#[test]
fn nodes_are_reopened_together_or_not_at_all() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path());
    let mid = |backing: &str| json!({"node-name": "mid", "file": "midf", "backing": backing});
    let depth = |machine: &mut Machine| {
        machine.drive("/machine/peripheral/d/virtio-backend")["inserted"]["backing_file_depth"].clone()
    };

    let refused = reopen(&mut machine, &[json!({"backing": "base"}), mid("nobody")]);
    let before = depth(&mut machine);
    reopen(&mut machine, &[json!({"backing": "base"}), mid("other")]).expect("both");
    let after = depth(&mut machine);

    assert!(refused.is_err());
    assert_eq!((before, after), (2.into(), 1.into()));
    machine.ask("blockdev-del", &json!({"node-name": "other"})).expect_err("mid stands on it");
}

#[test]
fn throttle_node_goes_over_to_another_group() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path());
    let node = |group: &str| json!({"driver": "throttle", "node-name": "t", "file": "other", "throttle-group": group});
    machine.ask("blockdev-add", &node("g")).expect("a node");
    let go = |machine: &mut Machine, group: &str| machine.ask("blockdev-reopen", &json!({"options": [node(group)]}));

    let nobody = go(&mut machine, "nobody");
    let used = machine.ask("object-del", &json!({"id": "g"}));
    go(&mut machine, "h").expect("the other");
    let free = machine.ask("object-del", &json!({"id": "g"}));
    let start = std::time::Instant::now();
    for _ in 0..3 {
        assert_eq!(machine.human("qemu-io t \"read -P 8 0 512\""), "");
    }

    assert_eq!(nobody, Err("Throttle group 'nobody' does not exist".into()));
    assert!(used.is_err() && free.is_ok(), "{used:?} {free:?}");
    assert!(start.elapsed() > std::time::Duration::from_millis(900), "one request a second: {:?}", start.elapsed());
}
