//! Doorbells: guest writes that KVM turns into a signal on a descriptor, without leaving for user space (ioeventfd).

use std::sync::Arc;

use kvm_ioctls::{IoEventAddress, NoDatamatch};
use vmm_sys_util::eventfd::EventFd;

use super::vm::{Vm, VmError};

/// Where a doorbell is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoorbellAddress {
    /// An I/O port.
    Port(u16),
    /// A guest-physical address.
    Memory(u64),
}

/// Which writes ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoorbellMatch {
    /// Of any width and value.
    Any,
    /// Of one byte with this value.
    Byte(u8),
    /// Of two bytes with this value.
    Word(u16),
    /// Of four bytes with this value.
    Dword(u32),
    /// Of eight bytes with this value.
    Qword(u64),
}

/// A doorbell in place; dropping it takes it away.
#[derive(Debug)]
pub struct Doorbell {
    vm: Arc<Vm>,
    event: EventFd,
    at: DoorbellAddress,
    when: DoorbellMatch,
}

impl Doorbell {
    /// Lets matching writes signal `event`; others still leave the guest.
    ///
    /// # Errors
    /// When an equal doorbell is there, or the kernel has no more (1000 on its port and memory bus each).
    pub fn place(vm: &Arc<Vm>, at: DoorbellAddress, when: DoorbellMatch, event: &EventFd) -> Result<Self, VmError> {
        let refused = |source| VmError::Ioctl { what: "KVM_IOEVENTFD", source };
        let errno = |e: std::io::Error| kvm_ioctls::Error::new(e.raw_os_error().unwrap_or(libc::EIO));
        let event = event.try_clone().map_err(|e| refused(errno(e)))?;
        switch(vm, &event, at, when, true).map_err(refused)?;
        Ok(Self { vm: Arc::clone(vm), event, at, when })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> DoorbellAddress {
        self.at
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        if let Err(e) = switch(&self.vm, &self.event, self.at, self.when, false) {
            log::error!("cannot take the doorbell at {:x?} away: {e}", self.at);
        }
    }
}

fn switch(
    vm: &Vm,
    event: &EventFd,
    at: DoorbellAddress,
    when: DoorbellMatch,
    on: bool,
) -> Result<(), kvm_ioctls::Error> {
    let at = match at {
        DoorbellAddress::Port(port) => IoEventAddress::Pio(u64::from(port)),
        DoorbellAddress::Memory(address) => IoEventAddress::Mmio(address),
    };
    match when {
        DoorbellMatch::Any => switch_one(vm, event, &at, NoDatamatch, on),
        DoorbellMatch::Byte(value) => switch_one(vm, event, &at, value, on),
        DoorbellMatch::Word(value) => switch_one(vm, event, &at, value, on),
        DoorbellMatch::Dword(value) => switch_one(vm, event, &at, value, on),
        DoorbellMatch::Qword(value) => switch_one(vm, event, &at, value, on),
    }
}

fn switch_one<T: Into<u64>>(
    vm: &Vm,
    event: &EventFd,
    at: &IoEventAddress,
    value: T,
    on: bool,
) -> Result<(), kvm_ioctls::Error> {
    if on { vm.fd.register_ioevent(event, at, value) } else { vm.fd.unregister_ioevent(event, at, value) }
}
