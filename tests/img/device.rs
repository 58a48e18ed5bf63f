//! Images on block devices.

use std::process::Command;

use crate::rig::Rig;

/// A loop device over a file; taken down when it is dropped.
struct Loop(String);

impl Loop {
    /// `None`, and a word about it, where there are none or nobody may set one up.
    fn over(rig: &Rig, file: &str) -> Option<Self> {
        let ran = Command::new("losetup").args(["--find", "--show"]).arg(rig.path(file)).output();
        let name =
            ran.ok().filter(|ran| ran.status.success()).map(|ran| String::from_utf8_lossy(&ran.stdout).into_owned());
        if name.is_none() {
            eprintln!("NOT RUN: block devices are tested on loop devices, which need root and losetup");
        }
        name.map(|name| Self(name.trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn block_devices_hold_images_as_with_qemu() {
    let rig = Rig::empty();
    rig.write("store.raw", 16 << 20, &[(0, 16 << 20, 9)]);
    rig.write("source.raw", 8 << 20, &[(1 << 20, 2 << 20, 7)]);
    let Some(device) = Loop::over(&rig, "store.raw") else { return };
    let name = &device.0;

    rig.works(&format!("create -q -f qcow2 {name} 8M"));
    rig.same(&format!("info {name}"));
    rig.io(name, &["write -P 5 0 1M"]);
    rig.works(&format!("resize -q -f qcow2 {name} 12M"));
    rig.sound(name);
    rig.works(&format!("convert -O qcow2 source.raw {name}"));
    rig.alike("source.raw", name);
    rig.sound(name);
    // What the device had before shows nowhere.
    rig.works(&format!("convert -O raw source.raw {name}"));
    rig.same(&format!("compare -f raw -F raw source.raw {name}"));
    rig.same(&format!("resize -f raw --shrink {name} 4M"));
    rig.same(&format!("resize -f raw {name} 64M"));
    rig.same_json(&format!("info -f raw --output json {name}"));
}
