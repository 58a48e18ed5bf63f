use serde_json::json;

use super::*;
use crate::qmp::QmpError;

qapi_enum! {
    /// A colour.
    enum Colour {
        /// Red.
        Red = "red",
        /// Dark blue.
        DarkBlue = "dark-blue",
    }
}

qapi_struct! {
    /// A thing, of things.
    struct Thing {
        /// Text.
        some_text: String,
        /// A name that does not follow the rule.
        odd_name: Option<u8> = "odd_name",
        /// A word that Rust keeps for itself.
        r#type: Option<Colour>,
        /// More.
        more: Option<Vec<Thing>>,
    }
}

fn wrong(value: impl std::borrow::Borrow<Value>) -> String {
    Thing::check(value.borrow(), &At::TOP).unwrap_err().desc
}

#[test]
fn mistakes_are_worded_as_qemu_words_them() {
    assert_eq!(wrong(json!([])), "Invalid parameter type for '', expected: object");
    assert_eq!(wrong(json!({})), "Parameter 'some-text' is missing");
    assert_eq!(wrong(json!({"some-text": 1})), "Invalid parameter type for 'some-text', expected: string");
    assert_eq!(wrong(json!({"some-text": "", "x": 1})), "Parameter 'x' is unexpected");
    assert_eq!(wrong(json!({"some-text": "", "type": "green"})), "Parameter 'type' does not accept value 'green'");
    assert_eq!(
        wrong(json!({"some-text": "", "odd_name": 1.5})),
        "Invalid parameter type for 'odd_name', expected: integer"
    );
    assert_eq!(wrong(json!({"some-text": "", "odd_name": 256})), "Parameter 'odd_name' expects uint8_t");
    assert_eq!(
        wrong(json!({"some-text": "", "odd_name": null})),
        "Invalid parameter type for 'odd_name', expected: integer"
    );
}

#[test]
fn place_of_a_mistake_is_named_from_the_top() {
    let inner = json!({"some-text": "", "more": [{"some-text": "", "more": [{}]}]});
    assert_eq!(wrong(inner), "Parameter 'more[0].more[0].some-text' is missing");
    let list = json!({"some-text": "", "more": [4]});
    assert_eq!(wrong(list), "Invalid parameter type for 'more[0]', expected: object");
}

#[test]
fn first_mistake_in_the_order_of_declaration_is_told_before_unknown_members() {
    assert_eq!(wrong(json!({"x": 1, "type": 7})), "Parameter 'some-text' is missing");
}

#[test]
fn what_passes_the_check_is_read_and_written_unchanged() {
    let value = json!({"some-text": "a", "odd_name": 255, "type": "dark-blue", "more": [{"some-text": "b"}]});
    Thing::check(&value, &At::TOP).unwrap();
    let thing: Thing = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(thing.r#type, Some(Colour::DarkBlue));
    assert_eq!(serde_json::to_value(&thing).unwrap(), value);
}

#[test]
fn schema_masks_names_of_types_and_ends_in_spite_of_recursion() {
    let mut schema = Schema::new();
    let thing = Thing::describe(&mut schema);
    let nothing = <()>::describe(&mut schema);
    schema.command("make", &thing, &nothing, &["unstable"]);

    assert_eq!(
        schema.finish(),
        json!([
            {"name": "make", "meta-type": "command", "arg-type": "0", "ret-type": "2", "features": ["unstable"]},
            {"name": "str", "meta-type": "builtin", "json-type": "string"},
            {"name": "int", "meta-type": "builtin", "json-type": "int"},
            {"name": "1", "meta-type": "enum", "members": [{"name": "red"}, {"name": "dark-blue"}],
                "values": ["red", "dark-blue"]},
            {"name": "[0]", "meta-type": "array", "element-type": "0"},
            {"name": "0", "meta-type": "object", "members": [
                {"name": "some-text", "type": "str"},
                {"name": "odd_name", "type": "int", "default": null},
                {"name": "type", "type": "1", "default": null},
                {"name": "more", "type": "[0]", "default": null}
            ]},
            {"name": "2", "meta-type": "object", "members": []}
        ])
    );
}

#[test]
fn integers_keep_to_their_width() {
    let check = |value| u64::check(&value, &At::TOP).err().map(|error: QmpError| error.desc);
    assert_eq!(check(json!(u64::MAX)), None);
    assert_eq!(check(json!(-1)), Some("Parameter '' expects uint64".into()));
    assert_eq!(check(json!("1")), Some("Invalid parameter type for '', expected: integer".into()));
}

#[test]
fn every_value_of_an_enumeration_is_written_under_its_name() {
    for colour in Colour::ALL {
        assert_eq!(serde_json::to_value(colour).unwrap(), json!(colour.as_str()));
    }
}
