//! Answers to QMP's questions about the machine: one file a subject. They look, and change nothing; only
//! `qom-set`, which has to find what it changes, stands beside them.

mod assign;
pub(super) mod block;
pub(super) mod cpu;
pub(super) mod hold;
pub(super) mod inspect;
mod interrupts;
pub(super) mod objects;
mod paging;
pub(super) mod pci;
mod properties;
mod registers;
mod save;
pub(super) mod status;
pub(super) mod tree;
