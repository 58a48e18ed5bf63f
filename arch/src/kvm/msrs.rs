//! Reading and writing MSRs in numbers, where some of them may not exist.

use kvm_bindings::{KVM_MAX_MSR_ENTRIES, Msrs, kvm_msr_entry};

/// One model-specific register and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsrValue {
    /// Its index, as in ECX of RDMSR.
    pub index: u32,
    /// Its content.
    pub value: u64,
}

/// Reads those of `wanted` that exist, in their order.
///
/// The kernel stops at the first register that it does not know and says how many came before; that one is left out
/// and reading goes on behind it: O(wanted + unknown ioctls).
pub(super) fn read_some(
    wanted: &[u32],
    mut get: impl FnMut(&mut Msrs) -> Result<usize, kvm_ioctls::Error>,
) -> Vec<MsrValue> {
    let mut found = Vec::with_capacity(wanted.len());
    let mut rest = wanted;
    while !rest.is_empty() {
        let (chunk, _) = rest.split_at(rest.len().min(KVM_MAX_MSR_ENTRIES));
        let asked: Vec<_> = chunk.iter().map(|&index| kvm_msr_entry { index, ..Default::default() }).collect();
        let Ok(mut msrs) = Msrs::from_entries(&asked) else { break };
        let read = get(&mut msrs).unwrap_or(0).min(chunk.len());
        found.extend(msrs.as_slice().iter().take(read).map(|e| MsrValue { index: e.index, value: e.data }));
        // Behind what was read, and behind the register that ended it.
        let done = if read < chunk.len() { read + 1 } else { read };
        rest = rest.get(done..).unwrap_or(&[]);
    }
    found
}

/// Writes `values` in order; returns those that the kernel refused.
pub(super) fn write_all(
    values: &[MsrValue],
    mut set: impl FnMut(&Msrs) -> Result<usize, kvm_ioctls::Error>,
) -> Vec<MsrValue> {
    let mut refused = Vec::new();
    let mut rest = values;
    while !rest.is_empty() {
        let (chunk, _) = rest.split_at(rest.len().min(KVM_MAX_MSR_ENTRIES));
        let entries: Vec<_> =
            chunk.iter().map(|m| kvm_msr_entry { index: m.index, data: m.value, ..Default::default() }).collect();
        let Ok(msrs) = Msrs::from_entries(&entries) else { break };
        let written = set(&msrs).unwrap_or(0).min(chunk.len());
        let mut done = written;
        if let Some(bad) = chunk.get(written) {
            refused.push(*bad);
            done += 1;
        }
        rest = rest.get(done..).unwrap_or(&[]);
    }
    refused
}

#[cfg(test)]
mod tests;
