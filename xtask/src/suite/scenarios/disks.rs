//! Disks keep what guests write.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::suite::stage::Stage;

super::scenarios![
    fio_verifies_raw_and_qcow2,
    written_data_survives_reboot_and_reads_back_on_the_host,
    twenty_six_disks_are_all_there,
    snapshot_throws_writes_away,
    resize_is_seen_by_the_guest,
    read_only_disk_refuses_writes,
];

/// fio writes random blocks of many sizes, deep queues, and reads each back.
const FIO: &str = "chroot /mnt fio --name=verify --ioengine=libaio --direct=1 --iodepth=16 --rw=randwrite \
                   --bsrange=4k-64k --size=24m --verify=crc32c --verify_fatal=1 --minimal";

fn fio_verifies_raw_and_qcow2(stage: &Stage<'_>) -> Result<()> {
    let raw = stage.image("disk", "raw", "64M")?;
    let qcow2 = stage.image("disk", "qcow2", "64M")?;
    let raw_drive = format!("file={},format=raw,if=virtio,cache=none,aio=io_uring", raw.display());
    let qcow2_drive = format!("file={},format=qcow2,if=virtio,cache=none,aio=threads", qcow2.display());
    let drives = ["-drive", &raw_drive, "-drive", &qcow2_drive];
    let mut vm = stage.vm().processors(2).tools()?.with(&drives).boot()?;
    vm.enter_tools()?;

    for disk in ["vdb", "vdc"] {
        vm.run_within(&format!("{FIO} --filename=/dev/{disk} >/dev/null"), Duration::from_secs(180))?;
    }

    vm.power_off()?;
    ensure!(stage.faults(&qcow2)? == 0, "the image is damaged");
    Ok(())
}

fn written_data_survives_reboot_and_reads_back_on_the_host(stage: &Stage<'_>) -> Result<()> {
    let raw = stage.image("disk", "raw", "32M")?;
    let qcow2 = stage.image("disk", "qcow2", "32M")?;
    let mut vm = stage.vm().disk(&raw, "raw").disk(&qcow2, "qcow2").boot()?;
    vm.run("seq 1 400000 | head -c 2097152 >/tmp/data")?;
    vm.run("for disk in vda vdb; do dd if=/tmp/data of=/dev/$disk bs=12288 seek=7 conv=fsync; done")?;

    vm.reboot()?;
    let sums = vm.run("for disk in vda vdb; do dd if=/dev/$disk bs=12288 skip=7 | head -c 2097152 | md5sum; done")?;
    vm.power_off()?;

    let sums: Vec<_> = sums.lines().filter(|line| line.ends_with('-')).collect();
    ensure!(sums.len() == 2 && sums[0] == sums[1], "the guest reads back {sums:?}");
    let numbers: String = (1..=400_000).map(|number| format!("{number}\n")).collect();
    for (image, format) in [(raw, "raw"), (qcow2, "qcow2")] {
        let content = stage.content(&image, format)?;
        let written = content.get(7 * 12288..7 * 12288 + 2_097_152);
        ensure!(written == numbers.as_bytes().get(..2_097_152), "the host reads something else from {format}");
    }
    Ok(())
}

fn twenty_six_disks_are_all_there(stage: &Stage<'_>) -> Result<()> {
    let mut recipe = stage.vm().processors(2);
    let mut images = Vec::new();
    for letter in 'a'..='z' {
        let image = stage.image(&format!("disk-{letter}"), "raw", "1M")?;
        recipe = recipe.disk(&image, "raw");
        images.push((letter, image));
    }
    let mut vm = recipe.boot()?;

    vm.run("for disk in /dev/vd?; do echo \"I am $disk\" | dd of=$disk conv=fsync; done")?;

    vm.power_off()?;
    for (letter, image) in images {
        let content = stage.content(&image, "raw")?;
        let wanted = format!("I am /dev/vd{letter}\n");
        ensure!(content.starts_with(wanted.as_bytes()), "disk {letter} does not know its name");
    }
    Ok(())
}

fn snapshot_throws_writes_away(stage: &Stage<'_>) -> Result<()> {
    let disk = stage.image("disk", "qcow2", "16M")?;
    let mut vm = stage.vm().disk(&disk, "qcow2").with(&["-snapshot"]).boot()?;

    let back = vm.run("echo gone >/tmp/x; dd if=/tmp/x of=/dev/vda conv=fsync; head -c 4 /dev/vda")?;

    vm.power_off()?;
    ensure!(back.ends_with("gone"), "the guest reads {back:?}");
    ensure!(stage.content(&disk, "qcow2")?.iter().all(|byte| *byte == 0), "the image was written");
    Ok(())
}

fn resize_is_seen_by_the_guest(stage: &Stage<'_>) -> Result<()> {
    let file = format!("driver=file,node-name=file0,filename={}", stage.image("disk", "raw", "16M")?.display());
    let mut vm = stage
        .vm()
        .with(&["-blockdev", &file, "-blockdev", "driver=raw,node-name=disk0,file=file0"])
        .with(&["-device", "virtio-blk-pci,drive=disk0,id=disk"])
        .boot()?;
    let mut qmp = vm.qmp()?;
    let before = vm.run("cat /sys/block/vda/size")?;

    qmp.command("block_resize", &json!({"node-name": "disk0", "size": 33_554_432}))?;

    let after = vm.run(
        "for i in $(seq 50); do s=$(cat /sys/block/vda/size); [ $s = 32768 ] || sleep 0.1; \
                        [ $s = 65536 ] && break; done; cat /sys/block/vda/size",
    )?;
    ensure!((before.as_str(), after.as_str()) == ("32768", "65536"), "the guest saw {before} and then {after}");
    vm.run("dd if=/dev/zero of=/dev/vda bs=1M seek=31 count=1 conv=fsync")?;
    vm.power_off()
}

fn read_only_disk_refuses_writes(stage: &Stage<'_>) -> Result<()> {
    let drive = format!("file={},format=raw,if=virtio,readonly=on", stage.image("disk", "raw", "16M")?.display());
    let mut vm = stage.vm().with(&["-drive", &drive]).boot()?;

    ensure!(vm.run("cat /sys/block/vda/ro")? == "1", "the guest takes the disk for writable");
    vm.run("! dd if=/dev/zero of=/dev/vda count=1 conv=fsync")?;

    vm.power_off()
}
