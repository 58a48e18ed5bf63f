//! Rhea: a microVM monitor in QEMU-KVM's place. The program is `main.rs`; everything else is here so that tests can
//! reach it.

pub mod board;
pub mod chardev;
pub mod cli;
pub mod cpu;
pub mod ctl;
pub mod footprint;
pub mod hmp;
pub mod img;
pub mod logging;
pub mod machine;
pub mod process;
pub mod qmp;
pub mod qtest;
pub mod seccomp;
pub mod secret;
pub mod sentence;
pub mod spec;
pub mod vcpu;
