//! The state of the interrupt controllers and the timer that live in the kernel.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_irqchip, kvm_pit_channel_state,
    kvm_pit_state2,
};
use kvm_ioctls::VmFd;

use super::pins::PINS;
use super::vm::VmError;

/// PIC pair, IOAPIC and PIT of one machine, as the kernel hands them over.
#[derive(Debug, Clone, PartialEq)]
pub struct IrqchipSnapshot {
    /// Master PIC, slave PIC, IOAPIC: the content of `struct kvm_irqchip`, 512 bytes each.
    pub(super) chips: [Vec<u8>; 3],
    pub(super) pit: kvm_pit_state2,
}

/// A PIC's registers (82C59A).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PicView {
    /// Interrupts that wait.
    pub irr: u8,
    /// Those masked.
    pub imr: u8,
    /// Those being served.
    pub isr: u8,
    /// The input with the highest priority.
    pub priority: u8,
    /// The first vector.
    pub base: u8,
    /// Reads give the interrupts being served.
    pub reads_isr: u8,
    /// Special fully nested mode.
    pub fully_nested: u8,
    /// Inputs that are level-triggered.
    pub elcr: u8,
}

/// The I/O APIC's registers (82093AA).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoapicView {
    /// The register that the window shows.
    pub select: u32,
    /// Its APIC id.
    pub id: u32,
    /// Pins that wait.
    pub irr: u32,
    /// Redirection table.
    pub pins: [u64; PINS],
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

    /// The PICs, the master first: the bytes of `struct kvm_pic_state`.
    #[must_use]
    pub fn pics(&self) -> [PicView; 2] {
        let view = |chip: &[u8]| {
            let at = |index: usize| chip.get(index).copied().unwrap_or(0);
            PicView {
                irr: at(1),
                imr: at(2),
                isr: at(3),
                priority: at(4),
                base: at(5),
                reads_isr: at(6),
                fully_nested: at(12),
                elcr: at(ELCR),
            }
        };
        [view(&self.chips[0]), view(&self.chips[1])]
    }

    /// The I/O APIC: the bytes of `struct kvm_ioapic_state`.
    #[must_use]
    pub fn ioapic(&self) -> IoapicView {
        let number = |at: usize, length: usize| {
            let bytes = self.chips[2].get(at..at + length).unwrap_or_default();
            bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
        };
        IoapicView {
            select: number(8, 4) as u32,
            id: number(12, 4) as u32,
            irr: number(16, 4) as u32,
            pins: std::array::from_fn(|pin| number(24 + 8 * pin, 8)),
        }
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
