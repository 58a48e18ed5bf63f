//! The client's half of the newstyle handshake ("Newstyle negotiation").

use std::io::{self, Read, Write};

use crate::error::{BlockError, ErrorKind};
use crate::nbd::proto::{
    BASE_ALLOCATION, FIXED_NEWSTYLE, MOST_PAYLOAD, MOST_STRING, NO_ZEROES, OLDSTYLE_MAGIC, OPTION_MAGIC,
    OPTION_REPLY_MAGIC, SERVER_MAGIC, broken, flag, info, option, put_string, read_array, read_bytes, read_u16,
    read_u32, read_u64, reply,
};

/// Most replies to one option: a server that goes on for ever is none.
const MOST_REPLIES: usize = 256;
/// Longest reply to an option, in bytes: a name and a few numbers.
const MOST_REPLY: usize = 2 * MOST_STRING;

/// What both ends agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreed {
    /// Size of the export in bytes.
    pub(super) size: u64,
    /// Transmission flags.
    pub(super) flags: u16,
    /// Requests are multiples of this many bytes, a power of two.
    pub(super) smallest: u32,
    /// No read or write is longer, in bytes.
    pub(super) largest: u32,
    /// Replies may come in chunks.
    pub(super) structured: bool,
    /// The number of the context that tells the state of a range.
    pub(super) context: Option<u32>,
}

impl Agreed {
    /// Whether the export is the same as on another connection, on which the context may have another number.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let both = self.context.is_some() == other.context.is_some();
        both && Self { context: other.context, ..self.clone() } == *other
    }

    /// The server has all these flags.
    pub(super) fn can(&self, flags: u16) -> bool {
        self.flags & (flag::HAS_FLAGS | flags) == flag::HAS_FLAGS | flags
    }
}

/// One reply to an option.
struct Reply {
    kind: u32,
    payload: Vec<u8>,
}

impl Reply {
    /// The server's words, made safe to print.
    fn words(&self) -> String {
        let text: String =
            String::from_utf8_lossy(&self.payload).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if text.is_empty() { String::new() } else { format!(" ({text})") }
    }
}

fn send<S: Write>(to: &mut S, option: u32, payload: &[u8]) -> io::Result<()> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    to.write_all(&bytes)
}

fn receive<S: Read>(from: &mut S, option: u32) -> io::Result<Reply> {
    if read_u64(from)? != OPTION_REPLY_MAGIC {
        return Err(broken("an option's reply does not begin with its magic number"));
    }
    if read_u32(from)? != option {
        return Err(broken("the reply is to another option"));
    }
    let kind = read_u32(from)?;
    let len = read_u32(from)?;
    Ok(Reply { kind, payload: read_bytes(from, len, MOST_REPLY)? })
}

fn lost(error: io::Error) -> BlockError {
    BlockError::io("negotiation with the NBD server failed", error)
}

/// Negotiates the export `name`, and the context `base:allocation`, or that of `bitmap`.
///
/// # Errors
/// When the server has no such export or bitmap, wants what we have not (TLS), or breaks the protocol.
pub(super) fn negotiate<S: Read + Write>(
    socket: &mut S,
    name: &str,
    bitmap: Option<&str>,
) -> Result<Agreed, BlockError> {
    let no_zeroes = greet(socket)?;
    let structured = simple_option(socket, option::STRUCTURED_REPLY)?;
    let wanted = bitmap.unwrap_or(BASE_ALLOCATION);
    let context = if structured { choose_context(socket, name, wanted).map_err(lost)? } else { None };
    if let (Some(bitmap), None) = (bitmap, context) {
        let text = format!("requested x-dirty-bitmap {bitmap} not found");
        return Err(BlockError::new(ErrorKind::NotFound, text));
    }
    let mut agreed = Agreed { size: 0, flags: 0, smallest: 1, largest: MOST_PAYLOAD, structured, context };
    if !go(socket, name, &mut agreed)? {
        export_name(socket, name, no_zeroes, &mut agreed).map_err(|e| {
            let text = format!("the NBD server has no export '{name}', or closed the connection");
            BlockError::io(text, e)
        })?;
    }
    if agreed.size > i64::MAX as u64 {
        return Err(lost(broken(format!("an export of {} bytes", agreed.size))));
    }
    Ok(agreed)
}

/// Both ends say what they are. Gives whether the server leaves out 124 zeroes.
fn greet<S: Read + Write>(socket: &mut S) -> Result<bool, BlockError> {
    if read_u64(socket).map_err(lost)? != SERVER_MAGIC {
        return Err(lost(broken("the server does not speak NBD")));
    }
    let style = read_u64(socket).map_err(lost)?;
    let flags = if style == OPTION_MAGIC { read_u16(socket).map_err(lost)? } else { 0 };
    if style == OLDSTYLE_MAGIC || (style == OPTION_MAGIC && flags & FIXED_NEWSTYLE == 0) {
        let text = "the NBD server only knows the old handshake, which is not spoken here; start it with newstyle \
                    negotiation";
        return Err(BlockError::new(ErrorKind::Unsupported, text));
    }
    if style != OPTION_MAGIC {
        return Err(lost(broken("the server's greeting is unknown")));
    }
    let ours = u32::from(flags & (FIXED_NEWSTYLE | NO_ZEROES));
    socket.write_all(&ours.to_be_bytes()).map_err(lost)?;
    Ok(flags & NO_ZEROES != 0)
}

/// An option without data, which the server takes or not.
fn simple_option<S: Read + Write>(socket: &mut S, which: u32) -> Result<bool, BlockError> {
    send(socket, which, &[]).and_then(|()| receive(socket, which)).map_err(lost).and_then(|answer| match answer.kind {
        reply::ACK => Ok(true),
        reply::ERR_TLS_REQD => Err(refusal("", &answer)),
        kind if kind & reply::ERROR != 0 => Ok(false),
        _ => Err(lost(broken("an unknown reply to an option"))),
    })
}

/// Asks for the context `wanted`; gives its number.
fn choose_context<S: Read + Write>(socket: &mut S, name: &str, wanted: &str) -> io::Result<Option<u32>> {
    let mut payload = Vec::new();
    put_string(&mut payload, name);
    payload.extend(1u32.to_be_bytes());
    put_string(&mut payload, wanted);
    send(socket, option::SET_META_CONTEXT, &payload)?;
    let mut found = None;
    for _ in 0..MOST_REPLIES {
        let answer = receive(socket, option::SET_META_CONTEXT)?;
        match answer.kind {
            reply::ACK => return Ok(found),
            reply::META_CONTEXT => {
                let mut payload = answer.payload.as_slice();
                let number = read_u32(&mut payload)?;
                if payload == wanted.as_bytes() {
                    found = Some(number);
                }
            }
            kind if kind & reply::ERROR != 0 => return Ok(None),
            _ => return Err(broken("an unknown reply to an option")),
        }
    }
    Err(broken("no end of replies to an option"))
}

/// Ends the handshake with `NBD_OPT_GO`; false when the server does not know it.
fn go<S: Read + Write>(socket: &mut S, name: &str, agreed: &mut Agreed) -> Result<bool, BlockError> {
    let mut payload = Vec::new();
    put_string(&mut payload, name);
    payload.extend(1u16.to_be_bytes());
    payload.extend(info::BLOCK_SIZE.to_be_bytes());
    send(socket, option::GO, &payload).map_err(lost)?;
    let mut described = false;
    for _ in 0..MOST_REPLIES {
        let answer = receive(socket, option::GO).map_err(lost)?;
        match answer.kind {
            reply::ACK if described => return Ok(true),
            reply::INFO => described |= take_info(&answer.payload, agreed).map_err(lost)?,
            reply::ERR_UNSUP => return Ok(false),
            kind if kind & reply::ERROR != 0 => return Err(refusal(name, &answer)),
            _ => return Err(lost(broken("an unknown reply to an option"))),
        }
    }
    Err(lost(broken("no end of replies to an option")))
}

/// One fact about the export; true when it was the one that matters.
fn take_info(mut payload: &[u8], agreed: &mut Agreed) -> io::Result<bool> {
    match read_u16(&mut payload)? {
        info::EXPORT => {
            agreed.size = read_u64(&mut payload)?;
            agreed.flags = read_u16(&mut payload)?;
            Ok(true)
        }
        info::BLOCK_SIZE => {
            let [smallest, _, largest] = [read_u32(&mut payload)?, read_u32(&mut payload)?, read_u32(&mut payload)?];
            // "a power of 2, no larger than 64 KiB"; the maximum "at least" the minimum.
            if !smallest.is_power_of_two() || smallest > 1 << 16 || largest < smallest {
                return Err(broken(format!("block sizes of {smallest} to {largest} bytes")));
            }
            agreed.smallest = smallest;
            // A multiple of the minimum, so that every cut of a long request is one too.
            agreed.largest = largest.min(MOST_PAYLOAD) / smallest * smallest;
            Ok(false)
        }
        _ => Ok(false),
    }
}

/// What old servers know in place of `NBD_OPT_GO`: no answer but the export or a closed connection.
fn export_name<S: Read + Write>(socket: &mut S, name: &str, no_zeroes: bool, agreed: &mut Agreed) -> io::Result<()> {
    send(socket, option::EXPORT_NAME, name.as_bytes())?;
    agreed.size = read_u64(socket)?;
    agreed.flags = read_u16(socket)?;
    if !no_zeroes {
        read_array::<124>(socket)?;
    }
    Ok(())
}

/// The server says no.
fn refusal(name: &str, answer: &Reply) -> BlockError {
    let words = answer.words();
    match answer.kind {
        reply::ERR_UNKNOWN => {
            let text = format!("Requested export not available: the NBD server has no export '{name}'{words}");
            BlockError::new(ErrorKind::NotFound, text)
        }
        reply::ERR_TLS_REQD => {
            let text = format!("the NBD server wants TLS, which NBD has not here{words}");
            BlockError::new(ErrorKind::Unsupported, text)
        }
        reply::ERR_POLICY => {
            BlockError::new(ErrorKind::Permission, format!("the NBD server does not let us have '{name}'{words}"))
        }
        kind => {
            let number = kind & !reply::ERROR;
            BlockError::new(ErrorKind::Io, format!("the NBD server refuses '{name}' with error {number}{words}"))
        }
    }
}
