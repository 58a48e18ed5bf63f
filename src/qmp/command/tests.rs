use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::qmp::{ErrorClass, Event};

fn parse(name: &str, arguments: &Value) -> Result<Command, QmpError> {
    Command::parse(name, arguments.as_object().cloned().unwrap())
}

#[test]
fn unknown_command_is_not_found() {
    let error = parse("foo", &json!({})).unwrap_err();
    assert_eq!(error.class, ErrorClass::CommandNotFound);
    assert_eq!(error.desc, "The command foo has not been found");
}

#[test]
fn command_without_arguments_takes_none() {
    assert_eq!(parse("stop", &json!({})), Ok(Command::Stop));
    assert_eq!(parse("query-status", &json!({"x": 1})).unwrap_err().desc, "Parameter 'x' is unexpected");
}

#[test]
fn arguments_are_typed() {
    let command = parse("block_resize", &json!({"node-name": "n0", "size": 512})).unwrap();
    let args = args::BlockResize { device: None, node_name: Some("n0".into()), size: 512 };
    assert_eq!(command, Command::BlockResize(args));
}

#[test]
fn what_libvirt_sends_first_is_understood() {
    let events = json!({"capabilities": [{"capability": "events", "state": true}]});
    parse("migrate-set-capabilities", &events).unwrap();
    let other = json!({"capabilities": [{"capability": "xbzrle", "state": true}]});
    let error = parse("migrate-set-capabilities", &other).unwrap_err();
    assert_eq!(error.desc, "Parameter 'capability' does not accept value 'xbzrle'");
}

#[test]
fn every_name_is_parsed_to_the_command_of_that_name() {
    let without_arguments = Command::NAMES.iter().filter_map(|name| Command::parse(name, Map::new()).ok());
    let mut count = 0;
    for command in without_arguments {
        count += 1;
        assert!(Command::NAMES.contains(&command.name()));
        assert_eq!(Command::parse(command.name(), Map::new()), Ok(command.clone()));
    }
    assert!(count > 30, "{count}");
}

#[test]
fn what_is_not_offered_is_neither_listed_nor_described() {
    let offer = Offer::all().without(&["stop"]);
    let mut schema = Schema::new();
    Command::describe_all(&mut schema, &offer);
    let described = schema.finish();

    assert!(!offer.has("stop") && offer.has("cont") && !offer.has("made-up"));
    assert!(offer.names().all(|name| name != "stop"));
    let names: Vec<&str> = described.as_array().unwrap().iter().filter_map(|entity| entity["name"].as_str()).collect();
    assert!(!names.contains(&"stop") && names.contains(&"cont"));
}

/// Every name that the schema mentions is one that it defines.
#[test]
fn schema_is_closed() {
    let mut schema = Schema::new();
    Command::describe_all(&mut schema, &Offer::all());
    Event::describe_all(&mut schema);
    let schema = schema.finish();
    let entities = schema.as_array().unwrap();
    let known: Vec<&str> = entities.iter().map(|entity| entity["name"].as_str().unwrap()).collect();
    let mut mentioned = Vec::new();
    for entity in entities {
        mentioned.extend(["arg-type", "ret-type", "element-type"].iter().filter_map(|key| entity[*key].as_str()));
        mentioned
            .extend(entity["members"].as_array().into_iter().flatten().filter_map(|member| member["type"].as_str()));
    }
    for name in mentioned {
        assert!(known.contains(&name), "{name}");
    }
    let mut unique = known.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), known.len(), "a name is defined twice");
}

#[test]
fn schema_says_that_block_nodes_can_be_flat() {
    let mut schema = Schema::new();
    Command::describe_all(&mut schema, &Offer::all());
    let schema = schema.finish();
    let find = |name: &str| schema.as_array().unwrap().iter().find(|entity| entity["name"] == name).unwrap().clone();
    let arguments = find(find("query-named-block-nodes")["arg-type"].as_str().unwrap());
    assert_eq!(arguments["members"], json!([{"name": "flat", "type": "bool", "default": null}]));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z-]{1,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// The check and serde agree: what passes the one is read by the other, so no message is serde's.
    #[test]
    fn no_arguments_panic_and_every_refusal_is_in_qemus_words(
        index in 0..Command::NAMES.len(),
        members in proptest::collection::btree_map(
            prop_oneof!["id", "size", "device", "path", "capabilities", "reboot", "flat", "[a-z]{1,4}"], any_json(), 0..4)
    ) {
        let arguments: Map<String, Value> = members.into_iter().collect();
        if let Err(error) = Command::parse(Command::NAMES[index], arguments) {
            prop_assert!(error.desc.contains("arameter"), "{}", error.desc);
        }
    }
}
