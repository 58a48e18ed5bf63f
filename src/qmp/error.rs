//! The errors a client sees: a class it may match on and a sentence for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::sentence::{plain, sentence};

/// The classes of QMP errors. Everything that needs no class of its own is [`ErrorClass::GenericError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorClass {
    /// Anything else.
    GenericError,
    /// The command does not exist, or cannot be had in this mode of the monitor.
    CommandNotFound,
    /// The device is there but not in use.
    DeviceNotActive,
    /// No device, node or device type of this name.
    DeviceNotFound,
    /// KVM lacks something that the command needs.
    KVMMissingCap,
}

/// A command's failure as it goes to the client: `{"class": …, "desc": …}`.
///
/// Unlike the other errors of this program the text begins with a capital where QEMU's does, because clients match it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{desc}")]
pub struct QmpError {
    /// What a client matches on.
    pub class: ErrorClass,
    /// One sentence.
    pub desc: String,
}

impl QmpError {
    /// A `GenericError` with this sentence.
    pub fn generic(desc: impl AsRef<str>) -> Self {
        Self { class: ErrorClass::GenericError, desc: plain(desc.as_ref()) }
    }

    /// A `GenericError` that says an error and all its causes in one sentence.
    pub fn from_error(error: &dyn std::error::Error) -> Self {
        Self::generic(sentence(error))
    }

    /// A `CommandNotFound` for `name`.
    pub fn command_not_found(name: &str) -> Self {
        Self { class: ErrorClass::CommandNotFound, desc: format!("The command {name} has not been found") }
    }

    /// A `DeviceNotFound`, in the words that QEMU uses for devices and node names.
    pub fn device_not_found(name: &str) -> Self {
        Self { class: ErrorClass::DeviceNotFound, desc: format!("Device '{name}' not found") }
    }

    /// Neither a device nor a node is called as commands say that take either; what was not given is empty.
    pub fn no_device_nor_node(device: &str, node: &str) -> Self {
        Self::generic(format!("Cannot find device='{device}' nor node-name='{node}'"))
    }

    /// A `DeviceNotActive` for `name`.
    pub fn device_not_active(name: &str) -> Self {
        Self { class: ErrorClass::DeviceNotActive, desc: format!("No {name} device has been activated") }
    }

    /// A `DeviceNotActive` for a job on a node.
    pub fn no_block_job(id: &str) -> Self {
        Self { class: ErrorClass::DeviceNotActive, desc: format!("Block job '{id}' not found") }
    }

    /// A required parameter was not given.
    pub fn missing(name: impl fmt::Display) -> Self {
        Self::generic(format!("Parameter '{name}' is missing"))
    }

    /// A parameter was given that the command does not have.
    pub fn unexpected(name: impl fmt::Display) -> Self {
        Self::generic(format!("Parameter '{name}' is unexpected"))
    }

    /// A parameter has the wrong JSON type.
    pub fn wrong_type(name: impl fmt::Display, expected: &str) -> Self {
        Self::generic(format!("Invalid parameter type for '{name}', expected: {expected}"))
    }

    /// A parameter has a value that is not one of those allowed.
    pub fn bad_value(name: impl fmt::Display, value: &str) -> Self {
        Self::generic(format!("Parameter '{name}' does not accept value '{value}'"))
    }

    /// A parameter should have been something else: `expects` is a noun phrase.
    pub fn expects(name: impl fmt::Display, expects: &str) -> Self {
        Self::generic(format!("Parameter '{name}' expects {expects}"))
    }
}
