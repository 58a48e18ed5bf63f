//! A virtual machine that never runs, there for as long as the lab is.
//!
//! Linux rewrites instructions of its scheduler when the first virtual machine of a host comes and when the last one
//! goes (its static key `preempt_notifier_key`), and others with the first and the last local APIC that is switched off
//! (`apic_sw_disabled`). For a moment a breakpoint stands in their place. An emulator with a thread for each processor
//! may translate it while it is taken away, and keep it: then every processor runs into a breakpoint that is not there,
//! and the lab machine is silent for ever (QEMU before 8.1, seen with 7.2: both processors at an `int3` in `__schedule`).
//! While this machine is there, the guests that come and go rewrite nothing.

use anyhow::{Context, Result};
use kvm_ioctls::Kvm;

/// The verb that runs it.
pub(crate) const VERB: &str = "lab-keeper";

/// Makes it, and waits to be ended.
pub(crate) fn run() -> Result<u8> {
    let kvm = Kvm::new().context("cannot open /dev/kvm")?;
    let vm = kvm.create_vm().context("cannot make a virtual machine")?;
    vm.create_irq_chip().context("cannot make its interrupt controllers")?;
    let _vcpu = vm.create_vcpu(0).context("cannot make its processor")?;
    loop {
        std::thread::park();
    }
}
