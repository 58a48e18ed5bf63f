//! Driver `nbd`: a disk on another machine.

use std::any::Any;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

mod handshake;
mod link;
mod live;
#[cfg(test)]
mod tests;

use link::Link;
use live::{Answer, Call};

use super::NbdName;
use super::proto::{STATE_HOLE, STATE_ZERO, command, command_flag, flag};
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Layer, Limits, Status};
use crate::mem::{Sink, Source};

/// Most bytes of one request that carries no data.
const MOST_RANGE: u64 = 1 << 30;
/// Longest name of a context that is asked for, in bytes: QEMU's limit.
const MOST_BITMAP: usize = 1023;

/// How a server is used.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// Refuse writes.
    pub read_only: bool,
    /// Fall back to that where the export refuses them.
    pub auto_read_only: bool,
    /// How long opening waits for a server that is not there.
    pub open_timeout: Duration,
    /// How long requests wait for a server that went away.
    pub reconnect_delay: Duration,
    /// Ask for this context in place of `base:allocation`, and tell of its bits as if they were that one's: the lowest
    /// is "no data" (of a bitmap's that means dirty), the second "reads as zeroes". At most 1023 bytes.
    pub bitmap: Option<String>,
}

/// An export of a server.
pub struct NbdClient {
    link: Arc<Link>,
    size: u64,
    read_only: bool,
    /// The state of a range is that of a context of the user's choice, which says nothing about its content.
    foreign_context: bool,
    /// Held for writing while a request that is not a multiple of the server's block is made into one: no other write
    /// may come between its reading and its writing.
    edges: RwLock<()>,
}

impl NbdClient {
    /// Connects to the export.
    ///
    /// # Errors
    /// When the server cannot be reached, has no such export or bitmap, or the export refuses writes and those are
    /// wanted.
    pub fn open(name: NbdName, options: ClientOptions) -> Result<Self, BlockError> {
        let export = name.export.clone();
        if options.bitmap.as_ref().is_some_and(|bitmap| bitmap.len() > MOST_BITMAP) {
            return Err(BlockError::new(ErrorKind::Invalid, "x-dirty-bitmap value too long"));
        }
        let foreign_context = options.bitmap.is_some();
        let link = Link::open(name, options.bitmap, options.open_timeout, options.reconnect_delay)?;
        let agreed = link.agreed();
        let read_only_export = agreed.flags & flag::READ_ONLY != 0;
        if read_only_export && !options.read_only && !options.auto_read_only {
            link.end();
            let text = format!("request on denied for read-only export '{export}'; open it with read-only=on");
            return Err(BlockError::new(ErrorKind::Permission, text));
        }
        // What is left of the last block cannot be asked for.
        let size = agreed.size & !u64::from(agreed.smallest - 1);
        let read_only = options.read_only || read_only_export;
        Ok(Self { link, size, read_only, foreign_context, edges: RwLock::new(()) })
    }

    /// Ends the connections: whatever waits for the server fails now, and so does all that follows. For the end of
    /// the process, when a silent server must not keep it.
    pub fn give_up(&self) {
        self.link.end();
    }

    /// Has nothing wait for the server until what comes back is dropped: what comes fails, and what has been asked does
    /// where the answer is not there in a moment, for which this waits. Such connections are made anew.
    #[must_use]
    pub fn unawaited(&self) -> Unawaited {
        self.link.refuse();
        Unawaited(self.link.clone())
    }

    fn call(&self, call: Call, payload: Option<Source<'_>>) -> Result<Answer, BlockError> {
        self.link.call(call, payload)
    }

    fn smallest(&self) -> u64 {
        u64::from(self.link.agreed().smallest)
    }

    fn is_aligned(&self, offset: u64, len: u64) -> bool {
        (offset | len) & (self.smallest() - 1) == 0
    }

    /// The range of whole blocks around `len` bytes at `offset`.
    fn around(&self, offset: u64, len: u64) -> (u64, u64) {
        let mask = self.smallest() - 1;
        let start = offset & !mask;
        (start, (offset + len + mask) & !mask)
    }

    fn writable(&self, flags: u16) -> Result<bool, BlockError> {
        if self.read_only {
            return Err(BlockError::new(ErrorKind::Permission, "the NBD node is read-only"));
        }
        Ok(self.link.agreed().can(flags))
    }

    /// Reads whole blocks.
    fn read_blocks(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        let most = self.link.agreed().largest as usize;
        for at in (0..into.len()).step_by(most) {
            let len = most.min(into.len() - at);
            let call = Call { command: command::READ, flags: 0, offset: offset + at as u64, len: len as u32 };
            let answer = self.call(call, None)?;
            into.part(at, len).copy_from(&answer.bytes);
        }
        Ok(())
    }

    /// Writes whole blocks.
    fn write_blocks(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        let most = self.link.agreed().largest as usize;
        for at in (0..from.len()).step_by(most) {
            let len = most.min(from.len() - at);
            let call = Call { command: command::WRITE, flags: 0, offset: offset + at as u64, len: len as u32 };
            self.call(call, Some(from.part(at, len)))?;
        }
        Ok(())
    }

    /// A request without data on whole blocks.
    fn range_call(&self, command: u16, flags: u16, offset: u64, len: u64) -> Result<(), BlockError> {
        let mut at = 0;
        while at < len {
            let step = MOST_RANGE.min(len - at);
            self.call(Call { command, flags, offset: offset + at, len: step as u32 }, None)?;
            at += step;
        }
        Ok(())
    }
}

/// A server for which nothing waits: see [`NbdClient::unawaited`].
pub struct Unawaited(Arc<Link>);

impl Drop for Unawaited {
    fn drop(&mut self) {
        self.0.serve_again();
    }
}

impl Drop for NbdClient {
    fn drop(&mut self) {
        self.link.end();
    }
}

impl Layer for NbdClient {
    fn driver(&self) -> &'static str {
        "nbd"
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn limits(&self) -> Limits {
        Limits {
            read_only: self.read_only,
            alignment: 1,
            physical_block: self.link.agreed().smallest.max(512),
            discard: !self.read_only && self.link.agreed().can(flag::SEND_TRIM),
            discard_granularity: 0,
        }
    }

    fn read(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        let inside = self.size.saturating_sub(offset).min(into.len() as u64);
        into.part(inside as usize, into.len() - inside as usize).zero();
        if inside == 0 {
            return Ok(());
        }
        let into = into.part(0, inside as usize);
        if self.is_aligned(offset, inside) {
            return self.read_blocks(into, offset);
        }
        let (start, end) = self.around(offset, inside);
        let mut whole = vec![0; (end - start) as usize];
        self.read_blocks(Sink::of(&mut whole), start)?;
        into.copy_from(&whole[(offset - start) as usize..][..inside as usize]);
        Ok(())
    }

    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        self.writable(0)?;
        let len = from.len() as u64;
        if self.is_aligned(offset, len) {
            let _shared = self.edges.read().unwrap_or_else(PoisonError::into_inner);
            return self.write_blocks(from, offset);
        }
        let _alone = self.edges.write().unwrap_or_else(PoisonError::into_inner);
        let (start, end) = self.around(offset, len);
        let mut whole = vec![0; (end - start) as usize];
        self.read_blocks(Sink::of(&mut whole), start)?;
        from.copy_to(&mut whole[(offset - start) as usize..][..from.len()]);
        self.write_blocks(Source::of(&whole), start)
    }

    fn flush(&self) -> Result<(), BlockError> {
        // A server without flush writes through ("NBD_FLAG_SEND_FLUSH").
        if self.read_only || !self.link.agreed().can(flag::SEND_FLUSH) {
            return Ok(());
        }
        self.call(Call { command: command::FLUSH, flags: 0, offset: 0, len: 0 }, None).map(drop)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        if !self.writable(flag::SEND_TRIM)? {
            return Ok(());
        }
        // Only whole blocks inside: the rest keeps its content.
        let mask = self.smallest() - 1;
        let (start, end) = ((offset + mask) & !mask, (offset + len) & !mask);
        self.range_call(command::TRIM, 0, start, end.saturating_sub(start))
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        if self.writable(flag::SEND_WRITE_ZEROES)? && self.is_aligned(offset, len) {
            let flags = if unmap { 0 } else { command_flag::NO_HOLE };
            let _shared = self.edges.read().unwrap_or_else(PoisonError::into_inner);
            return self.range_call(command::WRITE_ZEROES, flags, offset, len);
        }
        let zeroes = vec![0; len.min(1 << 20) as usize];
        let mut at = 0;
        while at < len {
            let step = (len - at).min(zeroes.len() as u64);
            self.write(Source::of(&zeroes[..step as usize]), offset + at)?;
            at += step;
        }
        Ok(())
    }

    fn status(&self, offset: u64, len: u64) -> Result<Status, BlockError> {
        let known = self.link.agreed().context.is_some() && self.is_aligned(offset, 0);
        let asked = len.min(MOST_RANGE) & !(self.smallest() - 1);
        if !known || asked == 0 || offset >= self.size {
            return Ok(Status::data(len, Some(offset)));
        }
        let len = asked.min(self.size - offset);
        let call = Call { command: command::BLOCK_STATUS, flags: command_flag::REQ_ONE, offset, len: len as u32 };
        let answer = self.call(call, None)?;
        let Some(first) = answer.extents.first().filter(|extent| extent.len > 0) else {
            return Err(BlockError::new(ErrorKind::Io, "the NBD server tells of a run without a length"));
        };
        let run = u64::from(first.len).min(len);
        let zero = first.state & STATE_ZERO != 0;
        if self.foreign_context {
            let data = first.state & STATE_HOLE == 0;
            let allocated = data || zero;
            return Ok(Status { data, zero, allocated, ..Status::data(run, allocated.then_some(offset)) });
        }
        // A hole that is not said to read as zeroes may read as anything: that counts as data.
        let data = first.state & STATE_HOLE == 0 || !zero;
        Ok(Status { data, zero, ..Status::data(run, Some(offset)) })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl std::fmt::Debug for NbdClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NbdClient").field("address", self.link.address()).field("size", &self.size).finish()
    }
}
