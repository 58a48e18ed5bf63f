//! Other people's discs, disks and kernels start, up to what these show on the serial console; and what firmware tells
//! of the machine is what a kernel is told without it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::command;
use crate::packages::RESCUE_DISC;
use crate::suite::stage::Stage;
use crate::suite::vm::Vm;

super::scenarios![
    grub_shows_its_menu_from_every_bus,
    discs_reach_their_menus,
    xen_starts_by_multiboot,
    tables_are_the_same_directly_and_through_firmware,
];

/// Firmware and a boot loader get to a menu within this.
pub(super) const MENU: Duration = Duration::from_secs(60);
/// What iPXE says once it is unpacked and has set up its console and memory. It then gathers entropy from thousands of
/// interrupts in real mode, where the lab's KVM has been seen to give up on an instruction.
const IPXE: &str = "iPXE initialising devices";

/// The same image as a disc and as a disk, on each bus: the drive, and the devices it takes.
const BUSES: &[(&str, &[&str])] = &[
    ("if=ide,media=cdrom", &[]),
    ("if=ide,snapshot=on", &[]),
    ("if=virtio,snapshot=on", &[]),
    ("if=none,id=d,media=cdrom", &["-device", "virtio-scsi-pci", "-device", "scsi-cd,drive=d"]),
    ("if=none,id=d,snapshot=on", &["-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=d"]),
];

pub(super) fn start(stage: &Stage<'_>, arguments: &[&str]) -> Result<Vm> {
    stage.vm().starts_itself().with(arguments).launch()
}

/// A CD drive with this disc in it.
pub(super) fn with_disc(stage: &Stage<'_>, disc: &Path) -> Result<Vm> {
    start(stage, &["-cdrom", &disc.display().to_string()])
}

fn grub_shows_its_menu_from_every_bus(stage: &Stage<'_>) -> Result<()> {
    for (place, devices) in BUSES {
        let drive = format!("file={RESCUE_DISC},format=raw,{place}");
        let mut vm = start(stage, &[&["-drive", &drive][..], devices].concat())?;
        for shown in ["Welcome to GRUB", "Press enter to boot the selected OS", "GNU/Linux"] {
            vm.wait_for(shown, MENU).with_context(|| format!("GRUB on a drive with {place}"))?;
        }
    }
    Ok(())
}

fn discs_reach_their_menus(stage: &Stage<'_>) -> Result<()> {
    let mut ours = with_disc(stage, &stage.boot_disc()?)?;
    ours.wait_for("Memory test", MENU)?;
    ours.wait_for("Network boot loader", MENU)?;
    // Down to the second entry: a kernel that GRUB starts in real mode.
    ours.type_line("\x0e")?;
    ours.wait_for(IPXE, MENU)?;
    drop(ours);
    let mut network = with_disc(stage, Path::new("/usr/lib/ipxe/ipxe.iso"))?;
    network.wait_for("ISOLINUX", MENU)?;
    network.wait_for(IPXE, MENU)?;
    drop(network);
    // A kernel that calls the BIOS.
    start(stage, &["-kernel", "/boot/ipxe.lkrn"])?.wait_for(IPXE, MENU).map(drop)
}

/// Its module is no kernel for it, but the last thing it looks at.
fn xen_starts_by_multiboot(stage: &Stage<'_>) -> Result<()> {
    let xen = stage.xen()?.display().to_string();
    let module = format!("{} first module", stage.boot_disc()?.display());
    let mut vm = start(stage, &["-kernel", &xen, "-initrd", &module, "-append", "console=com1 com1=115200,8n1"])?;
    for shown in ["Xen version 4", "Multiboot-e820 RAM map", "ACPI: DSDT"] {
        vm.wait_for(shown, MENU)?;
    }
    Ok(())
}

/// The tables of a guest that is started so, in a directory, and what dmidecode says of all but the firmware; `look`
/// sees the guest first.
pub(super) fn tables(
    stage: &Stage<'_>,
    name: &str,
    arguments: &[&str],
    look: impl Fn(&mut Vm) -> Result<()>,
) -> Result<(PathBuf, String)> {
    let disk = stage.image(name, "raw", "1M")?;
    let mut vm = stage.vm().processors(2).tools()?.disk(&disk, "raw").with(arguments).boot()?;
    look(&mut vm)?;
    vm.enter_tools()?;
    let described = vm.run("chroot /mnt dmidecode -q -t system -t chassis -t processor -t memory")?;
    let complaints = vm.run("chroot /mnt dmidecode | grep -iE 'invalid|bad|broken|truncated|wrong|overlap'; true")?;
    ensure!(complaints.is_empty(), "dmidecode says: {complaints}");
    let said = vm.run("mkdir /mnt/tmp/acpi; chroot /mnt sh -c 'cd /tmp/acpi && acpidump -b && iasl -d *.dat'")?;
    ensure!(!said.contains("Warning") && !said.contains("Error"), "acpidump or iasl says: {said}");
    vm.run("chroot /mnt tar -cf /dev/vdb -C /tmp/acpi .; sync")?;
    vm.power_off()?;
    let directory = stage.scratch().join(name);
    fs::create_dir_all(&directory)?;
    command::output(Command::new("tar").arg("-xf").arg(&disk).arg("-C").arg(&directory))?;
    Ok((directory, described))
}

fn tables_are_the_same_directly_and_through_firmware(stage: &Stage<'_>) -> Result<()> {
    let direct = tables(stage, "direct", &[], |_| Ok(()))?;
    let firmware = tables(stage, "firmware", &["-bios", "bios-256k.bin"], |_| Ok(()))?;
    are_the_same(&direct, &firmware)
}

/// Expects the same of a guest that was started directly and of one that firmware has started.
pub(super) fn are_the_same(direct: &(PathBuf, String), firmware: &(PathBuf, String)) -> Result<()> {
    ensure!(direct.1 == firmware.1, "dmidecode: {}\nthrough firmware: {}", direct.1, firmware.1);
    for name in ["dsdt", "apic", "facp", "facs"] {
        let read = |directory: &Path| fs::read(directory.join(format!("{name}.dat")));
        let (mut one, mut other) = (read(&direct.0)?, read(&firmware.0)?);
        if name == "facp" {
            one = without_addresses(one);
            other = without_addresses(other);
        }
        ensure!(one == other, "{name} differs: {one:02x?}\nthrough firmware: {other:02x?}");
    }
    Ok(())
}

/// A FADT without its checksum, and without where FACS, DSDT and the power management registers lie, which is up to
/// firmware (ACPI 6.5, 5.2.9).
fn without_addresses(mut table: Vec<u8>) -> Vec<u8> {
    const TABLES: [(usize, usize); 2] = [(36, 8), (132, 16)];
    const REGISTERS: [(usize, usize); 6] = [(56, 4), (64, 4), (76, 4), (152, 8), (176, 8), (212, 8)];
    for (at, length) in [(9, 1)].into_iter().chain(TABLES).chain(REGISTERS) {
        table.iter_mut().skip(at).take(length).for_each(|byte| *byte = 0);
    }
    table
}
