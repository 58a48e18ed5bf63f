//! The disks and both programs with the same devices.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::Device;
use super::machine::{Machine, Time};
use crate::dice::Dice;

/// Disks: name and size. One of them is longer than 28 bits of sectors reach.
const DISKS: [(&str, u64); 5] =
    [("small", 1 << 20), ("large", 200 << 30), ("disc", 2 << 20), ("dvd", 1 << 30), ("blk", 1 << 20)];
/// Bytes at the start of each disk that are not zero.
const FILLED: u64 = 1 << 20;

/// A clock that stands still in a machine that does not run, and one that goes on.
const STANDING: &str = "-rtc base=2024-02-28T23:59:57,clock=vm";
const GOING: &str = "-rtc base=2024-02-28T23:59:57,clock=host";

pub(super) struct Stage {
    /// Rhea's folder and program, then QEMU's.
    both: [(PathBuf, PathBuf); 2],
}

impl Stage {
    /// Makes the same disks for both.
    pub(super) fn new(folder: &Path, programs: &[&PathBuf; 2]) -> Result<Self> {
        let both = [("rhea", programs[0]), ("qemu", programs[1])];
        let both = both.map(|(name, program)| (folder.join(name), program.clone()));
        let pattern: Vec<u8> = (0..FILLED).map(|n| (n / 512 * 7 + n % 512 * 13) as u8).collect();
        for (folder, _) in &both {
            let _ = fs::remove_dir_all(folder);
            fs::create_dir_all(folder)?;
            for (name, size) in DISKS {
                let file = File::create(folder.join(name))?;
                file.set_len(size)?;
                file.write_all_at(&pattern, 0)?;
            }
        }
        Ok(Self { both })
    }

    /// Both programs, with devices of which some options are random.
    pub(super) fn machines(&self, device: Device, dice: &mut Dice, show: bool) -> Result<[Machine; 2]> {
        let devices = match device {
            Device::Ata | Device::Atapi => ide(dice),
            Device::Scsi => scsi(dice),
            Device::Blk => virtio(dice),
            Device::Pci => [ide(dice), virtio(dice)].concat(),
            Device::Chips => [ide(dice), virtio(dice), vec![STANDING.to_owned()]].concat(),
            Device::Alarms => vec![GOING.to_owned()],
        };
        if show {
            println!("{}", devices.join(" "));
        }
        let devices: Vec<&str> = devices.iter().flat_map(|text| text.split(' ')).collect();
        let start = |(folder, program): &(PathBuf, PathBuf), time: Time, how: &[&str]| {
            let mut command = Command::new(program);
            command.args(["-M", "pc", "-m", "16", "-nodefaults", "-display", "none", "-no-shutdown"]);
            command.args(["-qtest", "stdio", "-qtest-log", "/dev/null"]).args(how).args(&devices);
            command.current_dir(folder).stderr(File::create(folder.join("errors"))?);
            Machine::start(&mut command, time)
        };
        // Debian's QEMU comes without its accelerator for tests; one that stands still does as well.
        let ours = start(&self.both[0], Time::Stepped, &["-accel", "qtest"])?;
        let real = start(&self.both[1], Time::Real, &["-accel", "tcg", "-S", "-vga", "none"])?;
        Ok([ours, real])
    }

    /// How the content of the disks differs.
    pub(super) fn differs(&self) -> Result<Option<String>> {
        let errors = fs::read_to_string(self.both[0].0.join("errors"))?;
        if errors.contains("panicked") {
            bail!("{errors}");
        }
        for (name, _) in DISKS {
            let [ours, real] = self.both.each_ref().map(|(folder, _)| folder.join(name));
            let mut compare = Command::new("qemu-img");
            compare.args(["compare", "-f", "raw", "-F", "raw"]).args([ours, real]);
            let output = compare.output()?;
            if !output.status.success() {
                return Ok(Some(format!("{name}: {}", String::from_utf8_lossy(&output.stdout).trim())));
            }
        }
        Ok(None)
    }
}

fn option(dice: &mut Dice, of: &[&str]) -> String {
    dice.pick(of).to_owned()
}

fn drive(name: &str) -> String {
    format!("-drive if=none,id={name},format=raw,file={name}")
}

fn ide(dice: &mut Dice) -> Vec<String> {
    let small = option(
        dice,
        &[
            "",
            ",serial=abc,ver=1.2,model=Disk",
            ",wwn=0x5000c50015ea71ab",
            ",cyls=16,heads=4,secs=32",
            // Not as many sectors as the disk has.
            ",cyls=8,heads=4,secs=32",
            ",rotation_rate=1",
        ],
    );
    let more = option(dice, &["", ",write-cache=off", ",physical_block_size=4096", ",discard_granularity=0"]);
    let cd = option(dice, &["", ",serial=cd1,ver=x,model=Disc"]);
    let disc = option(dice, &["disc", "dvd"]);
    vec![
        drive("small"),
        drive("large"),
        format!("{},media=cdrom", drive(&disc)),
        format!("-device ide-hd,drive=small,bus=ide.0,unit=0{small}{more}"),
        format!("-device ide-cd,drive={disc},bus=ide.0,unit=1{cd}"),
        "-device ide-hd,drive=large,bus=ide.1,unit=0".to_owned(),
        "-device ide-cd,bus=ide.1,unit=1".to_owned(),
    ]
}

fn scsi(dice: &mut Dice) -> Vec<String> {
    let disk = option(
        dice,
        &[
            "",
            ",serial=abc,product=Disk,vendor=V",
            ",wwn=0x5000c50015ea71ab,port_wwn=0x5000c50015ea71ac",
            ",device_id=here",
            ",removable=on",
            ",rotation_rate=7200",
            ",port_index=3",
        ],
    );
    let more = option(
        dice,
        &[
            "",
            ",write-cache=off",
            ",physical_block_size=4096",
            ",dpofua=on",
            ",min_io_size=4096,opt_io_size=65536",
            ",max_unmap_size=65536",
            ",max_io_size=65536",
        ],
    );
    vec![
        "-device virtio-scsi-pci,id=scsi,addr=6".to_owned(),
        "-drive if=none,id=sd0,format=raw,file=small".to_owned(),
        "-drive if=none,id=sd1,format=raw,file=large".to_owned(),
        "-drive if=none,id=sr0,format=raw,file=disc,media=cdrom".to_owned(),
        format!("-device scsi-hd,drive=sd0,bus=scsi.0,scsi-id=0,lun=0{disk}{more}"),
        "-device scsi-hd,drive=sd1,bus=scsi.0,scsi-id=0,lun=300".to_owned(),
        "-device scsi-cd,drive=sr0,bus=scsi.0,scsi-id=1".to_owned(),
        "-device scsi-cd,bus=scsi.0,scsi-id=2,lun=1".to_owned(),
    ]
}

fn virtio(dice: &mut Dice) -> Vec<String> {
    let blk = option(
        dice,
        &[
            "",
            ",serial=abc",
            ",write-cache=off",
            ",config-wce=off",
            ",discard=off",
            ",write-zeroes=off",
            ",logical_block_size=4096,physical_block_size=4096",
            ",cyls=16,heads=4,secs=32",
        ],
    );
    vec![
        drive("blk"),
        format!("-device virtio-blk-pci,drive=blk,addr=4{blk}"),
        "-device virtio-rng-pci,addr=5".to_owned(),
        "-device virtio-scsi-pci,addr=6".to_owned(),
    ]
}
