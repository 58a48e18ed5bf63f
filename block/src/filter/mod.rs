//! Layers that change what passes through them and store nothing.

pub mod policy;
