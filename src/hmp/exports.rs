//! The machine's NBD server.

use serde_json::json;

use crate::qmp::reply::block::BlockInfo;
use crate::qmp::{Command, QmpError};

use super::Context;
use super::block::{command, flags, forced};
use super::commands::{Printed, Words, quiet};

/// `nbd_server_start [-a] [-w] host:port`; with `-a` every disk that has a name and a medium is exported, and if one of
/// them cannot be, the server is stopped again.
pub(super) fn start(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let (flags, first) = flags(words, &["-a", "-w"]);
    let (all, writable) = (flags.contains(&"-a"), flags.contains(&"-w"));
    if writable && !all {
        return Err(QmpError::generic("-w only valid together with -a").into());
    }
    let address = words.need(first, "uri")?;
    let wrong = || QmpError::generic(format!("error parsing address '{address}'"));
    let (host, port) = address.rsplit_once(':').filter(|(_, port)| !port.is_empty()).ok_or_else(wrong)?;
    let addr = json!({"type": "inet", "data": {"host": host.trim_matches(['[', ']']), "port": port}});
    quiet(context, command("nbd-server-start", json!({"addr": addr}))?)?;
    if !all {
        return Ok(String::new());
    }
    let exported = export_all(context, writable);
    if exported.is_err() {
        context.run(Command::NbdServerStop)?;
    }
    exported
}

fn export_all(context: &mut Context<'_>, writable: bool) -> Printed {
    let disks: Vec<BlockInfo> = context.ask(Command::QueryBlock)?;
    for disk in disks.iter().filter(|disk| !disk.device.is_empty() && disk.inserted.is_some()) {
        quiet(context, command("nbd-server-add", json!({"device": disk.device, "writable": writable}))?)?;
    }
    Ok(String::new())
}

/// `nbd_server_add [-w] device [name]`.
pub(super) fn add(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let (flags, first) = flags(words, &["-w"]);
    let mut args = json!({"device": words.need(first, "device")?, "writable": !flags.is_empty()});
    if let Some(name) = words.get(first + 1) {
        args["name"] = name.into();
    }
    quiet(context, command("nbd-server-add", args)?)
}

/// `nbd_server_remove [-f] name`.
pub(super) fn remove(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let (force, first) = forced(words);
    let mode = if force.is_some() { "hard" } else { "safe" };
    quiet(context, command("nbd-server-remove", json!({"name": words.need(first, "name")?, "mode": mode}))?)
}
