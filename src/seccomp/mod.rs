//! System call filters: one for each kind of thread, from the lists in `resources/seccomp/`.
//!
//! The lists are compiled by `build.rs` with seccompiler; at run time a filter is only handed to the kernel. A
//! forbidden call does not happen: the kernel raises SIGSYS, and the handler ends the process with a line that names
//! the thread and the call.
//!
//! Threads inherit the filters of the thread that made them, and filters only ever add up. So the main thread, which
//! goes on making threads (hot-plug), has the widest list, and a thread gets its own on top as the first thing it does.
//!
//! `setgroups`, `setgid` and `setuid` are in the lists of all threads because `-runas` comes when they are there, and the
//! kernel keeps ids by thread: the C library has each thread make the calls. Afterwards they are of no use.

mod names;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use rhea_block::thread::{self, ThreadKind};
use seccompiler::sock_filter;
use thiserror::Error;

include!(concat!(env!("OUT_DIR"), "/seccomp.rs"));

/// Exit status after a forbidden system call.
pub const EXIT_FORBIDDEN: i32 = 159;

/// Set once at start; threads made before stay as they are.
static ENABLED: AtomicBool = AtomicBool::new(false);

/// Why a filter could not be installed.
#[derive(Debug, Error)]
pub enum SeccompError {
    /// The kernel refused the handler for SIGSYS.
    #[error("cannot handle SIGSYS")]
    Handler(#[source] io::Error),
    /// The kernel refused the filter or no_new_privs.
    #[error("cannot install the system call filter of thread kind {kind:?}; -sandbox off starts without")]
    Install {
        /// Whose filter.
        kind: ThreadKind,
        /// Why.
        #[source]
        source: seccompiler::Error,
    },
}

/// Turns filters on for every thread started from now on. The caller's own comes with [`confine`].
///
/// # Errors
/// When SIGSYS cannot be handled.
pub fn enable() -> Result<(), SeccompError> {
    announce_violations()?;
    keep_to_one_heap();
    ENABLED.store(true, Ordering::Relaxed);
    thread::set_start_hook(|kind| {
        if let Err(error) = confine(kind) {
            // A thread that strangers' input reaches must not run without its filter.
            log::error!("{error}: {:?}", std::error::Error::source(&error));
            std::process::abort();
        }
    });
    Ok(())
}

/// Makes all threads allocate from the process's first heap.
///
/// The GNU C library gives threads heaps of their own, and opens `/proc/sys/vm/overcommit_memory` the first time that it
/// gives part of one back: a call that no list has, at a moment that nobody foresees. The first heap needs only `brk`.
/// Small blocks come from each thread's own cache in either case.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "mallopt has no safe wrapper")]
fn keep_to_one_heap() {
    // SAFETY: a parameter that mallopt(3) knows; it concerns heaps made from now on.
    if unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) } == 0 {
        log::warn!("the C library goes on making heaps for threads, which may end in a forbidden system call");
    }
}

#[cfg(not(target_env = "gnu"))]
fn keep_to_one_heap() {}

/// Has a forbidden call end the process with a line. Once more after others have set handlers of their own: a terminal
/// on standard input does.
///
/// # Errors
/// When SIGSYS cannot be handled.
pub fn announce_violations() -> Result<(), SeccompError> {
    handle_sigsys().map_err(SeccompError::Handler)
}

/// Puts the calling thread behind its filter for good; does nothing unless [`enable`] was called.
///
/// # Errors
/// When the kernel refuses.
pub fn confine(kind: ThreadKind) -> Result<(), SeccompError> {
    if !ENABLED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let program: Vec<sock_filter> =
        filter(kind).iter().map(|&(code, jt, jf, k)| sock_filter { code, jt, jf, k }).collect();
    seccompiler::apply_filter(&program).map_err(|source| SeccompError::Install { kind, source })
}

#[expect(unsafe_code, reason = "sigaction has no safe wrapper here")]
fn handle_sigsys() -> io::Result<()> {
    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_sigsys;
    // SAFETY: a zeroed sigaction is valid; every field that matters is set next.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: a valid action and no old one wanted.
    if unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Runs in a signal handler: no allocation, no locks; only system calls that every list allows.
#[expect(unsafe_code, reason = "a signal handler speaks to the kernel directly")]
extern "C" fn on_sigsys(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // siginfo_t for SIGSYS (sigaction(2)): signo, errno, code, pad, call address, then the number at byte 24.
    // SAFETY: the kernel passes a siginfo_t of at least 128 bytes.
    let number = unsafe { info.cast::<u8>().add(24).cast::<i32>().read_unaligned() };
    let mut thread = [0u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes.
    unsafe { libc::prctl(libc::PR_GET_NAME, thread.as_mut_ptr()) };
    let mut line = Line::default();
    line.push(b"rhea: thread \"");
    line.push(thread.split(|&b| b == 0).next().unwrap_or_default());
    line.push(b"\" made the forbidden system call ");
    line.push(names::name(number).as_bytes());
    line.push(b" (");
    line.push_number(number);
    line.push(b"); this is a bug or an attack, -sandbox off turns the filter off\n");
    let text = line.text();
    // SAFETY: a valid buffer and its length; then the process ends without running anything else.
    unsafe {
        libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len());
        libc::_exit(EXIT_FORBIDDEN);
    }
}

/// A line put together without allocation.
struct Line {
    bytes: [u8; 192],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; 192], len: 0 }
    }
}

impl Line {
    fn push(&mut self, text: &[u8]) {
        for &byte in text {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = byte;
                self.len += 1;
            }
        }
    }

    fn push_number(&mut self, number: i32) {
        let mut digits = [0u8; 10];
        let mut rest = number.unsigned_abs();
        let mut count = 0;
        for place in &mut digits {
            *place = b'0' + (rest % 10) as u8;
            rest /= 10;
            count += 1;
            if rest == 0 {
                break;
            }
        }
        let used = digits.get_mut(..count).unwrap_or_default();
        used.reverse();
        self.push(used);
    }

    fn text(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}
