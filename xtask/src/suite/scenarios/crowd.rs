//! As many drives as people attach, and more processors than the lab has: played when named.

use anyhow::{Result, ensure};

use crate::kernel::Flavor;
use crate::suite::stage::Stage;

super::scenarios![sixty_four_scsi_disks_and_four_ide_drives_are_all_there, sixteen_processors_are_placed_as_asked_for];

/// Disks on one adapter.
const DISKS: usize = 64;

fn sixty_four_scsi_disks_and_four_ide_drives_are_all_there(stage: &Stage<'_>) -> Result<()> {
    let mut recipe =
        stage.vm().flavor(Flavor::Generic).elf().processors(2).with(&["-device", "virtio-scsi-pci,num_queues=4"]);
    let mut images = Vec::new();
    for number in 0..DISKS + 4 {
        let image = stage.image(&format!("disk-{number}"), "raw", "1M")?;
        let ide = number >= DISKS;
        let interface = if ide { "ide" } else { "none" };
        let drive = format!("file={},format=raw,if={interface},id=d{number}", image.display());
        recipe = recipe.with(&["-drive", &drive]);
        if !ide {
            recipe = recipe
                .with(&["-device", &format!("scsi-hd,drive=d{number},scsi-id={},lun={}", number / 8, number % 8)]);
        }
        images.push(image);
    }
    let mut vm = recipe.boot()?;

    let count = vm.run(&format!("for i in $(seq 300); do [ $(ls /sys/block | grep -c sd) = {} ] && break; sleep 0.1; done; ls /sys/block | grep -c sd", DISKS + 4))?;
    ensure!(count == (DISKS + 4).to_string(), "the guest has {count} disks");
    // A disk is told by its address: host 0 and 1 are IDE's channels, host 2 the adapter.
    vm.run(
        "for unit in /sys/bus/scsi/devices/*:*:*:*; do echo \"I am ${unit##*/}\" | dd of=/dev/$(ls $unit/block) conv=fsync; done",
    )?;

    vm.power_off()?;
    for (number, image) in images.iter().enumerate() {
        let ide = number.checked_sub(DISKS);
        let address = ide.map_or(format!("2:0:{}:{}", number / 8, number % 8), |n| format!("{}:0:{}:0", n / 2, n % 2));
        let content = stage.content(image, "raw")?;
        ensure!(content.starts_with(format!("I am {address}\n").as_bytes()), "disk {number} is not {address}");
    }
    Ok(())
}

fn sixteen_processors_are_placed_as_asked_for(stage: &Stage<'_>) -> Result<()> {
    // An AMD processor without TOPOEXT, as the lab's, cannot tell of threads and dies.
    let cpu = ["-cpu", "qemu64,vendor=GenuineIntel"];
    let mut vm = stage.vm().with(&cpu).smp("16,sockets=2,dies=2,cores=2,threads=2").boot()?;

    let seen = vm.run(
        "cd /sys/devices/system/cpu; for n in $(seq 0 15); do cd cpu$n/topology; \
         echo $(cat physical_package_id die_id core_id thread_siblings_list die_cpus_list package_cpus_list); \
         cd ../..; done",
    )?;

    let place = |n: u32| {
        // Linux counts the cores of a socket, over its dies.
        let (socket, die, core) = (n / 8, n / 4 % 2, n / 2 % 4);
        let group = |size: u32| format!("{}-{}", n / size * size, n / size * size + size - 1);
        format!("{socket} {die} {core} {} {} {}", group(2), group(4), group(8))
    };
    ensure!(seen.lines().map(str::trim).eq((0..16).map(place)), "the guest's processors are at {seen}");
    vm.power_off()
}
