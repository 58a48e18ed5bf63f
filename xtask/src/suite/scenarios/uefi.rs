//! UEFI firmware starts the guest, and keeps its variables in flash.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::boot::finds_nothing_wrong;
use super::firmware::{are_the_same, start, tables};
use crate::packages::{UEFI, UEFI_CODE, UEFI_VARIABLES};
use crate::suite::stage::Stage;
use crate::suite::vm::Vm;

super::scenarios![
    uefi_keeps_its_variables_in_flash,
    uefi_starts_discs_from_each_bus,
    tables_are_the_same_directly_and_through_uefi,
];

/// This firmware and a boot loader get to a menu within this.
const MENU: Duration = Duration::from_secs(120);

/// Variables of ours, in the form of efivarfs: a name and an owner.
const VARIABLE: &str = "/sys/firmware/efi/efivars/RheaTest-6b0b5a4e-2a56-4a47-9b0e-3a7d2c1f5e11";

const OTHER: &str = "/sys/firmware/efi/efivars/RheaOther-6b0b5a4e-2a56-4a47-9b0e-3a7d2c1f5e11";

/// A guest's own copy of the variables, as they are in the beginning.
pub(super) fn variables(stage: &Stage<'_>) -> Result<PathBuf> {
    let copy = stage.scratch().join("vars.fd");
    fs::copy(UEFI_VARIABLES, &copy).with_context(|| format!("cannot copy {UEFI_VARIABLES}"))?;
    Ok(copy)
}

/// The options for firmware in two flash chips, the second with these variables.
pub(super) fn flash(variables: &Path) -> [String; 4] {
    let code = format!("if=pflash,format=raw,unit=0,readonly=on,file={UEFI_CODE}");
    let kept = format!("if=pflash,format=raw,unit=1,file={}", variables.display());
    ["-drive".into(), code, "-drive".into(), kept]
}

/// A guest that UEFI has started, with its variables mounted.
fn boot(stage: &Stage<'_>, firmware: &[&str]) -> Result<Vm> {
    let mut vm = stage.vm().with(firmware).boot()?;
    vm.run("mount -t efivarfs efivarfs /sys/firmware/efi/efivars")?;
    Ok(vm)
}

fn uefi_keeps_its_variables_in_flash(stage: &Stage<'_>) -> Result<()> {
    let variables = variables(stage)?;
    let mut vm = boot(stage, &flash(&variables).each_ref().map(String::as_str))?;
    // Four bytes of attributes (kept, also seen before and after the boot), then the value (UEFI 2.10, 8.2).
    vm.run(&format!("printf '\\7\\0\\0\\0kept through it all' >{VARIABLE}"))?;
    vm.kill()?;
    let file = fs::read(&variables)?;
    let value = b"kept through it all";
    ensure!(file.windows(value.len()).any(|bytes| bytes == value), "the variable is not in {}", variables.display());

    // The same flash by nodes and by properties of the machine.
    let code = format!("driver=file,node-name=code,read-only=on,filename={UEFI_CODE}");
    let kept = format!("driver=file,node-name=kept,filename={}", variables.display());
    let nodes = ["-blockdev", &code, "-blockdev", &kept, "-machine", "pflash0=code,pflash1=kept"];
    let mut vm = boot(stage, &nodes)?;
    let read = vm.run(&format!("tail -c +5 {VARIABLE}"))?;
    ensure!(read == "kept through it all", "after a power cycle the variable is {read:?}");
    vm.run(&format!("sed s/kept/held/ {VARIABLE} >/tmp/other; cat /tmp/other >{OTHER}"))?;
    vm.reboot()?;
    vm.run("mount -t efivarfs efivarfs /sys/firmware/efi/efivars")?;
    let read = vm.run(&format!("tail -q -c +5 {VARIABLE} {OTHER}"))?;
    ensure!(read == "kept through it allheld through it all", "after a reboot the variables are {read:?}");
    vm.power_off()
}

fn uefi_starts_discs_from_each_bus(stage: &Stage<'_>) -> Result<()> {
    let disc = format!("file={},format=raw,media=cdrom,readonly=on,if=none,id=d", stage.boot_disc()?.display());
    let ide: &[&str] = &["-device", "ide-cd,drive=d"];
    let scsi: &[&str] = &["-device", "virtio-scsi-pci", "-device", "scsi-cd,drive=d"];
    for devices in [ide, scsi] {
        let mut vm = start(stage, &[&["-bios", UEFI, "-drive", &disc][..], devices].concat())?;
        // The menu goes on by itself.
        vm.wait_for("Power off", MENU).with_context(|| format!("GRUB from {devices:?}"))?;
        vm.ends_well()?;
    }
    Ok(())
}

fn tables_are_the_same_directly_and_through_uefi(stage: &Stage<'_>) -> Result<()> {
    let direct = tables(stage, "direct", &[], |_| Ok(()))?;
    let through = tables(stage, "uefi", &["-bios", UEFI], |vm| {
        let bits = vm.run("cat /sys/firmware/efi/fw_platform_size")?;
        ensure!(bits == "64", "the firmware's width is {bits:?}");
        finds_nothing_wrong(vm)
    })?;
    are_the_same(&direct, &through)
}
