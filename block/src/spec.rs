//! What a user can ask for of a disk: the arguments of `blockdev-add` and `-blockdev`, one type for both.
//!
//! Names and meaning are those of QEMU's QMP reference ("Block device definitions", `BlockdevOptions`). Unknown names
//! are refused. The command line gives every value as text, so numbers and flags are taken as text too.

use serde::{Deserialize, Serialize};

use crate::format;

mod nbd;
mod overlap;
mod text;

pub use nbd::SocketAddress;
pub use overlap::{OverlapChecks, OverlapFlags, OverlapMode};
pub use text::{Backing, FileRef, NodeRef, parse_size};

/// `discard`: what happens to discards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discard {
    /// They succeed and do nothing.
    #[default]
    #[serde(alias = "off")]
    Ignore,
    /// They reach the host.
    #[serde(alias = "on")]
    Unmap,
}

/// `detect-zeroes`: whether writes of zeroes become write-zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DetectZeroes {
    /// They stay writes.
    #[default]
    Off,
    /// They become write-zeroes that keep space.
    On,
    /// They become write-zeroes that may free space; needs `discard=unmap`.
    Unmap,
}

/// `aio`: who moves the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aio {
    /// Worker threads.
    Threads,
    /// Kernel asynchronous I/O for direct I/O; io_uring does its work here.
    Native,
    /// io_uring.
    IoUring,
}

/// `locking`: whether other programs are told through byte-range locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Locking {
    /// Where the file system can.
    #[default]
    Auto,
    /// Or fail.
    On,
    /// Not at all.
    Off,
}

/// `cache`: how the host caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Cache {
    /// Bypass the host's page cache.
    #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
    pub direct: Option<bool>,
    /// Ignore flushes.
    #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
    pub no_flush: Option<bool>,
}

/// Makes one struct per driver with the fields that every driver has.
macro_rules! driver {
    ($(#[$doc:meta])* $name:ident { $($(#[$attr:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        pub struct $name {
            /// The node's name.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub node_name: Option<String>,
            /// Refuse writes.
            #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
            pub read_only: Option<bool>,
            /// Fall back to refusing writes where the host refuses them.
            #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
            pub auto_read_only: Option<bool>,
            /// Let others write at the same time.
            #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
            pub force_share: Option<bool>,
            /// What happens to discards.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub discard: Option<Discard>,
            /// Whether writes of zeroes become write-zeroes.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub detect_zeroes: Option<DetectZeroes>,
            /// How the host caches.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub cache: Option<Cache>,
            $($(#[$attr])* pub $field: $ty,)*
        }
        impl $name {
            fn common(&self) -> Common<'_> {
                Common {
                    node_name: self.node_name.as_deref(),
                    read_only: self.read_only,
                    auto_read_only: self.auto_read_only,
                    force_share: self.force_share.unwrap_or(false),
                    discard: self.discard,
                    detect_zeroes: self.detect_zeroes.unwrap_or_default(),
                    cache: self.cache.unwrap_or_default(),
                }
            }
        }
    };
}

/// The fields that every driver has, resolved.
#[derive(Debug, Clone, Copy)]
pub struct Common<'a> {
    /// The node's name.
    pub node_name: Option<&'a str>,
    /// Refuse writes; not said means what the parent says, or writable.
    pub read_only: Option<bool>,
    /// Fall back to refusing writes.
    pub auto_read_only: Option<bool>,
    /// Let others write at the same time.
    pub force_share: bool,
    /// What happens to discards; not said means what the parent says, or `ignore`.
    pub discard: Option<Discard>,
    /// Whether writes of zeroes become write-zeroes.
    pub detect_zeroes: DetectZeroes,
    /// How the host caches.
    pub cache: Cache,
}

driver! {
    /// Drivers `file` and `host_device`.
    File {
        /// Path of the file or device.
        filename: String,
        /// Who moves the bytes; not said means io_uring where there is one, else threads.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        aio: Option<Aio>,
        /// Whether other programs are told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        locking: Option<Locking>,
    }
}

driver! {
    /// Driver `raw`.
    Raw {
        /// The node beneath.
        file: FileRef,
        /// First byte of the disk in it.
        #[serde(default, deserialize_with = "text::size", skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
        /// Length of the disk in bytes.
        #[serde(default, deserialize_with = "text::size", skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
    }
}

/// `encrypt` of qcow2: what the image is encrypted with, and the secret that opens it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Encrypt {
    /// What it must be; not said means what the header says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<EncryptFormat>,
    /// Name of the secret object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_secret: Option<String>,
}

/// How a qcow2 image is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the formats' names say what they are")]
pub enum EncryptFormat {
    Aes,
    Luks,
}

/// How a tool looks at an image; no part of the text that users write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Look {
    /// Metadata only: an encrypted image needs no key.
    pub no_data: bool,
    /// As it was at an internal snapshot.
    pub snapshot: Option<format::qcow2::SnapshotRef>,
}

driver! {
    /// Driver `qcow2`.
    Qcow2 {
        /// The node with the metadata, and the data unless `data-file` has them.
        file: FileRef,
        /// The node for what this one does not hold; not said means what the header names.
        #[serde(default, skip_serializing_if = "Backing::is_default")]
        backing: Backing,
        /// The node with the guest's data; not said means what the header names.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data_file: Option<NodeRef>,
        /// Postpone reference counts; not said means what the header says.
        #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
        lazy_refcounts: Option<bool>,
        /// Pass guest discards down; not said means `discard=unmap`.
        #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
        pass_discard_request: Option<bool>,
        /// Pass discards of deleted snapshots down (on).
        #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
        pass_discard_snapshot: Option<bool>,
        /// Pass other discards down (off).
        #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
        pass_discard_other: Option<bool>,
        /// Bytes for both metadata caches together.
        #[serde(default, deserialize_with = "text::size", skip_serializing_if = "Option::is_none")]
        cache_size: Option<u64>,
        /// Bytes for the cache of L2 tables.
        #[serde(default, deserialize_with = "text::size", skip_serializing_if = "Option::is_none")]
        l2_cache_size: Option<u64>,
        /// Bytes of one entry of it, a power of two from 512 to the cluster size.
        #[serde(default, deserialize_with = "text::size", skip_serializing_if = "Option::is_none")]
        l2_cache_entry_size: Option<u64>,
        /// Bytes for the cache of refcount blocks.
        #[serde(default, deserialize_with = "text::size", skip_serializing_if = "Option::is_none")]
        refcount_cache_size: Option<u64>,
        /// Seconds after which unused cache entries are dropped (600); 0 never.
        #[serde(default, deserialize_with = "text::size", skip_serializing_if = "Option::is_none")]
        cache_clean_interval: Option<u64>,
        /// Which metadata is kept from being overwritten (`cached`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        overlap_check: Option<OverlapChecks>,
        /// How it is encrypted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        encrypt: Option<Encrypt>,
        /// How a tool looks at it.
        #[serde(skip)]
        look: Look,
    }
}

impl Qcow2 {
    /// What it says of caches, counts and checks.
    pub(crate) fn tuning(&self) -> format::qcow2::Tuning {
        format::qcow2::Tuning {
            lazy_refcounts: self.lazy_refcounts,
            l2_cache_size: self.l2_cache_size,
            l2_cache_entry_size: self.l2_cache_entry_size,
            refcount_cache_size: self.refcount_cache_size,
            cache_size: self.cache_size,
            clean_interval: self.cache_clean_interval,
            overlap_check: self.overlap_check.unwrap_or_default().kinds(),
        }
    }
}

driver! {
    /// Driver `luks`: a whole file encrypted with LUKS version 1.
    Luks {
        /// The node beneath.
        file: FileRef,
        /// Name of the secret object.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key_secret: Option<String>,
        /// How a tool looks at it.
        #[serde(skip)]
        look: Look,
    }
}

driver! {
    /// Drivers `null-co` and `null-aio`.
    Null {
        /// Size in bytes (1 GiB).
        #[serde(default, deserialize_with = "text::size", skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
        /// Whether reads give zeroes.
        #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
        read_zeroes: Option<bool>,
    }
}

driver! {
    /// Driver `copy-on-read`.
    CopyOnRead {
        /// The node to read from and fill.
        file: FileRef,
    }
}

/// A rule of `blkdebug`: requests fail after an event.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct InjectError {
    /// The event that arms it.
    pub event: String,
    /// Only in this state (0: any).
    #[serde(default, deserialize_with = "text::size", skip_serializing_if = "Option::is_none")]
    pub state: Option<u64>,
    /// Only requests of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iotype: Option<String>,
    /// The error (EIO).
    #[serde(default, deserialize_with = "text::size", skip_serializing_if = "Option::is_none")]
    pub errno: Option<u64>,
    /// Only requests with this sector of 512 bytes.
    #[serde(default, deserialize_with = "text::size", skip_serializing_if = "Option::is_none")]
    pub sector: Option<u64>,
    /// Only one request (off).
    #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
    pub once: Option<bool>,
    /// Fail before the request waits for anything: changes nothing, as requests fail on threads of their own.
    #[serde(default, deserialize_with = "text::flag", skip_serializing_if = "Option::is_none")]
    pub immediately: Option<bool>,
}

/// A rule of `blkdebug`: an event changes the state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SetState {
    /// The event.
    pub event: String,
    /// Only in this state (0: any).
    #[serde(default, deserialize_with = "text::size", skip_serializing_if = "Option::is_none")]
    pub state: Option<u64>,
    /// The state that follows.
    #[serde(default, alias = "new_state", deserialize_with = "text::size", skip_serializing_if = "Option::is_none")]
    pub new_state: Option<u64>,
}

driver! {
    /// Driver `blkdebug`: errors on order.
    Blkdebug {
        /// The node beneath.
        image: FileRef,
        /// A file with rules.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<String>,
        /// Requests are widened to multiples of this many bytes (0: as they come).
        #[serde(default, deserialize_with = "text::size", skip_serializing_if = "Option::is_none")]
        align: Option<u64>,
        /// Rules that make requests fail.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        inject_error: Vec<InjectError>,
        /// Rules that change the state.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        set_state: Vec<SetState>,
    }
}

driver! {
    /// Driver `throttle`.
    Throttle {
        /// The node beneath.
        file: FileRef,
        /// The group with the limits.
        throttle_group: String,
    }
}

driver! {
    /// Driver `nbd`. The server is `server`, or in the older words `host` and `port`, or `path`.
    Nbd {
        /// Where the server is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server: Option<SocketAddress>,
        /// Host of a server on TCP.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// Its port (10809).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<String>,
        /// Path of a server's Unix socket.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        /// Name of the export; not said means the default one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        export: Option<String>,
        /// Credentials for TLS: refused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tls_creds: Option<String>,
        /// Seconds for which requests wait for a server that went away (0: they fail).
        #[serde(default, deserialize_with = "text::size", skip_serializing_if = "Option::is_none")]
        reconnect_delay: Option<u64>,
        /// Seconds for which opening tries again to reach the server (0: once).
        #[serde(default, deserialize_with = "text::size", skip_serializing_if = "Option::is_none")]
        open_timeout: Option<u64>,
        /// A context of the server's to ask for the state of ranges, such as `qemu:dirty-bitmap:NAME`, in place of
        /// `base:allocation`: what is dirty is then told as "no data". For looking, not for copying.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        x_dirty_bitmap: Option<String>,
    }
}

driver! {
    /// The formats that are only read: `parallels`, `qed`, `vdi`, `vhdx`, `vmdk`, `vpc`.
    Foreign {
        /// The node beneath.
        file: FileRef,
    }
}

/// One node, as `blockdev-add` takes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "driver")]
#[expect(missing_docs, reason = "variants are drivers; their structs say what they are")]
pub enum BlockdevSpec {
    #[serde(rename = "file")]
    File(File),
    #[serde(rename = "host_device")]
    HostDevice(File),
    #[serde(rename = "raw")]
    Raw(Raw),
    #[serde(rename = "qcow2")]
    Qcow2(Box<Qcow2>),
    #[serde(rename = "null-co")]
    NullCo(Null),
    #[serde(rename = "null-aio")]
    NullAio(Null),
    #[serde(rename = "copy-on-read")]
    CopyOnRead(CopyOnRead),
    #[serde(rename = "blkdebug")]
    Blkdebug(Box<Blkdebug>),
    #[serde(rename = "throttle")]
    Throttle(Throttle),
    #[serde(rename = "nbd")]
    Nbd(Box<Nbd>),
    #[serde(rename = "luks")]
    Luks(Luks),
    #[serde(rename = "parallels")]
    Parallels(Foreign),
    #[serde(rename = "qed")]
    Qed(Foreign),
    #[serde(rename = "vdi")]
    Vdi(Foreign),
    #[serde(rename = "vhdx")]
    Vhdx(Foreign),
    #[serde(rename = "vmdk")]
    Vmdk(Foreign),
    #[serde(rename = "vpc")]
    Vpc(Foreign),
}

impl BlockdevSpec {
    /// The drivers that can be asked for.
    pub const DRIVERS: [&'static str; 17] = [
        "blkdebug",
        "copy-on-read",
        "file",
        "host_device",
        "luks",
        "nbd",
        "null-aio",
        "null-co",
        "parallels",
        "qcow2",
        "qed",
        "raw",
        "throttle",
        "vdi",
        "vhdx",
        "vmdk",
        "vpc",
    ];

    /// A node of a format that is only read.
    #[must_use]
    pub fn foreign(format: format::Foreign, spec: Foreign) -> Self {
        match format {
            format::Foreign::Parallels => Self::Parallels(spec),
            format::Foreign::Qed => Self::Qed(spec),
            format::Foreign::Vdi => Self::Vdi(spec),
            format::Foreign::Vhdx => Self::Vhdx(spec),
            format::Foreign::Vmdk => Self::Vmdk(spec),
            format::Foreign::Vpc => Self::Vpc(spec),
        }
    }

    /// The format and what is asked of it, if it is one that is only read.
    #[must_use]
    pub fn as_foreign(&self) -> Option<(format::Foreign, &Foreign)> {
        Some(match self {
            Self::Parallels(spec) => (format::Foreign::Parallels, spec),
            Self::Qed(spec) => (format::Foreign::Qed, spec),
            Self::Vdi(spec) => (format::Foreign::Vdi, spec),
            Self::Vhdx(spec) => (format::Foreign::Vhdx, spec),
            Self::Vmdk(spec) => (format::Foreign::Vmdk, spec),
            Self::Vpc(spec) => (format::Foreign::Vpc, spec),
            _ => return None,
        })
    }

    /// The fields that every driver has.
    #[must_use]
    pub fn common(&self) -> Common<'_> {
        match self {
            Self::File(spec) | Self::HostDevice(spec) => spec.common(),
            Self::Raw(spec) => spec.common(),
            Self::Qcow2(spec) => spec.common(),
            Self::NullCo(spec) | Self::NullAio(spec) => spec.common(),
            Self::CopyOnRead(spec) => spec.common(),
            Self::Throttle(spec) => spec.common(),
            Self::Blkdebug(spec) => spec.common(),
            Self::Nbd(spec) => spec.common(),
            Self::Luks(spec) => spec.common(),
            Self::Parallels(spec)
            | Self::Qed(spec)
            | Self::Vdi(spec)
            | Self::Vhdx(spec)
            | Self::Vmdk(spec)
            | Self::Vpc(spec) => spec.common(),
        }
    }

    /// Name of the secret that opens it, if one was given.
    #[must_use]
    pub fn key_secret(&self) -> Option<&str> {
        match self {
            Self::Qcow2(spec) => spec.encrypt.as_ref().and_then(|encrypt| encrypt.key_secret.as_deref()),
            Self::Luks(spec) => spec.key_secret.as_deref(),
            _ => None,
        }
    }

    /// What it says of the node beneath that is its `file`, if it has one.
    #[must_use]
    pub fn file(&self) -> Option<&NodeRef> {
        match self {
            Self::Raw(spec) => Some(&spec.file),
            Self::Qcow2(spec) => Some(&spec.file),
            Self::Luks(spec) => Some(&spec.file),
            Self::CopyOnRead(spec) => Some(&spec.file),
            Self::Throttle(spec) => Some(&spec.file),
            _ => self.as_foreign().map(|(_, foreign)| &foreign.file),
        }
    }

    /// The same, on the backing node `name`, or on none.
    #[must_use]
    pub fn backed_by(&self, name: Option<&str>) -> Self {
        let mut spec = self.clone();
        if let Self::Qcow2(qcow2) = &mut spec {
            qcow2.backing = name.map_or(Backing::None, |name| Backing::Node(NodeRef::Name(name.to_owned())));
        }
        spec
    }

    /// The node's name, if one was given.
    #[must_use]
    pub fn node_name(&self) -> Option<&str> {
        self.common().node_name
    }
}

#[cfg(test)]
mod tests;
