//! Answers to QMP's questions about the machine: one file a subject. They look, and change nothing.

pub(super) mod block;
pub(super) mod cpu;
pub(super) mod hold;
pub(super) mod inspect;
pub(super) mod objects;
pub(super) mod pci;
pub(super) mod status;
pub(super) mod tree;
