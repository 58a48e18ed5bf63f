//! GDB on a stock kernel with two processors: attach, look, step, leave.
//!
//! Breakpoints are not here: the lab's processor does not tell its hypervisor of breakpoint instructions, nor does it
//! load debug registers for a guest. Tests of the program have them.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::suite::stage::Stage;

super::scenarios![debugger_looks_into_the_kernel_and_leaves];

/// Seconds until a debugger that waits in vain is ended.
const PATIENCE: &str = "60";

fn debugger_looks_into_the_kernel_and_leaves(stage: &Stage<'_>) -> Result<()> {
    let socket = stage.scratch().join("gdb").display().to_string();
    let mut vm = stage.vm().processors(2).with(&["-gdb", &format!("unix:{socket},server=on,wait=off")]).boot()?;
    let symbol = vm.run("grep ' linux_banner$' /proc/kallsyms")?;
    let banner = symbol.split_whitespace().next().context("the kernel has no linux_banner")?;

    let commands = [
        format!("target remote {socket}"),
        format!("x/s 0x{banner}"),
        "set $before = $rip".into(),
        "stepi".into(),
        "printf \"moved %d\\n\", $rip != $before".into(),
        "info threads".into(),
        "detach".into(),
    ];
    let mut gdb = Command::new("timeout");
    gdb.args([PATIENCE, "gdb", "-nx", "-batch", "-ex", "set architecture i386:x86-64"]);
    for command in &commands {
        gdb.args(["-ex", command]);
    }
    let output = gdb.stdin(Stdio::null()).output().context("cannot start gdb")?;

    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains("\"Linux version "), "the kernel's memory is not read: {said}");
    ensure!(said.contains("moved 1"), "no single step: {said}");
    ensure!(said.contains("CPU#0") && said.contains("CPU#1"), "not every vCPU is a thread: {said}");
    ensure!(vm.run("echo goes on")? == "goes on", "the guest does not go on");
    vm.power_off()
}
