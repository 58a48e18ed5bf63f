//! The state of the interrupt controllers and the timer that live in the kernel.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_irqchip, kvm_pit_channel_state,
    kvm_pit_state2,
};
use kvm_ioctls::VmFd;

use super::vm::VmError;

/// PIC pair, IOAPIC and PIT of one machine, as the kernel hands them over.
#[derive(Debug, Clone, PartialEq)]
pub struct IrqchipSnapshot {
    /// Master PIC, slave PIC, IOAPIC: the content of `struct kvm_irqchip`, 512 bytes each.
    pub(super) chips: [Vec<u8>; 3],
    pub(super) pit: kvm_pit_state2,
}

/// Where `struct kvm_pic_state` has the edge/level control register: fourteen fields of a byte come before it.
const ELCR: usize = 14;

/// Bytes of the union in `struct kvm_irqchip`.
pub(super) const CHIP_LENGTH: usize = 512;

const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

impl IrqchipSnapshot {
    pub(super) fn take(vm: &VmFd) -> Result<Self, VmError> {
        let mut chips = [Vec::new(), Vec::new(), Vec::new()];
        for (chip, id) in chips.iter_mut().zip(CHIPS) {
            let mut irqchip = kvm_irqchip { chip_id: id, ..Default::default() };
            vm.get_irqchip(&mut irqchip).map_err(failed("KVM_GET_IRQCHIP"))?;
            *chip = bytes_of(&irqchip);
        }
        let mut pit = vm.get_pit2().map_err(failed("KVM_GET_PIT2"))?;
        for channel in &mut pit.channels {
            channel.count_load_time = 0;
        }
        Ok(Self { chips, pit })
    }

    pub(super) fn put(&self, vm: &VmFd) -> Result<(), VmError> {
        for (chip, id) in self.chips.iter().zip(CHIPS) {
            vm.set_irqchip(&from_bytes(id, chip)).map_err(failed("KVM_SET_IRQCHIP"))?;
        }
        vm.set_pit2(&self.pit).map_err(failed("KVM_SET_PIT2"))
    }

    /// The same with these interrupts level-triggered at the PICs and all others edge-triggered: the edge/level control
    /// registers (82371AB, 4.2.6), which firmware sets for the PCI interrupts.
    #[must_use]
    pub fn with_level_triggered(&self, irqs: &[u8]) -> Self {
        let mask = irqs.iter().fold(0u16, |mask, irq| mask | 1 << irq);
        let mut with = self.clone();
        for (chip, bits) in with.chips.iter_mut().zip(mask.to_le_bytes()) {
            chip[ELCR] = bits;
        }
        with
    }

    /// The PIT's channels.
    #[must_use]
    pub fn pit_channels(&self) -> &[kvm_pit_channel_state; 3] {
        &self.pit.channels
    }
}

fn failed(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> VmError {
    move |source| VmError::Ioctl { what, source }
}

#[expect(unsafe_code, reason = "the union is looked at as its bytes")]
fn bytes_of(irqchip: &kvm_irqchip) -> Vec<u8> {
    // SAFETY: `dummy` is the member that spans the union; the value began as zeros, so all its bytes are initialised.
    let dummy = unsafe { irqchip.chip.dummy };
    dummy.iter().map(|b| b.to_ne_bytes()[0]).collect()
}

fn from_bytes(id: u32, bytes: &[u8]) -> kvm_irqchip {
    let mut irqchip = kvm_irqchip { chip_id: id, ..Default::default() };
    let mut dummy = [0; CHIP_LENGTH];
    for (to, from) in dummy.iter_mut().zip(bytes) {
        *to = std::ffi::c_char::from_ne_bytes([*from]);
    }
    irqchip.chip.dummy = dummy;
    irqchip
}

#[expect(unsafe_code, reason = "kvm-ioctls has no KVM_REINJECT_CONTROL")]
pub(super) fn set_pit_reinjection(vm: &VmFd, reinject: bool) -> Result<(), VmError> {
    use vmm_sys_util::ioctl::ioctl_with_ref;
    vmm_sys_util::ioctl_io_nr!(KVM_REINJECT_CONTROL, kvm_bindings::KVMIO, 0x71);
    let control = kvm_bindings::kvm_reinject_control { pit_reinject: u8::from(reinject), ..Default::default() };
    // SAFETY: the kernel reads one structure of this type.
    match unsafe { ioctl_with_ref(vm, KVM_REINJECT_CONTROL(), &control) } {
        0 => Ok(()),
        _ => Err(failed("KVM_REINJECT_CONTROL")(kvm_ioctls::Error::last())),
    }
}
