//! `-smp`: how many vCPUs, and how they sit on sockets.

use serde::{Deserialize, Serialize};

use super::error::SpecError;

spec_struct! {
    /// `-smp` as written.
    pub struct SmpOptions as "SMPConfiguration" {
        /// vCPUs at start.
        pub cpus: Option<u32>,
        /// Sockets of the board.
        pub sockets: Option<u32>,
        /// Dies of a socket.
        pub dies: Option<u32>,
        /// Clusters of a die; only 1 on a PC.
        pub clusters: Option<u32>,
        /// Cores of a die.
        pub cores: Option<u32>,
        /// Threads of a core.
        pub threads: Option<u32>,
        /// Most vCPUs that there can ever be.
        pub maxcpus: Option<u32>,
    }
}

/// The topology that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SmpSpec {
    /// vCPUs at start, at least 1.
    pub cpus: u32,
    /// Most vCPUs: the product of the following, at least `cpus`.
    pub maxcpus: u32,
    /// Sockets of the board.
    pub sockets: u32,
    /// Dies of a socket.
    pub dies: u32,
    /// Cores of a die.
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
}

impl Default for SmpSpec {
    fn default() -> Self {
        Self { cpus: 1, maxcpus: 1, sockets: 1, dies: 1, cores: 1, threads: 1 }
    }
}

impl SmpOptions {
    /// Computes what is not given as QEMU does since 6.2: cores first, then sockets, then threads.
    ///
    /// # Errors
    /// A number is zero, the product is not `maxcpus`, or there are more vCPUs than `machine` has places.
    pub fn resolve(&self, machine: &str, most: u32) -> Result<SmpSpec, SpecError> {
        self.check()?;
        let given = self.maxcpus.or(self.cpus);
        let dies = u64::from(self.dies.unwrap_or(1));
        let wide = |n: Option<u32>| n.map(u64::from);
        let (sockets, cores, threads) = match (given, wide(self.sockets), wide(self.cores), wide(self.threads)) {
            (None, sockets, cores, threads) => (sockets.unwrap_or(1), cores.unwrap_or(1), threads.unwrap_or(1)),
            (Some(all), sockets, None, threads) => {
                let (sockets, threads) = (sockets.unwrap_or(1), threads.unwrap_or(1));
                (sockets, share(all, [sockets, dies, threads]), threads)
            }
            (Some(all), None, Some(cores), threads) => {
                let threads = threads.unwrap_or(1);
                (share(all, [dies, cores, threads]), cores, threads)
            }
            (Some(all), Some(sockets), Some(cores), threads) => {
                (sockets, cores, threads.unwrap_or_else(|| share(all, [sockets, dies, cores])))
            }
        };
        let product = [sockets, dies, cores, threads].into_iter().fold(1, u64::saturating_mul);
        let maxcpus = given.map_or(product, u64::from);
        let cpus = wide(self.cpus).unwrap_or(maxcpus);
        let hierarchy = format!("sockets ({sockets}) * dies ({dies}) * cores ({cores}) * threads ({threads})");
        if product != maxcpus {
            return Err(SpecError::new(format!(
                "Invalid CPU topology: product of the hierarchy must match maxcpus: {hierarchy} != maxcpus ({maxcpus})"
            )));
        }
        if maxcpus < cpus {
            return Err(SpecError::new(format!(
                "Invalid CPU topology: maxcpus must be equal to or greater than smp: \
                 {hierarchy} == maxcpus ({maxcpus}) < smp_cpus ({cpus})"
            )));
        }
        if maxcpus > u64::from(most) {
            return Err(SpecError::new(format!(
                "Invalid SMP CPUs {maxcpus}. The max CPUs supported by machine '{machine}' is {most}"
            )));
        }
        // Each number divides maxcpus, which `most` bounds.
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(SmpSpec {
            cpus: narrow(cpus),
            maxcpus: narrow(maxcpus),
            sockets: narrow(sockets),
            dies: narrow(dies),
            cores: narrow(cores),
            threads: narrow(threads),
        })
    }

    fn check(&self) -> Result<(), SpecError> {
        let all = [self.cpus, self.sockets, self.dies, self.clusters, self.cores, self.threads, self.maxcpus];
        if all.contains(&Some(0)) {
            return Err(SpecError::new("Invalid CPU topology: CPU topology parameters must be greater than zero"));
        }
        match self.clusters {
            None | Some(1) => Ok(()),
            Some(_) => Err(SpecError::new("clusters not supported by this machine's CPU topology; use dies or cores")),
        }
    }
}

/// What of `all` falls to one of the places that `taken` makes; no number in `taken` is zero.
fn share(all: u32, taken: [u64; 3]) -> u64 {
    u64::from(all) / taken.into_iter().fold(1, u64::saturating_mul).max(1)
}
