//! One monitor and its client.
//!
//! ```text
//!   closed ──client──> negotiating ──qmp_capabilities──> ready ──client left──> closed
//! ```

use std::sync::Arc;

use rhea_devices::chardev::CharEvent;
use serde_json::{Map, Value, json};

use super::channel::{Answer, done};
use super::command::Command;
use super::error::{ErrorClass, QmpError};
use super::framing::Framer;
use super::json::to_line;
use super::message::{self, Message};
use super::monitors::Ticket;
use super::services::Services;
use super::wire::Wire;

/// What the qmp thread needs of a monitor.
pub(crate) trait Session: Send {
    /// Its number.
    fn monitor(&self) -> usize;
    /// Its device has bytes, room, or news.
    fn look(&mut self);
    /// The main thread answered.
    fn answer(&mut self, ticket: Ticket, answer: Answer);
    /// Something happened to the machine.
    fn event(&mut self, message: &Value);
}

/// A QMP monitor.
pub(crate) struct QmpSession {
    wire: Wire,
    services: Arc<Services>,
    pretty: bool,
    state: State,
    framer: Framer,
    /// The id of the command that has not been answered.
    id: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Negotiating,
    Ready,
}

impl QmpSession {
    pub(crate) fn new(wire: Wire, services: Arc<Services>, pretty: bool) -> Self {
        Self { wire, services, pretty, state: State::Closed, framer: Framer::default(), id: None }
    }

    fn send(&mut self, message: &Value) {
        let line = to_line(message, self.pretty);
        self.wire.send(&line);
    }

    fn device_event(&mut self, event: CharEvent) {
        match event {
            CharEvent::Opened => {
                self.begin(State::Negotiating);
                let version = self.services.version();
                self.send(&json!({"QMP": {"version": version, "capabilities": []}}));
            }
            CharEvent::Closed => self.begin(State::Closed),
            CharEvent::Break | CharEvent::MuxIn | CharEvent::MuxOut => {}
        }
    }

    fn begin(&mut self, state: State) {
        self.state = state;
        self.framer.reset();
        self.wire.reset();
        self.id = None;
    }

    fn message(&mut self, text: &[u8]) {
        let (id, message) = message::read(text);
        self.id = id;
        match message.and_then(|message| self.command(message)) {
            Ok(Some(command)) => self.wire.request(command, &self.services),
            Ok(None) => {}
            Err(error) => self.reply(Err(error)),
        }
    }

    /// Answers what needs no machine; gives back what does.
    fn command(&mut self, message: Message) -> Result<Option<Command>, QmpError> {
        let Message { name, arguments } = message;
        if self.state == State::Negotiating && name != "qmp_capabilities" {
            return Err(out_of_turn("Expecting capabilities negotiation with 'qmp_capabilities'"));
        }
        if !self.services.offer().has(&name) {
            return Err(QmpError::command_not_found(&name));
        }
        let command = Command::parse(&name, arguments)?;
        if let Command::QmpCapabilities(args) = &command {
            self.negotiate(args.enable.as_deref().unwrap_or_default())?;
            self.reply(done());
            return Ok(None);
        }
        let device = Arc::clone(self.wire.device());
        match self.services.execute(&command, Some(device.as_ref())) {
            Some(answer) => {
                self.reply(answer);
                Ok(None)
            }
            None => Ok(Some(command)),
        }
    }

    fn negotiate(&mut self, enable: &[super::command::args::QmpCapability]) -> Result<(), QmpError> {
        if self.state != State::Negotiating {
            return Err(out_of_turn("Capabilities negotiation is already complete, command ignored"));
        }
        if let Some(capability) = enable.first() {
            return Err(QmpError::generic(format!("Capability '{capability}' not available")));
        }
        self.state = State::Ready;
        Ok(())
    }

    fn reply(&mut self, answer: Answer) {
        let mut message = Map::new();
        let id = self.id.take();
        match answer {
            Ok(value) => {
                message.insert("return".into(), value);
                message.extend(id.map(|id| ("id".to_owned(), id)));
            }
            Err(error) => {
                message.extend(id.map(|id| ("id".to_owned(), id)));
                message.insert("error".into(), json!(error));
            }
        }
        self.send(&Value::Object(message));
    }
}

fn out_of_turn(desc: &str) -> QmpError {
    QmpError { class: ErrorClass::CommandNotFound, desc: desc.to_owned() }
}

impl Session for QmpSession {
    fn monitor(&self) -> usize {
        self.wire.monitor()
    }

    fn look(&mut self) {
        while let Some(event) = self.wire.take_event() {
            self.device_event(event);
        }
        self.wire.flush();
        if self.state == State::Closed {
            return;
        }
        while let Some(byte) = self.wire.take_byte() {
            match self.framer.push(byte) {
                Ok(None) => {}
                Ok(Some(text)) => self.message(&text),
                Err(error) => self.reply(Err(QmpError::from_error(&error))),
            }
        }
        self.wire.took_input();
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        if self.wire.take_ticket(ticket) {
            self.reply(answer);
            self.look();
        }
    }

    fn event(&mut self, message: &Value) {
        if self.state == State::Ready {
            self.send(message);
        }
    }
}
