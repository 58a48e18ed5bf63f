//! Of objects, their types and what they hold.

use crate::qmp::reply::cpu::CpuModelInfo;
use crate::qmp::reply::migration::MigrationCapabilityStatus;
use crate::qmp::reply::migration::MigrationParameters;
use serde_json::Value;

qapi_struct! {
    /// Commands that take an `id` and nothing else.
    pub struct Id {
        /// The `id=` of the thing.
        pub id: String,
    }
}

qapi_enum! {
    /// How bytes are written in a JSON string.
    pub enum DataFormat {
        /// As text.
        Utf8 = "utf8",
        /// As base64.
        Base64 = "base64",
    }
}

qapi_struct! {
    /// `ringbuf-write`.
    pub struct RingbufWrite {
        /// The character device.
        pub device: String,
        /// What to write.
        pub data: String,
        /// How it is written; text without.
        pub format: Option<DataFormat>,
    }
}

qapi_struct! {
    /// `ringbuf-read`.
    pub struct RingbufRead {
        /// The character device.
        pub device: String,
        /// At most so many bytes.
        pub size: i64,
        /// How to write them; text without.
        pub format: Option<DataFormat>,
    }
}

qapi_struct! {
    /// `qom-list`.
    pub struct QomList {
        /// The place in the tree of objects.
        pub path: String,
    }
}

qapi_struct! {
    /// `qom-get`.
    pub struct QomGet {
        /// The object.
        pub path: String,
        /// Its property.
        pub property: String,
    }
}

qapi_struct! {
    /// `qom-set`.
    pub struct QomSet {
        /// The object.
        pub path: String,
        /// Its property.
        pub property: String,
        /// What it is to be.
        pub value: Value,
    }
}

qapi_enum! {
    /// How far a CPU model is expanded.
    pub enum CpuModelExpansionType {
        /// Every feature of the processor, on a model that never changes.
        Static = "static",
        /// Every property.
        Full = "full",
    }
}

qapi_struct! {
    /// `query-cpu-model-expansion`.
    pub struct CpuModelExpansion {
        /// How far.
        pub r#type: CpuModelExpansionType,
        /// What.
        pub model: CpuModelInfo,
    }
}

qapi_struct! {
    /// `qom-list-types`.
    pub struct QomListTypes {
        /// Only those of this kind.
        pub implements: Option<String>,
        /// Also those that no object can be made of.
        pub r#abstract: Option<bool>,
    }
}

qapi_struct! {
    /// `qom-list-properties`, `device-list-properties`.
    pub struct TypeName {
        /// The type.
        pub typename: String,
    }
}

/// `migrate-set-parameters`: what `query-migrate-parameters` tells.
pub type MigrateSetParameters = MigrationParameters;

qapi_struct! {
    /// `migrate-set-capabilities`.
    pub struct MigrateSetCapabilities {
        /// What to set; the others stay.
        pub capabilities: Vec<MigrationCapabilityStatus>,
    }
}
