//! `blockdev-add` and `-blockdev`: arguments as they were written, and the node that they ask for. What options a driver has
//! is the block library's to know.

use rhea_block::spec::BlockdevSpec;
use serde_json::{Map, Value};

use super::SpecError;
use super::error::Shown;

/// Arguments of `blockdev-add` as they were written.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockdevArgs {
    /// `driver`, `node-name` and the driver's options.
    pub options: Map<String, Value>,
}

/// `-blockdev`.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockdevOption {
    /// The option with its argument, as the user wrote them.
    pub typed: String,
    /// What it says.
    pub args: BlockdevArgs,
}

impl BlockdevArgs {
    /// The node. What is wrong in words of a user's was told when they were read.
    ///
    /// # Errors
    /// What the library does not take all the same.
    pub fn node(&self) -> Result<BlockdevSpec, SpecError> {
        let node = serde_json::from_value(Value::Object(self.options.clone()));
        node.map_err(|error| SpecError::new(Shown(&error.to_string()).to_string()))
    }
}
