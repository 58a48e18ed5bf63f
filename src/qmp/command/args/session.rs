//! Of the connection itself: capabilities, descriptors, lines for the human monitor.

qapi_enum! {
    /// What a client may ask for in `qmp_capabilities`. Out-of-band commands are not offered.
    pub enum QmpCapability {
        /// Commands that overtake others.
        Oob = "oob",
    }
}

qapi_struct! {
    /// `qmp_capabilities`.
    pub struct QmpCapabilities {
        /// What to switch on; only what the greeting offered is accepted.
        pub enable: Option<Vec<QmpCapability>>,
    }
}

qapi_struct! {
    /// `query-command-line-options`.
    pub struct QueryCommandLineOptions {
        /// Only this one.
        pub option: Option<String>,
    }
}

qapi_struct! {
    /// `getfd`, `closefd`.
    pub struct FdName {
        /// The name; it must not begin with a digit.
        pub fdname: String,
    }
}

qapi_struct! {
    /// `add-fd`.
    pub struct AddFd {
        /// The set; a new one without.
        pub fdset_id: Option<i64>,
        /// Given back by `query-fdsets`.
        pub opaque: Option<String>,
    }
}

qapi_struct! {
    /// `remove-fd`.
    pub struct RemoveFd {
        /// The set.
        pub fdset_id: i64,
        /// The descriptor; all of the set without.
        pub fd: Option<i64>,
    }
}

qapi_struct! {
    /// `human-monitor-command`.
    pub struct HumanMonitorCommand {
        /// The line.
        pub command_line: String,
        /// The vCPU that `info registers` and the like mean.
        pub cpu_index: Option<i64>,
    }
}
