//! A machine's life: reset, power, pause, the end.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::suite::stage::Stage;

super::scenarios![
    guest_reboots_in_the_same_process,
    no_reboot_ends_the_monitor,
    power_button_powers_the_guest_off,
    reset_command_restarts_the_guest,
    stopped_guest_is_silent_until_continued,
    quit_ends_the_monitor,
    termination_signal_ends_the_monitor_well,
    every_thread_is_under_seccomp,
];

fn guest_reboots_in_the_same_process(stage: &Stage<'_>) -> Result<()> {
    let mut vm = stage.vm().root(&stage.root("qcow2")?, "qcow2").boot()?;
    let mut qmp = vm.qmp()?;
    vm.run("echo kept >/root/note; sync")?;

    vm.reboot()?;

    let reset = qmp.event("RESET")?;
    ensure!(reset["guest"] == true && reset["reason"] == "guest-reset", "RESET says {reset}");
    ensure!(vm.run("cat /root/note")? == "kept", "the disk forgot");
    vm.power_off()
}

fn no_reboot_ends_the_monitor(stage: &Stage<'_>) -> Result<()> {
    let mut vm = stage.vm().with(&["-no-reboot"]).boot()?;

    vm.type_line("reboot -f")?;

    vm.ends_well()
}

fn power_button_powers_the_guest_off(stage: &Stage<'_>) -> Result<()> {
    let mut vm = stage.vm().root(&stage.root("qcow2")?, "qcow2").boot()?;
    let mut qmp = vm.qmp()?;

    qmp.command("system_powerdown", &json!({}))?;

    qmp.event("POWERDOWN")?;
    vm.wait_for("power button pressed", Duration::from_secs(30))?;
    let shutdown = qmp.event("SHUTDOWN")?;
    ensure!(shutdown["guest"] == true && shutdown["reason"] == "guest-shutdown", "SHUTDOWN says {shutdown}");
    vm.ends_well()
}

fn reset_command_restarts_the_guest(stage: &Stage<'_>) -> Result<()> {
    let mut vm = stage.vm().processors(2).boot()?;
    let mut qmp = vm.qmp()?;

    qmp.command("system_reset", &json!({}))?;

    let reset = qmp.event("RESET")?;
    ensure!(reset["guest"] == false && reset["reason"] == "host-qmp-system-reset", "RESET says {reset}");
    vm.ready()?;
    vm.power_off()
}

fn stopped_guest_is_silent_until_continued(stage: &Stage<'_>) -> Result<()> {
    let mut vm = stage.vm().processors(2).boot()?;
    let mut qmp = vm.qmp()?;
    vm.type_line("while :; do echo tick; done")?;
    vm.wait_for("tick", Duration::from_secs(30))?;

    qmp.command("stop", &json!({}))?;
    qmp.event("STOP")?;
    let status = qmp.command("query-status", &json!({}))?;
    // What the guest wrote before it stopped may still be in the pipe.
    std::thread::sleep(Duration::from_millis(500));
    let before = vm.console_length();
    std::thread::sleep(Duration::from_secs(1));
    let after = vm.console_length();
    qmp.command("cont", &json!({}))?;
    qmp.event("RESUME")?;

    ensure!(status["status"] == "paused" && status["running"] == false, "query-status says {status}");
    ensure!(before == after, "the guest wrote {} bytes while stopped", after - before);
    vm.wait_for("tick", Duration::from_secs(30)).context("after cont")?;
    qmp.command("quit", &json!({}))?;
    vm.ends_well()
}

fn quit_ends_the_monitor(stage: &Stage<'_>) -> Result<()> {
    let vm = stage.vm().with(&["-S"]).launch()?;
    let mut qmp = vm.qmp()?;
    let status = qmp.command("query-status", &json!({}))?;

    qmp.command("quit", &json!({}))?;

    ensure!(status["status"] == "prelaunch", "query-status says {status}");
    let shutdown = qmp.event("SHUTDOWN")?;
    ensure!(shutdown["guest"] == false && shutdown["reason"] == "host-qmp-quit", "SHUTDOWN says {shutdown}");
    vm.ends_well()
}

fn termination_signal_ends_the_monitor_well(stage: &Stage<'_>) -> Result<()> {
    let disk = stage.image("disk", "qcow2", "64M")?;
    let mut vm = stage.vm().disk(&disk, "qcow2").boot()?;
    vm.run("yes written | head -c 1048576 | dd of=/dev/vda bs=64k oflag=direct")?;

    vm.terminate()?;

    ensure!(stage.faults(&disk)? == 0, "the image is damaged");
    ensure!(stage.content(&disk, "qcow2")?.starts_with(b"written\nwritten\n"), "what was written is lost");
    Ok(())
}

fn every_thread_is_under_seccomp(stage: &Stage<'_>) -> Result<()> {
    let disk = stage.image("disk", "qcow2", "64M")?;
    let vm = stage.vm().processors(2).disk(&disk, "qcow2").with(&["-sandbox", "on"]).boot()?;

    for thread in fs::read_dir(format!("/proc/{}/task", vm.pid()))? {
        let path = thread?.path();
        let status = fs::read_to_string(path.join("status"))?;
        let name = fs::read_to_string(path.join("comm"))?;
        ensure!(status.contains("Seccomp:\t2\n"), "thread {} has no filter", name.trim());
        ensure!(status.contains("NoNewPrivs:\t1\n"), "thread {} may gain privileges", name.trim());
    }
    vm.power_off()
}
