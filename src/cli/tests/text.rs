use serde_json::{Value, json};

use crate::cli::text::{flat, nested, pairs};

fn nest(text: &str) -> Result<Value, String> {
    pairs(text, Some("main")).and_then(nested).map(Value::Object).map_err(|error| error.to_string())
}

#[test]
fn doubled_comma_is_a_comma() {
    assert_eq!(nest("a=1,,2,b=,,,c=x"), Ok(json!({"a": "1,2", "b": ",", "c": "x"})));
}

#[test]
fn first_word_is_the_main_value() {
    assert_eq!(nest("x,,y,a=1"), Ok(json!({"main": "x,y", "a": "1"})));
    assert_eq!(nest("main=x"), Ok(json!({"main": "x"})));
}

#[test]
fn later_words_are_switches() {
    assert_eq!(nest("x,server,nowait"), Ok(json!({"main": "x", "server": "on", "wait": "off"})));
}

#[test]
fn later_value_counts() {
    assert_eq!(nest("a=1,a=2"), Ok(json!({"a": "2"})));
}

#[test]
fn empty_text_is_an_empty_object() {
    assert_eq!(nest(""), Ok(json!({})));
}

#[test]
fn dots_nest_and_numbers_make_arrays() {
    assert_eq!(nest("a.b.c=1,a.d=2,e.1=y,e.0=x"), Ok(json!({"a": {"b": {"c": "1"}, "d": "2"}, "e": ["x", "y"]})));
    assert_eq!(nest("a.0.b=1,a.1.b=2"), Ok(json!({"a": [{"b": "1"}, {"b": "2"}]})));
}

#[test]
fn key_is_either_value_or_object() {
    assert!(nest("a=1,a.b=2").is_err());
    assert!(nest("a.b=2,a=1").is_err());
    assert!(nest("a.b=2,a.0=1").is_err());
}

#[test]
fn gap_in_an_array_is_named() {
    assert_eq!(nest("a.1=x"), Err("Parameter 'a.0' missing".to_owned()));
}

#[test]
fn key_without_end_or_of_nothing_is_refused() {
    assert!(nest("x,=1").is_err());
    assert!(nest("x,,").is_ok());
    assert!(nest("x,a..b=1").is_err());
    assert!(nest("x,.=1").is_err());
    assert!(nest(&format!("x,{}=1", "a".repeat(200))).is_err());
    assert!(nest(&format!("x,{}a=1", "a.".repeat(40))).is_err());
}

#[test]
fn lists_take_every_value() {
    let object = pairs("x=1,x=2,y=3,y=4", None).map(|pairs| Value::Object(flat(pairs, &["x"])));

    assert_eq!(object.ok(), Some(json!({"x": ["1", "2"], "y": "4"})));
}
