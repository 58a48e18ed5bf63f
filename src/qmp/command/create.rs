//! The arguments of `blockdev-create`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::spec_args::BlockdevRef;
use crate::qmp::QmpError;
use crate::qmp::qapi::{At, Case, Member, Qapi, Schema, TypeRef};

qapi_enum! {
    /// What can be made.
    pub enum CreatableDriver {
        /// A file.
        File = "file",
        /// A qcow2 image in a node.
        Qcow2 = "qcow2",
    }
}

qapi_enum! {
    /// How space is set aside.
    pub enum NewPreallocation {
        /// Not at all.
        Off = "off",
        /// For the format's own tables.
        Metadata = "metadata",
        /// Without writing.
        Falloc = "falloc",
        /// By writing zeroes.
        Full = "full",
    }
}

qapi_enum! {
    /// Version of the format.
    pub enum Qcow2Version {
        /// 0.10.
        V2 = "v2",
        /// 1.1.
        V3 = "v3",
    }
}

qapi_enum! {
    /// How clusters are compressed.
    pub enum Qcow2CompressionType {
        /// By deflate.
        Zlib = "zlib",
        /// By zstd.
        Zstd = "zstd",
    }
}

qapi_struct! {
    /// A new file.
    pub struct CreateFile {
        /// Its path.
        pub filename: String,
        /// Its size in bytes.
        pub size: u64,
        /// How space is set aside.
        pub preallocation: Option<NewPreallocation>,
        /// Ask btrfs to write it in place.
        pub nocow: Option<bool>,
    }
}

qapi_struct! {
    /// A new qcow2 image.
    pub struct CreateQcow2 {
        /// The node that it is in, or one to open for it.
        pub file: BlockdevRef,
        /// Size of the disk in bytes.
        pub size: u64,
        /// Version of the format; 1.1 without.
        pub version: Option<Qcow2Version>,
        /// What lies beneath, for the header.
        pub backing_file: Option<String>,
        /// Its format, for the header.
        pub backing_fmt: Option<String>,
        /// Bytes of a cluster; 65536 without.
        pub cluster_size: Option<u64>,
        /// How space is set aside.
        pub preallocation: Option<NewPreallocation>,
        /// Reference counts may be postponed.
        pub lazy_refcounts: Option<bool>,
        /// Bits of a reference count; 16 without.
        pub refcount_bits: Option<u32>,
        /// How clusters are compressed.
        pub compression_type: Option<Qcow2CompressionType>,
        /// Subclusters.
        pub extended_l2: Option<bool>,
    }
}

/// What is to be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "kebab-case")]
pub enum BlockdevCreateOptions {
    /// A file.
    File(CreateFile),
    /// A qcow2 image in a node.
    Qcow2(Box<CreateQcow2>),
}

impl Qapi for BlockdevCreateOptions {
    fn describe(schema: &mut Schema) -> TypeRef {
        schema.union(std::any::type_name::<Self>(), "driver", |schema| {
            let tag = CreatableDriver::describe(schema);
            let cases = CreatableDriver::ALL.iter().map(|driver| {
                let kind = match driver {
                    CreatableDriver::File => CreateFile::describe(schema),
                    CreatableDriver::Qcow2 => CreateQcow2::describe(schema),
                };
                Case { case: driver.as_str().to_owned(), kind }
            });
            let cases = cases.collect();
            (vec![Member::new("driver", tag, false)], cases)
        })
    }

    fn check(value: &Value, at: &At<'_>) -> Result<(), QmpError> {
        let object = at.object(value)?;
        at.check_member::<CreatableDriver>(object, "driver")?;
        let rest: Map<String, Value> = object
            .iter()
            .filter(|(key, _)| *key != "driver")
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        match object.get("driver").and_then(Value::as_str) {
            Some("qcow2") => CreateQcow2::check(&Value::Object(rest), at),
            _ => CreateFile::check(&Value::Object(rest), at),
        }
    }
}
