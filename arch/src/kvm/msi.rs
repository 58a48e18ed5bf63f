//! A message-signalled vector with a descriptor of its own.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::routes::{Message, RouteError};
use super::vm::Vm;

/// A path for one vector: an event descriptor bound to an interrupt route (irqfd). Signalling is one write to the
/// descriptor, from any thread, without a lock. Dropping it gives the route back.
#[derive(Debug)]
pub struct MsiRoute {
    vm: Arc<Vm>,
    gsi: u32,
    event: EventFd,
    /// Whether the descriptor is bound: only once the route has had a message.
    bound: Mutex<bool>,
    open: AtomicBool,
}

impl MsiRoute {
    /// Takes a route. It delivers nothing until it is given a message.
    ///
    /// # Errors
    /// When all routes are taken, or the host gives no descriptor.
    pub fn open(vm: &Arc<Vm>) -> Result<Self, RouteError> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(RouteError::Descriptor)?;
        let gsi = vm.routes.lock().unwrap_or_else(PoisonError::into_inner).allocate()?;
        Ok(Self { vm: Arc::clone(vm), gsi, event, bound: Mutex::new(false), open: AtomicBool::new(false) })
    }

    /// The global system interrupt that stands for the vector in the kernel.
    #[must_use]
    pub fn gsi(&self) -> u32 {
        self.gsi
    }

    /// Sets what [`MsiRoute::signal`] delivers; `None` while the guest has the vector masked. O(routes) when the message
    /// is another than the last one; masking and unmasking cost nothing.
    ///
    /// # Errors
    /// When the kernel refuses the route: the vector then delivers nothing, for what it had is not wanted any more.
    pub fn set(&self, message: Option<Message>) -> Result<(), RouteError> {
        Self::set_all([(self, message)])
    }

    /// Sets many vectors of one machine at the price of one: O(routes), however many change.
    ///
    /// # Errors
    /// As [`MsiRoute::set`], for all of them.
    pub fn set_all<'a>(changes: impl IntoIterator<Item = (&'a Self, Option<Message>)>) -> Result<(), RouteError> {
        let changes: Vec<_> = changes.into_iter().collect();
        let Some((first, _)) = changes.first() else { return Ok(()) };
        let messages: Vec<_> = changes.iter().filter_map(|(route, message)| Some((route.gsi, (*message)?))).collect();
        let mut given = changes.iter().filter(|(_, message)| message.is_some());
        let taken = first.vm.change_routes(&messages).and_then(|()| given.try_for_each(|(route, _)| route.bind()));
        for (route, message) in &changes {
            route.open.store(taken.is_ok() && message.is_some(), Ordering::Release);
        }
        taken
    }

    /// Delivers the message; does nothing while there is none.
    ///
    /// # Errors
    /// When the descriptor cannot be written. A counter that is full means that a delivery is under way: no error.
    pub fn signal(&self) -> io::Result<()> {
        if !self.open.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.event.write(1) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }

    /// The descriptor. Whoever writes to it delivers the message, masked or not.
    #[must_use]
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    fn bind(&self) -> Result<(), RouteError> {
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        if !*bound {
            let refused = |source| RouteError::Bind { gsi: self.gsi, source };
            self.vm.fd.register_irqfd(&self.event, self.gsi).map_err(refused)?;
            *bound = true;
        }
        Ok(())
    }
}

impl Drop for MsiRoute {
    fn drop(&mut self) {
        let bound = self.bound.get_mut().unwrap_or_else(PoisonError::into_inner);
        if *bound && let Err(e) = self.vm.fd.unregister_irqfd(&self.event, self.gsi) {
            log::error!("cannot unbind the descriptor of GSI {}: {e}", self.gsi);
        }
        self.vm.routes.lock().unwrap_or_else(PoisonError::into_inner).free(self.gsi);
    }
}

impl Vm {
    /// Binds a descriptor to a pin of the interrupt controllers (irqfd): each write pulses it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn bind_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), RouteError> {
        self.fd.register_irqfd(event, gsi).map_err(|source| RouteError::Bind { gsi, source })
    }

    /// Undoes [`Vm::bind_irqfd`].
    ///
    /// # Errors
    /// When it was not bound.
    pub fn unbind_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), RouteError> {
        self.fd.unregister_irqfd(event, gsi).map_err(|source| RouteError::Bind { gsi, source })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::kvm::Host;

    #[test]
    fn vector_whose_message_is_refused_does_not_go_on_with_the_one_before() {
        let host = Host::open(Path::new("/dev/kvm")).expect("KVM");
        let vm = Arc::new(Vm::create(&host).expect("machine"));
        // With these, KVM refuses a message whose address has anything in bits 32 to 39.
        vm.enable_wide_apic_ids().expect("wide APIC ids");
        let route = MsiRoute::open(&vm).expect("route");
        let good = Message { address: 0xfee0_0000, data: 0x50 };
        let is_open = |route: &MsiRoute| route.open.load(Ordering::Acquire);

        route.set(Some(good)).expect("set");
        assert!(is_open(&route));
        assert!(matches!(route.set(Some(Message { address: 0x1_fee0_0000, ..good })), Err(RouteError::Refused { .. })));
        assert!(!is_open(&route));
        route.set(Some(good)).expect("set again");
        assert!(is_open(&route));
    }
}
