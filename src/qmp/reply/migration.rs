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

qapi_struct! {
    /// What a bitmap becomes at the other end.
    pub struct BitmapMigrationBitmapAliasTransform {
        /// It is kept in the image there.
        pub persistent: Option<bool>,
    }
}

qapi_struct! {
    /// A bitmap's name at the other end.
    pub struct BitmapMigrationBitmapAlias {
        /// The name here.
        pub name: String,
        /// The name there.
        pub alias: String,
        /// What it becomes.
        pub transform: Option<BitmapMigrationBitmapAliasTransform>,
    }
}

qapi_struct! {
    /// A node's name at the other end, and its bitmaps.
    pub struct BitmapMigrationNodeAlias {
        /// The name here.
        pub node_name: String,
        /// The name there.
        pub alias: String,
        /// Those of its bitmaps that go along.
        pub bitmaps: Vec<BitmapMigrationBitmapAlias>,
    }
}

qapi_struct! {
    /// How a migration would be made. Kept and told; there is no command yet that would use it, and libvirt makes
    /// checkpoints only with a monitor that knows it.
    #[derive(Default)]
    pub struct MigrationParameters {
        /// Which bitmaps go along, under which names.
        pub block_bitmap_mapping: Option<Vec<BitmapMigrationNodeAlias>>,
    }
}
