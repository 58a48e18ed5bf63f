//! `-cpu MODEL,property,…`: from text to what was asked for.
//!
//! Three notations give a feature: `avx=on`, `+avx` and `-avx`. The first are applied in order, then all `+`, then all
//! `-`, wherever they stand: scripts rely on that.

use thiserror::Error;

use super::features::{self, Feature, FeatureSet};
use super::hyperv::{self, Enlightenments};
use super::models::{self, Definition};
use super::suggest::{nearest, offer};

/// A processor that cannot be asked for, or not be given.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CpuError {
    /// No such model.
    #[error("unknown CPU model '{name}'{}; -cpu help lists them all", offer(near))]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// Names like it.
        near: Vec<String>,
    },
    /// No such feature or property.
    #[error("unknown CPU feature or property '{name}'{}; -cpu help lists the features", offer(near))]
    UnknownProperty {
        /// What was asked for.
        name: String,
        /// Names like it.
        near: Vec<String>,
    },
    /// A known name that means nothing here.
    #[error("CPU property '{name}' is not supported: {why}")]
    Unsupported {
        /// What was asked for.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// A value that its property does not take.
    #[error("CPU property '{name}' takes {wanted}, not '{value}'")]
    BadValue {
        /// The property.
        name: String,
        /// What it was given.
        value: String,
        /// What it takes.
        wanted: &'static str,
    },
    /// `enforce`, and the host lacks something.
    #[error("the host does not support requested features: {}", features.join(", "))]
    Missing {
        /// Which, each with its place.
        features: Vec<String>,
    },
    /// A Hyper-V enlightenment without one that it builds on.
    #[error("{feature} needs {needed}: add {needed}=on")]
    NeedsEnlightenment {
        /// The one that was asked for.
        feature: &'static str,
        /// The one that is missing.
        needed: &'static str,
    },
    /// A Hyper-V enlightenment that the kernel does not have.
    #[error("{feature} is not supported by the host's KVM: remove it")]
    NoEnlightenment {
        /// The one that was asked for.
        feature: &'static str,
    },
}

/// What the features start from.
#[derive(Debug, Clone, PartialEq)]
pub enum Base {
    /// A model from the table.
    Named(Box<Definition>),
    /// Everything that the host can give, as the host's own processor (`host`) or likewise (`max`).
    Host,
    /// Nothing at all.
    Bare,
}

/// A processor as it was asked for. Nothing here has met a host yet.
#[derive(Debug, Clone, PartialEq)]
pub struct CpuConfig {
    /// What was typed before the first comma.
    pub model: String,
    /// What the features start from.
    pub base: Base,
    /// Features turned on and off.
    pub on: FeatureSet,
    /// Features turned off; none is in both.
    pub off: FeatureSet,
    /// Warn about features that the host lacks.
    pub check: bool,
    /// Refuse to start instead.
    pub enforce: bool,
    /// Leave out, of what the host can give, what a saved machine could not take elsewhere.
    pub migratable: bool,
    /// Show the guest that KVM is there (`kvm=`).
    pub kvm: bool,
    /// Give the guest performance counters.
    pub pmu: bool,
    /// Describe a cache of the third level.
    pub l3_cache: bool,
    /// Describe the host's caches instead of the model's.
    pub host_cache_info: bool,
    /// Take the physical address width from the host; `None`: as the model says.
    pub host_phys_bits: Option<bool>,
    /// At most this many bits then; 0 for no limit.
    pub host_phys_bits_limit: u8,
    /// Physical address width; 0 for the model's.
    pub phys_bits: u8,
    /// Highest basic leaf, instead of the model's.
    pub level: Option<u32>,
    /// Highest extended leaf, instead of the model's.
    pub xlevel: Option<u32>,
    /// Highest basic leaf before features ask for higher ones, instead of the model's.
    pub min_level: Option<u32>,
    /// Highest extended leaf before features ask for higher ones, instead of the model's.
    pub min_xlevel: Option<u32>,
    /// Twelve letters, instead of the host's.
    pub vendor: Option<[u8; 12]>,
    /// Instead of the model's.
    pub family: Option<u32>,
    /// Instead of the model's.
    pub model_number: Option<u32>,
    /// Instead of the model's.
    pub stepping: Option<u32>,
    /// Instead of the model's brand string; at most 48 bytes.
    pub model_id: Option<String>,
    /// Guest TSC frequency in Hz.
    pub tsc_frequency: Option<u64>,
    /// Hyper-V enlightenments.
    pub hyperv: Enlightenments,
}

/// Longest brand string, in bytes (CPUID 0x8000_0002 to 4).
const BRAND_LENGTH: usize = 48;

impl CpuConfig {
    /// A model without further wishes.
    ///
    /// # Errors
    /// [`CpuError::UnknownModel`], with names like it.
    pub fn new(model: &str) -> Result<Self, CpuError> {
        let base = match model {
            "host" | "max" => Base::Host,
            "base" => Base::Bare,
            name => Base::Named(Box::new(models::find(name).ok_or_else(|| unknown_model(name))?)),
        };
        Ok(Self {
            model: model.to_owned(),
            base,
            on: FeatureSet::new(),
            off: FeatureSet::new(),
            check: true,
            enforce: false,
            migratable: true,
            kvm: true,
            pmu: false,
            l3_cache: true,
            host_cache_info: false,
            host_phys_bits: None,
            host_phys_bits_limit: 0,
            phys_bits: 0,
            level: None,
            xlevel: None,
            min_level: None,
            min_xlevel: None,
            vendor: None,
            family: None,
            model_number: None,
            stepping: None,
            model_id: None,
            tsc_frequency: None,
            hyperv: Enlightenments::default(),
        })
    }

    /// The argument of `-cpu`: a model, and properties behind commas.
    ///
    /// # Errors
    /// As [`CpuConfig::parse`].
    pub fn from_text(text: &str) -> Result<Self, CpuError> {
        let mut parts = text.split(',');
        let model = parts.next().unwrap_or_default();
        Self::parse(model, parts.filter(|p| !p.is_empty()).map(|p| p.split_once('=').unwrap_or((p, ""))))
    }

    /// A model and properties. A name may begin with `+` or `-`; an empty value means on.
    ///
    /// # Errors
    /// [`CpuError`] for a name or value that is unknown or not supported.
    pub fn parse<'a>(model: &str, properties: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, CpuError> {
        let mut config = Self::new(model)?;
        let (mut plus, mut minus) = (Vec::new(), Vec::new());
        for (name, value) in properties {
            match (name.strip_prefix('+'), name.strip_prefix('-')) {
                (Some(name), _) => plus.push(bare(name, value)?),
                (_, Some(name)) => minus.push(bare(name, value)?),
                _ => config.property(name, value)?,
            }
        }
        plus.iter().try_for_each(|name| config.switch(name, true))?;
        minus.iter().try_for_each(|name| config.switch(name, false))?;
        Ok(config)
    }

    fn property(&mut self, name: &str, value: &str) -> Result<(), CpuError> {
        let key = name.replace('_', "-");
        let given = Given { name, value };
        match key.as_str() {
            "check" => self.check = given.switch()?,
            "enforce" => self.enforce = given.switch()?,
            "migratable" => self.migratable = given.switch()?,
            "kvm" => self.kvm = given.switch()?,
            "pmu" => self.pmu = given.switch()?,
            "l3-cache" => self.l3_cache = given.switch()?,
            "host-cache-info" => self.host_cache_info = given.switch()?,
            "host-phys-bits" => self.host_phys_bits = Some(given.switch()?),
            "host-phys-bits-limit" => self.host_phys_bits_limit = given.bits("a number of bits from 32 to 52, or 0")?,
            "phys-bits" => self.phys_bits = given.bits("a number of bits from 32 to 52, or 0")?,
            "level" => self.level = Some(given.leaf()?),
            "min-level" => self.min_level = Some(given.leaf()?),
            "xlevel" => self.xlevel = Some(given.extended_leaf()?),
            "min-xlevel" => self.min_xlevel = Some(given.extended_leaf()?),
            "vendor" => self.vendor = Some(given.vendor()?),
            "family" => self.family = Some(given.number(0..=0xff + 0xf, "a number from 0 to 270")?),
            "model" => self.model_number = Some(given.number(0..=0xff, "a number from 0 to 255")?),
            "stepping" => self.stepping = Some(given.number(0..=0xf, "a number from 0 to 15")?),
            "model-id" => self.model_id = Some(given.brand()?),
            "tsc-frequency" => self.tsc_frequency = Some(given.frequency()?),
            _ if key.starts_with("hv-") => return self.enlightenment(&key, given),
            _ => {
                let on = given.switch_of_feature(&key)?;
                return self.switch(&key, on);
            }
        }
        Ok(())
    }

    fn enlightenment(&mut self, key: &str, given: Given<'_>) -> Result<(), CpuError> {
        let name = given.name;
        match key {
            "hv-spinlocks" => self.hyperv.spinlocks = Some(given.retries()?),
            "hv-vendor-id" => self.hyperv.vendor = Some(given.vendor()?),
            _ => match hyperv::find(key) {
                Some(feature) => {
                    let on = given.switch()?;
                    self.hyperv.set(feature, on);
                }
                None if hyperv::REFUSED.contains(&key) => {
                    let why = "only enlightenments that need nothing but CPUID and the kernel are offered";
                    return Err(CpuError::Unsupported { name: name.to_owned(), why });
                }
                None => return Err(unknown_property(name)),
            },
        }
        Ok(())
    }

    fn switch(&mut self, name: &str, on: bool) -> Result<(), CpuError> {
        if name.starts_with("hv-") || name.starts_with("hv_") {
            let value = if on { "on" } else { "off" };
            return self.enlightenment(&name.replace('_', "-"), Given { name, value });
        }
        let bits: Vec<Feature> = features::named(name).collect();
        if bits.is_empty() {
            return Err(unknown_property(name));
        }
        for bit in bits {
            let (to, from) = if on { (&mut self.on, &mut self.off) } else { (&mut self.off, &mut self.on) };
            to.insert(bit);
            from.remove(bit);
        }
        Ok(())
    }
}

/// Names that other programs take and that mean nothing here, by how they begin.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("vmx-", "KVM chooses the controls of nested virtualization"),
    ("sgx", "no enclave memory can be given to a guest"),
    ("kvm-no-smi", "there is no system management mode"),
    ("lbr-fmt", "no branch records can be given to a guest"),
    ("x-", "it is a switch for testing"),
    ("legacy-cache", "caches are always described by leaf 4 or 0x8000001d"),
    ("cpuid-0xb", "the topology leaves are always there where the level reaches them"),
    ("full-cpuid-auto-level", "give level= or xlevel="),
    ("xlevel2", "there are no Centaur processors to be had"),
    ("ucode-rev", "KVM chooses the microcode revision"),
    ("tcg-cpuid", "there is no TCG here"),
    ("fill-mtrr-mask", "the mask follows from the address width"),
    ("apic-id", "it follows from -smp"),
    ("start-powered-off", "-smp says which processors start"),
];

fn unknown_model(name: &str) -> CpuError {
    let names = models::names();
    let all = names.iter().map(|(name, _)| name.as_str()).chain(["host", "max", "base"]);
    CpuError::UnknownModel { name: name.to_owned(), near: nearest(name, all) }
}

fn unknown_property(name: &str) -> CpuError {
    let key = name.replace('_', "-");
    if let Some((_, why)) = UNSUPPORTED.iter().find(|(start, _)| key.starts_with(start)) {
        return CpuError::Unsupported { name: name.to_owned(), why };
    }
    let features = features::names();
    let all = features.iter().copied().chain(PROPERTIES.iter().copied()).chain(hyperv::names());
    CpuError::UnknownProperty { name: name.to_owned(), near: nearest(name, all) }
}

/// Every property besides features and enlightenments.
pub const PROPERTIES: &[&str] = &[
    "check",
    "enforce",
    "family",
    "host-cache-info",
    "host-phys-bits",
    "host-phys-bits-limit",
    "hv-spinlocks",
    "hv-vendor-id",
    "kvm",
    "l3-cache",
    "level",
    "migratable",
    "min-level",
    "min-xlevel",
    "model",
    "model-id",
    "phys-bits",
    "pmu",
    "stepping",
    "tsc-frequency",
    "vendor",
    "xlevel",
];

/// `+name` and `-name` take no value.
fn bare<'a>(name: &'a str, value: &str) -> Result<&'a str, CpuError> {
    if value.is_empty() { Ok(name) } else { Err(Given { name, value }.refused("no value behind + or -")) }
}

/// A property as it was typed.
#[derive(Clone, Copy)]
struct Given<'a> {
    name: &'a str,
    value: &'a str,
}

impl Given<'_> {
    fn refused(&self, wanted: &'static str) -> CpuError {
        CpuError::BadValue { name: self.name.to_owned(), value: self.value.to_owned(), wanted }
    }

    fn switch(&self) -> Result<bool, CpuError> {
        match self.value {
            "" | "on" | "yes" | "true" | "y" => Ok(true),
            "off" | "no" | "false" | "n" => Ok(false),
            _ => Err(self.refused("on or off")),
        }
    }

    /// Of a feature that may not exist: an unknown name is the worse mistake.
    fn switch_of_feature(&self, key: &str) -> Result<bool, CpuError> {
        if features::named(key).next().is_none() { Err(unknown_property(self.name)) } else { self.switch() }
    }

    fn integer(&self) -> Option<u64> {
        let digits = self.value.strip_prefix("0x").or_else(|| self.value.strip_prefix("0X"));
        match digits {
            Some(hex) if !hex.starts_with('+') => u64::from_str_radix(hex, 16).ok(),
            Some(_) => None,
            None if self.value.starts_with('+') => None,
            None => self.value.parse().ok(),
        }
    }

    fn number(&self, range: std::ops::RangeInclusive<u32>, wanted: &'static str) -> Result<u32, CpuError> {
        let number = self.integer().and_then(|n| u32::try_from(n).ok()).filter(|n| range.contains(n));
        number.ok_or_else(|| self.refused(wanted))
    }

    fn leaf(&self) -> Result<u32, CpuError> {
        self.number(0..=0x3fff_ffff, "a leaf from 0 to 0x3fffffff")
    }

    fn extended_leaf(&self) -> Result<u32, CpuError> {
        self.number(0..=0x8fff_ffff, "a leaf up to 0x8fffffff")
    }

    /// From 32 bits, the least that a 32-bit processor has, to 52, the most that the architecture has.
    fn bits(&self, wanted: &'static str) -> Result<u8, CpuError> {
        let bits = self.integer().and_then(|n| u8::try_from(n).ok());
        bits.filter(|n| *n == 0 || (32..=52).contains(n)).ok_or_else(|| self.refused(wanted))
    }

    fn vendor(&self) -> Result<[u8; 12], CpuError> {
        self.value.as_bytes().try_into().map_err(|_| self.refused("exactly 12 letters"))
    }

    fn brand(&self) -> Result<String, CpuError> {
        let fits = self.value.len() <= BRAND_LENGTH && !self.value.contains('\0');
        if fits { Ok(self.value.to_owned()) } else { Err(self.refused("at most 48 bytes of text")) }
    }

    fn retries(&self) -> Result<u32, CpuError> {
        const WANTED: &str = "a number of retries from 0xfff to 0xffffffff";
        self.number(0xfff..=u32::MAX, WANTED)
    }

    /// In Hz, or with a decimal suffix: `2500M`, `2.5G`.
    fn frequency(&self) -> Result<u64, CpuError> {
        const WANTED: &str = "a frequency in Hz from 1k to 1T, such as 2500M or 2.5G";
        let (digits, unit) = match self.value.char_indices().last() {
            Some((at, 'k' | 'K')) => (at, 1_000),
            Some((at, 'm' | 'M')) => (at, 1_000_000),
            Some((at, 'g' | 'G')) => (at, 1_000_000_000),
            _ => (self.value.len(), 1),
        };
        let hertz = decimal(self.value.get(..digits).unwrap_or_default(), unit);
        hertz.filter(|hz| (1_000..=1_000_000_000_000).contains(hz)).ok_or_else(|| self.refused(WANTED))
    }
}

/// `whole.fraction` times `unit`, cut off below one.
fn decimal(text: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.len() <= 18 && s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
    let value = whole.parse::<u128>().ok()?.checked_mul(scale)?.checked_add(fraction)?;
    u64::try_from(value.checked_mul(u128::from(unit))? / scale).ok()
}

#[cfg(test)]
mod tests;
