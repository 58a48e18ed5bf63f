//! What does not change while the machine lives, kept for those who ask.

use std::sync::Arc;

use rhea_arch::x86_64::cpu::HostCpu;
use rhea_devices::block_stats::BlockStats;

/// Facts for `query-…` and `info …`.
#[derive(Debug, Default)]
pub struct Facts {
    /// `-name guest=`.
    pub name: Option<String>,
    /// `-uuid`, or all zeroes.
    pub uuid: String,
    /// Name of the machine type.
    pub machine: String,
    /// KVM is there and used.
    pub kvm: bool,
    /// KVM interprets the guest's instructions, without the processor's help.
    pub software_kvm: bool,
    /// What the host's processor and KVM can give; nothing where there is no KVM.
    pub host_cpu: Option<HostCpu>,
    /// Bytes of guest memory.
    pub memory: u64,
    /// `memory-backend-…` objects.
    pub memory_backends: Vec<MemoryBackend>,
    /// QOM type of the vCPUs (`qemu64-x86_64-cpu`).
    pub cpu_type: String,
    /// Places for vCPUs, those filled from the start first.
    pub cpus: Vec<CpuPlace>,
    /// Disks.
    pub disks: Vec<Disk>,
    /// Devices that the user named or plugged: id and type.
    pub peripherals: Vec<(String, String)>,
}

impl Facts {
    /// The disk of the device with this `id=`, or with the name made up for it.
    #[must_use]
    pub fn disk(&self, id: &str) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.id == id)
    }

    /// The disk that a client means: by the `id=` of its drive or device, or by its path.
    #[must_use]
    pub fn find_disk(&self, name: &str) -> Option<&Disk> {
        let id = name.strip_prefix("/machine/peripheral/").unwrap_or(name);
        self.disks.iter().find(|disk| !name.is_empty() && (disk.drive == name || disk.id == id || disk.qdev == name))
    }
}

/// A memory backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryBackend {
    /// `id=`.
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// Pages may be merged.
    pub merge: bool,
    /// Part of core dumps.
    pub dump: bool,
    /// Allocated from the start.
    pub prealloc: bool,
    /// Shared with other processes.
    pub share: bool,
}

/// A place for a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuPlace {
    /// Socket number.
    pub socket: u32,
    /// Die number within the socket.
    pub die: Option<u32>,
    /// Core number within the die.
    pub core: u32,
    /// Thread number within the core.
    pub thread: u32,
    /// NUMA node.
    pub node: Option<u32>,
    /// A vCPU is there.
    pub present: bool,
}

/// A disk as the guest has it.
#[derive(Debug)]
pub struct Disk {
    /// `id=` of the device, or one made up.
    pub id: String,
    /// `id=` of the `-drive`, or empty.
    pub drive: String,
    /// Path in the tree of objects, or `id=` of the device.
    pub qdev: String,
    /// Its node in the block graph.
    pub node: String,
    /// The guest can take the medium out.
    pub removable: bool,
    /// The guest sees a volatile write cache.
    pub write_cache: bool,
    /// Its counters.
    pub stats: Arc<BlockStats>,
}
