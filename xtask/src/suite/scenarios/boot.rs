//! Stock kernels come up.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::kernel::Flavor;
use crate::suite::stage::Stage;
use crate::suite::vm::Vm;

super::scenarios![
    boots_from_qcow2_root,
    boots_with_two_processors,
    boots_with_four_processors,
    guest_sees_its_numa_nodes,
    boots_elf_kernel,
    boots_elf_kernel_without_its_pvh_note,
    boots_generic_kernel,
    boots_with_blockdev_and_device,
    boots_with_json_options,
    kernel_finds_nothing_wrong_with_the_firmware,
];

/// What a kernel says of firmware it does not like.
const COMPLAINTS: &[&str] = &["ACPI Error", "ACPI BIOS Error", "BIOS bug", "BIOS BUG", "Firmware Bug", "FIRMWARE BUG"];

/// Type and owner of the note that names the PVH entry (Xen's `elfnote.h`, XEN_ELFNOTE_PHYS32_ENTRY).
const PVH_NOTE: &[u8] = b"\x12\0\0\0Xen\0";

fn boots_from_qcow2_root(stage: &Stage<'_>) -> Result<()> {
    let mut vm = stage.vm().root(&stage.root("qcow2")?, "qcow2").boot()?;

    let mounts = vm.run("cat /proc/mounts")?;

    ensure!(mounts.contains("/dev/vda / ext4 rw"), "the root is not on the disk: {mounts}");
    vm.power_off()
}

fn boots_with_two_processors(stage: &Stage<'_>) -> Result<()> {
    boots_with_processors(stage, 2)
}

fn boots_with_four_processors(stage: &Stage<'_>) -> Result<()> {
    boots_with_processors(stage, 4)
}

fn boots_with_processors(stage: &Stage<'_>, count: u32) -> Result<()> {
    let mut vm = stage.vm().processors(count).root(&stage.root("qcow2")?, "qcow2").boot()?;

    let seen = vm.run("grep -c ^processor /proc/cpuinfo")?;

    ensure!(seen == count.to_string(), "the guest has {seen} processors and not {count}");
    vm.power_off()
}

fn guest_sees_its_numa_nodes(stage: &Stage<'_>) -> Result<()> {
    let mut vm = stage
        .vm()
        .processors(3)
        .with(&["-object", "memory-backend-ram,id=a,size=96M,prealloc=on,prealloc-threads=2"])
        .with(&["-object", "memory-backend-memfd,id=b,size=160M"])
        .with(&[
            "-numa",
            "node,cpus=0,cpus=2,memdev=a",
            "-numa",
            "node,cpus=1,memdev=b",
            "-numa",
            "dist,src=0,dst=1,val=30",
        ])
        .boot()?;

    let seen = vm.run("cd /sys/devices/system/node; cat node0/cpulist node1/cpulist node0/distance node1/distance")?;
    let memory = vm.run("sed -n 's/.*MemTotal: *//p' /sys/devices/system/node/node*/meminfo")?;

    ensure!(seen.lines().map(str::trim).eq(["0,2", "1", "10 30", "30 10"]), "the guest's nodes are {seen}");
    let sizes: Vec<u64> = memory.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
    ensure!(matches!(sizes[..], [a, b] if a < 96 << 10 && b > 100 << 10), "the nodes have {memory}");
    vm.power_off()
}

fn boots_elf_kernel(stage: &Stage<'_>) -> Result<()> {
    let mut vm = stage.vm().elf().boot()?;

    vm.run("uname -r")?;

    vm.power_off()
}

/// The same kernel with another type in the note: what is left is Linux' 64-bit entry.
fn boots_elf_kernel_without_its_pvh_note(stage: &Stage<'_>) -> Result<()> {
    let boot = stage.boot(Flavor::Cloud);
    let mut vmlinux = fs::read(&boot.kernel.vmlinux)?;
    // Notes are aligned to four bytes.
    let note = (0..vmlinux.len()).step_by(4).find(|&at| vmlinux[at..].starts_with(PVH_NOTE));
    let at = note.context("the kernel has no note")?;
    vmlinux[at] = !vmlinux[at];
    let path = stage.scratch().join("vmlinux");
    fs::write(&path, vmlinux)?;
    let (kernel, initramfs) = (path.display().to_string(), boot.initramfs.display().to_string());
    let arguments = ["-kernel", &kernel, "-initrd", &initramfs, "-append", "console=ttyS0 quiet panic=-1"];
    let mut vm = stage.vm().starts_itself().with(&arguments).boot()?;

    let loader = vm.run("cat /proc/sys/kernel/bootloader_type")?;

    // Who enters by the note leaves the zero page to the kernel's own code, which writes 0xb0 there.
    ensure!(loader.trim() == "255", "the kernel's loader is {loader}");
    vm.power_off()
}

fn boots_generic_kernel(stage: &Stage<'_>) -> Result<()> {
    let mut vm = stage.vm().flavor(Flavor::Generic).root(&stage.root("qcow2")?, "qcow2").boot()?;

    let release = vm.run("uname -r")?;

    ensure!(!release.contains("cloud"), "{release} is the other kernel");
    finds_nothing_wrong(&mut vm)?;
    vm.power_off()
}

fn boots_with_blockdev_and_device(stage: &Stage<'_>) -> Result<()> {
    let root = stage.root("qcow2")?.display().to_string();
    let file = format!("driver=file,node-name=file0,filename={root}");
    let mut vm = stage
        .vm()
        .root_on("/dev/vda")
        .with(&["-blockdev", &file, "-blockdev", "driver=qcow2,node-name=disk0,file=file0"])
        .with(&["-device", "virtio-blk-pci,drive=disk0,id=root,serial=root-disk,addr=7"])
        .boot()?;

    let serial = vm.run("cat /sys/block/vda/serial")?;
    let address = vm.run("readlink /sys/block/vda")?;

    ensure!(serial == "root-disk", "the disk's serial is {serial:?}");
    ensure!(address.contains("0000:00:07.0"), "the disk is at {address}");
    vm.power_off()
}

fn boots_with_json_options(stage: &Stage<'_>) -> Result<()> {
    let root = serde_json::json!({
        "driver": "qcow2",
        "node-name": "disk0",
        "file": {"driver": "file", "filename": stage.root("qcow2")?},
    });
    let device = r#"{"driver":"virtio-blk-pci","drive":"disk0","id":"root"}"#;
    let mut vm = stage
        .vm()
        .root_on("/dev/vda")
        .with(&["-blockdev", &root.to_string(), "-device", device])
        .with(&["-device", r#"{"driver":"virtio-rng-pci"}"#])
        .boot()?;

    let source = vm.run("cat /sys/class/misc/hw_random/rng_current")?;

    ensure!(source.starts_with("virtio_rng"), "the guest's random numbers come from {source}");
    vm.power_off()
}

fn kernel_finds_nothing_wrong_with_the_firmware(stage: &Stage<'_>) -> Result<()> {
    let mut vm = stage.vm().processors(2).with(&["-device", "virtio-rng-pci"]).boot()?;

    finds_nothing_wrong(&mut vm)?;

    vm.power_off()
}

pub(super) fn finds_nothing_wrong(vm: &mut Vm) -> Result<()> {
    // The first line shows that the log was read at all.
    let log = vm.run(&format!("dmesg | grep -E 'Linux version|{}'", COMPLAINTS.join("|")))?;
    let (first, complaints) = log.split_once('\n').unwrap_or((log.as_str(), ""));
    ensure!(first.contains("Linux version"), "this is no kernel log: {log}");
    ensure!(complaints.is_empty(), "the kernel says: {complaints}");
    Ok(())
}
