//! Processor features by name: one table, name to bit, and sets of them.

mod table;

use std::fmt;
use std::sync::LazyLock;

use crate::kvm::{CpuidTable, MsrValue};

pub use table::KVM_LEAF;

/// A register that CPUID answers in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// Where a group of features is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A register of CPUID.
    Cpuid {
        /// EAX on the way in.
        leaf: u32,
        /// ECX on the way in.
        subleaf: u32,
        /// Where the answer is.
        register: Register,
    },
    /// A model-specific register.
    Msr {
        /// Its index.
        index: u32,
    },
}

struct Bit {
    bit: u8,
    name: &'static str,
}

struct Word {
    source: Source,
    bits: &'static [Bit],
}

/// One feature bit. Its `Display` is the form in which warnings name it: `CPUID.01H:ECX.avx [bit 28]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    word: usize,
    bit: u8,
    /// Its name.
    pub name: &'static str,
    /// Where it is reported.
    pub source: Source,
}

impl Feature {
    /// The bit's number.
    #[must_use]
    pub fn bit(&self) -> u8 {
        self.bit
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bit, name, .. } = self;
        match self.source {
            Source::Cpuid { leaf, register, .. } => {
                let register = format!("{register:?}").to_uppercase();
                write!(f, "CPUID.{leaf:02X}H:{register}.{name} [bit {bit}]")
            }
            Source::Msr { index } => write!(f, "MSR({index:X}H).{name} [bit {bit}]"),
        }
    }
}

/// Every feature, in table order.
pub fn all() -> impl Iterator<Item = Feature> {
    table::WORDS
        .iter()
        .enumerate()
        .flat_map(|(word, w)| w.bits.iter().map(move |b| Feature { word, bit: b.bit, name: b.name, source: w.source }))
}

/// The bits that a name stands for: none for an unknown name, two for `kvmclock`, else one. Underscores count as dashes.
/// O(log of the features).
pub fn named(name: &str) -> impl Iterator<Item = Feature> + use<> {
    let index = &*BY_NAME;
    let dashed;
    let mut name = name;
    if name.contains('_') {
        dashed = name.replace('_', "-");
        name = &dashed;
    }
    let name = table::ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, to)| to);
    let first = index.partition_point(|f| f.name < name);
    let bits = index.iter().skip(first).take_while(|f| f.name == name).count();
    index.iter().skip(first).take(bits).copied()
}

/// Sorted by name, bits of one name in table order.
static BY_NAME: LazyLock<Vec<Feature>> = LazyLock::new(|| {
    let mut features: Vec<_> = all().collect();
    features.sort_by_key(|f| f.name);
    features
});

/// Every name once, sorted.
#[must_use]
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = BY_NAME.iter().map(|f| f.name).collect();
    names.dedup();
    names
}

const WORD_COUNT: usize = table::WORDS.len();

/// A set of features: one 64-bit word for each source.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct FeatureSet {
    words: [u64; WORD_COUNT],
}

impl FeatureSet {
    /// No features.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The features that a space-separated list names; names that the table lacks are left out.
    #[must_use]
    pub fn of(list: &str) -> Self {
        let mut set = Self::new();
        list.split_ascii_whitespace().flat_map(named).for_each(|f| set.insert(f));
        set
    }

    /// What CPUID leaves and feature MSRs report, known names only.
    #[must_use]
    pub fn reported(cpuid: &CpuidTable, msrs: &[MsrValue]) -> Self {
        let mut set = Self::new();
        for (word, w) in set.words.iter_mut().zip(table::WORDS) {
            let known = w.bits.iter().fold(0u64, |mask, b| mask | 1 << b.bit);
            *word = known & reported(w.source, cpuid, msrs);
        }
        set
    }

    /// Whether a feature is in the set.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        self.words.get(feature.word).is_some_and(|word| word >> feature.bit & 1 != 0)
    }

    /// Whether all bits of a name are in the set; false for an unknown name.
    #[must_use]
    pub fn has_name(&self, name: &str) -> bool {
        let mut bits = named(name).peekable();
        bits.peek().is_some() && bits.all(|f| self.has(f))
    }

    /// Adds one.
    pub fn insert(&mut self, feature: Feature) {
        if let Some(word) = self.words.get_mut(feature.word) {
            *word |= 1 << feature.bit;
        }
    }

    /// Takes one away.
    pub fn remove(&mut self, feature: Feature) {
        if let Some(word) = self.words.get_mut(feature.word) {
            *word &= !(1 << feature.bit);
        }
    }

    /// In either.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a | b)
    }

    /// In this one and not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a & !b)
    }

    /// In both.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a & b)
    }

    fn combine(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        let mut result = Self::new();
        for (to, (a, b)) in result.words.iter_mut().zip(self.words.iter().zip(&other.words)) {
            *to = f(*a, *b);
        }
        result
    }

    /// Those in the set, in table order.
    pub fn iter(&self) -> impl Iterator<Item = Feature> + '_ {
        all().filter(|f| self.has(*f))
    }

    /// The names in the set, each once.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.iter().map(|f| f.name).collect();
        names.dedup();
        names
    }

    /// The bits that one source reports for this set.
    #[must_use]
    pub fn word(&self, source: Source) -> u64 {
        let found = table::WORDS.iter().zip(&self.words).find(|(w, _)| w.source == source);
        found.map_or(0, |(_, word)| *word)
    }

    /// Likewise for a CPUID register.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "CPUID words have 32 bits")]
    pub fn cpuid(&self, leaf: u32, subleaf: u32, register: Register) -> u32 {
        self.word(Source::Cpuid { leaf, subleaf, register }) as u32
    }
}

impl fmt::Debug for FeatureSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

fn reported(source: Source, cpuid: &CpuidTable, msrs: &[MsrValue]) -> u64 {
    match source {
        Source::Cpuid { leaf, subleaf, register } => cpuid.get(leaf, subleaf).map_or(0, |e| {
            u64::from(match register {
                Register::Eax => e.eax,
                Register::Ebx => e.ebx,
                Register::Ecx => e.ecx,
                Register::Edx => e.edx,
            })
        }),
        Source::Msr { index } => msrs.iter().find(|m| m.index == index).map_or(0, |m| m.value),
    }
}

#[cfg(test)]
mod tests;
