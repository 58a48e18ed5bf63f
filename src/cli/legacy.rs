//! The short way to name a character device, as in `-serial mon:stdio` or `-qmp unix:/run/vm.sock,server=on,wait=off`.

use serde_json::{Map, Value};

use crate::spec::chardev::ChardevSpec;
use crate::spec::error::{Shown, SpecError};
use crate::spec::process::{MonitorMode, MonitorSpec};
use crate::spec::read::Source;

use super::draft::Draft;
use super::text;

/// A monitor's language.
#[derive(Debug, Clone, Copy)]
pub(super) struct Language {
    mode: MonitorMode,
    pretty: bool,
}

/// For people.
pub(super) const HUMAN: Language = Language { mode: MonitorMode::Readline, pretty: false };
/// QMP.
pub(super) const QMP: Language = Language { mode: MonitorMode::Control, pretty: false };
/// QMP with line breaks.
pub(super) const QMP_PRETTY: Language = Language { mode: MonitorMode::Control, pretty: true };

/// Most serial ports.
const MAX_SERIALS: usize = 4;

/// `-serial`: the next of COM1 to COM4.
pub(super) fn add_serial(draft: &mut Draft, text: &str) -> Result<(), SpecError> {
    let number = draft.spec.serials.len();
    if number >= MAX_SERIALS {
        return Err(SpecError::new(format!("too many serial ports; the machine has {MAX_SERIALS}")));
    }
    let chardev = if text == "none" { None } else { Some(add(draft, text, &format!("serial{number}"))?) };
    draft.spec.serials.push(chardev);
    Ok(())
}

/// `-monitor` and `-qmp`.
pub(super) fn add_monitor(draft: &mut Draft, text: &str, language: Language) -> Result<(), SpecError> {
    if text == "none" {
        return Ok(());
    }
    let name = format!("compat_monitor{}", draft.compat_monitors);
    draft.compat_monitors += 1;
    let chardev = add(draft, text, &name)?;
    let Language { mode, pretty } = language;
    draft.push_monitor(MonitorSpec { id: Some(name), chardev, mode, pretty });
    Ok(())
}

/// Makes the character device that `text` names, under the name `id`, and gives the name of the one to use: another for
/// `chardev:NAME`. After `mon:` a human monitor shares it.
pub(super) fn add(draft: &mut Draft, text: &str, id: &str) -> Result<String, SpecError> {
    if let Some(name) = text.strip_prefix("chardev:") {
        return Ok(name.to_owned());
    }
    let shared = text.strip_prefix("mon:");
    let mut object = parse(shared.unwrap_or(text))?;
    object.insert("id".into(), Value::from(id));
    if shared.is_some() {
        object.insert("mux".into(), Value::from("on"));
        if object.get("backend").is_some_and(|backend| backend == "stdio") {
            // Ctrl-C is for the guest; Ctrl-a x ends the process.
            object.insert("signal".into(), Value::from("off"));
        }
    }
    draft.spec.chardevs.push(ChardevSpec::read(object, Source::Text)?);
    if shared.is_some() {
        let chardev = id.to_owned();
        draft.push_monitor(MonitorSpec { id: None, chardev, ..MonitorSpec::default() });
    }
    Ok(id.to_owned())
}

/// The options of `-chardev` that the short form stands for, without the name.
pub(super) fn parse(short: &str) -> Result<Map<String, Value>, SpecError> {
    let (kind, rest) = short.split_once(':').unwrap_or((short, ""));
    let has_rest = short.contains(':');
    match (kind, has_rest) {
        ("null" | "pty" | "stdio", false) => Ok(backend(kind, Map::new())),
        // These take the text as it is, commas too.
        ("file" | "pipe", true) => Ok(backend(kind, Map::from_iter([("path".to_owned(), Value::from(rest))]))),
        ("unix", true) => Ok(backend("socket", text::flat(socket_pairs(rest, "path")?, &[]))),
        ("tcp", true) => tcp(rest, &[]),
        ("telnet", true) => tcp(rest, &[("telnet", "on")]),
        ("websocket", true) => tcp(rest, &[("websocket", "on")]),
        ("tn3270", true) => tcp(rest, &[("tn3270", "on")]),
        ("udp" | "vc" | "msmouse" | "braille" | "testdev" | "wctablet", _) => Ok(backend(kind, Map::new())),
        _ if short.starts_with("/dev/") => Ok(backend("serial", Map::new())),
        _ => Err(SpecError::new(format!(
            "'{}' is not a valid char driver; there are stdio, mon:stdio, pty, null, none, file:PATH, pipe:PATH, \
             unix:PATH, tcp:HOST:PORT, telnet:HOST:PORT and chardev:ID",
            Shown(short)
        ))),
    }
}

fn backend(kind: &str, mut options: Map<String, Value>) -> Map<String, Value> {
    options.insert("backend".into(), Value::from(kind));
    options
}

/// `HOST:PORT,…`; the host may be empty, or an IPv6 address in brackets.
fn tcp(rest: &str, more: &[(&str, &str)]) -> Result<Map<String, Value>, SpecError> {
    let mut options = text::flat(socket_pairs(rest, "address")?, &[]);
    let address = options.shift_remove("address");
    let address = address.as_ref().and_then(Value::as_str).unwrap_or_default();
    let wrong = || SpecError::new(format!("'{}' is no address; write HOST:PORT, or :PORT", Shown(address)));
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if port.is_empty() {
        return Err(wrong());
    }
    options.insert("host".into(), Value::from(host));
    options.insert("port".into(), Value::from(port));
    for (key, value) in more {
        options.insert((*key).to_owned(), Value::from(*value));
    }
    Ok(backend("socket", options))
}

/// Pairs of a socket's options. `nodelay` is a name of its own, not the switch `delay` turned off.
pub(super) fn socket_pairs(rest: &str, main: &str) -> Result<Vec<text::Pair>, SpecError> {
    let mut pairs = text::pairs(rest, Some(main))?;
    for pair in &mut pairs {
        if pair.key == "delay" {
            pair.key = "nodelay".to_owned();
            pair.value = if pair.value == "off" { "on" } else { "off" }.to_owned();
        }
    }
    Ok(pairs)
}
