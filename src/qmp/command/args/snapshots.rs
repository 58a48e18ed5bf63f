//! Of snapshots, in overlays and in images.

qapi_struct! {
    /// `blockdev-snapshot`.
    pub struct BlockdevSnapshot {
        /// The node that is only read from then on.
        pub node: String,
        /// The node that takes the writes.
        pub overlay: String,
    }
}

qapi_enum! {
    /// How an overlay comes to be.
    pub enum NewImageMode {
        /// Its file is an image already.
        Existing = "existing",
        /// It is made.
        AbsolutePaths = "absolute-paths",
    }
}

qapi_struct! {
    /// `blockdev-snapshot-sync`: one of the two names of what is beneath.
    pub struct BlockdevSnapshotSync {
        /// The `id=` of a `-drive` or device.
        pub device: Option<String>,
        /// The node.
        pub node_name: Option<String>,
        /// The overlay's file.
        pub snapshot_file: String,
        /// The overlay's name; one is made up without.
        pub snapshot_node_name: Option<String>,
        /// Its format; `qcow2` without.
        pub format: Option<String>,
        /// How it comes to be; made without.
        pub mode: Option<NewImageMode>,
    }
}

qapi_struct! {
    /// `blockdev-snapshot-internal-sync`.
    pub struct BlockdevSnapshotInternal {
        /// The `id=` of a `-drive`, or the node.
        pub device: String,
        /// The new snapshot's name.
        pub name: String,
    }
}

qapi_struct! {
    /// `blockdev-snapshot-delete-internal-sync`: a number, a name, or both.
    pub struct BlockdevSnapshotDeleteInternalSync {
        /// The `id=` of a `-drive`, or the node.
        pub device: String,
        /// The snapshot's number.
        pub id: Option<String>,
        /// Its name.
        pub name: Option<String>,
    }
}
