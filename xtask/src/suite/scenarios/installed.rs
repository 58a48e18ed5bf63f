//! A disk with Debian installed on it boots from each bus to a login, through SeaBIOS and through UEFI: played by name,
//! for its making takes minutes.

use std::time::Duration;

use anyhow::Result;

use super::firmware::{MENU, start};
use super::uefi::{flash, variables};
use crate::suite::stage::Stage;
use crate::suite::vm::Vm;

super::scenarios![
    installed_debian_boots_from_ide,
    installed_debian_boots_from_virtio_blk,
    installed_debian_boots_from_virtio_scsi,
    installed_debian_boots_through_uefi_from_ide,
    installed_debian_boots_through_uefi_from_virtio_blk,
    installed_debian_boots_through_uefi_from_virtio_scsi,
];

/// A whole distribution comes up, or installs its boot loader, within this.
const LONG: Duration = Duration::from_secs(240);

const IDE: Place = ("if=ide", &[]);
const VIRTIO_BLK: Place = ("if=virtio", &[]);
const VIRTIO_SCSI: Place = ("if=none,id=d", &["-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=d"]);

/// The disk's options, and the devices it takes.
type Place = (&'static str, &'static [&'static str]);

fn installed_debian_boots_from_ide(stage: &Stage<'_>) -> Result<()> {
    boots(stage, IDE)
}

fn installed_debian_boots_from_virtio_blk(stage: &Stage<'_>) -> Result<()> {
    boots(stage, VIRTIO_BLK)
}

fn installed_debian_boots_from_virtio_scsi(stage: &Stage<'_>) -> Result<()> {
    boots(stage, VIRTIO_SCSI)
}

fn installed_debian_boots_through_uefi_from_ide(stage: &Stage<'_>) -> Result<()> {
    boots_through_uefi(stage, IDE)
}

fn installed_debian_boots_through_uefi_from_virtio_blk(stage: &Stage<'_>) -> Result<()> {
    boots_through_uefi(stage, VIRTIO_BLK)
}

fn installed_debian_boots_through_uefi_from_virtio_scsi(stage: &Stage<'_>) -> Result<()> {
    boots_through_uefi(stage, VIRTIO_SCSI)
}

fn boots(stage: &Stage<'_>, (options, devices): Place) -> Result<()> {
    let (disk, _) = stage.debian_disk()?;
    let drive = format!("file={},format=qcow2,{options}", disk.display());
    boots_to_a_login(stage, &[&["-drive", &drive][..], devices].concat())
}

/// The guest itself installs GRUB, and starts by the entry in the boot menu that is in flash; then a BIOS starts the
/// same disk.
fn boots_through_uefi(stage: &Stage<'_>, (options, devices): Place) -> Result<()> {
    let (disk, debian) = stage.debian_disk()?;
    let drive = format!("file={},format=qcow2,{options}", disk.display());
    // In 256 MiB, GRUB for UEFI finds no room for the kernel.
    let disk = [&["-m", "512", "-drive", &drive][..], devices].concat();
    let flash = flash(&variables(stage)?);
    let firmware = flash.each_ref().map(String::as_str);
    let (kernel, initramfs) = (debian.kernel.display().to_string(), debian.initramfs.display().to_string());
    let append = "root=LABEL=rhea console=ttyS0 quiet panic=-1 init=/usr/local/sbin/put-grub";
    let install = ["-kernel", &kernel, "-initrd", &initramfs, "-append", append];
    let mut vm = start(stage, &[&firmware[..], &disk, &install].concat())?;
    vm.wait_for("GRUB is installed", LONG)?;
    vm.ends_well()?;
    // A lab machine on a busy host that says nothing for as long as all of this takes would be ended.
    println!("the guest has installed GRUB");

    let mut vm = start(stage, &[&firmware[..], &disk].concat())?;
    vm.wait_for("\"debian\"", MENU)?;
    to_a_login(&mut vm)?;
    drop(vm);
    println!("UEFI has started the guest");
    boots_to_a_login(stage, &disk)
}

fn boots_to_a_login(stage: &Stage<'_>, arguments: &[&str]) -> Result<()> {
    to_a_login(&mut start(stage, arguments)?)
}

fn to_a_login(vm: &mut Vm) -> Result<()> {
    vm.wait_for("GRUB on the disk with Debian", MENU)?;
    vm.wait_for("guest login:", LONG)?;
    Ok(())
}
