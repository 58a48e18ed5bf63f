//! Of drives whose medium changes.

qapi_struct! {
    /// `eject`, `blockdev-open-tray`: one of the two names.
    pub struct Eject {
        /// The `id=` of a `-drive`.
        pub device: Option<String>,
        /// The `id=` of the device.
        pub id: Option<String>,
        /// Whatever the guest says.
        pub force: Option<bool>,
    }
}

qapi_struct! {
    /// `blockdev-close-tray`: one of the two names.
    pub struct CloseTray {
        /// The `id=` of a `-drive`.
        pub device: Option<String>,
        /// The `id=` of the device.
        pub id: Option<String>,
    }
}

qapi_struct! {
    /// `blockdev-insert-medium`.
    pub struct InsertMedium {
        /// The `id=` of the device.
        pub id: String,
        /// The node.
        pub node_name: String,
    }
}

qapi_enum! {
    /// Whether another medium can be written.
    pub enum BlockdevChangeReadOnlyMode {
        /// As the one before it: a CD drive's cannot.
        Retain = "retain",
        /// It cannot.
        ReadOnly = "read-only",
        /// It can.
        ReadWrite = "read-write",
    }
}

qapi_struct! {
    /// `blockdev-change-medium`: one of the two names.
    pub struct ChangeMedium {
        /// The `id=` of a `-drive`.
        pub device: Option<String>,
        /// The `id=` of the device.
        pub id: Option<String>,
        /// The file.
        pub filename: String,
        /// Its format; probed without.
        pub format: Option<String>,
        /// Whatever the guest says.
        pub force: Option<bool>,
        /// Whether it can be written; `retain` without.
        pub read_only_mode: Option<BlockdevChangeReadOnlyMode>,
    }
}
