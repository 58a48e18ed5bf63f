//! What commands answer: QEMU's member names, typed. The machine fills them, the session writes them.

pub mod block;
pub mod cpu;
pub mod device;
pub mod machine;
pub mod migration;
pub mod monitor;
#[cfg(test)]
mod tests;
