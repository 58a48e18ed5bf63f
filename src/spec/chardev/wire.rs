//! `chardev-add` puts the options into objects: `{"id": I, "backend": {"type": T, "data": {…, "addr": {"type": A, "data":
//! {…}}}}}`. This takes them out.

use serde_json::{Map, Value};

use crate::spec::error::{SpecError, Words};

/// Members that a kind must have, under the schema's names.
const NEEDED: [(&str, &str); 4] = [("file", "out"), ("pipe", "device"), ("socket", "addr"), ("mux", "chardev")];

/// The same of kinds of addresses.
const NEEDED_OF_ADDRESS: [(&str, &str); 4] = [("unix", "path"), ("inet", "host"), ("inet", "port"), ("fd", "str")];

/// Whether `data`, which stands at `at`, has what `kind` must have.
fn check_needed(needed: &[(&str, &str)], kind: &Value, data: &Map<String, Value>, at: &str) -> Result<(), SpecError> {
    let missing = needed.iter().find(|(of, name)| *kind == **of && !data.contains_key(*name));
    missing.map_or(Ok(()), |(_, name)| Err(SpecError::missing(format_args!("{at}.data.{name}"))))
}

/// The arguments as `-chardev` has them.
pub(super) fn flatten(mut arguments: Map<String, Value>) -> Result<Map<String, Value>, SpecError> {
    let id = arguments.shift_remove("id").ok_or_else(|| SpecError::missing("id"))?;
    let backend = take_object(&mut arguments, "backend")?;
    nothing_left(&arguments, &["id", "backend"])?;
    let (kind, data) = kind_and_data(backend, "backend")?;
    check_needed(&NEEDED, &kind, &data, "backend")?;
    let mut flat = Map::new();
    flat.insert("id".into(), id);
    for (name, value) in data {
        let name = match name.as_str() {
            // The schema's names of the options that -chardev calls otherwise.
            "addr" => {
                add_address(&mut flat, value)?;
                continue;
            }
            "out" => "path",
            "in" => "input-path",
            // Of a pipe.
            "device" => "path",
            other => other,
        };
        if name == "id" || name == "backend" {
            return Err(SpecError::unknown(Words::Parameters, &format!("backend.data.{name}"), []));
        }
        flat.insert(name.to_owned(), value);
    }
    if kind == "socket" {
        // The schema's default is a server; that of -chardev is a client.
        flat.entry("server").or_insert(Value::Bool(true));
    }
    flat.insert("backend".into(), kind);
    Ok(flat)
}

fn add_address(flat: &mut Map<String, Value>, address: Value) -> Result<(), SpecError> {
    let Value::Object(address) = address else {
        return Err(SpecError::wrong_type("backend.data.addr", "object"));
    };
    let (kind, data) = kind_and_data(address, "backend.data.addr")?;
    let allowed: &[(&str, &str)] = match kind.as_str() {
        Some("unix") => &[("path", "path"), ("abstract", "abstract"), ("tight", "tight")],
        Some("inet") => &[("host", "host"), ("port", "port"), ("to", "to"), ("ipv4", "ipv4"), ("ipv6", "ipv6")],
        Some("fd") => &[("str", "fd")],
        Some(other) => return Err(SpecError::not_one_of("backend.data.addr.type", other, &["inet", "unix", "fd"])),
        None => return Err(SpecError::wrong_type("backend.data.addr.type", "string")),
    };
    check_needed(&NEEDED_OF_ADDRESS, &kind, &data, "backend.data.addr")?;
    for (name, value) in data {
        let Some((_, flat_name)) = allowed.iter().find(|(wire, _)| *wire == name) else {
            let known = allowed.iter().map(|(wire, _)| *wire);
            return Err(SpecError::unknown(Words::Parameters, &name, known));
        };
        flat.insert((*flat_name).to_owned(), value);
    }
    Ok(())
}

fn kind_and_data(mut object: Map<String, Value>, at: &str) -> Result<(Value, Map<String, Value>), SpecError> {
    let kind = object.shift_remove("type").ok_or_else(|| SpecError::missing(format_args!("{at}.type")))?;
    let data = if object.contains_key("data") { take_object(&mut object, "data")? } else { Map::new() };
    nothing_left(&object, &["type", "data"])?;
    Ok((kind, data))
}

fn take_object(object: &mut Map<String, Value>, name: &str) -> Result<Map<String, Value>, SpecError> {
    match object.shift_remove(name) {
        Some(Value::Object(inner)) => Ok(inner),
        Some(_) => Err(SpecError::wrong_type(name, "object")),
        None => Err(SpecError::missing(name)),
    }
}

fn nothing_left(object: &Map<String, Value>, known: &[&str]) -> Result<(), SpecError> {
    match object.keys().next() {
        Some(name) => Err(SpecError::unknown(Words::Parameters, name, known.iter().copied())),
        None => Ok(()),
    }
}
