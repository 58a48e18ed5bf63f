//! The machine's vCPUs: the CPU model and the topology, met with the host's KVM.

use rhea_arch::kvm::{Host, Vcpu, VcpuError, Vm, VmError};
use rhea_arch::x86_64::cpu::features::{FeatureSet, named, names as feature_names};
use rhea_arch::x86_64::cpu::{
    CpuConfig, CpuError as ModelError, CpuPlan, HostCpu, Topology, TopologyError, models, unavailable_features,
};
use serde_json::{Value, json};
use thiserror::Error;

use crate::machine::facts::CpuPlace;
use crate::qmp::CpuTypes;
use crate::qmp::reply::cpu::CpuDefinitionInfo;
use crate::spec::VmSpec;

mod expansion;

pub use expansion::expand;

/// The model of a guest that asks for none; QEMU's, too.
const DEFAULT_MODEL: &str = "qemu64";

/// Models that are what the host is, and the one that is nothing.
const HOST_MODELS: [&str; 2] = ["host", "max"];
const BARE_MODEL: &str = "base";

/// The vCPUs cannot be had as asked for.
#[derive(Debug, Error)]
pub enum CpuError {
    /// The model, a feature or a property.
    #[error("-cpu")]
    Model(#[from] ModelError),
    /// The topology.
    #[error("-smp")]
    Topology(#[from] TopologyError),
    /// KVM has fewer vCPUs.
    #[error("-smp: {asked} vCPUs are more than the {most} that the host's KVM can make")]
    TooMany {
        /// Those of `-smp maxcpus=`.
        asked: u32,
        /// Those of KVM.
        most: usize,
    },
    /// KVM cannot address so many.
    #[error("-smp: KVM cannot address so many vCPUs")]
    Wide(#[source] VmError),
    /// KVM refuses a vCPU.
    #[error("cannot make a vCPU")]
    Vcpu(#[from] VcpuError),
}

/// A property of vCPUs: its name, QOM's name of its type, and what it is.
pub type ModelProperty = (&'static str, &'static str, Value);

/// The vCPUs of a machine, checked.
pub struct Cpus {
    plan: CpuPlan,
    model: String,
    topology: Topology,
    present: u32,
    max: u32,
    nodes: Vec<u32>,
}

impl Cpus {
    /// Meets what was asked for with what there is, and warns of what is missing.
    ///
    /// # Errors
    /// There is no such model or feature, the host lacks one that is enforced, or there are too many vCPUs.
    pub fn new(spec: &VmSpec, host: &Host, cpu: &HostCpu) -> Result<Self, CpuError> {
        let smp = &spec.smp;
        if smp.maxcpus as usize > host.max_vcpus() {
            return Err(CpuError::TooMany { asked: smp.maxcpus, most: host.max_vcpus() });
        }
        let config = match &spec.cpu {
            None => CpuConfig::new(DEFAULT_MODEL)?,
            Some(cpu) => {
                let properties = cpu.features.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                CpuConfig::parse(&cpu.model, properties)?
            }
        };
        let topology = Topology::new(smp.sockets, smp.dies, smp.cores, smp.threads)?;
        let plan = CpuPlan::new(&config, cpu, topology)?;
        plan.warnings().iter().for_each(|warning| log::warn!("{warning}"));
        Ok(Self {
            plan,
            model: config.model,
            topology,
            present: smp.cpus,
            max: smp.maxcpus,
            nodes: spec.numa.of_cpu.clone(),
        })
    }

    /// Type of the vCPUs in the tree of objects.
    #[must_use]
    pub fn type_name(&self) -> String {
        type_name(&self.model)
    }

    /// Guest-physical address bits.
    #[must_use]
    pub fn phys_bits(&self) -> u8 {
        u8::try_from(self.plan.phys_bits()).unwrap_or(u8::MAX)
    }

    /// The places for vCPUs, those filled from the start first.
    #[must_use]
    pub fn places(&self) -> Vec<CpuPlace> {
        let dies = self.topology.dies() > 1;
        let describe = |index| {
            let place = self.topology.place(index);
            CpuPlace {
                socket: place.socket,
                die: dies.then_some(place.die),
                core: place.core,
                thread: place.thread,
                node: self.nodes.get(index as usize).copied(),
                present: index < self.present,
            }
        };
        (0..self.max).map(describe).collect()
    }

    /// What the model came to on this host, by the names that `-cpu` has for it.
    #[must_use]
    pub fn model_properties(&self) -> Vec<ModelProperty> {
        let mut properties = described(&self.plan, self.plan.features());
        properties.push(("phys-bits", "uint32", json!(self.plan.phys_bits())));
        let lacks = self.plan.asked().without(self.plan.features());
        properties.push(("unavailable-features", "strList", json!(lacks.names())));
        properties
    }

    /// APIC ID of each place, and whether a vCPU is there.
    #[must_use]
    pub fn processors(&self) -> Vec<(u32, bool)> {
        (0..self.max).map(|index| (self.topology.apic_id(index), index < self.present)).collect()
    }

    /// Makes the vCPUs that are there from the start, with their features.
    ///
    /// # Errors
    /// When KVM refuses one.
    pub fn create(&self, vm: &Vm) -> Result<Vec<Vcpu>, CpuError> {
        if self.topology.apic_id(self.max.saturating_sub(1)) >= u32::from(u8::MAX) {
            vm.enable_wide_apic_ids().map_err(CpuError::Wide)?;
        }
        let msrs = self.plan.msrs();
        let make = |index| {
            let mut vcpu = vm.create_vcpu(self.topology.apic_id(index))?;
            if self.plan.hyperv_synic() {
                vcpu.enable_hyperv_synic()?;
            }
            if let Some(khz) = self.plan.tsc_khz() {
                vcpu.set_tsc_khz(khz)?;
            }
            vcpu.configure(&self.plan.cpuid(index), &msrs)?;
            Ok(vcpu)
        };
        (0..self.present).map(make).collect()
    }
}

/// What a vCPU of `plan` says of itself, and which of all features are among `features`.
fn described(plan: &CpuPlan, features: &FeatureSet) -> Vec<ModelProperty> {
    let table = plan.cpuid(0);
    let leaf = |number| table.entries().iter().find(|entry| entry.function == number);
    let registers = |number| leaf(number).map_or([0; 4], |e| [e.eax, e.ebx, e.ecx, e.edx]);
    let text = |words: &[u32]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).take_while(|byte| *byte != 0).collect();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    };
    let [level, first, third, second] = registers(0);
    let [version, ..] = registers(1);
    let [xlevel, ..] = registers(0x8000_0000);
    let name: Vec<u32> = (0x8000_0002..=0x8000_0004).flat_map(registers).collect();
    // Family and model have an extended part (SDM volume 2, CPUID, figure 3-6).
    let (family, model) = (version >> 8 & 15, version >> 4 & 15 | version >> 12 & 0xf0);
    let family = if family == 15 { family + (version >> 20 & 0xff) } else { family };
    let mut properties = vec![
        ("family", "int", json!(family)),
        ("model", "int", json!(model)),
        ("stepping", "int", json!(version & 15)),
        ("vendor", "string", json!(text(&[first, second, third]))),
        ("model-id", "string", json!(text(&name))),
        ("level", "uint32", json!(level)),
        ("xlevel", "uint32", json!(xlevel)),
    ];
    let has = |name: &str| named(name).any(|feature| features.has(feature));
    properties.extend(feature_names().into_iter().map(|name| (name, "bool", json!(has(name)))));
    properties
}

/// The types of vCPUs.
#[must_use]
pub fn types() -> CpuTypes {
    let names = model_names().map(|name| type_name(&name)).collect();
    let of_model =
        [("family", "int"), ("model", "int"), ("stepping", "int"), ("vendor", "string"), ("model-id", "string")];
    let numbers = ["level", "xlevel", "min-level", "min-xlevel", "phys-bits"].map(|name| (name, "uint32"));
    let switches = ["check", "enforce", "host-cache-info", "host-phys-bits", "kvm", "l3-cache", "pmu"];
    let switches = switches.into_iter().chain(feature_names()).map(|name| (name, "bool"));
    let lacks = [("unavailable-features", "strList")];
    CpuTypes { names, properties: of_model.into_iter().chain(numbers).chain(switches).chain(lacks).collect() }
}

fn type_name(model: &str) -> String {
    format!("{model}-x86_64-cpu")
}

/// `query-cpu-definitions`: every model, with what `host` lacks of it; nothing is said to lack where the host is not
/// known.
#[must_use]
pub fn definitions(host: Option<&HostCpu>) -> Vec<CpuDefinitionInfo> {
    let describe = |name: String| {
        let lacks = host.and_then(|host| unavailable_features(&name, host));
        CpuDefinitionInfo {
            typename: type_name(&name),
            // Those two are whatever the host is.
            migration_safe: Some(!HOST_MODELS.contains(&name.as_str())),
            r#static: name == BARE_MODEL,
            unavailable_features: Some(lacks.unwrap_or_default().into_iter().map(Into::into).collect()),
            // QEMU's names without a version stand for one with it.
            alias_of: models::find(&name).map(|model| model.name).filter(|versioned| *versioned != name),
            deprecated: false,
            name,
        }
    };
    model_names().map(describe).collect()
}

/// The names of all models.
fn model_names() -> impl Iterator<Item = String> {
    let special = HOST_MODELS.into_iter().chain([BARE_MODEL]).map(str::to_owned);
    special.chain(models::names().into_iter().map(|(name, _)| name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_a_version_say_what_they_stand_for() {
        let all = definitions(None);
        let alias_of = |name: &str| all.iter().find(|one| one.name == name).and_then(|one| one.alias_of.clone());

        assert_eq!(alias_of("qemu64").as_deref(), Some("qemu64-v1"));
        assert_eq!(alias_of("Broadwell-noTSX").as_deref(), Some("Broadwell-v2"));
        assert_eq!((alias_of("qemu64-v1"), alias_of("host"), alias_of("max")), (None, None, None));
    }
}
