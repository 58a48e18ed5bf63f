//! What a QMP client sends: the framing of its bytes, and the arguments of its commands.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea::qmp::Command;
use rhea::qmp::framing::Framer;
use serde_json::{Map, Value};

fuzz_target!(|bytes: &[u8]| {
    let mut framer = Framer::default();
    for &byte in bytes {
        let Ok(Some(message)) = framer.push(byte) else { continue };
        let Ok(Value::Object(mut message)) = serde_json::from_slice(&message) else { continue };
        let arguments = match message.remove("arguments") {
            Some(Value::Object(arguments)) => arguments,
            _ => Map::new(),
        };
        if let Some(Value::String(name)) = message.remove("execute") {
            let _ = Command::parse(&name, arguments);
        }
    }
});
