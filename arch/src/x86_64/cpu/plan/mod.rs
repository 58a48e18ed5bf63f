//! From what was asked for, what there is and who shares what, to what each vCPU answers.

mod cache;
mod depend;
mod leaves;
mod topology_leaves;
mod xsave;

use std::fmt;

use crate::kvm::{CpuidTable, MsrValue};

use super::config::{Base, CpuConfig, CpuError};
use super::features::{FeatureSet, Source};
use super::host::{HostCpu, MSR_ARCH_CAPABILITIES, MSR_CORE_CAPABILITIES, MSR_MICROCODE_REVISION};
use super::models::{self, Signature, Vendor};
use super::topology::Topology;

/// Something that the user should know and that need not stop the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CpuWarning {
    /// The host lacks a feature that was asked for, by name or by the model.
    Missing(super::features::Feature),
    /// A feature was asked for and something that it needs was not.
    Orphan(super::features::Feature),
    /// More address bits than the host has.
    PhysBits {
        /// What was asked for.
        asked: u32,
        /// What the host has.
        host: u32,
    },
    /// Threads on an AMD processor that has no leaf to describe them.
    ThreadsUnseen(u32),
}

impl fmt::Display for CpuWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(feature) => write!(f, "host doesn't support requested feature: {feature}"),
            Self::Orphan(feature) => {
                write!(f, "this feature depends on other features that were not requested: {feature}")
            }
            Self::PhysBits { asked, host } => {
                write!(f, "host physical bits ({host}) are fewer than phys-bits ({asked})")
            }
            Self::ThreadsUnseen(threads) => {
                write!(f, "the guest cannot see {threads} threads in a core on this AMD model: add topoext=on")
            }
        }
    }
}

/// What KVM machines add to every named model, and what they take away: nested virtualization, and what needs a
/// processor that is never taken away from the guest.
const NAMED_ADD: &str =
    "hypervisor x2apic kvmclock kvm-nopiodelay kvm-asyncpf kvm-steal-time kvm-pv-eoi kvmclock-stable-bit";
const NAMED_REMOVE: &str = "acpi monitor svm";
/// What `host` and `max` do not have unless it is asked for: hints that only the user can give; `monitor`, which does not
/// leave the guest; what the topology decides.
const HOST_NOT_BY_ITSELF: &str = "kvm-hint-dedicated monitor ht cmp-legacy";
/// What cannot be had on another host.
const NOT_MIGRATABLE: &str = "invtsc";
/// Performance counters and what needs them.
const PMU: &str = "pdcm perfctr-core perfctr-nb arch-lbr ds dtes64 ds-cpl";
/// Present whatever KVM says: the first is a fact, the second a promise of the user's, the others come from here.
const ALWAYS: &str = "hypervisor kvm-hint-dedicated ht cmp-legacy";

/// A checked processor for every vCPU of a machine.
#[derive(Debug, Clone, PartialEq)]
pub struct CpuPlan {
    asked: FeatureSet,
    features: FeatureSet,
    /// Basic and extended.
    level: u32,
    xlevel: u32,
    vendor: [u8; 12],
    signature: u32,
    brand: [[u32; 4]; 3],
    phys_bits: u32,
    host: HostCpu,
    config: CpuConfig,
    topology: Topology,
    warnings: Vec<CpuWarning>,
}

impl CpuPlan {
    /// Matches what was asked for with what there is.
    ///
    /// # Errors
    /// [`CpuError::Missing`] under `enforce`, and enlightenments that the kernel lacks or that lack one another.
    pub fn new(config: &CpuConfig, host: &HostCpu, topology: Topology) -> Result<Self, CpuError> {
        config.hyperv.check(host.hyperv.as_ref())?;
        let available = available(config, host);
        let mut warnings = Vec::new();
        let (asked, defaults) = asked(config, &available);
        let orphans = depend::orphans(&asked);
        warnings.extend(orphans.common(&config.on).iter().map(CpuWarning::Orphan));
        let asked = asked.without(&orphans);
        let missing = asked.without(&available).without(&defaults);
        if config.enforce && missing != FeatureSet::new() {
            return Err(CpuError::Missing { features: missing.iter().map(|f| f.to_string()).collect() });
        }
        if config.check {
            warnings.extend(missing.iter().map(CpuWarning::Missing));
        }
        let features = asked.common(&available);
        let features = features.without(&depend::orphans(&features));
        let mut plan = Self {
            asked,
            features,
            level: 0,
            xlevel: 0,
            vendor: config.vendor.unwrap_or_else(|| host.vendor()),
            signature: signature(config, host),
            brand: brand(config, host),
            phys_bits: 0,
            host: host.clone(),
            config: config.clone(),
            topology,
            warnings,
        };
        plan.phys_bits = plan.choose_phys_bits()?;
        plan.choose_levels();
        if plan.is_amd() && topology.threads() > 1 && !plan.has("topoext") {
            plan.warnings.push(CpuWarning::ThreadsUnseen(topology.threads()));
        }
        Ok(plan)
    }

    /// What the user should be told, in the order of the features.
    #[must_use]
    pub fn warnings(&self) -> &[CpuWarning] {
        &self.warnings
    }

    /// The features that were asked for by name or by the model, whether the host has them or not.
    #[must_use]
    pub fn asked(&self) -> &FeatureSet {
        &self.asked
    }

    /// What the guest gets.
    #[must_use]
    pub fn features(&self) -> &FeatureSet {
        &self.features
    }

    /// Guest-physical address bits.
    #[must_use]
    pub fn phys_bits(&self) -> u32 {
        self.phys_bits
    }

    /// The TSC frequency that was asked for, in kHz, for [`crate::kvm::Vcpu::set_tsc_khz`].
    #[must_use]
    pub fn tsc_khz(&self) -> Option<u32> {
        self.config.tsc_frequency.and_then(|hz| u32::try_from(hz / 1000).ok())
    }

    /// Whether vCPUs need [`crate::kvm::Vcpu::enable_hyperv_synic`].
    #[must_use]
    pub fn hyperv_synic(&self) -> bool {
        self.config.hyperv.has("hv-synic")
    }

    /// What CPUID answers on processor `index`: O(leaves).
    #[must_use]
    pub fn cpuid(&self, index: u32) -> CpuidTable {
        leaves::build(self, index)
    }

    /// MSRs at power-on that differ from KVM's own, the same on every processor.
    #[must_use]
    pub fn msrs(&self) -> Vec<MsrValue> {
        let mut msrs = vec![MsrValue { index: MSR_MISC_ENABLE, value: MISC_ENABLE }];
        for (name, index) in [("arch-capabilities", MSR_ARCH_CAPABILITIES), ("core-capability", MSR_CORE_CAPABILITIES)]
        {
            if self.has(name) {
                msrs.push(MsrValue { index, value: self.capability(index) });
            }
        }
        // A guest that believes in the host's processor picks mitigations by its microcode.
        if let (Base::Host, Some(value)) = (&self.config.base, self.host.msr(MSR_MICROCODE_REVISION)) {
            msrs.push(MsrValue { index: MSR_MICROCODE_REVISION, value });
        }
        msrs
    }

    /// For the host's processor, bits without a name too: what they mean is true of it.
    fn capability(&self, index: u32) -> u64 {
        let source = Source::Msr { index };
        let named = super::features::all().filter(|f| f.source == source).fold(0, |mask, f| mask | 1u64 << f.bit());
        let nameless = if self.config.base == Base::Host { self.host.msr(index).unwrap_or(0) & !named } else { 0 };
        self.features.word(source) | nameless
    }

    fn has(&self, name: &str) -> bool {
        self.features.has_name(name)
    }

    fn is_amd(&self) -> bool {
        [Vendor::Amd, Vendor::Hygon].iter().any(|v| v.text().as_bytes() == self.vendor)
    }

    fn choose_phys_bits(&mut self) -> Result<u32, CpuError> {
        /// Of models that do not follow the host, as management layers expect.
        const NAMED: u32 = 40;
        let host = self.host.phys_bits();
        let asked = u32::from(self.config.phys_bits);
        if !self.has("lm") {
            if asked != 0 {
                let why = "a processor without 64-bit mode has 32 or 36 of them";
                return Err(CpuError::Unsupported { name: "phys-bits".to_owned(), why });
            }
            return Ok(if self.has("pse36") { 36 } else { 32 });
        }
        if asked > host {
            self.warnings.push(CpuWarning::PhysBits { asked, host });
        }
        let follow = self.config.host_phys_bits.unwrap_or(self.config.base == Base::Host);
        let limit = u32::from(self.config.host_phys_bits_limit);
        Ok(match (asked, follow, limit) {
            (1.., _, _) => asked,
            (0, true, 1..) => host.min(limit),
            (0, true, 0) => host,
            // A guest must not use addresses that the host's processor cannot translate.
            (0, false, _) => NAMED.min(host),
        })
    }

    /// High enough for every leaf with something in it.
    fn choose_levels(&mut self) {
        let (mut level, mut xlevel) = match &self.config.base {
            Base::Named(model) => (model.level, model.xlevel),
            Base::Host => {
                let max = |leaf| self.host.supported.get(leaf, 0).map_or(0, |e| e.eax);
                (max(0), max(0x8000_0000))
            }
            Base::Bare => (1, 0),
        };
        level = self.config.min_level.unwrap_or(level);
        xlevel = self.config.min_xlevel.unwrap_or(xlevel);
        for feature in self.features.iter() {
            match feature.source {
                Source::Cpuid { leaf: leaf @ ..=0x3fff_ffff, .. } => level = level.max(leaf),
                Source::Cpuid { leaf: leaf @ 0x8000_0000..=0x8fff_ffff, .. } => xlevel = xlevel.max(leaf),
                _ => {}
            }
        }
        if self.topology.dies() > 1 && level >= 0xb {
            level = level.max(0x1f);
        }
        if self.has("amx-tile") {
            level = level.max(0x1e);
        }
        if self.has("lm") {
            xlevel = xlevel.max(0x8000_0008);
        }
        if self.is_amd() && self.has("topoext") {
            xlevel = xlevel.max(0x8000_001e);
        }
        self.level = self.config.level.unwrap_or(level);
        self.xlevel = self.config.xlevel.unwrap_or(xlevel);
    }
}

/// IA32_MISC_ENABLE (SDM volume 4, table 2-2): fast string instructions; no branch trace storage, no event-based
/// sampling.
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE: u64 = 1 | 1 << 11 | 1 << 12;

/// What of all features there is to have.
fn available(config: &CpuConfig, host: &HostCpu) -> FeatureSet {
    let reported = FeatureSet::reported(&host.supported, &host.msrs).with(&FeatureSet::of(ALWAYS));
    if config.pmu { reported } else { reported.without(&FeatureSet::of(PMU)) }
}

/// What was asked for, and those of it that only belong to the machine: missing ones are no one's disappointment.
fn asked(config: &CpuConfig, available: &FeatureSet) -> (FeatureSet, FeatureSet) {
    let (base, defaults) = match &config.base {
        Base::Named(model) => {
            let added = FeatureSet::of(NAMED_ADD);
            (model.features.with(&added).without(&FeatureSet::of(NAMED_REMOVE)), added)
        }
        Base::Host => {
            let hidden = FeatureSet::of(HOST_NOT_BY_ITSELF);
            let fixed = if config.migratable { FeatureSet::of(NOT_MIGRATABLE) } else { FeatureSet::new() };
            (available.without(&hidden).without(&fixed), FeatureSet::new())
        }
        Base::Bare => (FeatureSet::new(), FeatureSet::new()),
    };
    let mut set = base.with(&config.on).without(&config.off);
    if !config.kvm {
        let kvm = |source| matches!(source, Source::Cpuid { leaf: super::features::KVM_LEAF, .. });
        super::features::all().filter(|f| kvm(f.source)).for_each(|f| set.remove(f));
    }
    (set, defaults.without(&config.on))
}

/// CPUID leaf 1, EAX (SDM volume 2, figure 3-6).
fn signature(config: &CpuConfig, host: &HostCpu) -> u32 {
    let base = match &config.base {
        Base::Named(model) => model.signature,
        Base::Host => decode_signature(host.supported.get(1, 0).map_or(0, |leaf| leaf.eax)),
        Base::Bare => Signature { family: 0, model: 0, stepping: 0 },
    };
    encode_signature(Signature {
        family: config.family.unwrap_or(base.family),
        model: config.model_number.unwrap_or(base.model),
        stepping: config.stepping.unwrap_or(base.stepping),
    })
}

fn decode_signature(eax: u32) -> Signature {
    let family = eax >> 8 & 0xf;
    Signature {
        family: if family == 0xf { family + (eax >> 20 & 0xff) } else { family },
        model: (eax >> 4 & 0xf) | (eax >> 16 & 0xf) << 4,
        stepping: eax & 0xf,
    }
}

fn encode_signature(s: Signature) -> u32 {
    let (family, extended) = if s.family > 0xf { (0xf, s.family - 0xf) } else { (s.family, 0) };
    (s.stepping & 0xf) | (s.model & 0xf) << 4 | family << 8 | (s.model >> 4 & 0xf) << 16 | (extended & 0xff) << 20
}

fn brand(config: &CpuConfig, host: &HostCpu) -> [[u32; 4]; 3] {
    let text = match (&config.model_id, &config.base) {
        (Some(text), _) => text.as_str(),
        (None, Base::Named(model)) => model.model_id,
        (None, Base::Host) => return host.brand,
        (None, Base::Bare) => "",
    };
    let word = |n: usize| text.bytes().skip(4 * n).take(4).enumerate().fold(0, |w, (i, b)| w | u32::from(b) << (8 * i));
    [0, 4, 8].map(|n| [word(n), word(n + 1), word(n + 2), word(n + 3)])
}

/// The features of a model that this host lacks, by name: for `query-cpu-definitions`. `None` for an unknown model.
#[must_use]
pub fn unavailable_features(model: &str, host: &HostCpu) -> Option<Vec<&'static str>> {
    if matches!(model, "host" | "max" | "base") {
        return Some(Vec::new());
    }
    models::find(model)?;
    let config = CpuConfig::new(model).ok()?;
    let available = available(&config, host);
    let (asked, defaults) = asked(&config, &available);
    Some(asked.without(&available).without(&defaults).names())
}

#[cfg(test)]
mod tests;
