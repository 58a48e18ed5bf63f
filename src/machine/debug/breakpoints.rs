//! Where the debugger wants the guest to stop.

use std::collections::BTreeMap;

use rhea_arch::kvm::{DebugControl, MAX_WATCHES, Watch};

/// `int3`, the breakpoint instruction.
pub(super) const INT3: u8 = 0xcc;
/// Breakpoint instructions at a time: more than any person sets.
const MOST: usize = 4096;

/// A breakpoint instruction in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Planted {
    /// Where it lies.
    pub(super) physical: u64,
    /// What was there.
    pub(super) byte: u8,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Breakpoints {
    planted: BTreeMap<u64, Planted>,
    watches: Vec<Watch>,
}

impl Breakpoints {
    /// Whether there is a breakpoint instruction at this linear address.
    pub(super) fn planted_at(&self, linear: u64) -> bool {
        self.planted.contains_key(&linear)
    }

    /// False when there are too many.
    pub(super) fn plant(&mut self, linear: u64, planted: Planted) -> bool {
        if self.planted.len() >= MOST {
            return false;
        }
        self.planted.insert(linear, planted);
        true
    }

    pub(super) fn uproot(&mut self, linear: u64) -> Option<Planted> {
        self.planted.remove(&linear)
    }

    /// Takes all breakpoint instructions out; the caller puts back what was there.
    pub(super) fn uproot_all(&mut self) -> Vec<Planted> {
        std::mem::take(&mut self.planted).into_values().collect()
    }

    /// The watch with this index.
    pub(super) fn watch(&self, index: usize) -> Option<Watch> {
        self.watches.get(index).copied()
    }

    /// False when the processor cannot watch that, or no more.
    pub(super) fn add_watch(&mut self, watch: Watch) -> bool {
        if !watch.possible() || self.watches.len() >= MAX_WATCHES {
            return false;
        }
        self.watches.push(watch);
        true
    }

    /// False when there is none such.
    pub(super) fn remove_watch(&mut self, watch: Watch) -> bool {
        let found = self.watches.iter().position(|have| *have == watch);
        found.map(|index| self.watches.remove(index)).is_some()
    }

    pub(super) fn forget_watches(&mut self) {
        self.watches.clear();
    }

    /// What a vCPU is told that is to run, or to make one step.
    pub(super) fn control(&self, single_step: bool) -> DebugControl {
        DebugControl { enabled: true, single_step, watches: self.watches.clone() }
    }
}

#[cfg(test)]
mod tests {
    use rhea_arch::kvm::WatchFor;

    use super::*;

    fn watch(address: u64) -> Watch {
        Watch { address, length: 4, what: WatchFor::Write }
    }

    #[test]
    fn fifth_watch_is_refused() {
        let mut breakpoints = Breakpoints::default();
        let added: Vec<bool> = (0..5).map(|n| breakpoints.add_watch(watch(4 * n))).collect();

        assert_eq!(added, [true, true, true, true, false]);
    }

    #[test]
    fn removed_watch_makes_room() {
        let mut breakpoints = Breakpoints::default();
        for n in 0..4 {
            breakpoints.add_watch(watch(4 * n));
        }

        assert!(breakpoints.remove_watch(watch(8)));
        assert!(!breakpoints.remove_watch(watch(8)));
        assert!(breakpoints.add_watch(watch(64)));
    }
}
