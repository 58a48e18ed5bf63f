//! What the machine is made of, kept for those who ask; only hot-plug changes it.

use std::sync::Arc;

use rhea_arch::x86_64::cpu::HostCpu;
use rhea_block::BlockError;
use rhea_devices::block_stats::BlockStats;

use super::host::Host;
use crate::board::memory::RamPlan;
use crate::board::plan::{DiskKind, DrivePlan, StoragePlan, is_made_up, named_in, object_path};
use crate::cpu::ModelProperty;

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
    /// Bytes of memory of each NUMA node; none on a machine without.
    pub numa_nodes: Vec<u64>,
    /// Disks.
    pub disks: Vec<Disk>,
    /// What the vCPUs' model came to: features, version, name.
    pub cpu_model: Vec<ModelProperty>,
}

impl Facts {
    /// Disks and drives that devices show to the guest, with the counters that `host` keeps of them.
    pub(super) fn add_disks<'a>(
        &mut self,
        disks: impl Iterator<Item = (&'a str, &'a StoragePlan, DiskKind)>,
        host: &Host,
    ) {
        self.disks.extend(disks.map(|(id, storage, kind)| {
            let qdev = match kind {
                DiskKind::Virtio => format!("{}/virtio-backend", object_path(id)),
                DiskKind::Fixed | DiskKind::Removable if is_made_up(id) => object_path(id),
                DiskKind::Fixed | DiskKind::Removable => id.to_owned(),
                DiskKind::Flash => format!("/machine/{id}"),
            };
            Disk {
                id: id.to_owned(),
                drive: storage.drive.clone(),
                qdev,
                node: storage.node.clone().unwrap_or_default(),
                owns_node: !storage.drive.is_empty(),
                removable: kind == DiskKind::Removable,
                write_cache: storage.write_cache,
                stats: host.disk(id).stats,
            }
        }));
    }

    /// A drive that no device has, and is there for jobs and media nevertheless.
    pub(super) fn add_waiting(&mut self, drive: &DrivePlan, host: &Host) -> Result<(), BlockError> {
        let id = format!("{WAITING}{}", drive.id);
        if let Some(node) = &drive.node {
            host.set_node(&id, Some(Arc::new(host.graph.attach_waiting(node, drive.write_cache)?)));
        }
        self.disks.push(Disk {
            drive: drive.id.clone(),
            qdev: String::new(),
            node: drive.node.clone().unwrap_or_default(),
            owns_node: true,
            removable: true,
            write_cache: drive.write_cache,
            stats: host.disk(&id).stats,
            id,
        });
        Ok(())
    }

    /// The drive called `name`, if no device has it.
    #[must_use]
    pub fn waiting(&self, name: &str) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.drive == name && disk.is_waiting())
    }

    /// Guest memory that no object was named for.
    pub(super) fn add_memory(&mut self, ram: &RamPlan) {
        for source in &ram.sources {
            if self.memory_backends.iter().all(|known| known.id != source.id) {
                self.memory_backends.push(MemoryBackend {
                    id: source.id.clone(),
                    size: source.size,
                    merge: source.merge,
                    dump: source.dump,
                    prealloc: source.prealloc > 0,
                    share: source.share,
                });
            }
        }
    }

    /// Puts disks of `drives` first, in that order: QEMU tells of `-drive` before it tells of what only a `-device` has.
    pub(super) fn order_disks(&mut self, drives: &[DrivePlan]) {
        let place = |disk: &Disk| drives.iter().position(|drive| drive.id == disk.drive).unwrap_or(usize::MAX);
        self.disks.sort_by_key(place);
    }

    /// The disk of the device with this `id=`, or with the name made up for it.
    #[must_use]
    pub fn disk(&self, id: &str) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.id == id)
    }

    /// The same, to be changed.
    pub fn disk_mut(&mut self, id: &str) -> Option<&mut Disk> {
        self.disks.iter_mut().find(|disk| disk.id == id)
    }

    /// The disk that a client means: by the `id=` of its drive or device, or by its path.
    #[must_use]
    pub fn find_disk(&self, name: &str) -> Option<&Disk> {
        let id = named_in(name).unwrap_or(name);
        self.disks.iter().find(|disk| {
            !name.is_empty() && (disk.drive == name || (!disk.is_waiting() && (disk.id == id || disk.qdev == name)))
        })
    }

    /// The disk of the drive `name`, which has an `id=` of its own, whatever device has it.
    #[must_use]
    pub fn find_drive(&self, name: &str) -> Option<&Disk> {
        self.disks.iter().find(|disk| !name.is_empty() && disk.drive == name)
    }

    /// The disk on the block node `node`; of several, the first.
    #[must_use]
    pub fn disk_on(&self, node: &str) -> Option<&Disk> {
        let on = || self.disks.iter().filter(|disk| disk.node == node);
        // A device's writes are what counts, where a drive without one is on the same node.
        on().find(|disk| !disk.is_waiting()).or_else(|| on().next())
    }
}

/// What the names of drives that no device has begin with: no `id=` can.
const WAITING: &str = "drive ";

impl Disk {
    /// No device has it.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.qdev.is_empty()
    }

    /// As clients are told of the device that has it.
    #[must_use]
    pub fn device_path(&self) -> Option<String> {
        (!self.is_waiting()).then(|| self.qdev.clone())
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
    /// Path in the tree of objects, or `id=` of the device; empty for a drive that no device has.
    pub qdev: String,
    /// Its node in the block graph; empty without a medium.
    pub node: String,
    /// The node was made for it and goes when the medium is taken out.
    pub owns_node: bool,
    /// The guest can take the medium out.
    pub removable: bool,
    /// The guest sees a volatile write cache.
    pub write_cache: bool,
    /// Its counters.
    pub stats: Arc<BlockStats>,
}
