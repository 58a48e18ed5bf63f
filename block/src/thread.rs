//! One way to start a thread, so that the program can put each kind behind its own system call filter.
//!
//! The libraries start threads of their own (queues, workers, timers) and know nothing of filters; the program sets
//! one hook before the first thread starts, and every thread runs it before its work.

use std::io;
use std::sync::OnceLock;
use std::thread::{Builder, JoinHandle};

/// What a thread does, and so which system calls it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ThreadKind {
    /// The main thread: the machine and its commands.
    Main,
    /// Runs guest code.
    Vcpu,
    /// Serves device queues: virtio, IDE, SCSI; moves bytes to and from images.
    Disk,
    /// Waits for host ends of character devices, and the QMP and human monitors on them.
    Console,
    /// Fires the timers of devices.
    Timer,
    /// Speaks with other machines for disks: NBD, both ends.
    Nbd,
}

static HOOK: OnceLock<fn(ThreadKind)> = OnceLock::new();

/// Sets what every new thread runs first. The first call counts; it returns false when one came before.
pub fn set_start_hook(hook: fn(ThreadKind)) -> bool {
    HOOK.set(hook).is_ok()
}

/// Starts a thread named `name` (the kernel shows its first 15 bytes).
///
/// # Errors
/// When the host gives no more threads.
pub fn spawn<F, T>(kind: ThreadKind, name: &str, work: F) -> io::Result<JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    Builder::new().name(name.to_owned()).stack_size(STACK).spawn(move || {
        if let Some(hook) = HOOK.get() {
            hook(kind);
        }
        work()
    })
}

/// Stack of a thread, in bytes: only touched pages count against the process.
const STACK: usize = 512 << 10;
