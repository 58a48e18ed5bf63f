//! `rhea ctl`: a QMP client for people and scripts.
//!
//! ```text
//! rhea ctl /run/vm.sock query-status
//! rhea ctl /run/vm.sock block_resize node-name=disk0 size=1073741824
//! rhea ctl /run/vm.sock set-action '{"reboot": "shutdown"}'
//! rhea ctl --events /run/vm.sock
//! echo stop | rhea ctl /run/vm.sock -
//! ```

use std::io::{self, BufRead, Write};

use clap::Parser;
use serde_json::{Map, Value};

mod arguments;
mod connection;
#[cfg(test)]
mod tests;

use connection::{Connection, Heard};

/// Sends QMP commands to a running machine and prints what it answers.
#[derive(Debug, Parser)]
#[command(name = "rhea ctl", bin_name = "rhea ctl", disable_version_flag = true)]
pub struct CtlArgs {
    /// The QMP socket: a path, or tcp:HOST:PORT
    pub path: String,
    /// The command, a whole message as JSON, or - to read one a line from standard input
    #[arg(required_unless_present = "events")]
    pub command: Option<String>,
    /// Its arguments: key=value, a.b=value for nested ones, or one JSON object.
    /// A value that looks like JSON (a number, true, null, {…}, […], "…") is taken as JSON
    pub arguments: Vec<String>,
    /// Goes on printing events, one a line, until the machine ends
    #[arg(long)]
    pub events: bool,
}

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// There is no such socket, or nobody listens.
    #[error("cannot connect to {path}")]
    Connect {
        /// The socket.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the machine broke")]
    Broken(#[source] io::Error),
    /// The machine ended the connection before it answered.
    #[error("the machine ended the connection before it answered")]
    Ended,
    /// What came is not QMP.
    #[error("this is not a QMP socket: it said {0:?}")]
    NotQmp(String),
    /// An argument has no form that is understood.
    #[error("argument {0:?} is neither key=value nor a JSON object")]
    Argument(String),
    /// A line or message is not JSON.
    #[error("not a JSON object")]
    Json(#[source] serde_json::Error),
    /// The machine refused.
    #[error("{class}: {desc}")]
    Refused {
        /// The error's class.
        class: String,
        /// What it said.
        desc: String,
    },
    /// Standard input or output failed.
    #[error("cannot read standard input or write standard output")]
    Stdio(#[source] io::Error),
}

/// Does what the arguments say; output goes to `out`.
///
/// # Errors
///
/// The first command that was refused, or what is wrong with the connection.
pub fn run(args: &CtlArgs, input: &mut impl BufRead, out: &mut impl Write) -> Result<(), CtlError> {
    let mut connection = Connection::open(&args.path)?;
    match args.command.as_deref() {
        None => {}
        Some("-") => {
            for line in input.lines() {
                let line = line.map_err(CtlError::Stdio)?;
                let mut words = line.split_whitespace();
                let Some(first) = words.next() else { continue };
                let message = if first.starts_with('{') {
                    parse_object(&line)?
                } else {
                    arguments::message(first, &words.map(str::to_owned).collect::<Vec<_>>())?
                };
                one(&mut connection, message, args.events, out)?;
            }
        }
        Some(text) if text.starts_with('{') => one(&mut connection, parse_object(text)?, args.events, out)?,
        Some(name) => one(&mut connection, arguments::message(name, &args.arguments)?, args.events, out)?,
    }
    if args.events { follow(&mut connection, out) } else { Ok(()) }
}

fn parse_object(text: &str) -> Result<Map<String, Value>, CtlError> {
    serde_json::from_str(text).map_err(CtlError::Json)
}

/// Sends a command and prints its answer.
fn one(
    connection: &mut Connection,
    message: Map<String, Value>,
    events: bool,
    out: &mut impl Write,
) -> Result<(), CtlError> {
    connection.send(&Value::Object(message))?;
    loop {
        match connection.hear()? {
            Heard::Event(event) if events => print(out, &event.to_string())?,
            Heard::Event(_) => {}
            Heard::Answer(Ok(Value::String(text))) => return print(out, text.trim_end()),
            Heard::Answer(Ok(value)) => return print(out, &format!("{value:#}")),
            Heard::Answer(Err(error)) => return Err(error),
            Heard::End => return Err(CtlError::Ended),
        }
    }
}

fn follow(connection: &mut Connection, out: &mut impl Write) -> Result<(), CtlError> {
    loop {
        match connection.hear()? {
            Heard::Event(event) => print(out, &event.to_string())?,
            Heard::Answer(_) => {}
            Heard::End => return Ok(()),
        }
    }
}

fn print(out: &mut impl Write, text: &str) -> Result<(), CtlError> {
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(CtlError::Stdio)
}
