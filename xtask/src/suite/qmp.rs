//! A QMP client for the tests: one command at a time, events kept until asked for.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// One session with a monitor.
pub(crate) struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Connects as soon as the socket is there, and negotiates.
    pub(crate) fn connect(path: &Path, limit: Duration) -> Result<Self> {
        let start = Instant::now();
        let writer = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(_) if start.elapsed() < limit => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => return Err(error).with_context(|| format!("no QMP at {}", path.display())),
            }
        };
        writer.set_read_timeout(Some(limit))?;
        let reader = BufReader::new(writer.try_clone()?);
        let mut qmp = Self { reader, writer, events: VecDeque::new() };
        let greeting = qmp.line()?;
        ensure!(greeting.get("QMP").is_some(), "no QMP greeting but {greeting}");
        qmp.command("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Sends a command and gives what it returns; its error is ours.
    pub(crate) fn command(&mut self, name: &str, arguments: &Value) -> Result<Value> {
        let line = json!({"execute": name, "arguments": arguments});
        self.writer.write_all(format!("{line}\n").as_bytes()).with_context(|| format!("cannot send {name}"))?;
        loop {
            let mut message = self.line().with_context(|| format!("no answer to {name}"))?;
            if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = message.get("error") {
                bail!("{name} was refused: {error}");
            }
            self.events.push_back(message);
        }
    }

    /// Waits for the event of this name and gives its data; those before it are forgotten.
    pub(crate) fn event(&mut self, name: &str) -> Result<Value> {
        loop {
            let mut message = match self.events.pop_front() {
                Some(message) => message,
                None => self.line().with_context(|| format!("no event {name}"))?,
            };
            if message["event"] == name {
                return Ok(message["data"].take());
            }
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        let length = self.reader.read_line(&mut line)?;
        ensure!(length > 0, "the monitor closed the QMP connection");
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }
}
