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
        (json!({"file": image}), "Cannot change the option 'file.driver'"),
        (json!({"file": "nobody"}), "Cannot find device='' nor node-name='nobody'"),
        (json!({"file": "top"}), "Making 'top' a file child of 'top' would create a cycle"),
        (
            json!({"detect-zeroes": "unmap"}),
            "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap",
        ),
        (json!({"force-share": true}), "Cannot change the option 'force-share'"),
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
    let driver = json!({"options": [{"driver": "raw", "node-name": "top", "file": "topf"}]});
    assert_eq!(machine.ask("blockdev-reopen", &driver), Err("Cannot change the option 'driver'".into()));
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

/// `disk`, with `file` and `raw` described within it, which a device has.
fn described(folder: &std::path::Path, more: &Value, file: &Value) -> Value {
    let mut node = json!({"driver": "qcow2", "node-name": "disk", "file": {
        "driver": "file", "node-name": "file", "filename": folder.join("base")
    }});
    node["file"].as_object_mut().expect("an object").extend(file.as_object().expect("an object").clone());
    node.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    node
}

#[test]
fn caches_discards_and_zeroes_change_and_go_back() {
    let folder = tempfile::tempdir().expect("directory");
    tool("qemu-img", "create -q -f qcow2 base 4M", folder.path());
    let mut machine = Machine::start("");
    machine.works("blockdev-add", &described(folder.path(), &json!({}), &json!({})));
    let facts = |machine: &mut Machine| {
        let nodes = machine.ask("query-named-block-nodes", &json!({"flat": true})).expect("nodes");
        let node = |name: &str| {
            let all = nodes.as_array().expect("a list");
            let node = all.iter().find(|node| node["node-name"] == name).expect("the node");
            json!([node["cache"]["direct"], node["cache"]["no-flush"], node["detect_zeroes"], node["ro"]])
        };
        (node("disk"), node("file"))
    };
    let go = |machine: &mut Machine, more: Value, file: Value| {
        machine.works("blockdev-reopen", &json!({"options": [described(folder.path(), &more, &file)]}));
        machine.human("qemu-io disk \"write -P 3 0 1000\"");
        facts(machine)
    };
    let plain = (json!([false, false, "off", false]), json!([false, false, "off", false]));

    let all = json!({"cache": {"direct": true, "no-flush": true}, "discard": "unmap", "detect-zeroes": "unmap"});
    let changed = go(&mut machine, all, json!({}));
    let own = go(&mut machine, json!({"cache": {"direct": true}}), json!({"cache": {"direct": false}}));
    let back = go(&mut machine, json!({}), json!({}));
    let shut = {
        machine.works(
            "blockdev-reopen",
            &json!({"options": [described(folder.path(), &json!({"read-only": true}), &json!({}))]}),
        );
        facts(&mut machine)
    };

    assert_eq!(changed, (json!([true, true, "unmap", false]), json!([true, true, "off", false])));
    assert_eq!(own, (json!([true, false, "off", false]), plain.1.clone()));
    assert_eq!(back, plain);
    assert_eq!(shut, (json!([false, false, "off", true]), json!([false, false, "off", true])));
    assert_eq!(machine.human("qemu-io disk \"read -P 3 0 1000\""), "");
}

#[test]
fn filter_comes_between_and_goes_away_under_a_device() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path());
    let group = json!({"driver": "throttle", "node-name": "slow", "file": "topf", "throttle-group": "h"});
    let wait = |machine: &mut Machine| {
        let start = std::time::Instant::now();
        for _ in 0..3 {
            assert_eq!(machine.human("qemu-io d \"write -P 9 0 512\""), "");
        }
        start.elapsed()
    };

    machine.works("blockdev-add", &group);
    machine.works(
        "blockdev-reopen",
        &json!({"options": [
        {"driver": "qcow2", "node-name": "top", "file": "slow", "backing": "mid"}]}),
    );
    let slow = wait(&mut machine);
    let used = machine.ask("blockdev-del", &json!({"node-name": "slow"}));
    machine.works(
        "blockdev-reopen",
        &json!({"options": [
        {"driver": "qcow2", "node-name": "top", "file": "topf", "backing": "mid"}]}),
    );
    let fast = wait(&mut machine);
    machine.works("blockdev-del", &json!({"node-name": "slow"}));

    assert!(slow > std::time::Duration::from_millis(900), "one request a second: {slow:?}");
    assert!(fast < slow, "{fast:?} {slow:?}");
    assert_eq!(used, Err("Block device slow is in use".into()));
    assert_eq!(machine.human("qemu-io d \"read -P 9 0 512\""), "");
}

#[test]
fn raw_node_shows_another_part_of_its_file() {
    let folder = tempfile::tempdir().expect("directory");
    tool("qemu-img", "create -q -f raw file 2M", folder.path());
    tool("qemu-io", "-f raw -c write_-P_160_0_1M -c write_-P_161_1M_1M file", folder.path());
    let mut machine = Machine::start("");
    let node = |more: Value| {
        let mut node = json!({"driver": "raw", "node-name": "disk", "file": {
            "driver": "file", "filename": folder.path().join("file")}});
        node.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        node
    };
    machine.works("blockdev-add", &node(json!({})));
    let mut shows = |more: Value, byte: u8| {
        machine.works("blockdev-reopen", &json!({"options": [node(more)]}));
        assert_eq!(machine.human(&format!("qemu-io disk \"read -P {byte} 0 1M\"")), "");
    };

    shows(json!({"offset": 1 << 20}), 161);
    shows(json!({}), 160);
    let past = machine.ask("blockdev-reopen", &json!({"options": [node(json!({"offset": 1 << 20, "size": 2 << 20}))]}));

    assert!(past.is_err(), "{past:?}");
    assert_eq!(machine.human("qemu-io disk \"read -P 160 0 1M\""), "");
}

#[test]
fn counts_and_metadata_caches_change_under_a_device_and_go_back() {
    let folder = tempfile::tempdir().expect("directory");
    let mut machine = machine(folder.path());
    let caches = json!({"l2-cache-size": 65536, "l2-cache-entry-size": 512, "refcount-cache-size": 262_144,
        "cache-clean-interval": 5, "overlap-check": {"template": "all", "active-l2": false}, "lazy-refcounts": true});
    let dirty = |machine: &mut Machine| {
        assert_eq!(machine.human("qemu-io d \"write -P 5 1M 64k\""), "");
        machine.drive("/machine/peripheral/d/virtio-backend")["inserted"]["image"]["dirty-flag"].clone()
    };

    let before = dirty(&mut machine);
    reopen(&mut machine, &[caches]).expect("changed");
    let postponed = dirty(&mut machine);
    reopen(&mut machine, &[json!({})]).expect("back");
    let after = dirty(&mut machine);
    let small = reopen(&mut machine, &[json!({"l2-cache-entry-size": 256})]);

    assert_eq!([before, postponed, after], [false, true, false]);
    let text = "L2 cache entry size must be a power of two between 512 and the cluster size (65536)";
    assert_eq!(small, Err(text.into()));
    assert_eq!(machine.human("qemu-io d \"read -P 5 1M 64k\""), "");
}
