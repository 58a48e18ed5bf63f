//! Devices and objects that come and go, and the tree of objects: what QMP's commands of these names do.

use serde_json::{Map, Value, json};

use crate::cli::{read_chardev, text};
use crate::qmp::command::args::{ChardevAdd, DeviceAdd, Id, ObjectAdd, QomGet, QomList, QomSet};
use crate::qmp::reply::device::ObjectPropertyInfo;
use crate::qmp::{Command, QmpError, json};
use crate::spec::number::parse_int;
use crate::spec::read::Source;
use crate::spec::{DeviceSpec, ObjectSpec, SpecError};

use super::Context;
use super::commands::{Failure, Printed, Words, quiet};

/// The words' mistake in the sentence that the command line has for it.
fn wrong(error: &SpecError) -> Failure {
    QmpError::from_error(error).into()
}

/// `device_add driver[,prop=value][,...]`.
pub(super) fn add_device(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let pairs = text::pairs(words.get(0).unwrap_or_default(), Some("driver")).map_err(|error| wrong(&error))?;
    let options = text::flat(pairs, &[]);
    // What is wrong is told before the machine is asked.
    DeviceSpec::read(options.clone(), Source::Text).map_err(|error| wrong(&error))?;
    quiet(context, Command::DeviceAdd(DeviceAdd(options)))
}

/// `device_del id`.
pub(super) fn remove_device(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let id = words.need(0, "id")?.to_owned();
    quiet(context, Command::DeviceDel(Id { id }))
}

/// `object_add type,id=name[,prop=value][,...]`, or JSON.
pub(super) fn add_object(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let line = words.need(0, "object")?;
    let (options, source) = object_options(line)?;
    let object = ObjectSpec::read(options, source).map_err(|error| wrong(&error))?;
    quiet(context, Command::ObjectAdd(ObjectAdd(Box::new(object))))
}

fn object_options(line: &str) -> Result<(Map<String, Value>, Source), Failure> {
    if line.starts_with('{')
        && let Value::Object(options) = json::read(line.as_bytes()).map_err(|error| QmpError::from_error(&error))?
    {
        return Ok((options, Source::Json));
    }
    let options = text::pairs(line, Some("qom-type")).and_then(text::nested);
    options.map(|options| (options, Source::Text)).map_err(|error| wrong(&error))
}

/// `chardev-add type,id=name[,prop=value][,...]`.
pub(super) fn add_chardev(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let chardev = read_chardev(words.need(0, "args")?).map_err(|error| wrong(&error))?;
    quiet(context, Command::ChardevAdd(ChardevAdd(Box::new(chardev))))
}

/// `object_del id`.
pub(super) fn remove_object(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let id = words.need(0, "id")?.to_owned();
    quiet(context, Command::ObjectDel(Id { id }))
}

/// `qom-list [path]`.
pub(super) fn list(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let Some(path) = words.get(0) else { return Ok("/\n".to_owned()) };
    let entries: Vec<ObjectPropertyInfo> = context.ask(Command::QomList(QomList { path: path.to_owned() }))?;
    Ok(entries.iter().map(|entry| format!("{} ({})\n", entry.name, entry.r#type)).collect())
}

/// `qom-get path property`.
pub(super) fn get(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let (path, property) = (words.need(0, "path")?.to_owned(), words.need(1, "property")?.to_owned());
    let value = context.run(Command::QomGet(QomGet { path, property }))?;
    Ok(String::from_utf8_lossy(&json::to_line(&value, true)).replace("\r\n", "\n"))
}

/// `qom-set [-j] path property value`.
pub(super) fn set(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let is_json = words.get(0) == Some("-j");
    let first = usize::from(is_json);
    let (path, property) = (words.need(first, "path")?.to_owned(), words.need(first + 1, "property")?.to_owned());
    let given = words.need(first + 2, "value")?;
    let value = match parse_int(given).and_then(|number| i64::try_from(number).ok()) {
        _ if is_json => json::read(given.as_bytes()).map_err(|error| QmpError::from_error(&error))?,
        Some(number) => json!(number),
        None => json!(given),
    };
    quiet(context, Command::QomSet(QomSet { path, property, value }))
}
