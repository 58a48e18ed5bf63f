//! Sockets, dies, cores and threads, and the APIC ids that tell them apart.
//!
//! An APIC id is a bit field, from the top: socket, die, core, thread. Each field is as wide as its count needs, so ids
//! have holes where a count is not a power of two (SDM volume 3, 9.9.5; APM volume 3, E.5).

use thiserror::Error;

/// A topology that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TopologyError {
    /// A count of zero.
    #[error("a machine needs at least one socket, die, core and thread")]
    Zero,
    /// An id that APICs have no bits for.
    #[error(
        "{sockets} sockets, {dies} dies, {cores} cores and {threads} threads need APIC ids above {limit:#x}: use fewer"
    )]
    TooWide {
        /// Sockets.
        sockets: u32,
        /// Dies in each.
        dies: u32,
        /// Cores in each.
        cores: u32,
        /// Threads in each.
        threads: u32,
        /// The highest id that is supported.
        limit: u32,
    },
}

/// How the processors of a machine are grouped. Processors are counted with the threads fastest, then cores, dies,
/// sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    sockets: u32,
    dies: u32,
    cores: u32,
    threads: u32,
}

/// The place of one processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Socket.
    pub socket: u32,
    /// Die in the socket.
    pub die: u32,
    /// Core in the die.
    pub core: u32,
    /// Thread in the core.
    pub thread: u32,
}

/// The highest APIC id: KVM's `KVM_MAX_VCPU_IDS` of 4096 is the lowest limit of those that matter.
pub const MAX_APIC_ID: u32 = 4095;

impl Topology {
    /// Counts of sockets, dies in each, cores in each, threads in each.
    ///
    /// # Errors
    /// A count of zero, or APIC ids above [`MAX_APIC_ID`].
    pub fn new(sockets: u32, dies: u32, cores: u32, threads: u32) -> Result<Self, TopologyError> {
        if [sockets, dies, cores, threads].contains(&0) {
            return Err(TopologyError::Zero);
        }
        let this = Self { sockets, dies, cores, threads };
        let too_wide = TopologyError::TooWide { sockets, dies, cores, threads, limit: MAX_APIC_ID };
        let bits = [sockets, dies, cores, threads].map(width).iter().sum::<u32>();
        if bits > MAX_APIC_ID.count_ones() + 1 {
            return Err(too_wide);
        }
        let last = Place { socket: sockets - 1, die: dies - 1, core: cores - 1, thread: threads - 1 };
        if this.id_of(last) > MAX_APIC_ID { Err(too_wide) } else { Ok(this) }
    }

    /// Processors that there can be.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.sockets * self.per_socket()
    }

    /// Processors in a socket.
    #[must_use]
    pub fn per_socket(&self) -> u32 {
        self.dies * self.per_die()
    }

    /// Processors on a die.
    #[must_use]
    pub fn per_die(&self) -> u32 {
        self.cores * self.threads
    }

    /// Sockets.
    #[must_use]
    pub fn sockets(&self) -> u32 {
        self.sockets
    }

    /// Dies in a socket.
    #[must_use]
    pub fn dies(&self) -> u32 {
        self.dies
    }

    /// Cores on a die.
    #[must_use]
    pub fn cores(&self) -> u32 {
        self.cores
    }

    /// Threads of a core.
    #[must_use]
    pub fn threads(&self) -> u32 {
        self.threads
    }

    /// Where processor `index` is; indices past the last go on in sockets that do not exist.
    #[must_use]
    pub fn place(&self, index: u32) -> Place {
        Place {
            thread: index % self.threads,
            core: index / self.threads % self.cores,
            die: index / self.per_die() % self.dies,
            socket: index / self.per_socket(),
        }
    }

    /// The APIC id of processor `index`, which is also its x2APIC id and its vCPU id.
    #[must_use]
    pub fn apic_id(&self, index: u32) -> u32 {
        self.id_of(self.place(index))
    }

    fn id_of(&self, place: Place) -> u32 {
        (place.socket << self.socket_shift())
            | (place.die << self.die_shift())
            | (place.core << self.core_shift())
            | place.thread
    }

    /// Bits below the core field: the thread field.
    #[must_use]
    pub fn core_shift(&self) -> u32 {
        width(self.threads)
    }

    /// Bits below the die field.
    #[must_use]
    pub fn die_shift(&self) -> u32 {
        self.core_shift() + width(self.cores)
    }

    /// Bits below the socket field.
    #[must_use]
    pub fn socket_shift(&self) -> u32 {
        self.die_shift() + width(self.dies)
    }
}

/// Bits that number `count` things.
fn width(count: u32) -> u32 {
    count.saturating_sub(1).checked_ilog2().map_or(0, |highest| highest + 1)
}

#[cfg(test)]
mod tests;
