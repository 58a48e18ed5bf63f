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

fn schema_entity(name: &str) -> impl Fn(&str) -> Value {
    let mut schema = Schema::new();
    Command::describe_all(&mut schema, &Offer::all());
    let Value::Array(entities) = schema.finish() else { panic!("{name}") };
    move |wanted| entities.iter().find(|entity| entity["name"] == wanted).unwrap().clone()
}

/// What libvirt 9.0 looks for before it writes `-object` arguments as JSON.
#[test]
fn schema_of_object_add_has_the_tag_and_the_secret() {
    let find = schema_entity("object-add");
    let arguments = find(find("object-add")["arg-type"].as_str().unwrap());
    assert_eq!(arguments["tag"], "qom-type");
    let tag = find(arguments["members"][0]["type"].as_str().unwrap());
    assert_eq!(tag["meta-type"], "enum");
    let cases: Vec<&str> =
        arguments["variants"].as_array().unwrap().iter().map(|one| one["case"].as_str().unwrap()).collect();
    assert!(cases.contains(&"secret") && cases.contains(&"iothread"));
    let iothread = arguments["variants"].as_array().unwrap().iter().find(|one| one["case"] == "iothread").unwrap();
    let members = find(iothread["type"].as_str().unwrap())["members"].clone();
    assert!(members.as_array().unwrap().iter().any(|member| member["name"] == "poll-max-ns"));
    assert!(members.as_array().unwrap().iter().all(|member| member["name"] != "id"));
}

#[test]
fn object_is_read_as_on_the_command_line() {
    let Ok(Command::ObjectAdd(args)) = parse("object-add", &json!({"qom-type": "iothread", "id": "io1"})) else {
        panic!("refused");
    };
    assert_eq!(args.0.id(), "io1");
    let error = |arguments| parse("object-add", &arguments).unwrap_err().desc;
    assert_eq!(error(json!({"id": "x"})), "Parameter 'qom-type' is missing");
    assert!(
        error(json!({"qom-type": "nope", "id": "x"})).starts_with("Parameter 'qom-type' does not accept value 'nope'")
    );
    assert!(error(json!({"qom-type": "iothread", "id": "x", "zz": 1})).starts_with("Parameter 'zz' is unexpected"));
}

#[test]
fn server_made_by_a_monitor_does_not_wait() {
    let data = |wait: Value| {
        let address = json!({"type": "unix", "data": {"path": "/x"}});
        let mut data = json!({"addr": address});
        if !wait.is_null() {
            data["wait"] = wait;
        }
        json!({"id": "c", "backend": {"type": "socket", "data": data}})
    };
    let Ok(Command::ChardevAdd(args)) = parse("chardev-add", &data(Value::Null)) else { panic!("refused") };
    let crate::spec::ChardevSpec::Socket(socket) = *args.0 else { panic!("not a socket") };
    assert!(socket.server && !socket.waits());
    assert!(parse("chardev-add", &data(json!(true))).unwrap_err().desc.contains("'wait'"));
}

#[test]
fn node_needs_a_driver_and_a_name() {
    let error = |arguments| parse("blockdev-add", &arguments).unwrap_err().desc;
    assert_eq!(error(json!({"node-name": "n"})), "Parameter 'driver' is missing");
    assert_eq!(error(json!({"driver": "raw"})), "Parameter 'file' is missing");
    assert_eq!(error(json!({"driver": "null-co"})), "'node-name' must be specified for the root node");
    assert_eq!(error(json!({"driver": 5, "node-name": "n"})), "Invalid parameter type for 'driver', expected: string");
    assert!(parse("blockdev-add", &json!({"driver": "raw", "node-name": "n", "file": "f"})).is_ok());
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
            let is_known = ["arameter", "node-name", "Must provide"].iter().any(|words| error.desc.contains(words));
            prop_assert!(is_known, "{}", error.desc);
        }
    }
}
