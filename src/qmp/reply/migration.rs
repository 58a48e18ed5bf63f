//! Migration, of which there is only the refusal and the wish for events.

qapi_struct! {
    /// `query-migrate` when there has been none.
    pub struct MigrationInfo {}
}

qapi_enum! {
    /// What migration can do.
    pub enum MigrationCapability {
        /// Sends events when the state of a migration changes; always done.
        Events = "events",
    }
}

qapi_struct! {
    /// A capability and whether it is on.
    pub struct MigrationCapabilityStatus {
        /// The capability.
        pub capability: MigrationCapability,
        /// On.
        pub state: bool,
    }
}
