//! One connection in its transmission phase: requests out from any thread, replies in on one.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::handshake::Agreed;
use crate::mem::Source;
use crate::nbd::proto::{
    CHUNK_MAGIC, EIO, MOST_STRING, RequestHeader, SIMPLE_REPLY_MAGIC, broken, chunk, command, read_bytes, read_u16,
    read_u32, read_u64,
};
use crate::nbd::socket::Socket;

/// Most errors in one chunked reply.
const MOST_ERRORS: u32 = 64;
/// Most extents of one status that are looked at.
const MOST_EXTENTS: u32 = 1 << 16;

/// A run of one state, in a reply about status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) len: u32,
    pub(super) state: u32,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) command: u16,
    pub(super) flags: u16,
    pub(super) offset: u64,
    pub(super) len: u32,
}

/// What the server gave.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The bytes of a read.
    pub(super) bytes: Vec<u8>,
    /// The runs of a status.
    pub(super) extents: Vec<Extent>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The connection is gone; another one may serve the request.
    Lost,
    /// The server's error value.
    Refused(u32),
}

/// A request that waits.
struct Pending {
    call: Call,
    answer: Answer,
    /// Bytes of a read that came.
    filled: u64,
    error: Option<u32>,
    errors: u32,
    waiter: Sender<Result<Answer, u32>>,
}

/// The connection.
pub(super) struct Live {
    socket: Socket,
    pub(super) agreed: Agreed,
    /// One request at a time goes out.
    out: Mutex<()>,
    /// Requests by cookie; `None` when the connection is gone and takes no more.
    pending: Mutex<Option<HashMap<u64, Pending>>>,
    cookie: AtomicU64,
    /// Requests under way, counted by those who choose among connections.
    pub(super) load: AtomicUsize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    pub(super) fn new(socket: Socket, agreed: Agreed) -> Self {
        Self {
            socket,
            agreed,
            out: Mutex::new(()),
            pending: Mutex::new(Some(HashMap::new())),
            cookie: AtomicU64::new(1),
            load: AtomicUsize::new(0),
        }
    }

    /// Sends a request and waits for its reply.
    pub(super) fn call(&self, call: Call, payload: Option<Source<'_>>) -> Result<Answer, NoAnswer> {
        let cookie = self.cookie.fetch_add(1, Ordering::Relaxed);
        let (waiter, reply) = channel();
        let bytes = if call.command == command::READ { vec![0; call.len as usize] } else { Vec::new() };
        let answer = Answer { bytes, extents: Vec::new() };
        let waiting = Pending { call, answer, filled: 0, error: None, errors: 0, waiter };
        match lock(&self.pending).as_mut() {
            Some(pending) => pending.insert(cookie, waiting),
            None => return Err(NoAnswer::Lost),
        };
        let header =
            RequestHeader { flags: call.flags, command: call.command, cookie, offset: call.offset, len: call.len };
        let mut message = header.to_bytes();
        if let Some(payload) = payload {
            let at = message.len();
            message.resize(at + payload.len(), 0);
            payload.copy_to(&mut message[at..]);
        }
        if self.send(&message).is_err() {
            // Half a request may be out: nothing that follows would be understood.
            self.end();
        }
        match reply.recv() {
            Ok(answer) => answer.map_err(NoAnswer::Refused),
            Err(_) => Err(NoAnswer::Lost),
        }
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        let _turn = lock(&self.out);
        (&self.socket).write_all(message)
    }

    /// Ends the connection; every waiting request is lost.
    pub(super) fn end(&self) {
        self.socket.shut_down();
        *lock(&self.pending) = None;
    }

    /// Tells the server that we go, and goes.
    pub(super) fn leave(&self) {
        let header = RequestHeader { flags: 0, command: command::DISCONNECT, cookie: 0, offset: 0, len: 0 };
        // Out of courtesy, and only if nobody is in the middle of a message.
        if let Ok(_turn) = self.out.try_lock() {
            let _ = self.socket.set_patience(Some(std::time::Duration::from_millis(100)));
            let _ = (&self.socket).write_all(&header.to_bytes());
        }
        self.end();
    }

    /// Takes replies until the connection ends. Gives why it did, and whether there was any.
    pub(super) fn serve(&self) -> (io::Error, bool) {
        let mut from = BufReader::with_capacity(64 << 10, &self.socket);
        let mut served = false;
        loop {
            if let Err(error) = self.take_reply(&mut from) {
                self.end();
                return (error, served);
            }
            served = true;
        }
    }

    fn take_reply(&self, from: &mut impl Read) -> io::Result<()> {
        match read_u32(from)? {
            SIMPLE_REPLY_MAGIC => self.take_simple(from),
            CHUNK_MAGIC if self.agreed.structured => self.take_chunk(from),
            _ => Err(broken("a reply does not begin with its magic number")),
        }
    }

    /// Takes the request `cookie` out while its reply is read: nobody else touches it, no lock is held.
    fn claim(&self, cookie: u64) -> io::Result<Pending> {
        let claimed = lock(&self.pending).as_mut().and_then(|pending| pending.remove(&cookie));
        claimed.ok_or_else(|| broken("a reply to a request that nobody sent"))
    }

    fn put_back(&self, cookie: u64, waiting: Pending) {
        if let Some(pending) = lock(&self.pending).as_mut() {
            pending.insert(cookie, waiting);
        }
    }

    /// "Simple reply message".
    fn take_simple(&self, from: &mut impl Read) -> io::Result<()> {
        let error = read_u32(from)?;
        let mut waiting = self.claim(read_u64(from)?)?;
        let read = waiting.call.command == command::READ;
        // "the server MUST NOT use simple replies" for reads once chunks were agreed on, and status has no other form.
        if (read && self.agreed.structured) || waiting.call.command == command::BLOCK_STATUS && error == 0 {
            return Err(broken("a simple reply where chunks are due"));
        }
        if read && error == 0 {
            from.read_exact(&mut waiting.answer.bytes)?;
            waiting.filled = u64::from(waiting.call.len);
        }
        waiting.error = (error != 0).then_some(error);
        waiting.finish()
    }

    /// "Structured reply chunk message".
    fn take_chunk(&self, from: &mut impl Read) -> io::Result<()> {
        let (flags, kind) = (read_u16(from)?, read_u16(from)?);
        let cookie = read_u64(from)?;
        let len = read_u32(from)?;
        let mut waiting = self.claim(cookie)?;
        waiting.take(kind, len, from, self.agreed.context)?;
        if flags & chunk::DONE != 0 {
            return waiting.finish();
        }
        if kind == chunk::NONE {
            return Err(broken("an empty chunk that is not the last"));
        }
        self.put_back(cookie, waiting);
        Ok(())
    }
}

impl Pending {
    fn take(&mut self, kind: u16, len: u32, from: &mut impl Read, context: Option<u32>) -> io::Result<()> {
        match kind {
            chunk::NONE if len == 0 => Ok(()),
            chunk::OFFSET_DATA if len > 8 => {
                let range = self.range(read_u64(from)?, len - 8)?;
                from.read_exact(&mut self.answer.bytes[range])
            }
            // The bytes are zero already.
            chunk::OFFSET_HOLE if len == 12 => {
                let (offset, len) = (read_u64(from)?, read_u32(from)?);
                self.range(offset, len).map(drop)
            }
            chunk::BLOCK_STATUS if len >= 12 && len % 8 == 4 => self.take_extents((len - 4) / 8, from, context),
            kind if kind & chunk::ERROR_BIT != 0 => self.take_error(len, from),
            _ => Err(broken(format!("a chunk of kind {kind} and {len} bytes"))),
        }
    }

    /// Where `len` bytes at `offset` of the disk are in the answer.
    fn range(&mut self, offset: u64, len: u32) -> io::Result<std::ops::Range<usize>> {
        let start = offset.checked_sub(self.call.offset).filter(|_| self.call.command == command::READ && len > 0);
        let range = start.and_then(|start| {
            let end = start.checked_add(u64::from(len)).filter(|end| *end <= u64::from(self.call.len))?;
            Some(start as usize..end as usize)
        });
        self.filled += u64::from(len);
        // Chunks must not overlap, so they cannot be more than was asked for.
        range
            .filter(|_| self.filled <= u64::from(self.call.len))
            .ok_or_else(|| broken("a chunk with bytes that nobody asked for"))
    }

    fn take_extents(&mut self, count: u32, from: &mut impl Read, context: Option<u32>) -> io::Result<()> {
        let ours = Some(read_u32(from)?) == context;
        if !ours || self.call.command != command::BLOCK_STATUS || !self.answer.extents.is_empty() {
            return Err(broken("a status that nobody asked for"));
        }
        if count > MOST_EXTENTS {
            return Err(broken(format!("a status of {count} extents")));
        }
        for _ in 0..count {
            self.answer.extents.push(Extent { len: read_u32(from)?, state: read_u32(from)? });
        }
        Ok(())
    }

    /// Error, length of a message, the message; for some kinds an offset. Unknown kinds count as errors.
    fn take_error(&mut self, len: u32, from: &mut impl Read) -> io::Result<()> {
        self.errors += 1;
        if self.errors > MOST_ERRORS {
            return Err(broken("no end of errors in one reply"));
        }
        let payload = read_bytes(from, len, MOST_STRING + 64)?;
        let number = payload.first_chunk().map_or(EIO, |bytes| u32::from_be_bytes(*bytes));
        // "a non-zero NBD error value"
        self.error.get_or_insert(if number == 0 { EIO } else { number });
        Ok(())
    }

    /// Gives the waiter what came.
    fn finish(self) -> io::Result<()> {
        let whole = match self.call.command {
            command::READ => self.filled == u64::from(self.call.len),
            command::BLOCK_STATUS => !self.answer.extents.is_empty(),
            _ => true,
        };
        if self.error.is_none() && !whole {
            return Err(broken("a reply that is not whole"));
        }
        // The waiter waits until it is told; nobody else holds the other end.
        let _ = self.waiter.send(self.error.map_or(Ok(self.answer), Err));
        Ok(())
    }
}
