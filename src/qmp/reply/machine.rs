//! The machine as a whole.

use crate::qmp::state::RunState;

qapi_struct! {
    /// `query-status`.
    pub struct StatusInfo {
        /// The vCPUs run.
        pub running: bool,
        /// Always false here: there is no single-stepping.
        pub singlestep: bool,
        /// Why they do or do not.
        pub status: RunState,
    }
}

impl From<RunState> for StatusInfo {
    fn from(status: RunState) -> Self {
        Self { running: status.is_running(), singlestep: false, status }
    }
}

qapi_struct! {
    /// `query-name`.
    pub struct NameInfo {
        /// The `guest=` of `-name`, if given.
        pub name: Option<String>,
    }
}

qapi_struct! {
    /// `query-uuid`.
    pub struct UuidInfo {
        /// In the usual form; zeroes without `-uuid`.
        pub uuid: String = "UUID",
    }
}

qapi_struct! {
    /// `query-kvm`.
    pub struct KvmInfo {
        /// The machine uses KVM.
        pub enabled: bool,
        /// The host has it.
        pub present: bool,
    }
}

qapi_struct! {
    /// `query-target`.
    pub struct TargetInfo {
        /// `x86_64`.
        pub arch: String,
    }
}

qapi_struct! {
    /// An entry of `query-machines`.
    pub struct MachineInfo {
        /// The versioned name.
        pub name: String,
        /// A shorter name for it.
        pub alias: Option<String>,
        /// Taken when `-machine` names no type.
        pub is_default: Option<bool>,
        /// The most vCPUs.
        pub cpu_max: i64,
        /// vCPUs can be added to a running guest.
        pub hotpluggable_cpus: bool,
        /// `-numa` can be used.
        pub numa_mem_supported: bool,
        /// On its way out.
        pub deprecated: bool,
        /// The type of vCPU without `-cpu`.
        pub default_cpu_type: Option<String>,
        /// The `id=` under which the guest's memory goes without `memory-backend=`.
        pub default_ram_id: Option<String>,
    }
}

qapi_struct! {
    /// `query-memory-size-summary`, in bytes.
    pub struct MemoryInfo {
        /// What the guest started with.
        pub base_memory: u64,
        /// What was added since.
        pub plugged_memory: Option<u64>,
    }
}

qapi_struct! {
    /// `query-current-machine`.
    pub struct CurrentMachineParams {
        /// A guest that sleeps can be woken by a command.
        pub wakeup_suspend_support: bool,
    }
}

qapi_struct! {
    /// `query-balloon`.
    pub struct BalloonInfo {
        /// Bytes that the guest has.
        pub actual: i64,
    }
}

qapi_enum! {
    /// How memory is spread over the host's NUMA nodes.
    pub enum HostMemPolicy {
        /// The host decides.
        Default = "default",
        /// Some nodes first.
        Preferred = "preferred",
        /// Some nodes only.
        Bind = "bind",
        /// Over all of some.
        Interleave = "interleave",
    }
}

qapi_struct! {
    /// An entry of `query-memdev`.
    pub struct Memdev {
        /// The `id=`.
        pub id: Option<String>,
        /// Bytes.
        pub size: u64,
        /// The host may merge equal pages.
        pub merge: bool,
        /// In core dumps.
        pub dump: bool,
        /// Allocated at start.
        pub prealloc: bool,
        /// Other processes may map it.
        pub share: bool,
        /// The host's swap space is reserved for it.
        pub reserve: Option<bool>,
        /// The host's NUMA nodes.
        pub host_nodes: Vec<u16>,
        /// How they are used.
        pub policy: HostMemPolicy,
    }
}

qapi_struct! {
    /// An entry of `query-iothreads`.
    pub struct IoThreadInfo {
        /// The `id=`.
        pub id: String,
        /// The thread's id on the host.
        pub thread_id: i64,
        /// Longest busy wait, in nanoseconds; 0 is none.
        pub poll_max_ns: i64,
        /// How that grows.
        pub poll_grow: i64,
        /// How it shrinks.
        pub poll_shrink: i64,
        /// The most requests in one submission; 0 is no limit of its own.
        pub aio_max_batch: i64,
    }
}
