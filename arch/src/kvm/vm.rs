//! One virtual machine: its memory, its interrupt controllers, its clock.

use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_CLOCK_TSC_STABLE, KVM_PIT_SPEAKER_DUMMY, kvm_clock_data, kvm_enable_cap, kvm_msi, kvm_pit_config,
};
use kvm_ioctls::{Cap, VmFd};
use thiserror::Error;

use super::host::{Host, HostError};
use super::irqchip::IrqchipSnapshot;
use super::kept::{self, Kept, Turn};
use super::kick::KickError;
use super::memory::{Access, HostRange, MemoryError, SlotId, Slots};
use super::pins::{PINS, Pins};
use super::routes::{Message, RouteError, Routes, split};
use super::vcpu::{Vcpu, VcpuError};
use crate::x86_64::layout::{KVM_IDENTITY_MAP_START, KVM_TSS_START};

/// The machine cannot be made or changed.
#[derive(Debug, Error)]
pub enum VmError {
    /// The device refused.
    #[error("cannot create a virtual machine")]
    Create(#[source] HostError),
    /// An ioctl on the machine failed.
    #[error("{what} failed")]
    Ioctl {
        /// The ioctl.
        what: &'static str,
        /// Why.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// The routes of the interrupt pins could not be set.
    #[error("cannot route interrupts")]
    Routes(#[source] RouteError),
    /// The kernel does not offer something that was asked for.
    #[error("the host's KVM lacks {0}")]
    Lacks(&'static str),
}

fn ioctl(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> VmError {
    move |source| VmError::Ioctl { what, source }
}

/// A virtual machine. Shared by reference; every method may be called from any thread.
#[derive(Debug)]
pub struct Vm {
    pub(super) fd: VmFd,
    slots: Slots,
    pub(super) routes: Mutex<Routes>,
    /// MSRs that hold guest state, for saving.
    msr_indices: Arc<[u32]>,
    xsave_size: usize,
    clock_control: bool,
    /// KVM can keep writes to ports.
    pub(super) keeps_writes: bool,
    pub(super) kept: Arc<Turn>,
    pins: Pins,
}

impl Vm {
    /// Creates a machine without memory and vCPUs, with an in-kernel PIC pair, IOAPIC and PIT.
    ///
    /// # Errors
    /// [`VmError`] when the kernel refuses a part.
    pub fn create(host: &Host) -> Result<Self, VmError> {
        let fd = host.create_vm().map_err(VmError::Create)?;
        // Pages that KVM on Intel needs while a guest is in real mode, where the memory map leaves a hole for them; before
        // any vCPU is made. Others accept and ignore them.
        if fd.check_extension(Cap::SetIdentityMapAddr) {
            fd.set_identity_map_address(KVM_IDENTITY_MAP_START).map_err(ioctl("KVM_SET_IDENTITY_MAP_ADDR"))?;
        }
        let tss = usize::try_from(KVM_TSS_START).map_err(|_| VmError::Lacks("a 64-bit host"))?;
        fd.set_tss_address(tss).map_err(ioctl("KVM_SET_TSS_ADDR"))?;
        fd.create_irq_chip().map_err(ioctl("KVM_CREATE_IRQCHIP"))?;
        // The guest's writes to port 0x61 are answered in the kernel, without a sound.
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        fd.create_pit2(pit).map_err(ioctl("KVM_CREATE_PIT2"))?;
        let slots = u32::try_from(fd.check_extension_int(Cap::NrMemslots)).unwrap_or(0).max(MIN_SLOTS);
        let gsis = u32::try_from(fd.check_extension_int(Cap::IrqRouting)).unwrap_or(0).max(MIN_ROUTES);
        let vm = Self {
            slots: Slots::new(slots),
            routes: Mutex::new(Routes::new(gsis)),
            msr_indices: host.msr_indices().into(),
            xsave_size: host.xsave_size(),
            clock_control: fd.check_extension(Cap::KvmclockCtrl),
            keeps_writes: kept::supported(&fd),
            kept: Arc::default(),
            pins: Pins::default(),
            fd,
        };
        vm.change_routes(&[]).map_err(VmError::Routes)?;
        Ok(vm)
    }

    /// Makes vCPU `id`, which is also its APIC id, in the state that the kernel gives it: powered on for id 0,
    /// waiting for a start-up interrupt for the others.
    ///
    /// # Errors
    /// When the kernel refuses the id, or has no more vCPUs.
    pub fn create_vcpu(&self, id: u32) -> Result<Vcpu, VcpuError> {
        let refused = |source| VcpuError::Ioctl { what: "KVM_CREATE_VCPU", id, source };
        let mut fd = self.fd.create_vcpu(u64::from(id)).map_err(refused)?;
        if self.keeps_writes {
            let unmapped = |source| VcpuError::Ioctl { what: "mapping the ring of kept writes", id, source };
            fd.map_coalesced_mmio_ring().map_err(unmapped)?;
        }
        let kept = Kept::new(Arc::clone(&self.kept));
        Vcpu::new(id, fd, kept, Arc::clone(&self.msr_indices), self.xsave_size, self.clock_control)
            .map_err(|source: KickError| VcpuError::Kick { id, source })
    }

    /// Lets the guest see `host` at guest-physical address `guest`. With `log_dirty`, writes are recorded for
    /// [`Vm::take_dirty`].
    ///
    /// # Errors
    /// [`MemoryError`]: not whole pages, overlap with another slot, no slot left.
    pub fn add_memory(
        &self,
        guest: u64,
        host: HostRange,
        access: Access,
        log_dirty: bool,
    ) -> Result<SlotId, MemoryError> {
        self.slots.add(&self.fd, guest, host, access, log_dirty)
    }

    /// Takes memory away from the guest. The host memory is let go.
    ///
    /// # Errors
    /// When there is no such slot.
    pub fn remove_memory(&self, slot: SlotId) -> Result<(), MemoryError> {
        self.slots.remove(&self.fd, slot)
    }

    /// Begins or ends the recording of writes to a slot.
    ///
    /// # Errors
    /// When there is no such slot or the kernel refuses.
    pub fn log_dirty(&self, slot: SlotId, on: bool) -> Result<(), MemoryError> {
        self.slots.log_dirty(&self.fd, slot, on)
    }

    /// The pages of a slot that the guest wrote since the last call: bit *n* of the words is page *n* of the slot.
    ///
    /// # Errors
    /// When there is no such slot or its writes are not recorded.
    pub fn take_dirty(&self, slot: SlotId) -> Result<Vec<u64>, MemoryError> {
        self.slots.take_dirty(&self.fd, slot)
    }

    /// Drives a pin of the interrupt controllers: GSI 0 to 23. Idempotent, from any thread.
    ///
    /// # Errors
    /// When there is no such pin.
    pub fn set_irq_line(&self, gsi: u32, high: bool) -> Result<(), VmError> {
        self.pins.set(gsi, high);
        self.fd.set_irq_line(gsi, high).map_err(ioctl("KVM_IRQ_LINE"))
    }

    /// How often each pin rose by [`Vm::set_irq_line`].
    #[must_use]
    pub fn irq_counts(&self) -> [u64; PINS] {
        self.pins.rises()
    }

    /// Delivers one message without a route: for messages that are sent rarely. Returns whether a vCPU took it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal_msi(&self, message: Message) -> Result<bool, VmError> {
        let (address_lo, address_hi) = split(message.address);
        let msi = kvm_msi { address_lo, address_hi, data: message.data, ..Default::default() };
        self.fd.signal_msi(msi).map(|delivered| delivered > 0).map_err(ioctl("KVM_SIGNAL_MSI"))
    }

    /// Routes of these GSIs deliver these messages from now on; all stay as they were if the kernel refuses.
    pub(super) fn change_routes(&self, messages: &[(u32, Message)]) -> Result<(), RouteError> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.change(messages, |table| self.fd.set_gsi_routing(table))
    }

    /// The guest's paravirtual clock, in nanoseconds since the machine was made (`KVM_GET_CLOCK`).
    ///
    /// # Errors
    /// When the kernel has no such clock.
    pub fn clock(&self) -> Result<u64, VmError> {
        self.fd.get_clock().map(|data| data.clock).map_err(ioctl("KVM_GET_CLOCK"))
    }

    /// Sets the guest's paravirtual clock: after a stop to what it was before, so that guests do not see time jump.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_clock(&self, nanoseconds: u64) -> Result<(), VmError> {
        let data = kvm_clock_data { clock: nanoseconds, ..Default::default() };
        self.fd.set_clock(&data).map_err(ioctl("KVM_SET_CLOCK"))
    }

    /// Whether the paravirtual clock ticks alike on all vCPUs, so that guests may trust the TSC behind it.
    #[must_use]
    pub fn clock_is_stable(&self) -> bool {
        self.fd.get_clock().is_ok_and(|data| data.flags & KVM_CLOCK_TSC_STABLE != 0)
    }

    /// The state of PIC pair, IOAPIC and PIT. No vCPU may run.
    ///
    /// # Errors
    /// When an ioctl fails.
    pub fn irqchip(&self) -> Result<IrqchipSnapshot, VmError> {
        IrqchipSnapshot::take(&self.fd)
    }

    /// Sets the state of PIC pair, IOAPIC and PIT. No vCPU may run.
    ///
    /// # Errors
    /// When an ioctl fails.
    pub fn set_irqchip(&self, snapshot: &IrqchipSnapshot) -> Result<(), VmError> {
        snapshot.put(&self.fd)
    }

    /// Lets timer ticks that the guest missed be delivered late (`reinject`) or lost. The kernel's default is late.
    ///
    /// # Errors
    /// When the kernel refuses or cannot.
    pub fn set_pit_reinjection(&self, reinject: bool) -> Result<(), VmError> {
        super::irqchip::set_pit_reinjection(&self.fd, reinject)
    }

    /// Makes the interrupt controllers take 32-bit x2APIC destinations (`KVM_CAP_X2APIC_API`), which machines with
    /// APIC ids above 254 need. Before the first vCPU.
    ///
    /// # Errors
    /// When the kernel does not offer it.
    pub fn enable_wide_apic_ids(&self) -> Result<(), VmError> {
        let flags = kvm_bindings::KVM_X2APIC_API_USE_32BIT_IDS | kvm_bindings::KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
        if !self.fd.check_extension(Cap::X2ApicApi) {
            return Err(VmError::Lacks("32-bit x2APIC ids (KVM_CAP_X2APIC_API)"));
        }
        let cap =
            kvm_enable_cap { cap: Cap::X2ApicApi as u32, args: [u64::from(flags), 0, 0, 0], ..Default::default() };
        self.fd.enable_cap(&cap).map_err(ioctl("KVM_ENABLE_CAP(KVM_CAP_X2APIC_API)"))
    }
}

/// What kernels offered before they said how much.
const MIN_SLOTS: u32 = 32;
const MIN_ROUTES: u32 = 64;
