//! The shell of a guest on its serial console: a line in, what it printed and its status out.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::console::Console;

/// A guest boots within this, even on a busy machine that emulates its processor's virtualization.
const BOOT: Duration = Duration::from_secs(120);
/// A command in a guest ends within this.
const COMMAND: Duration = Duration::from_secs(90);

/// Both directions of a console with `resources/guest/console` at the other end.
pub(crate) struct Shell {
    input: Box<dyn Write>,
    console: Console,
}

impl Shell {
    /// Starts to read; everything also goes to `log`.
    pub(crate) fn start(output: impl Read + Send + 'static, input: impl Write + 'static, log: &Path) -> Result<Self> {
        Ok(Self { input: Box::new(input), console: Console::start(output, log)? })
    }

    /// Waits for the guest's shell to come up.
    pub(crate) fn ready(&mut self) -> Result<()> {
        self.wait_for("guest ready after ", BOOT)?;
        self.wait_for("\n", COMMAND).map(drop)
    }

    /// Waits until the console shows this, and gives what came before.
    pub(crate) fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        self.console.wait_for(text, limit)
    }

    /// Runs a command in the guest and gives what it printed; its failure is ours.
    pub(crate) fn run(&mut self, line: &str) -> Result<String> {
        self.run_within(line, COMMAND)
    }

    /// The same for a command that takes its time.
    pub(crate) fn run_within(&mut self, line: &str, limit: Duration) -> Result<String> {
        self.type_line(&format!("{{ {line}; }} 2>&1; echo \"[status $?]\""))?;
        let said = self.wait_for("[status ", limit).with_context(|| format!("guest command {line:?}"))?;
        let status = self.wait_for("]", limit)?;
        ensure!(status == "0", "guest command {line:?} ended with {status}: {said}");
        Ok(said.trim().to_owned())
    }

    /// Types a line on the console.
    pub(crate) fn type_line(&mut self, line: &str) -> Result<()> {
        self.input.write_all(format!("{line}\n").as_bytes()).context("the monitor takes no more input")?;
        self.input.flush().context("the monitor takes no more input")
    }

    /// How many bytes the console has shown; they count as looked at.
    pub(crate) fn length(&mut self) -> usize {
        self.console.skip()
    }
}
