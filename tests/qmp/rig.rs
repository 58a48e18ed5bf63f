//! The machine, and a client of its monitor on standard input and output.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// A machine without vCPUs, and its client.
pub(crate) struct Machine {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// What happened before the last answer.
    pub(crate) events: Vec<Value>,
}

impl Machine {
    /// With these options, cut at spaces.
    pub(crate) fn start(words: &str) -> Self {
        Self::start_in(Path::new("."), words)
    }

    /// That, with relative paths looked up from `folder`.
    pub(crate) fn start_in(folder: &Path, words: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rhea"))
            .args(["-accel", "qtest", "-m", "16", "-nodefaults", "-display", "none", "-qmp", "stdio"])
            .args(words.split_whitespace())
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let input = child.stdin.take().expect("standard input");
        let output = BufReader::new(child.stdout.take().expect("standard output"));
        let mut machine = Self { child, input, output, events: Vec::new() };
        machine.line();
        machine.ask("qmp_capabilities", &json!({})).expect("negotiation");
        machine
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).expect("the program answers") > 0, "no answer");
        serde_json::from_str(&line).expect("JSON")
    }

    /// What a line of the human monitor prints.
    pub(crate) fn human(&mut self, line: &str) -> String {
        let text = self.ask("human-monitor-command", &json!({"command-line": line})).expect("a text");
        text.as_str().expect("text").replace('\r', "")
    }

    /// Waits for something to happen.
    pub(crate) fn wait(&mut self) {
        let message = self.line();
        self.events.push(message);
    }

    /// What a command returns, or the sentence it is refused with.
    pub(crate) fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value, String> {
        writeln!(self.input, "{}", json!({"execute": command, "arguments": arguments})).expect("the program listens");
        loop {
            let message = self.line();
            if let Some(error) = message.get("error") {
                return Err(error["desc"].as_str().unwrap_or_default().to_owned());
            }
            if let Some(value) = message.get("return") {
                return Ok(value.clone());
            }
            self.events.push(message);
        }
    }

    /// The program's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a client does.
    pub(crate) fn end(mut self) {
        self.ask("quit", &json!({})).expect("it ends");
        assert!(self.child.wait().expect("the program").success());
    }

    /// The entry of `query-block` for a drive.
    pub(crate) fn drive(&mut self, name: &str) -> Value {
        let all = self.ask("query-block", &json!({})).expect("drives");
        let found = all.as_array().expect("a list").iter().find(|d| d["device"] == name || d["qdev"] == name);
        found.cloned().expect("the drive")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
