//! Hyper-V enlightenments: what makes Windows guests know that they are guests.
//!
//! Those that are CPUID leaves and otherwise the kernel's work (Hypervisor Top Level Functional Specification 6.0b,
//! chapter 2). The table says what each announces, what it builds on, and by which bits the kernel says that it has it.

use crate::kvm::CpuidTable;

use super::config::CpuError;

/// A bit of a leaf: leaf, register from EAX to EDX, bit.
type LeafBit = (u32, usize, u32);

/// One enlightenment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enlightenment {
    index: usize,
}

struct Entry {
    name: &'static str,
    needs: &'static [&'static str],
    /// Set for the guest.
    announces: &'static [LeafBit],
    /// Of `announces` and others, what the kernel must offer.
    offered: &'static [LeafBit],
}

/// Leaf of the privileges and features, and of the recommendations.
const FEATURES: u32 = 0x4000_0003;
const ADVICE: u32 = 0x4000_0004;
const EAX: usize = 0;
const EBX: usize = 1;
const EDX: usize = 3;

macro_rules! entries {
    ($($name:literal needs [$($need:literal),*] announces [$($a:expr),*] offered [$($o:expr),*];)*) => {
        &[$(Entry { name: $name, needs: &[$($need),*], announces: &[$($a),*], offered: &[$($o),*] }),*]
    };
}

#[rustfmt::skip]
const TABLE: &[Entry] = entries! {
    "hv-relaxed"         needs []                       announces [(ADVICE, EAX, 5)]                          offered [];
    "hv-vapic"           needs []                       announces [(FEATURES, EAX, 4), (ADVICE, EAX, 3)]      offered [(FEATURES, EAX, 4)];
    "hv-time"            needs []                       announces [(FEATURES, EAX, 1), (FEATURES, EAX, 9)]    offered [(FEATURES, EAX, 1), (FEATURES, EAX, 9)];
    "hv-crash"           needs []                       announces [(FEATURES, EDX, 10)]                       offered [(FEATURES, EDX, 10)];
    "hv-reset"           needs []                       announces [(FEATURES, EAX, 7)]                        offered [(FEATURES, EAX, 7)];
    "hv-vpindex"         needs []                       announces [(FEATURES, EAX, 6)]                        offered [(FEATURES, EAX, 6)];
    "hv-runtime"         needs []                       announces [(FEATURES, EAX, 0)]                        offered [(FEATURES, EAX, 0)];
    "hv-synic"           needs ["hv-vpindex"]           announces [(FEATURES, EAX, 2)]                        offered [(FEATURES, EAX, 2)];
    "hv-stimer"          needs ["hv-synic", "hv-time"]  announces [(FEATURES, EAX, 3)]                        offered [(FEATURES, EAX, 3)];
    "hv-stimer-direct"   needs ["hv-stimer"]            announces [(FEATURES, EDX, 19)]                       offered [(FEATURES, EDX, 19)];
    "hv-frequencies"     needs []                       announces [(FEATURES, EAX, 11), (FEATURES, EDX, 8)]   offered [(FEATURES, EAX, 11), (FEATURES, EDX, 8)];
    "hv-reenlightenment" needs []                       announces [(FEATURES, EAX, 13)]                       offered [(FEATURES, EAX, 13)];
    "hv-tlbflush"        needs ["hv-vpindex"]           announces [(ADVICE, EAX, 2), (ADVICE, EAX, 11)]       offered [(ADVICE, EAX, 2), (ADVICE, EAX, 11)];
    "hv-ipi"             needs ["hv-vpindex"]           announces [(ADVICE, EAX, 10), (ADVICE, EAX, 11)]      offered [(ADVICE, EAX, 10), (ADVICE, EAX, 11)];
    "hv-avic"            needs []                       announces [(ADVICE, EAX, 9)]                          offered [(ADVICE, EAX, 9)];
    "hv-xmm-input"       needs []                       announces [(FEATURES, EDX, 4)]                        offered [(FEATURES, EDX, 4)];
};

/// Names that are known elsewhere and not offered here.
pub(super) const REFUSED: &[&str] = &[
    "hv-passthrough",
    "hv-evmcs",
    "hv-emsr-bitmap",
    "hv-tlbflush-direct",
    "hv-tlbflush-ext",
    "hv-syndbg",
    "hv-enforce-cpuid",
    "hv-no-nonarch-coresharing",
    "hv-version-id-build",
    "hv-version-id-major",
    "hv-version-id-minor",
    "hv-version-id-spack",
    "hv-version-id-sbranch",
    "hv-version-id-snumber",
];

/// The enlightenment of that name, dashes only.
#[must_use]
pub fn find(name: &str) -> Option<Enlightenment> {
    let name = if name == "hv-apicv" { "hv-avic" } else { name };
    TABLE.iter().position(|e| e.name == name).map(|index| Enlightenment { index })
}

/// Every name.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|e| e.name)
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Enlightenments {
    set: u32,
    /// How often a guest spins before it tells the hypervisor; `None`: it never does.
    pub spinlocks: Option<u32>,
    /// Instead of `Microsoft Hv`.
    pub vendor: Option<[u8; 12]>,
}

/// Never tell the hypervisor (specification, 2.4.5).
const NEVER_NOTIFY: u32 = u32::MAX;
/// The interface that all of this is written for: `Hv#1`.
const INTERFACE: u32 = u32::from_le_bytes(*b"Hv#1");
const VENDOR: [u8; 12] = *b"Microsoft Hv";
/// Of Windows Server 2016, the first with all of these interfaces: build 14393, version 10.0.
const BUILD: u32 = 14393;
const VERSION: u32 = 10 << 16;
/// Highest leaf.
const LAST_LEAF: u32 = 0x4000_0005;
/// Virtual and logical processors that the hypervisor supports.
const MAX_PROCESSORS: u32 = 0x400;
/// Access to hypercalls, and the parts of synthetic interrupts that user space would do: posting and signalling.
const HYPERCALLS: LeafBit = (FEATURES, EAX, 5);
const POST_MESSAGES: LeafBit = (FEATURES, EBX, 4);
const SIGNAL_EVENTS: LeafBit = (FEATURES, EBX, 5);
/// Processors may be added (specification, 2.4.4).
const DYNAMIC_PARTITIONING: LeafBit = (FEATURES, EDX, 3);

impl Enlightenments {
    /// Turns one on or off.
    pub fn set(&mut self, which: Enlightenment, on: bool) {
        let bit = 1 << which.index;
        self.set = if on { self.set | bit } else { self.set & !bit };
    }

    /// Whether one is on.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        find(name).is_some_and(|e| self.set >> e.index & 1 != 0)
    }

    /// Whether any is on: the guest then sees Hyper-V's leaves, and KVM's 0x100 further up.
    #[must_use]
    pub fn any(&self) -> bool {
        self.set != 0 || self.spinlocks.is_some()
    }

    fn entries(&self) -> impl Iterator<Item = &'static Entry> + use<> {
        let set = self.set;
        TABLE.iter().enumerate().filter(move |(n, _)| set >> n & 1 != 0).map(|(_, e)| e)
    }

    /// Checks that each has what it builds on, and that the kernel has it. `offered` is what
    /// `KVM_GET_SUPPORTED_HV_CPUID` gave.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self, offered: Option<&CpuidTable>) -> Result<(), CpuError> {
        for entry in self.entries() {
            if let Some(needed) = entry.needs.iter().find(|n| !self.has(n)) {
                return Err(CpuError::NeedsEnlightenment { feature: entry.name, needed });
            }
            if !entry.offered.iter().all(|bit| offered.is_some_and(|table| has_bit(table, *bit))) {
                return Err(CpuError::NoEnlightenment { feature: entry.name });
            }
        }
        Ok(())
    }

    /// Adds the leaves to what CPUID answers.
    pub fn describe(&self, table: &mut CpuidTable) {
        let [a, b, c] = text(&self.vendor.unwrap_or(VENDOR));
        table.set(0x4000_0000, None, [LAST_LEAF, a, b, c]);
        table.set(0x4000_0001, None, [INTERFACE, 0, 0, 0]);
        table.set(0x4000_0002, None, [BUILD, VERSION, 0, 0]);
        let mut features = [0; 4];
        let mut advice = [0, self.spinlocks.unwrap_or(NEVER_NOTIFY), 0, 0];
        let synic: &[LeafBit] = if self.has("hv-synic") { &[POST_MESSAGES, SIGNAL_EVENTS] } else { &[] };
        let announced = self.entries().flat_map(|e| e.announces);
        for &(leaf, register, bit) in announced.chain([&HYPERCALLS, &DYNAMIC_PARTITIONING]).chain(synic) {
            let words = if leaf == FEATURES { &mut features } else { &mut advice };
            if let Some(word) = words.get_mut(register) {
                *word |= 1 << bit;
            }
        }
        table.set(FEATURES, None, features);
        table.set(ADVICE, None, advice);
        table.set(LAST_LEAF, None, [MAX_PROCESSORS, MAX_PROCESSORS, 0, 0]);
    }
}

fn has_bit(table: &CpuidTable, (leaf, register, bit): LeafBit) -> bool {
    let words = table.get(leaf, 0).map(|e| [e.eax, e.ebx, e.ecx, e.edx]);
    words.and_then(|w| w.get(register).copied()).is_some_and(|word| word >> bit & 1 != 0)
}

/// Twelve letters as three registers.
pub(super) fn text(letters: &[u8; 12]) -> [u32; 3] {
    let word = |n: usize| letters.iter().skip(4 * n).take(4).rev().fold(0, |word, &b| word << 8 | u32::from(b));
    [word(0), word(1), word(2)]
}

#[cfg(test)]
mod tests;
