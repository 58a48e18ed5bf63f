use proptest::prelude::*;

use super::*;

/// Everything that came of these bytes, in order.
fn frames(bytes: &[u8]) -> Vec<Result<String, FramingError>> {
    let mut framer = Framer::default();
    let outcome = |byte: &u8| framer.push(*byte).transpose();
    bytes.iter().filter_map(outcome).map(|one| one.map(|text| String::from_utf8_lossy(&text).into_owned())).collect()
}

fn message(text: &str) -> Result<String, FramingError> {
    Ok(text.to_owned())
}

#[test]
fn several_messages_in_one_read_are_several() {
    assert_eq!(frames(b"{\"a\":1}{\"b\":2}\r\n {}"), [message("{\"a\":1}"), message("{\"b\":2}"), message("{}")]);
}

#[test]
fn message_over_many_lines_is_one() {
    assert_eq!(frames(b"{\n  \"a\": [\n 1,\n 2]\n}\n"), [message("{\n  \"a\": [\n 1,\n 2]\n}")]);
}

#[test]
fn braces_and_quotes_in_strings_do_not_count() {
    let text = r#"{"a":"}]\"{'"}"#;
    assert_eq!(frames(text.as_bytes()), [message(text)]);
}

#[test]
fn single_quotes_become_double_ones() {
    assert_eq!(frames(br#"{'execute':'say "it\'s"'}"#), [message(r#"{"execute":"say \"it's\""}"#)]);
}

#[test]
fn escaped_backslash_before_a_quote_ends_the_string() {
    assert_eq!(frames(br#"{"a":"\\"}{'b':'\\'}"#), [message(r#"{"a":"\\"}"#), message(r#"{"b":"\\"}"#)]);
}

#[test]
fn garbage_gets_one_error_and_the_next_line_is_read() {
    assert_eq!(frames(b"garbage !!\n{}"), [Err(FramingError::Stray(b'g')), message("{}")]);
    assert_eq!(FramingError::Stray(0xff).to_string(), "JSON parse error, stray '\\u{ff}'");
}

#[test]
fn impossible_bytes_are_answered_before_their_line_ends() {
    for (text, byte) in [
        (&b"{\xff"[..], 0xff),
        (b"{\x01", 1),
        (b"{'bad \xff", 0xff),
        (b"{'execute': 'nonexistent', 'id':'\n", b'\n'),
        (b"%%p", b'%'),
    ] {
        let next = b"{'a':1}";
        assert_eq!(frames(&[text, next].concat()), [Err(FramingError::Stray(byte)), message("{\"a\":1}")]);
    }
}

#[test]
fn whole_text_gets_double_quotes_and_a_broken_one_stays() {
    assert_eq!(with_double_quotes("{'a': \"it's\"}"), "{\"a\": \"it's\"}");
    for broken in ["{'a': 1", "{'a': 1} x", "{'a': %p}"] {
        assert_eq!(with_double_quotes(broken), broken);
    }
}

#[test]
fn closing_brace_without_an_opening_one_is_garbage() {
    assert_eq!(frames(b"}\n{}"), [Err(FramingError::Stray(b'}')), message("{}")]);
}

#[test]
fn half_a_message_is_held_and_forgotten_on_reset() {
    let mut framer = Framer::default();
    for byte in b"{\"a\":" {
        assert_eq!(framer.push(*byte), Ok(None));
    }
    assert_eq!(framer.held(), 5);
    framer.reset();
    assert_eq!(framer.held(), 0);
    assert_eq!(framer.push(b'{'), Ok(None));
    assert_eq!(framer.push(b'}'), Ok(Some(b"{}".to_vec())));
}

#[test]
fn endless_string_is_refused_and_nothing_of_it_kept() {
    let mut framer = Framer::default();
    framer.push(b'{').unwrap();
    framer.push(b'"').unwrap();
    let errors = (0..3 * MAX_MESSAGE).filter(|_| framer.push(b'x') == Err(FramingError::TooLong)).count();
    assert_eq!(errors, 1);
    assert_eq!(framer.held(), 0);
    framer.push(b'\n').unwrap();
    framer.push(b'{').unwrap();
    assert_eq!(framer.push(b'}'), Ok(Some(b"{}".to_vec())));
}

#[test]
fn deepest_message_is_taken_and_a_deeper_one_refused() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert_eq!(frames(nested(MAX_DEPTH).as_bytes()), [message(&nested(MAX_DEPTH))]);
    assert!(serde_json::from_str::<serde_json::Value>(&nested(MAX_DEPTH)).is_ok());
    assert_eq!(frames(nested(MAX_DEPTH + 1).as_bytes()), [Err(FramingError::TooDeep)]);
}

proptest! {
    #[test]
    fn any_bytes_keep_the_bound_and_a_new_line_recovers_outside_strings(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let mut framer = Framer::default();
        for byte in &bytes {
            let _ = framer.push(*byte);
            prop_assert!(framer.held() <= bytes.len() + bytes.len());
        }
    }

    #[test]
    fn structural_noise_never_panics(text in "[\\[\\]{}\"'\\\\a,: \n]{0,300}") {
        for text in frames(text.as_bytes()).into_iter().flatten() {
            let _ = crate::qmp::message::read(text.as_bytes());
        }
    }

    #[test]
    fn any_object_comes_through_unchanged(key in "\\PC{0,20}", value in "\\PC{0,40}", number in any::<i64>()) {
        let object = serde_json::json!({key: value, "n": [number, {"deep": null}]});
        for text in [object.to_string(), serde_json::to_string_pretty(&object).unwrap()] {
            let found = frames(text.as_bytes());
            prop_assert_eq!(found.len(), 1);
            let read: serde_json::Value = serde_json::from_str(found[0].as_ref().unwrap()).unwrap();
            prop_assert_eq!(&read, &object);
        }
    }

    #[test]
    fn cut_anywhere_the_stream_is_the_same(cuts in proptest::collection::vec(0_usize..40, 0..6)) {
        let text = b"{\"execute\": 'stop', \"id\": \"x\"}\n{}\n";
        let whole = frames(text);
        let mut framer = Framer::default();
        let mut found = Vec::new();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
        cuts.sort_unstable();
        for pair in cuts.windows(2) {
            found.extend(text[pair[0]..pair[1]].iter().filter_map(|byte| framer.push(*byte).transpose()));
        }
        prop_assert_eq!(found.len(), whole.len());
    }
}
