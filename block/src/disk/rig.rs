//! For tests: single requests to a disk, as a front end makes them.

use super::Disk;
use crate::image::{Buffers, Image, ImageQueue, Op, Request};
use crate::sys;

/// Writes `bytes` at `offset` and waits for it.
pub(crate) fn write(disk: &Disk, bytes: &[u8], offset: u64) {
    let mut guest = Guest::new(disk, 1, bytes.len() as u64);
    guest.fill(0, bytes);
    guest.send(0, Op::Write { fua: false }, offset);
    guest.wait();
}

/// A front end with room for several blocks that are on their way at once.
pub(crate) struct Guest {
    queue: Box<dyn ImageQueue>,
    /// Leaked, so that no reference into it exists while the queue uses it.
    memory: *mut u8,
    block: u64,
    sent: usize,
}

impl Guest {
    pub(crate) fn new(disk: &Disk, depth: u32, block: u64) -> Self {
        let memory = vec![0u8; (u64::from(depth) * block) as usize].leak().as_mut_ptr();
        Self { queue: disk.open_queue(depth).unwrap(), memory, block, sent: 0 }
    }

    /// Sends a request for block number `at` of the disk, with the memory of place `slot`, which is set to `byte`.
    pub(crate) fn submit(&mut self, slot: u64, op: Op, at: u64, byte: u8) {
        self.fill(slot, &vec![byte; self.block as usize]);
        self.send(slot, op, at * self.block);
    }

    /// Waits for all that was sent, which must work.
    pub(crate) fn wait(&mut self) {
        self.queue.kick();
        while self.sent > 0 {
            match self.queue.reap() {
                Some(done) => {
                    assert!(done.result.is_ok(), "{done:?}");
                    self.sent -= 1;
                }
                None => sys::wait_readable(self.queue.notifier()),
            }
        }
    }

    pub(crate) fn write(&mut self, at: u64, byte: u8) {
        self.submit(0, Op::Write { fua: false }, at, byte);
        self.wait();
    }

    pub(crate) fn read(&mut self, at: u64) -> Vec<u8> {
        self.submit(0, Op::Read, at, 0xee);
        self.wait();
        self.content(0)
    }

    /// What is in the memory of place `slot`.
    #[expect(unsafe_code, reason = "test memory is leaked and so outlives everything")]
    pub(crate) fn content(&self, slot: u64) -> Vec<u8> {
        // SAFETY: the memory is leaked and no request is in flight any more.
        unsafe { std::slice::from_raw_parts(self.at(slot), self.block as usize) }.to_vec()
    }

    fn at(&self, slot: u64) -> *mut u8 {
        self.memory.wrapping_add((slot * self.block) as usize)
    }

    #[expect(unsafe_code, reason = "test memory is leaked and so outlives everything")]
    fn fill(&mut self, slot: u64, bytes: &[u8]) {
        assert!(bytes.len() as u64 <= self.block);
        // SAFETY: the memory of the place is leaked, has room for the bytes and is in no request's hands.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(slot), bytes.len()) };
    }

    fn send(&mut self, slot: u64, op: Op, offset: u64) {
        let vector = libc::iovec { iov_base: self.at(slot).cast(), iov_len: self.block as usize };
        let moves = matches!(op, Op::Read | Op::Write { .. });
        #[expect(unsafe_code, reason = "test memory is leaked and so outlives everything")]
        // SAFETY: the memory is leaked and nobody else uses it before the request has ended.
        let buffers = if moves { unsafe { Buffers::new(vec![vector], None) } } else { Buffers::none() };
        let (offset, len) = if op == Op::Flush { (0, 0) } else { (offset, self.block) };
        self.queue.submit(Request { tag: slot, op, offset, len, buffers });
        self.sent += 1;
    }
}
