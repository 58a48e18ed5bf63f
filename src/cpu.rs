//! The machine's vCPUs as the CPU model and the topology have them.

use rhea_arch::kvm::{CpuidTable, Host, HostError, Vcpu, VcpuError, Vm};
use thiserror::Error;

use crate::machine::facts::CpuPlace;
use crate::spec::VmSpec;

/// The vCPUs cannot be had as asked for.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each is the error of the step it is named after")]
pub enum CpuError {
    #[error("cannot ask KVM for processor features")]
    Host(#[from] HostError),
    #[error("cannot make a vCPU")]
    Vcpu(#[from] VcpuError),
}

/// The model, resolved against the host.
pub struct Cpus {
    model: String,
    cpus: u32,
    supported: CpuidTable,
}

impl Cpus {
    /// Resolves the model.
    ///
    /// # Errors
    /// There is no such model or feature, or the host lacks one that is enforced.
    pub fn new(spec: &VmSpec, host: &Host) -> Result<Self, CpuError> {
        let model = spec.cpu.as_ref().map_or("qemu64", |cpu| &cpu.model).to_owned();
        Ok(Self { model, cpus: spec.smp.cpus, supported: host.supported_cpuid()? })
    }

    /// QOM type.
    #[must_use]
    pub fn type_name(&self) -> String {
        format!("{}-x86_64-cpu", self.model)
    }

    /// Places for vCPUs.
    #[must_use]
    pub fn places(&self) -> Vec<CpuPlace> {
        (0..self.cpus)
            .map(|n| CpuPlace { socket: n, die: None, core: 0, thread: 0, node: None, present: true })
            .collect()
    }

    /// APIC IDs.
    #[must_use]
    pub fn processors(&self) -> Vec<(u32, bool)> {
        (0..self.cpus).map(|n| (n, true)).collect()
    }

    /// Makes them.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn create(&self, vm: &Vm) -> Result<Vec<Vcpu>, CpuError> {
        (0..self.cpus)
            .map(|i| {
                let mut v = vm.create_vcpu(i)?;
                let mut t = self.supported.clone();
                t.set_bits(1, 0, |e| {
                    e.ebx = (e.ebx & 0xffff) | (i << 24) | (self.cpus << 16);
                    e.ecx |= 1 << 31;
                });
                for s in 0..2 {
                    t.set_bits(0xb, s, |e| e.edx = i);
                }
                v.set_cpuid(&t)?;
                Ok(v)
            })
            .collect()
    }
}

/// `query-cpu-definitions`.
#[must_use]
pub fn definitions() -> Vec<crate::qmp::reply::cpu::CpuDefinitionInfo> {
    Vec::new()
}
