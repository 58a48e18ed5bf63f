//! The tree of objects.

use serde_json::{Value, json};

use crate::rig::Machine;

fn entries(machine: &mut Machine, path: &str) -> Vec<(String, String)> {
    let listed = machine.ask("qom-list", &json!({"path": path})).expect("a list");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = listed.as_array().expect("a list").iter().map(|entry| (text(&entry["name"]), text(&entry["type"])));
    entries.filter(|(name, _)| name != "type").collect()
}

#[test]
fn devices_are_listed_by_name_and_without_a_name_by_count() {
    let mut machine = Machine::start(
        "-drive if=virtio,format=raw,file.driver=null-co -device virtio-rng-pci,id=dice -device isa-debug-exit",
    );

    let named = entries(&mut machine, "/machine/peripheral");
    let unnamed = entries(&mut machine, "/machine/peripheral-anon");
    let r#type = machine.ask("qom-get", &json!({"path": "/machine/peripheral-anon/device[0]", "property": "type"}));

    assert_eq!(named, [("dice".to_owned(), "child<virtio-rng-pci>".to_owned())]);
    assert_eq!(unnamed.len(), 2, "{unnamed:?}");
    for (at, (name, r#type)) in unnamed.iter().enumerate() {
        assert_eq!(*name, format!("device[{at}]"));
        assert!(["child<virtio-blk-pci>", "child<isa-debug-exit>"].contains(&r#type.as_str()), "{type}");
    }
    let first = unnamed[0].1.trim_start_matches("child<").trim_end_matches('>');
    assert_eq!(r#type, Ok(Value::from(first)));
}
