//! A human monitor and the person at it.

use std::sync::Arc;

use rhea_devices::chardev::CharEvent;
use serde_json::Value;

use super::commands::complete;
use super::editor::{Editor, Key};
use crate::qmp::channel::Answer;
use crate::qmp::command::args::HumanMonitorCommand;
use crate::qmp::reply::cpu::CpuInfoFast;
use crate::qmp::{Command, Services, Session, Ticket, Wire};

/// Programs that drive the monitor wait for this.
const PROMPT: &[u8] = b"(qemu) ";

/// One monitor.
pub(crate) struct HumanSession {
    wire: Wire,
    services: Arc<Services>,
    editor: Editor,
    is_open: bool,
    /// The person's keys come here and not to another front end of a mux.
    has_focus: bool,
    /// The greeting waits for the focus.
    owes_greeting: bool,
    /// The vCPU chosen with `cpu`.
    cpu: i64,
    /// Chosen, but not yet known to exist.
    asked: Option<i64>,
}

impl HumanSession {
    pub(crate) fn new(wire: Wire, services: Arc<Services>) -> Self {
        Self {
            wire,
            services,
            editor: Editor::default(),
            is_open: false,
            has_focus: true,
            owes_greeting: false,
            cpu: 0,
            asked: None,
        }
    }

    fn device_event(&mut self, event: CharEvent) {
        match event {
            CharEvent::Opened => {
                self.begin(true);
                self.owes_greeting = true;
                self.greet();
            }
            CharEvent::Closed => self.begin(false),
            CharEvent::MuxIn if !self.has_focus => {
                self.has_focus = true;
                if !self.greet() && self.is_open {
                    self.prompt();
                }
            }
            CharEvent::MuxOut if self.has_focus => {
                self.has_focus = false;
                if self.is_open && !self.owes_greeting {
                    self.wire.send(b"\r\n");
                }
            }
            CharEvent::MuxIn | CharEvent::MuxOut | CharEvent::Break => {}
        }
    }

    fn begin(&mut self, is_open: bool) {
        self.is_open = is_open;
        self.editor.reset();
        self.wire.reset();
        self.asked = None;
    }

    /// Whether it greeted now.
    fn greet(&mut self) -> bool {
        if !self.has_focus || !std::mem::take(&mut self.owes_greeting) {
            return false;
        }
        let version = self.services.version().qemu;
        let greeting = format!(
            "QEMU {}.{}.{} monitor - type 'help' for more information\r\n",
            version.major, version.minor, version.micro
        );
        self.wire.send(greeting.as_bytes());
        self.prompt();
        true
    }

    fn prompt(&mut self) {
        let mut text = PROMPT.to_vec();
        self.editor.redraw(&mut text);
        self.wire.send(&text);
    }

    fn line(&mut self, line: String) {
        if line.trim().is_empty() {
            self.prompt();
            return;
        }
        if let Some(index) = line.trim().strip_prefix("cpu ") {
            self.choose_cpu(index);
            return;
        }
        let args = HumanMonitorCommand { command_line: line, cpu_index: Some(self.cpu).filter(|cpu| *cpu != 0) };
        self.wire.request(Command::HumanMonitorCommand(args), &self.services);
    }

    /// `cpu index`: the choice is this session's own, but the machine knows which there are.
    fn choose_cpu(&mut self, index: &str) {
        match index.trim().parse::<i64>() {
            Ok(index) => {
                self.asked = Some(index);
                self.wire.request(Command::QueryCpusFast, &self.services);
            }
            Err(_) => {
                self.wire.send(b"invalid CPU index\r\n");
                self.prompt();
            }
        }
    }

    fn chosen_cpu(&mut self, index: i64, answer: Answer) {
        let cpus: Vec<CpuInfoFast> = answer.ok().and_then(|cpus| serde_json::from_value(cpus).ok()).unwrap_or_default();
        if cpus.iter().any(|cpu| cpu.cpu_index == index) {
            self.cpu = index;
        } else {
            self.wire.send(b"invalid CPU index\r\n");
        }
    }

    fn complete(&mut self, typed: &str) {
        let names = complete(typed);
        let word = typed.rsplit(' ').next().unwrap_or_default();
        let Some(common) = common_prefix(&names) else { return };
        let mut echo = Vec::new();
        if let Some(more) = common.strip_prefix(word).filter(|more| !more.is_empty()) {
            self.editor.insert(more.as_bytes(), &mut echo);
        }
        if names.len() == 1 {
            self.editor.insert(b" ", &mut echo);
        } else if common == word {
            echo.extend(b"\r\n");
            echo.extend(names.join("\r\n").bytes());
            echo.extend(b"\r\n");
            echo.extend(PROMPT);
            self.editor.redraw(&mut echo);
        }
        self.wire.send(&echo);
    }
}

fn common_prefix<'a>(names: &[&'a str]) -> Option<&'a str> {
    let (first, rest) = names.split_first()?;
    let shared = |other: &&str| first.bytes().zip(other.bytes()).take_while(|(one, other)| one == other).count();
    let length = rest.iter().map(shared).min().unwrap_or(first.len());
    first.get(..length)
}

impl Session for HumanSession {
    fn monitor(&self) -> usize {
        self.wire.monitor()
    }

    fn look(&mut self) {
        while let Some(event) = self.wire.take_event() {
            self.device_event(event);
        }
        self.wire.flush();
        while let Some(byte) = self.wire.take_byte() {
            let mut echo = Vec::new();
            let key = self.editor.push(byte, &mut echo);
            self.wire.send(&echo);
            match key {
                Key::Edited => {}
                Key::Line(line) => self.line(line),
                Key::Complete(typed) => self.complete(&typed),
            }
        }
        self.wire.took_input();
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        if !self.wire.take_ticket(ticket) {
            return;
        }
        if let Some(index) = self.asked.take() {
            self.chosen_cpu(index, answer);
        } else {
            let text = match answer {
                Ok(Value::String(text)) => text,
                Ok(_) => String::new(),
                Err(error) => format!("Error: {error}\r\n"),
            };
            self.wire.send(text.as_bytes());
        }
        self.prompt();
        self.look();
    }

    /// People are not told of events.
    fn event(&mut self, _: &Value) {}
}
