//! Which freed host space is given back to the host (`discard`, `pass-discard-*`), changed while the image is open.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{OpenOptions, Qcow2};

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct PassDiscards {
    /// `discard=unmap`: the guest's discards mean something.
    pub enabled: bool,
    /// `pass-discard-request`: what the guest discards; not said means yes.
    pub request: Option<bool>,
    /// `pass-discard-snapshot`: what deleted snapshots alone used; not said means as `enabled`.
    pub snapshot: Option<bool>,
    /// `pass-discard-other`: overwritten compressed or shared clusters, moved tables.
    pub other: bool,
}

impl PassDiscards {
    pub(super) fn of(options: &OpenOptions) -> Self {
        Self {
            enabled: options.discard,
            request: options.pass_discard_request,
            snapshot: options.discard_snapshot,
            other: options.discard_other,
        }
    }
}

/// What is done.
#[derive(Debug, Default)]
pub(super) struct Discards {
    enabled: AtomicBool,
    request: AtomicBool,
    snapshot: AtomicBool,
    other: AtomicBool,
}

impl Discards {
    /// As `asked`, on a file that passes discards on if it is `able`.
    pub(super) fn new(asked: PassDiscards, able: bool) -> Self {
        let this = Self::default();
        this.set(asked, able);
        this
    }

    fn set(&self, asked: PassDiscards, able: bool) {
        let put = |flag: &AtomicBool, on: bool| flag.store(on, Ordering::Relaxed);
        put(&self.enabled, asked.enabled);
        put(&self.request, asked.enabled && asked.request.unwrap_or(true) && able);
        put(&self.snapshot, asked.snapshot.unwrap_or(asked.enabled) && able);
        put(&self.other, asked.other && able);
    }

    pub(super) fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    pub(super) fn request(&self) -> bool {
        self.request.load(Ordering::Relaxed)
    }

    pub(super) fn snapshot(&self) -> bool {
        self.snapshot.load(Ordering::Relaxed)
    }

    pub(super) fn other(&self) -> bool {
        self.other.load(Ordering::Relaxed)
    }
}

impl Qcow2 {
    /// Has discards passed on as `asked` from now on, as far as the file beneath can.
    pub fn pass_discards(&self, asked: PassDiscards) {
        self.discard.set(asked, self.file.limits().discard);
    }
}
