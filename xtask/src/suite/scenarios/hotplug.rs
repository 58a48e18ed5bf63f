//! Devices come and go under a running guest.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::suite::qmp::Qmp;
use crate::suite::stage::Stage;

super::scenarios![plugged_disk_is_written_and_unplugged, device_asked_for_goes_at_the_next_reset];

/// The slot into which disks go here, as `addr=` has it.
const SLOT: &str = "0x9";

fn plug(qmp: &mut Qmp, image: &Path) -> Result<()> {
    let file = json!({"driver": "file", "filename": image});
    qmp.command("blockdev-add", &json!({"driver": "qcow2", "node-name": "node", "file": file}))?;
    let device = json!({"driver": "virtio-blk-pci", "drive": "node", "id": "disk", "addr": SLOT, "bus": "pci.0"});
    qmp.command("device_add", &device)?;
    Ok(())
}

/// Waits for the news that the device with its id is gone, which comes after that about the device behind it.
fn deleted(qmp: &mut Qmp) -> Result<()> {
    loop {
        let gone = qmp.event("DEVICE_DELETED")?;
        if gone["device"] == "disk" {
            ensure!(gone["path"] == "/machine/peripheral/disk", "DEVICE_DELETED says {gone}");
            return Ok(());
        }
    }
}

/// In the guest: waits up to ten seconds until this holds.
fn until(condition: &str) -> String {
    format!("for i in $(seq 100); do {condition} && break; sleep 0.1; done; {condition}")
}

fn plugged_disk_is_written_and_unplugged(stage: &Stage<'_>) -> Result<()> {
    let images = [stage.image("first", "qcow2", "64M")?, stage.image("second", "qcow2", "32M")?];
    let mut vm = stage.vm().processors(2).boot()?;
    let mut qmp = vm.qmp()?;
    vm.run("! test -b /dev/vda")?;

    // The same slot twice: the second disk finds nothing of the first.
    for (image, sectors) in images.iter().zip(["131072", "65536"]) {
        plug(&mut qmp, image)?;
        vm.run(&until("test -b /dev/vda"))?;
        ensure!(vm.run("cat /sys/block/vda/size")? == sectors, "the guest has another disk");
        vm.run("echo plugged >/tmp/x; dd if=/tmp/x of=/dev/vda conv=fsync; yes | head -c 8388608 >/dev/vda; sync")?;
        vm.run("dd if=/tmp/x of=/dev/vda conv=fsync")?;
        qmp.command("device_del", &json!({"id": "disk"}))?;
        deleted(&mut qmp)?;
        vm.run(&until("! test -b /dev/vda"))?;
        qmp.command("blockdev-del", &json!({"node-name": "node"}))?;
        ensure!(qmp.command("query-block", &json!({}))? == Value::Array(Vec::new()), "the disk is still listed");
    }

    let complaints = vm.run("dmesg | grep -iE 'acpi error|bios bug|firmware bug' || true")?;
    ensure!(complaints.is_empty(), "the kernel says: {complaints}");
    vm.power_off()?;
    for image in images {
        ensure!(stage.faults(&image)? == 0, "the image is damaged");
        ensure!(stage.content(&image, "qcow2")?.starts_with(b"plugged\n"), "what was written is lost");
    }
    Ok(())
}

fn device_asked_for_goes_at_the_next_reset(stage: &Stage<'_>) -> Result<()> {
    let image = stage.image("disk", "qcow2", "64M")?;
    let vm = stage.vm().with(&["-S"]).launch()?;
    let mut qmp = vm.qmp()?;
    plug(&mut qmp, &image)?;

    qmp.command("device_del", &json!({"id": "disk"}))?;
    let still = qmp.command("query-block", &json!({}))?;
    qmp.command("system_reset", &json!({}))?;

    deleted(&mut qmp)?;
    ensure!(still.as_array().is_some_and(|disks| disks.len() == 1), "nobody let go of {still}");
    qmp.command("blockdev-del", &json!({"node-name": "node"}))?;
    qmp.command("quit", &json!({}))?;
    vm.ends_well()
}
