//! vCPUs and their models.

qapi_struct! {
    /// Where a vCPU sits.
    pub struct CpuInstanceProperties {
        /// Its NUMA node.
        pub node_id: Option<i64>,
        /// Its socket.
        pub socket_id: Option<i64>,
        /// Its die.
        pub die_id: Option<i64>,
        /// Its core.
        pub core_id: Option<i64>,
        /// Its thread in the core.
        pub thread_id: Option<i64>,
    }
}

qapi_struct! {
    /// An entry of `query-cpus-fast`.
    pub struct CpuInfoFast {
        /// Counted from 0.
        pub cpu_index: i64,
        /// Its place in the tree of objects.
        pub qom_path: String,
        /// The thread's id on the host.
        pub thread_id: i64,
        /// Where it sits.
        pub props: Option<CpuInstanceProperties>,
        /// `x86_64`.
        pub target: String,
    }
}

qapi_struct! {
    /// An entry of `query-hotpluggable-cpus`: a place for a vCPU.
    pub struct HotpluggableCpu {
        /// The driver for `device_add`.
        pub r#type: String,
        /// How many vCPUs come with it.
        pub vcpus_count: i64,
        /// Where it would sit.
        pub props: CpuInstanceProperties,
        /// The vCPU that is there.
        pub qom_path: Option<String>,
    }
}

qapi_struct! {
    /// An entry of `query-cpu-definitions`.
    pub struct CpuDefinitionInfo {
        /// The name for `-cpu`.
        pub name: String,
        /// Can be sent to hosts of the same kind.
        pub migration_safe: Option<bool>,
        /// Never changes with the version.
        pub r#static: bool,
        /// What this host lacks for it.
        pub unavailable_features: Option<Vec<String>>,
        /// Its type in the tree of objects.
        pub typename: String,
        /// The versioned name it stands for.
        pub alias_of: Option<String>,
        /// On its way out.
        pub deprecated: bool,
    }
}

qapi_struct! {
    /// A CPU model.
    pub struct CpuModelInfo {
        /// The name for `-cpu`.
        pub name: String,
        /// Properties by their names.
        pub props: Option<serde_json::Value>,
    }
}

qapi_struct! {
    /// `query-cpu-model-expansion`.
    pub struct CpuModelExpansionInfo {
        /// The model and what it comes to.
        pub model: CpuModelInfo,
    }
}
