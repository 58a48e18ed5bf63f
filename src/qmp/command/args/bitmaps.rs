//! Of dirty bitmaps.

use crate::qmp::QmpError;
use crate::qmp::qapi::{At, Qapi, Schema, TypeRef};
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

qapi_struct! {
    /// `block-dirty-bitmap-add`.
    pub struct DirtyBitmapAdd {
        /// The node.
        pub node: String,
        /// The new bitmap's name.
        pub name: String,
        /// Bytes of the disk for one bit; a cluster, from 4 KiB to 64 KiB, without.
        pub granularity: Option<u32>,
        /// The image keeps it; only in memory without.
        pub persistent: Option<bool>,
        /// It does not record; it does without.
        pub disabled: Option<bool>,
    }
}

qapi_struct! {
    /// `block-dirty-bitmap-remove`, `-clear`, `-enable`, `-disable`.
    pub struct DirtyBitmap {
        /// The node.
        pub node: String,
        /// The bitmap.
        pub name: String,
    }
}

/// A bitmap of the node that is meant anyway, or of another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DirtyBitmapOrStr {
    /// By its name.
    Local(String),
    /// By its node's and its own.
    External(DirtyBitmap),
}

impl Qapi for DirtyBitmapOrStr {
    fn describe(schema: &mut Schema) -> TypeRef {
        schema.alternate(std::any::type_name::<Self>(), |schema| {
            vec![String::describe(schema), DirtyBitmap::describe(schema)]
        })
    }

    fn check(value: &Value, at: &At<'_>) -> Result<(), QmpError> {
        if value.is_string() { Ok(()) } else { DirtyBitmap::check(value, at) }
    }
}

qapi_struct! {
    /// `block-dirty-bitmap-merge`.
    pub struct DirtyBitmapMerge {
        /// The node of the target.
        pub node: String,
        /// The bitmap that gets the bits.
        pub target: String,
        /// The bitmaps that they are taken from.
        pub bitmaps: Vec<DirtyBitmapOrStr>,
    }
}
