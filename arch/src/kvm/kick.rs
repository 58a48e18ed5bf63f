//! Making a vCPU leave the guest, from any thread and without a race.
//!
//! A signal alone can arrive between the vCPU thread's last look at its orders and `KVM_RUN`, and be lost. So a kick
//! first sets `immediate_exit` in the page that the vCPU shares with the kernel, which makes the next `KVM_RUN` return
//! at once, and then sends the signal, which ends one that is under way. The flag stays until the vCPU's own thread
//! takes it back, *before* it looks at its orders:
//!
//! ```text
//!  kicker:  put order ── set flag ── signal
//!  vCPU:    clear flag ── look at orders ── KVM_RUN ── EINTR ── clear flag ── …
//! ```

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::kvm_run;
use libc::c_void;
use thiserror::Error;
use vmm_sys_util::signal::SIGRTMIN;

/// The signal handler cannot be set, or the shared page not mapped.
#[derive(Debug, Error)]
pub enum KickError {
    /// `sigaction` failed.
    #[error("cannot set the handler of the signal that stops vCPUs")]
    Handler(#[source] io::Error),
    /// `mmap` failed.
    #[error("cannot map a vCPU's shared page")]
    Map(#[source] io::Error),
}

/// Sets the process's handler for the signal that [`Kicker::kick`] sends (the first real-time signal), once before the
/// first kick. The handler does nothing: that the signal interrupts `KVM_RUN` is all it is for. Other system calls of a
/// vCPU's thread are restarted. The signal must not be blocked in the vCPU threads.
///
/// # Errors
/// When the kernel refuses the handler.
#[expect(unsafe_code, reason = "vmm-sys-util sets handlers without SA_RESTART only")]
pub fn install_kick_signal() -> Result<(), KickError> {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: a structure of plain numbers, for which zeros are valid: no flags, no signals blocked.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the action is initialised; the handler does nothing, which is safe in any signal context.
    match unsafe { libc::sigaction(SIGRTMIN(), &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(KickError::Handler(io::Error::last_os_error())),
    }
}

/// Stops one vCPU. Cheap to clone, callable from any thread, harmless after the vCPU or its thread is gone.
#[derive(Debug, Clone)]
pub struct Kicker {
    page: Arc<RunPage>,
    thread: libc::pid_t,
}

impl Kicker {
    pub(super) fn new(page: Arc<RunPage>, thread: libc::pid_t) -> Self {
        Self { page, thread }
    }

    /// Makes the vCPU's current or next entry of the guest return [`super::Exit::Interrupted`], until
    /// [`super::Vcpu::clear_kick`].
    #[expect(unsafe_code, reason = "tgkill has no safe wrapper")]
    pub fn kick(&self) {
        self.page.set_immediate_exit(true);
        // SAFETY: tgkill touches no memory of ours. Should the thread have ended, the kernel answers ESRCH; should its
        // id have been given to another thread of this process, that one runs an empty handler.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.thread, SIGRTMIN()) };
    }
}

/// A second mapping of the first page that a vCPU shares with the kernel (`struct kvm_run`), for the one byte in it
/// that other threads may write. Being a mapping of its own, it outlives the vCPU if it must.
#[derive(Debug)]
pub(super) struct RunPage {
    page: *mut c_void,
}

// SAFETY: the page is mapped from construction to drop, and only one atomic byte of it is ever accessed.
#[expect(unsafe_code, reason = "a raw pointer to a shared mapping")]
unsafe impl Send for RunPage {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a raw pointer to a shared mapping")]
unsafe impl Sync for RunPage {}

impl RunPage {
    const LENGTH: usize = 4096;

    #[expect(unsafe_code, reason = "mmap of the vCPU descriptor")]
    pub(super) fn map(vcpu: BorrowedFd<'_>) -> Result<Self, KickError> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let fd = vcpu.as_raw_fd();
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), Self::LENGTH, protection, libc::MAP_SHARED, fd, 0) };
        if page == libc::MAP_FAILED {
            return Err(KickError::Map(io::Error::last_os_error()));
        }
        Ok(Self { page })
    }

    #[expect(unsafe_code, reason = "an atomic view of one byte of the mapping")]
    pub(super) fn set_immediate_exit(&self, on: bool) {
        // SAFETY: the page is mapped while self lives; the offset lies in it; the byte is written only through atomics
        // here, and by the kernel never.
        let flag =
            unsafe { AtomicU8::from_ptr(self.page.cast::<u8>().add(std::mem::offset_of!(kvm_run, immediate_exit))) };
        // Ordered after the order that was put before it; system calls order the rest.
        flag.store(u8::from(on), Ordering::SeqCst);
    }
}

impl Drop for RunPage {
    #[expect(unsafe_code, reason = "munmap of our own mapping")]
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length; nobody holds a reference into it.
        unsafe { libc::munmap(self.page, Self::LENGTH) };
    }
}

/// The kernel's id of the calling thread.
#[expect(unsafe_code, reason = "libc has no safe gettid")]
pub(super) fn current_thread() -> libc::pid_t {
    // SAFETY: gettid cannot fail and touches no memory.
    unsafe { libc::gettid() }
}
