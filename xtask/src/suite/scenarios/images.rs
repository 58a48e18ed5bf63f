//! Images between guest and host: chains, compression, space, locks.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::command;
use crate::suite::stage::Stage;

super::scenarios![
    overlay_takes_the_writes_and_its_base_stays,
    compressed_root_boots,
    discarded_space_goes_back_to_the_host,
    image_in_use_is_refused,
    full_host_disk_pauses_the_guest_until_there_is_space,
];

fn overlay_takes_the_writes_and_its_base_stays(stage: &Stage<'_>) -> Result<()> {
    let base = stage.root("qcow2")?;
    let overlay = stage.scratch().join("overlay.qcow2");
    let (base_path, overlay_path) = (base.display().to_string(), overlay.display().to_string());
    stage.img(&["create", "-f", "qcow2", "-b", &base_path, "-F", "qcow2", &overlay_path])?;
    let before = fs::read(&base)?;
    let mut vm = stage.vm().root(&overlay, "qcow2").boot()?;

    vm.run("seq 1 20000 >/root/numbers; sync")?;

    vm.power_off()?;
    ensure!(fs::read(&base)? == before, "the base was written");
    ensure!(stage.faults(&overlay)? == 0, "the overlay is damaged");
    let mut vm = stage.vm().root(&overlay, "qcow2").boot()?;
    ensure!(vm.run("tail -n 1 /root/numbers")? == "20000", "the overlay forgot");
    vm.power_off()
}

fn compressed_root_boots(stage: &Stage<'_>) -> Result<()> {
    let raw = stage.root("raw")?;
    for method in ["zlib", "zstd"] {
        let image = stage.scratch().join(format!("{method}.qcow2"));
        let options = format!("compression_type={method}");
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &options]);
        command::output(convert.arg(&raw).arg(&image))?;
        let mut vm = stage.vm().root(&image, "qcow2").boot().with_context(|| format!("compressed by {method}"))?;

        vm.run("echo written >/root/note; sync")?;

        vm.power_off()?;
        ensure!(stage.faults(&image)? == 0, "the image compressed by {method} is damaged");
    }
    Ok(())
}

fn discarded_space_goes_back_to_the_host(stage: &Stage<'_>) -> Result<()> {
    for format in ["raw", "qcow2"] {
        let disk = stage.image("disk", format, "64M")?;
        let drive = format!("file={},format={format},if=virtio,discard=unmap", disk.display());
        let mut vm = stage.vm().with(&["-drive", &drive]).boot()?;
        vm.run("yes full | head -c 33554432 | dd of=/dev/vda bs=1M oflag=direct iflag=fullblock")?;
        let full = allocated(&disk)?;

        vm.run("blkdiscard -o 1048576 -l 30408704 /dev/vda; sync")?;
        let others = vm.run("dd if=/dev/vda bs=1M count=29 skip=1 iflag=direct 2>/dev/null | tr -d '\\0' | wc -c")?;

        vm.power_off()?;
        let left = allocated(&disk)?;
        ensure!(others == "0", "{format}: the guest reads {others} bytes that are not zero");
        ensure!(full >= 32 << 20 && left < 8 << 20, "{format}: {full} bytes were used, and then {left}");
    }
    Ok(())
}

/// Bytes that a file takes on its host.
fn allocated(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path)?.blocks() * 512)
}

fn image_in_use_is_refused(stage: &Stage<'_>) -> Result<()> {
    let disk = stage.image("disk", "qcow2", "16M")?;
    let first = stage.vm().disk(&disk, "qcow2").with(&["-S"]).launch()?;
    let mut qmp = first.qmp()?;

    let mut second = stage.vm().disk(&disk, "qcow2").with(&["-S"]).launch_beside()?;

    let status = second.wait()?;
    ensure!(status.code() == Some(1), "the second monitor ended with {status}");
    let said = stage.complaints();
    ensure!(said.contains("lock"), "the second monitor does not speak of a lock: {said}");
    qmp.command("quit", &json!({}))?;
    first.ends_well()
}

fn full_host_disk_pauses_the_guest_until_there_is_space(stage: &Stage<'_>) -> Result<()> {
    let small = stage.small_file_system(4)?;
    let ballast = small.path().join("ballast");
    fs::write(&ballast, vec![1; 2 << 20])?;
    let disk = small.path().join("disk.qcow2");
    stage.img(&["create", "-f", "qcow2", &disk.display().to_string(), "64M"])?;
    let drive = format!("file={},format=qcow2,if=virtio,werror=enospc,rerror=report", disk.display());
    let mut vm = stage.vm().with(&["-drive", &drive]).boot()?;
    let mut qmp = vm.qmp()?;

    vm.type_line(
        "yes data | head -c 2621440 | dd of=/dev/vda bs=64k oflag=direct iflag=fullblock && echo all written",
    )?;

    let error = qmp.event("BLOCK_IO_ERROR")?;
    ensure!(error["nospace"] == true && error["action"] == "stop", "BLOCK_IO_ERROR says {error}");
    qmp.event("STOP")?;
    ensure!(qmp.command("query-status", &json!({}))?["status"] == "io-error", "the status is another");
    fs::remove_file(&ballast)?;
    qmp.command("cont", &json!({}))?;
    vm.wait_for("all written", std::time::Duration::from_secs(60))?;
    vm.power_off()?;
    ensure!(stage.faults(&disk)? == 0, "the image is damaged");
    Ok(())
}
