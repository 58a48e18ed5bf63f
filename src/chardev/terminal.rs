//! The terminal that a person sits at, raw while a guest has it, and as it was afterwards whatever happens.
//!
//! Ways out and what restores: the device is removed ([`RawTerminal`] is dropped); the process exits or panics
//! (`atexit`); a fatal signal ends it (a handler that restores and passes the signal on). A stop and `SIGCONT` makes it
//! raw again. Only `SIGKILL` cannot be helped.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Signals whose default is to end the process, and that nobody else here handles to go on.
const FATAL: [i32; 9] = [
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGQUIT,
    libc::SIGSEGV,
    libc::SIGSYS,
    libc::SIGTRAP,
    libc::SIGXCPU,
];

/// Signals that the main thread handles from some point on; before, they end the process.
const ENDING: [i32; 3] = [libc::SIGHUP, libc::SIGINT, libc::SIGTERM];

struct Modes {
    fd: i32,
    before: libc::termios,
    raw: libc::termios,
}

/// Written once: a signal handler may read it at any time.
static MODES: OnceLock<Modes> = OnceLock::new();
static IS_RAW: AtomicBool = AtomicBool::new(false);

/// The terminal is raw while this lives.
#[derive(Debug)]
pub(crate) struct RawTerminal(());

impl RawTerminal {
    /// Makes `fd` raw if it is a terminal. With `signals`, Ctrl-C and its like still signal this process.
    pub(crate) fn enter(fd: BorrowedFd<'_>, signals: bool) -> io::Result<Option<Self>> {
        if !rustix::termios::isatty(fd) {
            return Ok(None);
        }
        let before = get_modes(fd)?;
        let modes = MODES.get_or_init(|| Modes { fd: fd.as_raw_fd(), before, raw: raw_modes(before, signals) });
        catch_the_ways_out();
        IS_RAW.store(true, Ordering::Release);
        set_modes(modes.fd, &modes.raw);
        Ok(Some(Self(())))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was. Safe in signal handlers, and when it was never raw.
pub fn restore() {
    if IS_RAW.swap(false, Ordering::AcqRel)
        && let Some(modes) = MODES.get()
    {
        set_modes(modes.fd, &modes.before);
    }
}

/// Raw, but for output: a guest's `\n` comes with its own `\r`, our own messages do not.
fn raw_modes(mut modes: libc::termios, signals: bool) -> libc::termios {
    make_raw(&mut modes);
    modes.c_oflag |= libc::OPOST;
    if signals {
        modes.c_lflag |= libc::ISIG;
    }
    modes
}

#[expect(unsafe_code, reason = "termios of the C library: the same calls are made in signal handlers")]
fn make_raw(modes: &mut libc::termios) {
    // SAFETY: a valid termios is changed in place.
    unsafe { libc::cfmakeraw(modes) }
}

#[expect(unsafe_code, reason = "termios of the C library: the same calls are made in signal handlers")]
fn get_modes(fd: BorrowedFd<'_>) -> io::Result<libc::termios> {
    let mut modes = std::mem::MaybeUninit::uninit();
    // SAFETY: the descriptor is open and the pointer is to room for a termios, filled when the call succeeds.
    unsafe {
        if libc::tcgetattr(fd.as_raw_fd(), modes.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(modes.assume_init())
    }
}

/// Only async-signal-safe calls: `pthread_sigmask` and `tcsetattr`.
#[expect(unsafe_code, reason = "runs in signal handlers")]
fn set_modes(fd: i32, modes: &libc::termios) {
    // SAFETY: the signal sets are initialised by sigemptyset and pthread_sigmask before they are read, the termios is
    // valid; a descriptor closed meanwhile makes tcsetattr fail, which is all that can be done.
    unsafe {
        let mut block = std::mem::zeroed();
        let mut before = std::mem::zeroed();
        libc::sigemptyset(&raw mut block);
        // In the background, a change of modes stops the process unless this signal is blocked.
        libc::sigaddset(&raw mut block, libc::SIGTTOU);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const block, &raw mut before);
        libc::tcsetattr(fd, libc::TCSANOW, modes);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
    }
}

extern "C" fn at_exit() {
    restore();
}

/// Restores and lets the signal do what it would have done.
#[expect(unsafe_code, reason = "signal handler")]
extern "C" fn on_fatal(signal: i32) {
    restore();
    // SAFETY: both calls are async-signal-safe; with the default action back, the signal ends the process as soon as
    // this handler returns and unblocks it.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// After a stop the shell has set its own modes.
extern "C" fn on_continue(_: i32) {
    if IS_RAW.load(Ordering::Acquire)
        && let Some(modes) = MODES.get()
    {
        set_modes(modes.fd, &modes.raw);
    }
}

#[expect(unsafe_code, reason = "atexit and signal handlers are the only ways to see the process end")]
fn catch_the_ways_out() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // SAFETY: the functions given have the signatures asked for and do only what is safe where they run.
        unsafe {
            libc::atexit(at_exit);
            for signal in FATAL {
                handle(signal, on_fatal);
            }
            for signal in ENDING {
                handle_if_default(signal);
            }
            handle(libc::SIGCONT, on_continue);
        }
    });
}

/// # Safety
///
/// `handler` does only what is async-signal-safe.
#[expect(unsafe_code, reason = "sigaction")]
unsafe fn handle(signal: i32, handler: extern "C" fn(i32)) {
    // SAFETY: a zeroed sigaction is valid, then has a handler of the plain kind, as its flags say.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        // On the alternative stack where there is one: the stack may be what overflowed.
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}

/// # Safety
///
/// None beyond that of `handle`; the signal keeps an action that someone else gave it.
#[expect(unsafe_code, reason = "sigaction")]
unsafe fn handle_if_default(signal: i32) {
    // SAFETY: the old action is written before it is read.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut old);
        if old.sa_sigaction == libc::SIG_DFL {
            handle(signal, on_fatal);
        }
    }
}
