//! The written form of what KVM keeps of a machine: vCPUs, interrupt controllers, clock.
//!
//! These types are apart from KVM's own and from the runtime ones; each has a version, and fields that are unknown are
//! refused. Register areas whose layout is the processor's (XSAVE, the local APIC's page) are written as hexadecimal
//! text. Turning one back into a snapshot checks every length; what the values mean, KVM checks when they are set.

mod hex;
mod mirror;

use kvm_bindings::{kvm_mp_state, kvm_pit_state2};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::irqchip::{CHIP_LENGTH, IrqchipSnapshot};
use super::msrs::MsrValue;
use super::snapshot::{VcpuSnapshot, Vectors};
use mirror::{DebugState, EventsState, FpuState, PitChannelState, RegsState, SregsState};

/// A written state that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StateError {
    /// A field with the wrong number of items.
    #[error("{what} has {found} {unit}, not {wanted}")]
    Length {
        /// The field.
        what: &'static str,
        /// What is counted.
        unit: &'static str,
        /// How many there are.
        found: usize,
        /// How many there must be.
        wanted: usize,
    },
    /// A field with more items than there can be.
    #[error("{what} has {found} entries, more than {limit}")]
    TooMany {
        /// The field.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there can be.
        limit: usize,
    },
}

/// A vCPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "version")]
pub enum VcpuState {
    /// The first form.
    #[serde(rename = "1")]
    V1(Box<VcpuStateV1>),
}

/// A vCPU, first form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VcpuStateV1 {
    regs: RegsState,
    sregs: SregsState,
    vectors: VectorsState,
    debug: Option<DebugState>,
    #[serde(with = "hex")]
    lapic: Vec<u8>,
    events: Option<EventsState>,
    run_state: u32,
    /// Index and value.
    msrs: Vec<(u32, u64)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum VectorsState {
    #[serde(rename_all = "kebab-case")]
    Extended {
        #[serde(with = "hex")]
        area: Vec<u8>,
        /// Number and value.
        xcrs: Vec<(u32, u64)>,
    },
    Legacy(Box<FpuState>),
}

/// PIC pair, IOAPIC and PIT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "version")]
pub enum IrqchipState {
    /// The first form.
    #[serde(rename = "1")]
    V1(IrqchipStateV1),
}

/// PIC pair, IOAPIC and PIT, first form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IrqchipStateV1 {
    #[serde(with = "hex")]
    pic_master: Vec<u8>,
    #[serde(with = "hex")]
    pic_slave: Vec<u8>,
    #[serde(with = "hex")]
    ioapic: Vec<u8>,
    pit: Vec<PitChannelState>,
    pit_flags: u32,
}

/// The paravirtual clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "version")]
pub enum ClockState {
    /// The first form.
    #[serde(rename = "1")]
    V1 {
        /// Nanoseconds, as [`super::Vm::clock`] gives them.
        nanoseconds: u64,
    },
}

/// Bytes of the local APIC's registers.
const LAPIC_LENGTH: usize = 1024;
/// The least and the most that an XSAVE area can be, in bytes: `struct kvm_xsave`, and with the largest components that
/// are defined (AMX tiles), generously.
const XSAVE_LENGTHS: std::ops::RangeInclusive<usize> = 4096..=65536;
/// `KVM_MAX_XCRS`.
const MAX_XCRS: usize = 16;
/// More than any kernel lists.
const MAX_MSRS: usize = 4096;
const PIT_CHANNELS: usize = 3;

impl From<&VcpuSnapshot> for VcpuState {
    fn from(s: &VcpuSnapshot) -> Self {
        Self::V1(Box::new(VcpuStateV1 {
            regs: s.regs.into(),
            sregs: s.sregs.into(),
            vectors: VectorsState::from(&s.vectors),
            debug: s.debug.map(Into::into),
            lapic: s.lapic.regs.iter().map(|b| b.to_ne_bytes()[0]).collect(),
            events: s.events.map(Into::into),
            run_state: s.mp_state.mp_state,
            msrs: s.msrs.iter().map(|m| (m.index, m.value)).collect(),
        }))
    }
}

impl TryFrom<&VcpuState> for VcpuSnapshot {
    type Error = StateError;

    fn try_from(state: &VcpuState) -> Result<Self, StateError> {
        let VcpuState::V1(s) = state;
        exactly("the local APIC", "bytes", s.lapic.len(), LAPIC_LENGTH)?;
        at_most("the MSR list", s.msrs.len(), MAX_MSRS)?;
        let mut lapic = kvm_bindings::kvm_lapic_state { regs: [0; LAPIC_LENGTH] };
        lapic.regs.iter_mut().zip(&s.lapic).for_each(|(to, from)| *to = std::ffi::c_char::from_ne_bytes([*from]));
        Ok(Self {
            regs: s.regs.into(),
            sregs: s.sregs.into(),
            vectors: Vectors::try_from(&s.vectors)?,
            debug: s.debug.map(Into::into),
            lapic,
            events: s.events.map(Into::into),
            mp_state: kvm_mp_state { mp_state: s.run_state },
            msrs: s.msrs.iter().map(|&(index, value)| MsrValue { index, value }).collect(),
        })
    }
}

impl From<&Vectors> for VectorsState {
    fn from(vectors: &Vectors) -> Self {
        match vectors {
            Vectors::Extended { area, xcrs } => {
                let count = (xcrs.nr_xcrs as usize).min(MAX_XCRS);
                Self::Extended {
                    area: area.iter().flat_map(|word| word.to_le_bytes()).collect(),
                    xcrs: xcrs.xcrs.iter().take(count).map(|x| (x.xcr, x.value)).collect(),
                }
            }
            Vectors::Legacy(fpu) => Self::Legacy(Box::new((**fpu).into())),
        }
    }
}

impl TryFrom<&VectorsState> for Vectors {
    type Error = StateError;

    fn try_from(state: &VectorsState) -> Result<Self, StateError> {
        let (bytes, values) = match state {
            VectorsState::Legacy(fpu) => return Ok(Self::Legacy(Box::new((**fpu).into()))),
            VectorsState::Extended { area, xcrs } => (area, xcrs),
        };
        at_most("the XCR list", values.len(), MAX_XCRS)?;
        if !XSAVE_LENGTHS.contains(&bytes.len()) || bytes.len() % size_of::<u32>() != 0 {
            let wanted = *XSAVE_LENGTHS.start();
            return Err(StateError::Length { what: "the XSAVE area", unit: "bytes", found: bytes.len(), wanted });
        }
        let word = |b: &[u8]| b.iter().rev().fold(0, |word, &b| word << 8 | u32::from(b));
        let mut xcrs = kvm_bindings::kvm_xcrs::default();
        for (to, &(xcr, value)) in xcrs.xcrs.iter_mut().zip(values) {
            (to.xcr, to.value) = (xcr, value);
            xcrs.nr_xcrs += 1;
        }
        Ok(Self::Extended { area: bytes.chunks(size_of::<u32>()).map(word).collect(), xcrs: Box::new(xcrs) })
    }
}

impl From<&IrqchipSnapshot> for IrqchipState {
    fn from(s: &IrqchipSnapshot) -> Self {
        let [pic_master, pic_slave, ioapic] = s.chips.clone();
        let pit = s.pit.channels.iter().map(|c| (*c).into()).collect();
        Self::V1(IrqchipStateV1 { pic_master, pic_slave, ioapic, pit, pit_flags: s.pit.flags })
    }
}

impl TryFrom<&IrqchipState> for IrqchipSnapshot {
    type Error = StateError;

    fn try_from(state: &IrqchipState) -> Result<Self, StateError> {
        let IrqchipState::V1(s) = state;
        let chips = [&s.pic_master, &s.pic_slave, &s.ioapic];
        for (what, chip) in ["the master PIC", "the slave PIC", "the IOAPIC"].into_iter().zip(chips) {
            exactly(what, "bytes", chip.len(), CHIP_LENGTH)?;
        }
        exactly("the PIT", "channels", s.pit.len(), PIT_CHANNELS)?;
        let mut pit = kvm_pit_state2 { flags: s.pit_flags, ..Default::default() };
        pit.channels.iter_mut().zip(&s.pit).for_each(|(to, from)| *to = (*from).into());
        Ok(Self { chips: chips.map(Clone::clone), pit })
    }
}

fn exactly(what: &'static str, unit: &'static str, found: usize, wanted: usize) -> Result<(), StateError> {
    if found == wanted { Ok(()) } else { Err(StateError::Length { what, unit, found, wanted }) }
}

fn at_most(what: &'static str, found: usize, limit: usize) -> Result<(), StateError> {
    if found <= limit { Ok(()) } else { Err(StateError::TooMany { what, found, limit }) }
}

#[cfg(test)]
mod tests;
