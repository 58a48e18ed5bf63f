//! A disk with Debian installed on it boots from each bus to a login: played by name, for its making takes minutes.

use std::time::Duration;

use anyhow::Result;

use super::firmware::{MENU, start};
use crate::suite::stage::Stage;

super::scenarios![
    installed_debian_boots_from_ide,
    installed_debian_boots_from_virtio_blk,
    installed_debian_boots_from_virtio_scsi
];

/// A whole distribution comes up within this.
const LOGIN: Duration = Duration::from_secs(240);

fn installed_debian_boots_from_ide(stage: &Stage<'_>) -> Result<()> {
    boots_to_a_login(stage, "if=ide", &[])
}

fn installed_debian_boots_from_virtio_blk(stage: &Stage<'_>) -> Result<()> {
    boots_to_a_login(stage, "if=virtio", &[])
}

fn installed_debian_boots_from_virtio_scsi(stage: &Stage<'_>) -> Result<()> {
    boots_to_a_login(stage, "if=none,id=d", &["-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=d"])
}

fn boots_to_a_login(stage: &Stage<'_>, place: &str, devices: &[&str]) -> Result<()> {
    let drive = format!("file={},format=raw,snapshot=on,{place}", stage.debian_disk()?.display());
    let mut vm = start(stage, &[&["-drive", &drive][..], devices].concat())?;
    vm.wait_for("GRUB on the disk with Debian", MENU)?;
    vm.wait_for("guest login:", LOGIN)?;
    Ok(())
}
