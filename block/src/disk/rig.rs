//! For tests: single requests to a disk, as a front end makes them.

use super::Disk;
use crate::image::{Buffers, Image, Op, Request};
use crate::sys;

/// Writes `bytes` at `offset` and waits for it.
pub(crate) fn write(disk: &Disk, bytes: &[u8], offset: u64) {
    let mut queue = disk.open_queue(1).unwrap();
    let memory = bytes.to_vec().leak();
    let vector = libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: memory.len() };
    #[expect(unsafe_code, reason = "test memory is leaked and so outlives everything")]
    // SAFETY: the memory is leaked and nobody else uses it.
    let buffers = unsafe { Buffers::new(vec![vector], None) };
    queue.submit(Request { tag: 0, op: Op::Write { fua: false }, offset, len: bytes.len() as u64, buffers });
    queue.kick();
    loop {
        match queue.reap() {
            Some(done) => return assert!(done.result.is_ok(), "{done:?}"),
            None => sys::wait_readable(queue.notifier()),
        }
    }
}
