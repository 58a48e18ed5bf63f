//! One of both programs, with its registers and memory on a pipe.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Longest time that a device may work.
const PATIENCE: Duration = Duration::from_secs(5);

/// A machine without processors that does what it is told in QEMU's text protocol for device tests.
pub(super) struct Machine {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Levels of the interrupt pins that ever changed.
    pins: BTreeMap<u32, bool>,
    time: Time,
}

/// How time passes.
#[derive(Clone, Copy)]
pub(super) enum Time {
    /// By command.
    Stepped,
    /// As for everybody.
    Real,
}

impl Machine {
    pub(super) fn start(command: &mut Command, time: Time) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut machine = Self { child, input, output, pins: BTreeMap::new(), time };
        machine.ask("irq_intercept_in ioapic")?;
        Ok(machine)
    }

    fn answer(&mut self) -> Result<String> {
        loop {
            let mut line = String::new();
            ensure!(self.output.read_line(&mut line)? > 0, "the program ended");
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["IRQ", what, pin] => {
                    self.pins.insert(pin.parse()?, what == "raise");
                }
                ["OK", ..] => return Ok(words.get(1).copied().unwrap_or_default().to_owned()),
                _ => bail!("the program says {line:?}"),
            }
        }
    }

    /// Sends one line; what comes after `OK`.
    pub(super) fn ask(&mut self, line: &str) -> Result<String> {
        self.input.write_all(format!("{line}\n").as_bytes())?;
        self.answer().with_context(|| format!("after {line}"))
    }

    /// Sends many lines at once.
    fn ask_all(&mut self, lines: &[String]) -> Result<Vec<String>> {
        let mut answers = Vec::with_capacity(lines.len());
        // No more than both pipes hold.
        for lines in lines.chunks(256) {
            let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
            self.input.write_all(text.as_bytes())?;
            for line in lines {
                answers.push(self.answer().with_context(|| format!("after {line}"))?);
            }
        }
        Ok(answers)
    }

    /// Whether an interrupt pin is high now.
    pub(super) fn pin(&self, pin: u32) -> bool {
        self.pins.get(&pin).copied().unwrap_or(false)
    }

    /// Reads a port; `width` is `b`, `w` or `l`.
    pub(super) fn input(&mut self, width: char, port: u16) -> Result<u32> {
        number(&self.ask(&format!("in{width} {port:#x}"))?)
    }

    pub(super) fn output(&mut self, width: char, port: u16, value: u32) -> Result<()> {
        self.ask(&format!("out{width} {port:#x} {value:#x}")).map(drop)
    }

    /// Reads `count` words from a port.
    pub(super) fn words(&mut self, port: u16, count: usize) -> Result<Vec<u8>> {
        let answers = self.ask_all(&vec![format!("inw {port:#x}"); count])?;
        let words: Vec<u32> = answers.iter().map(|answer| number(answer)).collect::<Result<_>>()?;
        Ok(words.iter().flat_map(|word| (*word as u16).to_le_bytes()).collect())
    }

    /// Writes words to a port.
    pub(super) fn feed(&mut self, port: u16, bytes: &[u8]) -> Result<()> {
        let words = bytes.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        self.ask_all(&words.map(|word| format!("outw {port:#x} {word:#x}")).collect::<Vec<_>>()).map(drop)
    }

    /// Reads `len` bytes of memory.
    pub(super) fn read(&mut self, address: u64, len: usize) -> Result<Vec<u8>> {
        let text = self.ask(&format!("read {address:#x} {len:#x}"))?;
        let digits = text.strip_prefix("0x").context("no bytes")?;
        (0..digits.len() / 2).map(|n| Ok(u8::from_str_radix(&digits[2 * n..2 * n + 2], 16)?)).collect()
    }

    pub(super) fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        self.ask(&format!("write {address:#x} {:#x} 0x{}", bytes.len(), hex(bytes))).map(drop)
    }

    pub(super) fn fill(&mut self, address: u64, len: usize, byte: u8) -> Result<()> {
        self.ask(&format!("memset {address:#x} {len:#x} {byte:#x}")).map(drop)
    }

    /// Reads a register in memory; `width` is `b`, `w`, `l` or `q`.
    pub(super) fn peek(&mut self, width: char, address: u64) -> Result<u64> {
        let text = self.ask(&format!("read{width} {address:#x}"))?;
        Ok(u64::from_str_radix(text.trim_start_matches("0x"), 16)?)
    }

    pub(super) fn poke(&mut self, width: char, address: u64, value: u64) -> Result<()> {
        self.ask(&format!("write{width} {address:#x} {value:#x}")).map(drop)
    }

    /// A register of a PCI function on bus 0.
    pub(super) fn config(&mut self, function: u8, register: u8) -> Result<u32> {
        self.output('l', 0xcf8, 0x8000_0000 | u32::from(function) << 8 | u32::from(register & !3))?;
        self.input('l', 0xcfc)
    }

    pub(super) fn set_config(&mut self, function: u8, register: u8, width: char, value: u32) -> Result<()> {
        self.output('l', 0xcf8, 0x8000_0000 | u32::from(function) << 8 | u32::from(register & !3))?;
        self.output(width, 0xcfc + u16::from(register & 3), value)
    }

    /// Has this much time pass.
    pub(super) fn pass(&mut self, time: Duration) -> Result<()> {
        match self.time {
            Time::Stepped => self.ask(&format!("clock_step {}", time.as_nanos())).map(drop),
            Time::Real => {
                std::thread::sleep(time);
                Ok(())
            }
        }
    }

    /// Asks until it is so; whether it came to be.
    pub(super) fn wait(&mut self, mut so: impl FnMut(&mut Self) -> Result<bool>) -> Result<bool> {
        let end = Instant::now() + PATIENCE;
        loop {
            if so(self)? {
                return Ok(true);
            }
            if Instant::now() > end {
                return Ok(false);
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself, which the round has seen then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn number(text: &str) -> Result<u32> {
    u32::from_str_radix(text.trim_start_matches("0x"), 16).with_context(|| format!("no number: {text:?}"))
}

/// Bytes as the protocol has them.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
