use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::layer::{read_vec, write_all};
use crate::protocol::memory::Memory;

/// A node on 64 KiB of memory, with these options.
fn node(options: Value) -> Result<(Arc<Debug>, Arc<Memory>), BlockError> {
    let mut options = options;
    options["image"] = "unused".into();
    let memory = Arc::new(Memory::new(vec![7; 64 << 10]));
    let spec: Blkdebug = serde_json::from_value(options).expect("options");
    Ok((Arc::new(Debug::new(memory.clone(), &spec)?), memory))
}

fn errno(result: Result<(), BlockError>) -> i32 {
    result.err().map_or(0, |error| error.errno())
}

#[test]
fn request_fails_once_after_its_event() {
    let (node, _) = node(json!({"inject-error": [{"event": "flush_to_disk", "once": true}]})).unwrap();

    let outcomes = [errno(write_all(&*node, &[1; 512], 0)), errno(node.flush()), errno(node.flush())];

    assert_eq!(outcomes, [0, libc::EIO, 0]);
}

#[test]
fn only_requests_of_the_kind_with_the_sector_fail_and_with_the_error_asked_for() {
    let rule = json!({"event": "none", "iotype": "write", "sector": 3, "errno": 28});
    let (node, _) = node(json!({"inject-error": [rule]})).unwrap();

    let write = |offset, len| errno(write_all(&*node, &vec![1; len], offset));

    assert_eq!([write(0, 1536), write(2048, 512), write(1024, 1024)], [0, 0, libc::ENOSPC]);
    assert!(read_vec(&*node, 1536, 512).is_ok());
}

#[test]
fn states_follow_events() {
    let (node, _) = node(json!({
        "set-state": [
            {"event": "flush_to_disk", "state": 1, "new-state": 2},
            {"event": "flush_to_disk", "state": 2, "new-state": 3},
        ],
        "inject-error": [{"event": "read_aio", "state": 3, "iotype": "read"}],
    }))
    .unwrap();
    let mut outcomes = Vec::new();

    for _ in 0..3 {
        outcomes.push(read_vec(&*node, 0, 512).is_ok());
        node.flush().unwrap();
    }

    assert_eq!(outcomes, [true, true, false]);
}

#[test]
fn rules_come_from_a_file_too() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "# errors\n[inject-error]\nevent = \"flush_to_disk\"\nerrno = \"5\"\nstate = \"1\"\nimmediately = \"off\"\n\
                once = \"on\"\n\n[set-state]\nevent = \"read_aio\"\nnew_state = \"2\"\n";
    std::fs::write(file.path(), text).unwrap();

    let (node, _) = node(json!({"config": file.path()})).unwrap();

    assert_eq!([errno(node.flush()), errno(node.flush())], [libc::EIO, 0]);
}

#[test]
fn files_and_rules_that_make_no_sense_are_refused() {
    let refused = |text: &str| config::parse(text).err().unwrap().to_string();

    assert_eq!(
        refused("[inject-error]\nevent = flush"),
        "line 2 is neither [inject-error], [set-state] nor key = \"value\""
    );
    assert_eq!(refused("event = \"none\""), "line 1 is neither [inject-error], [set-state] nor key = \"value\"");
    assert_eq!(refused("[other]"), "there is no section 'other'");
    assert_eq!(refused("[set-state]\nnew_state = \"2\""), "missing field `event`");
    let event = node(json!({"inject-error": [{"event": "l2_load"}]})).err().unwrap().to_string();
    assert!(event.starts_with("event 'l2_load' is not told to blkdebug here; use none, read_aio"), "{event}");
    assert!(node(json!({"align": 24})).is_err());
    assert!(node(json!({"config": "/nowhere"})).is_err());
}

#[test]
fn request_is_held_until_it_is_released() {
    let (node, _) = node(json!({})).unwrap();
    node.hold("flush_to_os", "A").unwrap();
    let flushing = {
        let node = node.clone();
        std::thread::spawn(move || errno(node.flush()))
    };

    std::thread::sleep(Duration::from_millis(50));
    assert!(!flushing.is_finished());
    assert!(!node.release("B"));
    while !node.release("A") {
        std::thread::yield_now();
    }

    assert_eq!(flushing.join().unwrap(), 0);
    node.flush().unwrap();
    assert!(node.hold("nothing", "A").is_err());
    // One name for two: the later one does not take the place of the first.
    node.hold("flush_to_os", "A").unwrap();
    node.hold("read_aio", "A").unwrap();
    let flushing = {
        let node = node.clone();
        std::thread::spawn(move || errno(node.flush()))
    };
    std::thread::sleep(Duration::from_millis(50));
    assert!(!flushing.is_finished());
    assert!(node.forget("A"));
    assert_eq!(flushing.join().unwrap(), 0);
    assert!(!node.forget("A"));
    node.hold("flush_to_os", "A").unwrap();
    assert!(node.forget("A"));
    node.flush().unwrap();
}

#[test]
fn requests_are_widened_and_change_only_what_was_asked_for() {
    let (node, memory) = node(json!({"align": 4096})).unwrap();

    write_all(&*node, &[1; 512], 3840).unwrap();
    node.discard(512, 512).unwrap();

    assert_eq!(read_vec(&*node, 3839, 514).unwrap(), [&[7][..], &[1; 512], &[7]].concat());
    let beneath = memory.bytes();
    assert_eq!(beneath.len(), 64 << 10);
    assert_eq!(beneath.iter().filter(|byte| **byte == 1).count(), 512);
    assert_eq!(beneath.iter().filter(|byte| **byte == 7).count(), (64 << 10) - 512);
}
