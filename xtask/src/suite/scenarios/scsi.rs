//! Disks and CD drives on IDE and SCSI, as Linux and the tools of people see them.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::kernel::Flavor;
use crate::suite::stage::Stage;
use crate::suite::vm::Vm;

super::scenarios![
    drives_answer_the_tools,
    four_ide_drives_work_at_once,
    disc_changes_under_a_running_guest,
    disk_comes_and_goes_behind_an_adapter,
    units_of_one_node_fence_each_other,
];

/// The driver of the IDE function has two hosts and comes first; the SCSI adapter is the third.
const IDE_DISK: &str = "0:0:0:0";
const IDE_CD: &str = "1:0:0:0";
const SCSI_DISK: &str = "2:0:1:2";
const SCSI_QCOW2: &str = "2:0:255:0";
const SCSI_CD: &str = "2:0:0:0";

/// A tool, where it is pointed at, and what it has to say.
type Question = (&'static str, &'static str, &'static [&'static str]);

const QUESTIONS: &[Question] = &[
    ("sg_inq", SCSI_DISK, &["QEMU HARDDISK", "[SPC-3]", "Unit serial number: abc"]),
    ("sg_luns", SCSI_DISK, &["0002000000000000"]),
    ("sg_vpd", SCSI_DISK, &["[sv]", "[sn]", "[di]", "[bl]", "[bdc]", "[lbpv]"]),
    ("sg_vpd -p sn", SCSI_DISK, &["Unit serial number: abc"]),
    ("sg_vpd -p di", SCSI_DISK, &["vendor specific: first", "0x5000c50015ea71ac"]),
    ("sg_vpd -p bl", SCSI_DISK, &["compare and write length: 255 blocks", "Maximum unmap LBA count: 2097152"]),
    ("sg_vpd -p bdc", SCSI_DISK, &["Non-rotating medium"]),
    ("sg_vpd -p lbpv", SCSI_DISK, &["(LBPU): 1", "thin provisioned"]),
    ("sg_vpd", SCSI_CD, &["[sv]", "[di]"]),
    ("sg_opcodes", SCSI_DISK, &["Compare and write", "Unmap", "Write same(16)", "Persistent reserve out, preempt"]),
    ("sg_opcodes", SCSI_CD, &["Read TOC", "Get configuration", "Get event status"]),
    ("sg_readcap --16", SCSI_DISK, &["Last LBA=131071", "lbpme=1"]),
    ("sg_modes -a", SCSI_DISK, &["Caching", "Control", "DpoFua=1"]),
    ("sg_write_same --16 --unmap --num=2048 --lba=2048", SCSI_DISK, &[]),
    ("sg_write_same --10 --num=16 --lba=0 --in=/dev/zero --xferlen=512", SCSI_DISK, &[]),
    ("sg_unmap --force --lba=0 --num=8", SCSI_DISK, &[]),
    ("sg_compare_and_write --in=/dev/zero --lba=0 --num=1 --xferlen=1024", SCSI_DISK, &[]),
    ("sg_verify --lba=0 --count=8", SCSI_DISK, &[]),
    ("sg_persist --out --register --param-sark=0x1234", SCSI_DISK, &[]),
    ("sg_persist --out --reserve --param-rk=0x1234 --prout-type=5", SCSI_DISK, &[]),
    ("sg_persist --in -r", SCSI_DISK, &["Key=0x1234", "Write Exclusive, registrants only"]),
    ("sg_persist --out --clear --param-rk=0x1234", SCSI_DISK, &[]),
    ("sg_persist --in -k", SCSI_DISK, &["NO registered reservation keys"]),
    ("sg_reset -d", SCSI_DISK, &[]),
    ("sg_get_config", SCSI_CD, &["Current profile: CD-ROM", "Removable media feature"]),
    ("smartctl -i", SCSI_DISK, &["LU is thin provisioned", "Serial number:        abc"]),
    ("smartctl -a", IDE_DISK, &["Serial Number:    QM00001", "PASSED", "No Errors Logged"]),
    ("hdparm -I", IDE_DISK, &["LBA48  user addressable sectors:      131072", "Current = 16", "Checksum: correct"]),
    ("hdparm -N", IDE_DISK, &["131072/131072, HPA is disabled"]),
    ("hdparm -W0", IDE_DISK, &["write-caching =  0 (off)"]),
    ("hdparm -C", IDE_DISK, &["active/idle"]),
    ("sg_inq", IDE_CD, &["QEMU DVD-ROM"]),
];

/// fio writes random blocks of many sizes, deep queues, and reads each back.
const FIO: &str = "chroot /mnt fio --ioengine=libaio --direct=1 --iodepth=16 --rw=randwrite --bsrange=4k-64k \
                   --verify=crc32c --verify_fatal=1 --minimal";

/// What Linux says when a drive does not do as it should.
const COMPLAINTS: &str = "exception Emask|failed command|resetting link|I/O error|rejecting I/O|Sense Key";

/// The name that the guest's kernel gave to the unit at `address`, once it is there.
fn name(vm: &mut Vm, address: &str) -> Result<String> {
    let block = format!("/sys/bus/scsi/devices/{address}/block");
    vm.run(&format!("for i in $(seq 100); do [ -e {block} ] && break; sleep 0.1; done; ls {block}"))
}

fn drives_answer_the_tools(stage: &Stage<'_>) -> Result<()> {
    let disc = stage.disc("disc", "one\n")?.display().to_string();
    let image = |name: &str, format: &str| -> Result<String> {
        Ok(format!(
            "file={},format={format},discard=unmap,if=none,id={name}",
            stage.image(name, format, "64M")?.display()
        ))
    };
    let ide = stage.image("ide", "raw", "64M")?.display().to_string();
    let qcow2 = stage.scratch().join("second.qcow2");
    let mut vm = stage
        .vm()
        .flavor(Flavor::Generic)
        .elf()
        .processors(2)
        .tools()?
        .with(&["-drive", &format!("file={ide},format=raw,index=0"), "-cdrom", &disc])
        .with(&["-device", "virtio-scsi-pci,id=scsi0,num_queues=2", "-drive", &image("first", "raw")?])
        .with(&[
            "-device",
            "scsi-hd,drive=first,scsi-id=1,lun=2,serial=abc,device_id=first,wwn=0x5000c50015ea71ac,rotation_rate=1,dpofua=on",
        ])
        .with(&["-drive", &image("second", "qcow2")?, "-device", "scsi-hd,drive=second,bus=scsi0.0,scsi-id=255"])
        .with(&["-drive", &format!("file={disc},format=raw,if=none,media=cdrom,id=cd"), "-device", "scsi-cd,drive=cd"])
        .boot()?;
    vm.enter_tools()?;

    for (tool, address, answers) in QUESTIONS {
        let drive = name(&mut vm, address)?;
        let said = vm.run(&format!("chroot /mnt {tool} /dev/{drive}"))?;
        for answer in *answers {
            ensure!(said.contains(answer), "{tool} does not say {answer:?} but: {said}");
        }
    }
    for address in [IDE_DISK, SCSI_DISK, SCSI_QCOW2] {
        let drive = name(&mut vm, address)?;
        vm.run_within(
            &format!("{FIO} --size=4m --name=verify --filename=/dev/{drive} >/dev/null"),
            Duration::from_secs(180),
        )?;
    }
    let functions = vm.run("chroot /mnt lspci -vv")?;
    let complaints = vm.run(&format!("dmesg | grep -E '{COMPLAINTS}'; true"))?;

    ensure!(functions.contains("ata_piix") && functions.contains("virtio-pci"), "lspci says: {functions}");
    ensure!(complaints.is_empty(), "the kernel says: {complaints}");
    vm.power_off()?;
    ensure!(stage.faults(&qcow2)? == 0, "the image is damaged");
    Ok(())
}

fn four_ide_drives_work_at_once(stage: &Stage<'_>) -> Result<()> {
    const FORMATS: [&str; 4] = ["raw", "qcow2", "raw", "qcow2"];
    let mut recipe = stage.vm().flavor(Flavor::Generic).elf().processors(2).tools()?;
    let mut images = Vec::new();
    for (index, format) in FORMATS.iter().enumerate() {
        let image = stage.image(&format!("drive{index}"), format, "16M")?;
        recipe = recipe.with(&["-drive", &format!("file={},format={format},index={index}", image.display())]);
        images.push((image, format));
    }
    let mut vm = recipe.boot()?;
    vm.enter_tools()?;

    let drives = "sda sdb sdc sdd";
    let here = format!("for i in $(seq 100); do [ -e /dev/sdd ] && break; sleep 0.1; done; cd /dev && ls {drives}");
    vm.run(&here)?;
    let jobs: String = drives.split(' ').map(|drive| format!(" --name={drive} --filename=/dev/{drive}")).collect();
    vm.run_within(&format!("{FIO} --size=512k{jobs} >/dev/null"), Duration::from_secs(180))?;
    let complaints = vm.run(&format!("dmesg | grep -E '{COMPLAINTS}'; true"))?;

    ensure!(complaints.is_empty(), "the kernel says: {complaints}");
    vm.power_off()?;
    for (image, _) in images.iter().filter(|(_, format)| **format == "qcow2") {
        ensure!(stage.faults(image)? == 0, "{} is damaged", image.display());
    }
    Ok(())
}

fn disc_changes_under_a_running_guest(stage: &Stage<'_>) -> Result<()> {
    let one = stage.disc("one", "disc one\n")?.display().to_string();
    let two = stage.disc("two", "disc two\n")?.display().to_string();
    let scsi = format!("file={one},format=raw,if=none,media=cdrom,id=cd");
    let mut vm = stage
        .vm()
        .flavor(Flavor::Generic)
        .elf()
        .tools()?
        .with(&["-cdrom", &one, "-device", "virtio-scsi-pci", "-drive", &scsi, "-device", "scsi-cd,drive=cd"])
        .boot()?;
    vm.enter_tools()?;
    let mut qmp = vm.qmp()?;

    for (address, drive) in [(IDE_CD, "ide1-cd0"), (SCSI_CD, "cd")] {
        let node = name(&mut vm, address)?;
        let read = format!("mount -t iso9660 -o ro /dev/{node} /tmp/disc && cat /tmp/disc/label");
        vm.run("mkdir -p /tmp/disc")?;
        ensure!(vm.run(&read)? == "disc one", "the first disc is not in {drive}");
        // Linux holds the tray while a disc is mounted.
        let change = json!({"device": drive, "filename": two, "format": "raw"});
        let held = qmp.command("blockdev-change-medium", &change).is_err();
        ensure!(held, "the mounted disc was taken out of {drive}");
        vm.run("umount /tmp/disc")?;

        qmp.command("blockdev-change-medium", &change)?;
        let label = vm.run(&read)?;
        vm.run(&format!("umount /tmp/disc; chroot /mnt eject /dev/{node}"))?;
        let mut moved = qmp.event("DEVICE_TRAY_MOVED")?;
        while moved["device"] != drive || moved["tray-open"] != true {
            moved = qmp.event("DEVICE_TRAY_MOVED")?;
        }
        vm.run(&format!("chroot /mnt eject -t /dev/{node}"))?;

        ensure!(label == "disc two", "in {drive} the guest reads {label:?}");
    }
    vm.power_off()
}

fn disk_comes_and_goes_behind_an_adapter(stage: &Stage<'_>) -> Result<()> {
    let file = json!({"driver": "file", "node-name": "file0", "filename": stage.image("disk", "raw", "16M")?});
    let mut vm = stage.vm().flavor(Flavor::Generic).elf().with(&["-device", "virtio-scsi-pci,id=scsi0"]).boot()?;
    let mut qmp = vm.qmp()?;

    qmp.command("blockdev-add", &file)?;
    let disk = json!({"driver": "scsi-hd", "id": "disk", "drive": "file0", "scsi-id": 3, "lun": 1});
    qmp.command("device_add", &disk)?;
    let node = name(&mut vm, "2:0:3:1")?;
    vm.run(&format!("dd if=/dev/zero of=/dev/{node} bs=64k count=16 conv=fsync"))?;
    qmp.command("block_resize", &json!({"node-name": "file0", "size": 33_554_432}))?;
    vm.run(&format!("for i in $(seq 100); do [ $(cat /sys/block/{node}/size) = 65536 ] && break; sleep 0.1; done"))?;
    let size = vm.run(&format!("cat /sys/block/{node}/size"))?;
    qmp.command("device_del", &json!({"id": "disk"}))?;
    qmp.event("DEVICE_DELETED")?;
    let left =
        vm.run(&format!("for i in $(seq 100); do [ -e /sys/block/{node} ] || break; sleep 0.1; done; ls /sys/block"))?;
    qmp.command("blockdev-del", &json!({"node-name": "file0"}))?;

    ensure!(size == "65536", "the guest takes the grown disk for {size} sectors");
    ensure!(!left.contains(&node), "the guest still has {node}: {left}");
    vm.power_off()
}

fn units_of_one_node_fence_each_other(stage: &Stage<'_>) -> Result<()> {
    let image = stage.image("shared", "raw", "64M")?.display().to_string();
    let mut vm = stage
        .vm()
        .flavor(Flavor::Generic)
        .elf()
        .processors(2)
        .tools()?
        .with(&["-blockdev", &format!("driver=raw,node-name=n,file.driver=file,file.filename={image}")])
        .with(&["-device", "virtio-scsi-pci,id=a", "-device", "scsi-hd,bus=a.0,drive=n,share-rw=on"])
        .with(&["-device", "virtio-scsi-pci,id=b", "-device", "scsi-hd,bus=b.0,drive=n,share-rw=on"])
        .boot()?;
    vm.enter_tools()?;
    let (one, other) = (name(&mut vm, "2:0:0:0")?, name(&mut vm, "3:0:0:0")?);
    let persist = |vm: &mut Vm, drive: &str, what: &str| {
        vm.run(&format!("chroot /mnt sg_persist --out {what} /dev/{drive}")).map(drop)
    };
    let writes = |vm: &mut Vm, drive: &str| {
        let dd = format!("chroot /mnt dd if=/dev/zero of=/dev/{drive} bs=4k count=1 oflag=direct 2>&1");
        vm.run(&format!("{dd} && echo written; true")).map(|said| said.contains("written"))
    };

    persist(&mut vm, &one, "--register --param-sark=0x1")?;
    persist(&mut vm, &other, "--register --param-sark=0x2")?;
    ensure!(writes(&mut vm, &one)? && writes(&mut vm, &other)?, "nobody has reserved it");
    persist(&mut vm, &one, "--reserve --param-rk=0x1 --prout-type=1")?;
    ensure!(writes(&mut vm, &one)? && !writes(&mut vm, &other)?, "the one has reserved it");
    persist(&mut vm, &other, "--preempt-abort --param-rk=0x2 --param-sark=0x1 --prout-type=1")?;
    ensure!(!writes(&mut vm, &one)? && writes(&mut vm, &other)?, "the other has preempted it");
    persist(&mut vm, &other, "--clear --param-rk=0x2")?;
    ensure!(writes(&mut vm, &one)? && writes(&mut vm, &other)?, "nobody has reserved it any more");
    vm.power_off()
}
