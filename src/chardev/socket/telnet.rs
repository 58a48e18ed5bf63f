//! As much of telnet (RFC 854) as makes a telnet client a dumb terminal: we offer to echo and to suppress go-ahead
//! (RFC 857, 858) and ask for eight bits (RFC 856); whatever the client offers is passed over.

use std::io;

const IAC: u8 = 255;
const DONT: u8 = 254;
const DO: u8 = 253;
const WILL: u8 = 251;
const SB: u8 = 250;
const BREAK: u8 = 243;
const SE: u8 = 240;
const BINARY: u8 = 0;
const ECHO: u8 = 1;
const SUPPRESS_GO_AHEAD: u8 = 3;

/// What is said first.
const GREETING: [u8; 12] = [IAC, WILL, ECHO, IAC, WILL, SUPPRESS_GO_AHEAD, IAC, WILL, BINARY, IAC, DO, BINARY];

/// One connection's state; without telnet it changes nothing.
#[derive(Debug, Default)]
pub(super) struct Telnet {
    is_on: bool,
    input: Input,
    /// Goes out before anything else: the greeting, or the second half of an escaped 255.
    owed: Vec<u8>,
    has_break: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Input {
    #[default]
    Data,
    /// After IAC.
    Command,
    /// After WILL, WONT, DO or DONT.
    Option,
    /// Between SB and SE.
    Sub,
    /// After IAC in there.
    SubCommand,
}

impl Telnet {
    /// A new connection.
    pub(super) fn begin(is_on: bool) -> Self {
        let owed = if is_on { GREETING.to_vec() } else { Vec::new() };
        Self { is_on, owed, ..Self::default() }
    }

    /// Takes commands out of what came in; returns how many bytes of `buffer` are left.
    pub(super) fn decode(&mut self, buffer: &mut [u8]) -> usize {
        if !self.is_on {
            return buffer.len();
        }
        let mut kept = 0;
        for at in 0..buffer.len() {
            let Some(byte) = buffer.get(at).copied().filter(|byte| self.step(*byte)) else { continue };
            if let Some(place) = buffer.get_mut(kept) {
                *place = byte;
                kept += 1;
            }
        }
        kept
    }

    /// Whether the byte is data.
    fn step(&mut self, byte: u8) -> bool {
        let (next, is_data) = match (self.input, byte) {
            (Input::Data, IAC) => (Input::Command, false),
            (Input::Data, _) => (Input::Data, true),
            (Input::Command, IAC) => (Input::Data, true),
            (Input::Command, SB) => (Input::Sub, false),
            (Input::Command, WILL..=DONT) => (Input::Option, false),
            (Input::Sub, IAC) => (Input::SubCommand, false),
            (Input::SubCommand, SE) | (Input::Option | Input::Command, _) => (Input::Data, false),
            (Input::Sub | Input::SubCommand, _) => (Input::Sub, false),
        };
        self.has_break |= self.input == Input::Command && byte == BREAK;
        self.input = next;
        is_data
    }

    /// Whether a break came since the last call.
    pub(super) fn take_break(&mut self) -> bool {
        std::mem::take(&mut self.has_break)
    }

    /// Writes `data` through `send`, with 255 doubled; returns how many bytes of `data` are done with.
    pub(super) fn write(&mut self, data: &[u8], send: impl Fn(&[u8]) -> io::Result<usize>) -> io::Result<usize> {
        if !self.is_on {
            return send(data);
        }
        while !self.owed.is_empty() {
            let sent = send(&self.owed)?;
            self.owed.drain(..sent.min(self.owed.len()));
        }
        match data.iter().position(|byte| *byte == IAC) {
            Some(0) => {
                self.owed.extend([IAC, IAC]);
                Ok(1)
            }
            Some(plain) => send(data.get(..plain).unwrap_or_default()),
            None => send(data),
        }
    }

    /// Something is owed that no data will push out.
    pub(super) fn owes(&self) -> bool {
        !self.owed.is_empty()
    }
}
