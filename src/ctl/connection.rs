//! A client's end of QMP.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use serde_json::Value;

use super::CtlError;

/// The longest message that is taken, in bytes: a machine's schema is some hundred thousand.
const MAX_LINE: u64 = 64 << 20;

/// A connection after negotiation.
pub(super) struct Connection {
    input: BufReader<Box<dyn Read>>,
    output: Box<dyn Write>,
}

/// What the machine said.
pub(super) enum Heard {
    /// About something that happened.
    Event(Value),
    /// To a command.
    Answer(Result<Value, CtlError>),
    /// Nothing any more.
    End,
}

impl Connection {
    /// Connects to a path or `tcp:HOST:PORT` and negotiates.
    pub(super) fn open(path: &str) -> Result<Self, CtlError> {
        let failed = |source| CtlError::Connect { path: path.to_owned(), source };
        let mut connection = match path.strip_prefix("tcp:") {
            Some(address) => Self::tcp(address),
            None => Self::unix(path.strip_prefix("unix:").unwrap_or(path)),
        }
        .map_err(failed)?;
        let greeting = connection.line()?.ok_or(CtlError::Ended)?;
        let is_greeting = serde_json::from_str::<Value>(&greeting).is_ok_and(|greeting| greeting["QMP"].is_object());
        if !is_greeting {
            return Err(CtlError::NotQmp(greeting.trim_end().chars().take(80).collect()));
        }
        connection.send(&serde_json::json!({"execute": "qmp_capabilities"}))?;
        loop {
            match connection.hear()? {
                Heard::Event(_) => {}
                Heard::Answer(answer) => return answer.map(|_| connection),
                Heard::End => return Err(CtlError::Ended),
            }
        }
    }

    fn unix(path: &str) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        Ok(Self { output: Box::new(stream.try_clone()?), input: BufReader::new(Box::new(stream)) })
    }

    fn tcp(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        Ok(Self { output: Box::new(stream.try_clone()?), input: BufReader::new(Box::new(stream)) })
    }

    /// Sends a message.
    pub(super) fn send(&mut self, message: &Value) -> Result<(), CtlError> {
        let text = format!("{message}\r\n");
        self.output.write_all(text.as_bytes()).map_err(CtlError::Broken)
    }

    fn line(&mut self) -> Result<Option<String>, CtlError> {
        let mut line = String::new();
        let count = self.input.by_ref().take(MAX_LINE).read_line(&mut line).map_err(CtlError::Broken)?;
        Ok((count > 0).then_some(line))
    }

    /// Waits for what comes next. A pretty monitor's messages take several lines.
    pub(super) fn hear(&mut self) -> Result<Heard, CtlError> {
        let mut text = String::new();
        loop {
            let Some(line) = self.line()? else { return Ok(Heard::End) };
            text.push_str(&line);
            match serde_json::from_str::<Value>(&text) {
                Ok(message) => return Ok(sort(message)),
                Err(error) if error.is_eof() && text.len() as u64 <= MAX_LINE => {}
                Err(_) => return Err(CtlError::NotQmp(text.trim_end().chars().take(80).collect())),
            }
        }
    }
}

fn sort(mut message: Value) -> Heard {
    if message["event"].is_string() {
        return Heard::Event(message);
    }
    match message.get_mut("error") {
        Some(error) => {
            let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
            Heard::Answer(Err(CtlError::Refused { class: text("class"), desc: text("desc") }))
        }
        None => Heard::Answer(Ok(message["return"].take())),
    }
}
