use super::*;

fn parse(text: &str) -> Result<BlockdevSpec, String> {
    serde_json::from_str(text).map_err(|e| e.to_string())
}

#[test]
fn libvirts_nested_definition_is_taken() {
    let spec = parse(
        r#"{"driver":"qcow2","node-name":"fmt","read-only":false,"cache":{"direct":true,"no-flush":false},
            "file":{"driver":"file","filename":"/a.qcow2","node-name":"sto","auto-read-only":true,"discard":"unmap",
            "aio":"io_uring"},"backing":null,"discard":"unmap","detect-zeroes":"on"}"#,
    )
    .unwrap();
    let BlockdevSpec::Qcow2(qcow2) = &spec else { panic!("{spec:?}") };
    assert_eq!(spec.node_name(), Some("fmt"));
    assert_eq!(qcow2.backing, Backing::None);
    let NodeRef::Inline(file) = &qcow2.file else { panic!("{qcow2:?}") };
    assert_eq!(file.common().discard, Some(Discard::Unmap));
}

#[test]
fn command_line_text_is_taken_for_flags_and_sizes() {
    let spec = parse(r#"{"driver":"raw","file":"sto","read-only":"on","offset":"1M","size":"512"}"#).unwrap();
    let BlockdevSpec::Raw(raw) = spec else { panic!("{spec:?}") };
    assert_eq!((raw.read_only, raw.offset, raw.size), (Some(true), Some(1 << 20), Some(512)));
}

#[test]
fn unknown_names_and_drivers_are_refused_by_name() {
    assert!(parse(r#"{"driver":"raw","file":"x","colour":"red"}"#).unwrap_err().contains("colour"));
    assert!(parse(r#"{"driver":"floppy"}"#).unwrap_err().contains("floppy"));
    assert!(parse(r#"{"driver":"raw","file":"x","read-only":"maybe"}"#).unwrap_err().contains("maybe"));
}

#[test]
fn what_was_parsed_is_written_the_same() {
    let text = r#"{"driver":"qcow2","node-name":"n","file":"sto","backing":"base","l2-cache-size":65536}"#;
    assert_eq!(serde_json::to_string(&parse(text).unwrap()).unwrap(), text);
}
