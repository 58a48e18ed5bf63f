//! The transmission phase: one thread reads requests, workers do them, one thread writes replies.
//!
//! A client that does not read its replies fills its own share of memory and is then not read from: it holds up nobody
//! else. Replies leave in the order in which requests end.

use std::collections::VecDeque;
use std::io::{self, BufReader, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::export::Export;
use super::negotiate::Agreed;
use crate::error::{BlockError, ErrorKind};
use crate::mem::{Sink, Source};
use crate::nbd::proto::{
    CHUNK_MAGIC, EINVAL, EIO, ENOSPC, ENOTSUP, EOVERFLOW, EPERM, MOST_PAYLOAD, RequestHeader, SIMPLE_REPLY_MAGIC,
    broken, chunk, command, command_flag,
};
use crate::nbd::socket::Socket;
use crate::pool;
use crate::thread::{self, ThreadKind};

/// Most requests of one client at a time.
const MOST_REQUESTS: usize = 16;
/// Most bytes of them; one request may always be there.
const MOST_BYTES: usize = MOST_PAYLOAD as usize;
/// Most extents in one reply about status.
const MOST_EXTENTS: usize = 4096;
/// Most pieces into which a read is cut to leave out its zeroes.
const MOST_PIECES: usize = 64;

/// What a client has under way.
#[derive(Default)]
struct Under {
    /// Requests taken whose replies are not yet sent.
    requests: usize,
    bytes: usize,
    /// Replies that wait to be sent, each with the bytes it accounts for.
    replies: VecDeque<(Vec<u8>, usize)>,
    /// No more requests will come.
    closing: bool,
}

/// One client.
struct Client {
    socket: Arc<Socket>,
    agreed: Agreed,
    under: Mutex<Under>,
    changed: Condvar,
}

/// Serves until the client leaves or breaks the protocol.
pub(super) fn serve(socket: Arc<Socket>, agreed: Agreed) -> io::Result<()> {
    let client = Arc::new(Client { socket, agreed, under: Mutex::default(), changed: Condvar::new() });
    let writing = client.clone();
    let writer = thread::spawn(ThreadKind::Nbd, "nbd-reply", move || writing.write_replies())?;
    let result = client.read_requests();
    client.lock().closing = true;
    client.changed.notify_all();
    // It ends when every request has, or the connection.
    let _ = writer.join();
    client.socket.shut_down();
    result
}

impl Client {
    fn lock(&self) -> MutexGuard<'_, Under> {
        self.under.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, under: MutexGuard<'a, Under>) -> MutexGuard<'a, Under> {
        self.changed.wait(under).unwrap_or_else(PoisonError::into_inner)
    }

    fn read_requests(self: &Arc<Self>) -> io::Result<()> {
        let mut from = BufReader::with_capacity(64 << 10, &*self.socket);
        loop {
            let header = RequestHeader::read(&mut from)?;
            if header.command == command::DISCONNECT {
                return Ok(());
            }
            let moves = matches!(header.command, command::READ | command::WRITE);
            if header.command == command::WRITE && header.len > MOST_PAYLOAD {
                // Its data cannot be told from what follows without taking them all.
                return Err(broken(format!("a write of {} bytes", header.len)));
            }
            let bytes = if moves { header.len.min(MOST_PAYLOAD) as usize } else { 0 };
            self.make_room(bytes);
            let mut payload = Vec::new();
            if header.command == command::WRITE {
                payload = vec![0; bytes];
                if let Err(error) = from.read_exact(&mut payload) {
                    self.give_back(bytes);
                    return Err(error);
                }
            }
            let client = self.clone();
            let owner = Arc::as_ptr(&self.agreed.export).addr();
            let job = Box::new(move || {
                let reply = client.perform(header, &payload);
                drop(payload);
                client.lock().replies.push_back((reply, bytes));
                client.changed.notify_all();
            });
            pool::EXPORTS.run(owner, job);
        }
    }

    /// Waits until a request of `bytes` fits beside the others.
    fn make_room(&self, bytes: usize) {
        let mut under = self.lock();
        while under.requests >= MOST_REQUESTS || (under.requests > 0 && under.bytes + bytes > MOST_BYTES) {
            under = self.wait(under);
        }
        under.requests += 1;
        under.bytes += bytes;
    }

    /// A request is over, or has not come whole.
    fn give_back(&self, bytes: usize) {
        let mut under = self.lock();
        under.requests -= 1;
        under.bytes -= bytes;
        drop(under);
        self.changed.notify_all();
    }

    fn write_replies(&self) {
        let mut works = true;
        let mut under = self.lock();
        loop {
            let Some((reply, bytes)) = under.replies.pop_front() else {
                // What was taken and is not answered still runs, and says so when it ends.
                if under.closing && under.requests == 0 {
                    return;
                }
                under = self.wait(under);
                continue;
            };
            drop(under);
            works = works && (&*self.socket).write_all(&reply).is_ok();
            if !works {
                // The reader must not wait for a client that is gone.
                self.socket.shut_down();
            }
            drop(reply);
            self.give_back(bytes);
            under = self.lock();
        }
    }

    /// Does a request. Gives the bytes of the reply.
    fn perform(&self, header: RequestHeader, payload: &[u8]) -> Vec<u8> {
        let reply = Reply { cookie: header.cookie, structured: self.agreed.structured };
        match self.outcome(header, payload, reply) {
            Ok(bytes) => bytes,
            Err(number) => reply.error(number),
        }
    }

    fn outcome(&self, header: RequestHeader, payload: &[u8], reply: Reply) -> Result<Vec<u8>, u32> {
        let export = &*self.agreed.export;
        let (offset, len) = (header.offset, u64::from(header.len));
        let inside = offset.checked_add(len).is_some_and(|end| end <= export.size());
        let changes = matches!(header.command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
        if changes && !export.writable {
            return Err(EPERM);
        }
        if !inside && header.command != command::FLUSH {
            return Err(if changes { ENOSPC } else { EINVAL });
        }
        if header.flags & !self.flags_of(header.command) != 0 {
            return Err(EINVAL);
        }
        let layer = &export.layer;
        match header.command {
            command::READ => return self.read(header, reply),
            command::BLOCK_STATUS => return self.status(header, reply),
            command::WRITE => layer.write(Source::of(payload), offset).map_err(number_of)?,
            command::FLUSH => layer.flush().map_err(number_of)?,
            command::TRIM => layer.discard(offset, len).map_err(number_of)?,
            command::WRITE_ZEROES => {
                let unmap = header.flags & command_flag::NO_HOLE == 0;
                layer.write_zeroes(offset, len, unmap).map_err(number_of)?;
            }
            command::CACHE => read_through(export, offset, len)?,
            _ => return Err(EINVAL),
        }
        if changes && (header.flags & command_flag::FUA != 0 || export.write_through) {
            layer.flush().map_err(number_of)?;
        }
        Ok(reply.done())
    }

    /// The flags that a command may have.
    fn flags_of(&self, command: u16) -> u16 {
        command_flag::FUA
            | match command {
                command::READ if self.agreed.structured => command_flag::DF,
                command::WRITE_ZEROES => command_flag::NO_HOLE,
                command::BLOCK_STATUS => command_flag::REQ_ONE,
                _ => 0,
            }
    }

    fn read(&self, header: RequestHeader, reply: Reply) -> Result<Vec<u8>, u32> {
        if header.len > MOST_PAYLOAD {
            // "EOVERFLOW" is for what does not fit into the one chunk that was asked for.
            return Err(if header.flags & command_flag::DF != 0 { EOVERFLOW } else { EINVAL });
        }
        let export = &*self.agreed.export;
        if !reply.structured {
            let mut bytes = reply.done();
            append(&mut bytes, export, header.offset, u64::from(header.len))?;
            return Ok(bytes);
        }
        if header.len == 0 {
            return Ok(reply.done());
        }
        let mut bytes = Vec::new();
        let (mut at, end) = (header.offset, header.offset + u64::from(header.len));
        let mut pieces = 0;
        while at < end {
            pieces += 1;
            // "Don't fragment": one chunk.
            let whole = header.flags & command_flag::DF != 0 || pieces == MOST_PIECES;
            let (len, zero) = if whole { (end - at, false) } else { self.piece(at, end)? };
            let last = if at + len == end { chunk::DONE } else { 0 };
            if zero {
                reply.chunk(&mut bytes, last, chunk::OFFSET_HOLE, 12);
                bytes.extend(at.to_be_bytes());
                bytes.extend((len as u32).to_be_bytes());
            } else {
                reply.chunk(&mut bytes, last, chunk::OFFSET_DATA, 8 + len as u32);
                bytes.extend(at.to_be_bytes());
                append(&mut bytes, export, at, len)?;
            }
            at += len;
        }
        Ok(bytes)
    }

    /// The length of the run at `at` that is all zero, or all not known to be.
    fn piece(&self, at: u64, end: u64) -> Result<(u64, bool), u32> {
        let status = self.agreed.export.layer.status(at, end - at).map_err(number_of)?;
        Ok((status.len.clamp(1, end - at), status.zero))
    }

    fn status(&self, header: RequestHeader, reply: Reply) -> Result<Vec<u8>, u32> {
        let contexts = &self.agreed.contexts;
        if contexts.is_empty() || header.len == 0 {
            return Err(EINVAL);
        }
        let most = if header.flags & command_flag::REQ_ONE != 0 { 1 } else { MOST_EXTENTS };
        let mut bytes = Vec::new();
        for (number, context) in (0u32..).zip(contexts) {
            let mut extents: Vec<(u32, u32)> = Vec::new();
            let (mut at, end) = (header.offset, header.offset + u64::from(header.len));
            while at < end {
                let (len, state) = self.agreed.export.run(*context, at, end - at).map_err(number_of)?;
                let full = extents.len() == most;
                match extents.last_mut() {
                    // The sum is at most the request's length.
                    Some((before, same)) if *same == state => *before += len as u32,
                    _ if full => break,
                    _ => extents.push((len as u32, state)),
                }
                at += len.max(1);
            }
            let last = if number as usize + 1 == contexts.len() { chunk::DONE } else { 0 };
            reply.chunk(&mut bytes, last, chunk::BLOCK_STATUS, 4 + 8 * extents.len() as u32);
            bytes.extend(number.to_be_bytes());
            for (len, state) in extents {
                bytes.extend(len.to_be_bytes());
                bytes.extend(state.to_be_bytes());
            }
        }
        Ok(bytes)
    }
}

/// Puts `len` bytes of the export behind `bytes`.
fn append(bytes: &mut Vec<u8>, export: &Export, offset: u64, len: u64) -> Result<(), u32> {
    let at = bytes.len();
    bytes.resize(at + len as usize, 0);
    export.layer.read(Sink::of(&mut bytes[at..]), offset).map_err(number_of)
}

/// "NBD_CMD_CACHE": reads, so that the host has it in memory.
fn read_through(export: &Export, offset: u64, len: u64) -> Result<(), u32> {
    let mut buffer = vec![0; len.min(1 << 20) as usize];
    let mut at = 0;
    // A client that asks for terabytes gets the beginning of them.
    let len = len.min(u64::from(MOST_PAYLOAD));
    while at < len {
        let step = buffer.len().min((len - at) as usize);
        export.layer.read(Sink::of(&mut buffer[..step]), offset + at).map_err(number_of)?;
        at += step as u64;
    }
    Ok(())
}

/// The protocol's number for an error.
#[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn number_of(error: BlockError) -> u32 {
    log::debug!("NBD request failed: {error}");
    match error.kind() {
        ErrorKind::Permission => EPERM,
        ErrorKind::NoSpace => ENOSPC,
        ErrorKind::Invalid => EINVAL,
        ErrorKind::Unsupported => ENOTSUP,
        ErrorKind::Locked
        | ErrorKind::NotFound
        | ErrorKind::Corrupt
        | ErrorKind::NoMedium
        | ErrorKind::WouldWait
        | ErrorKind::Io => EIO,
    }
}

/// How replies to one request are put into bytes.
#[derive(Clone, Copy)]
struct Reply {
    cookie: u64,
    structured: bool,
}

impl Reply {
    fn chunk(self, to: &mut Vec<u8>, flags: u16, kind: u16, len: u32) {
        to.extend(CHUNK_MAGIC.to_be_bytes());
        to.extend(flags.to_be_bytes());
        to.extend(kind.to_be_bytes());
        to.extend(self.cookie.to_be_bytes());
        to.extend(len.to_be_bytes());
    }

    fn simple(self, number: u32) -> Vec<u8> {
        let mut bytes = SIMPLE_REPLY_MAGIC.to_be_bytes().to_vec();
        bytes.extend(number.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes
    }

    /// It went well, and there is nothing to tell.
    fn done(self) -> Vec<u8> {
        if !self.structured {
            return self.simple(0);
        }
        let mut bytes = Vec::new();
        self.chunk(&mut bytes, chunk::DONE, chunk::NONE, 0);
        bytes
    }

    fn error(self, number: u32) -> Vec<u8> {
        if !self.structured {
            // "EOVERFLOW" and "ENOTSUP" are for those who agreed on chunks.
            return self.simple(if matches!(number, EOVERFLOW | ENOTSUP) { EINVAL } else { number });
        }
        let mut bytes = Vec::new();
        self.chunk(&mut bytes, chunk::DONE, chunk::ERROR, 6);
        bytes.extend(number.to_be_bytes());
        bytes.extend(0u16.to_be_bytes());
        bytes
    }
}
