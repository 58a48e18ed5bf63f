//! Where guest memory comes from: the objects that the command line names, one for all or one for each NUMA node.

use rhea_arch::x86_64::layout::MemoryLayout;

use super::PlanError;
use crate::board::memory::{Backing, RamPlan, RamSource};
use crate::spec::VmSpec;
use crate::spec::object::{MemoryCommon, ObjectSpec};

/// What QEMU calls memory that no object was named for.
const DEFAULT_ID: &str = "pc.ram";

/// Guest memory as asked for.
pub(super) fn ram(spec: &VmSpec, layout: &MemoryLayout) -> Result<RamPlan, PlanError> {
    let nodes: Vec<&str> = spec.numa.nodes.iter().filter_map(|node| node.memdev.as_deref()).collect();
    let sources = match &spec.machine.memory_backend {
        Some(id) => vec![whole(backend(spec, id)?, layout.ram())?],
        None if !nodes.is_empty() => nodes.into_iter().map(|id| backend(spec, id)).collect::<Result<_, _>>()?,
        None => vec![RamSource {
            id: DEFAULT_ID.into(),
            size: layout.ram(),
            backing: Backing::Anonymous,
            share: false,
            prealloc: 0,
            dump: spec.machine.dump_guest_core,
            merge: spec.machine.mem_merge,
        }],
    };
    let sizes: Vec<u64> = sources.iter().map(|source| source.size).collect();
    let is_used = |id: &str| sources.iter().any(|source| source.id == id);
    let spare = spec.objects.iter().filter(|object| !is_used(object.id())).filter_map(of_object).collect();
    Ok(RamPlan { shares: layout.deal(&sizes), sources, spare, lock: spec.overcommit.mem_lock })
}

/// One object for all memory has to have its size.
fn whole(source: RamSource, asked: u64) -> Result<RamSource, PlanError> {
    if source.size == asked {
        Ok(source)
    } else {
        Err(PlanError::MemorySize { id: source.id, backend: source.size, asked })
    }
}

/// The object `id` as a source of memory.
fn backend(spec: &VmSpec, id: &str) -> Result<RamSource, PlanError> {
    let object = spec.objects.iter().find(|object| object.id() == id);
    object.and_then(of_object).ok_or_else(|| PlanError::NoMemoryBackend(id.to_owned()))
}

/// An object as a source of memory; nothing for one that is no memory.
fn of_object(object: &ObjectSpec) -> Option<RamSource> {
    match object {
        ObjectSpec::MemoryRam(ram) => Some(source(&ram.common, Backing::Anonymous, ram.share)),
        ObjectSpec::MemoryMemfd(memfd) => {
            let size = memfd.hugetlbsize.map_or(0, |size| size.0);
            let backing = Backing::Memfd { hugetlb: memfd.hugetlb.then_some(size) };
            Some(source(&memfd.common, backing, memfd.share))
        }
        ObjectSpec::MemoryFile(file) => Some(source(&file.common, Backing::File(file.mem_path.clone()), file.share)),
        _ => None,
    }
}

fn source(common: &MemoryCommon, backing: Backing, share: bool) -> RamSource {
    RamSource {
        id: common.id.clone(),
        size: common.size.0,
        backing,
        share,
        prealloc: if common.prealloc { common.prealloc_threads } else { 0 },
        dump: common.dump,
        merge: common.merge,
    }
}
