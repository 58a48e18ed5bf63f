//! Of the NBD server and what it shows.

use super::bitmaps::DirtyBitmapOrStr;

qapi_struct! {
    /// Where a server listens on the network.
    pub struct InetAddress {
        /// Name or address of this machine.
        pub host: String,
        /// The port.
        pub port: String,
    }
}

qapi_struct! {
    /// Where a server listens in the file system.
    pub struct UnixAddress {
        /// The socket's path.
        pub path: String,
    }
}

qapi_wrapped! {
    /// Where a server listens.
    pub enum SocketAddressLegacy of SocketAddressType {
        /// On the network.
        Inet(InetAddress) = "inet",
        /// In the file system.
        Unix(UnixAddress) = "unix",
    }
}

qapi_struct! {
    /// `nbd-server-start`.
    pub struct NbdServerStart {
        /// Where it listens.
        pub addr: SocketAddressLegacy,
        /// Clients at a time; 0 is as many as come, and so is nothing.
        pub max_connections: Option<u32>,
    }
}

qapi_enum! {
    /// How a node is shown to others.
    pub enum BlockExportType {
        /// By the machine's NBD server.
        Nbd = "nbd",
    }
}

/// `block-export-add`: boxed, because it is larger than other arguments.
pub type BlockExportAdd = Box<ExportAdd>;

qapi_struct! {
    /// `block-export-add`.
    pub struct ExportAdd {
        /// How it is shown.
        pub r#type: BlockExportType,
        /// The export's id.
        pub id: String,
        /// The node.
        pub node_name: String,
        /// The name that clients ask for; the node's without.
        pub name: Option<String>,
        /// For people who list exports.
        pub description: Option<String>,
        /// Clients may write.
        pub writable: Option<bool>,
        /// Every write is durable before it is answered.
        pub writethrough: Option<bool>,
        /// Bitmaps, shown as `qemu:dirty-bitmap:NAME`.
        pub bitmaps: Option<Vec<DirtyBitmapOrStr>>,
        /// `qemu:allocation-depth` is shown.
        pub allocation_depth: Option<bool>,
    }
}

/// `nbd-server-add`: boxed, because it is larger than other arguments.
pub type NbdServerAdd = Box<NbdAdd>;

qapi_struct! {
    /// `nbd-server-add`.
    pub struct NbdAdd {
        /// The device or node.
        pub device: String,
        /// The name that clients ask for, and the export's id; `device` without.
        pub name: Option<String>,
        /// For people who list exports.
        pub description: Option<String>,
        /// Clients may write, if the node can be written.
        pub writable: Option<bool>,
        /// A bitmap, shown as `qemu:dirty-bitmap:NAME`.
        pub bitmap: Option<String>,
    }
}

qapi_struct! {
    /// `nbd-server-remove`.
    pub struct NbdServerRemove {
        /// The export's name.
        pub name: String,
        /// When it goes; `safe` without.
        pub mode: Option<BlockExportRemoveMode>,
    }
}

qapi_enum! {
    /// When an export goes.
    pub enum BlockExportRemoveMode {
        /// Only if nobody uses it.
        Safe = "safe",
        /// At once; its clients are hung up on.
        Hard = "hard",
    }
}

qapi_struct! {
    /// `block-export-del`.
    pub struct BlockExportDel {
        /// The export's id.
        pub id: String,
        /// When it goes; `safe` without.
        pub mode: Option<BlockExportRemoveMode>,
    }
}
