//! What kind of machine this is and how it is doing.

use crate::machine::Machine;
use crate::qmp::reply::machine::{
    HostMemPolicy, IoThreadInfo, KvmInfo, MachineInfo, Memdev, MemoryInfo, NameInfo, StatusInfo, TargetInfo, UuidInfo,
};
use crate::spec::ObjectSpec;

impl Machine {
    pub(in crate::machine) fn status(&self) -> StatusInfo {
        StatusInfo { running: self.state.is_running(), singlestep: false, status: self.state }
    }

    pub(in crate::machine) fn name_info(&self) -> NameInfo {
        NameInfo { name: self.facts.name.clone() }
    }

    pub(in crate::machine) fn uuid_info(&self) -> UuidInfo {
        UuidInfo { uuid: self.facts.uuid.clone() }
    }

    /// A machine runs on KVM or it does not run; for probing there may be no `/dev/kvm`.
    pub(in crate::machine) fn kvm_info(&self) -> KvmInfo {
        KvmInfo { enabled: self.facts.kvm, present: self.facts.kvm }
    }

    pub(in crate::machine) fn target_info() -> TargetInfo {
        TargetInfo { arch: "x86_64".into() }
    }

    pub(in crate::machine) fn memory_info(&self) -> MemoryInfo {
        MemoryInfo { base_memory: self.facts.memory, plugged_memory: Some(0) }
    }

    pub(in crate::machine) fn memdevs(&self) -> Vec<Memdev> {
        let describe = |backend: &super::super::facts::MemoryBackend| Memdev {
            id: Some(backend.id.clone()),
            size: backend.size,
            merge: backend.merge,
            dump: backend.dump,
            prealloc: backend.prealloc,
            share: backend.share,
            reserve: Some(true),
            host_nodes: Vec::new(),
            policy: HostMemPolicy::Default,
        };
        self.facts.memory_backends.iter().map(describe).collect()
    }

    /// `query-iothreads`.
    pub(in crate::machine) fn iothreads(&self) -> Vec<IoThreadInfo> {
        let describe = |object: &ObjectSpec| {
            let ObjectSpec::Iothread(spec) = object else { return None };
            let thread = self.host.iothreads.get(&spec.id)?;
            Some(IoThreadInfo {
                id: spec.id.clone(),
                thread_id: i64::from(thread.tid()),
                poll_max_ns: spec.poll_max_ns,
                poll_grow: spec.poll_grow,
                poll_shrink: spec.poll_shrink,
                aio_max_batch: spec.aio_max_batch,
            })
        };
        self.planner.objects().filter_map(describe).collect()
    }

    pub(in crate::machine) fn machine_types() -> Vec<MachineInfo> {
        let describe = |machine: &crate::spec::machine::MachineType| MachineInfo {
            name: machine.name.into(),
            alias: machine.alias.map(Into::into),
            is_default: (machine.alias.is_some()).then_some(true),
            cpu_max: i64::from(machine.max_cpus),
            hotpluggable_cpus: false,
            numa_mem_supported: false,
            deprecated: false,
            default_cpu_type: Some("qemu64-x86_64-cpu".into()),
            default_ram_id: Some("pc.ram".into()),
        };
        crate::spec::machine::MACHINES.iter().map(describe).collect()
    }
}
