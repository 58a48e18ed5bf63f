//! One message of a client: which command, with what, under which id.

use serde_json::{Map, Value};

use super::error::QmpError;
use super::json;

/// A message that has the form of a command; whether there is such a command is another question.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Message {
    /// `execute`.
    pub(crate) name: String,
    /// `arguments`; empty when there are none.
    pub(crate) arguments: Map<String, Value>,
}

/// Reads a message. The id is given back even if the rest is wrong, so that the client knows what was.
pub(crate) fn read(text: &[u8]) -> (Option<Value>, Result<Message, QmpError>) {
    let value = match json::read(text) {
        Ok(value) => value,
        Err(error) => return (None, Err(QmpError::from_error(&error))),
    };
    let Value::Object(mut object) = value else {
        return (None, Err(QmpError::generic("QMP input must be a JSON object")));
    };
    let id = object.remove("id");
    (id, read_object(object))
}

fn read_object(object: Map<String, Value>) -> Result<Message, QmpError> {
    let (mut name, mut arguments) = (None, Map::new());
    for (key, value) in object {
        match (key.as_str(), value) {
            ("execute", Value::String(text)) => name = Some(text),
            ("execute", _) => return Err(QmpError::generic("QMP input member 'execute' must be a string")),
            ("arguments", Value::Object(given)) => arguments = given,
            ("arguments", _) => return Err(QmpError::generic("QMP input member 'arguments' must be an object")),
            (key, _) => return Err(QmpError::generic(format!("QMP input member '{key}' is unexpected"))),
        }
    }
    match name {
        Some(name) => Ok(Message { name, arguments }),
        None => Err(QmpError::generic("QMP input lacks member 'execute'")),
    }
}
