//! Images on block devices.

use std::fs::File;
use std::io::Read;
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

/// The first sector of a device, and whether all of it is zero.
fn is_zeroed(name: &str) -> bool {
    let mut head = [1; 512];
    File::open(name).unwrap().read_exact(&mut head).unwrap();
    head == [0; 512]
}

#[test]
fn devices_are_not_taken_for_the_images_they_were() {
    let rig = Rig::empty();
    rig.write("store.raw", 16 << 20, &[]);
    rig.write("source.raw", 1 << 20, &[(0, 4096, 7)]);
    rig.write("empty.raw", 0, &[]);
    let Some(device) = Loop::over(&rig, "store.raw") else { return };
    let name = &device.0;

    for words in [
        format!("create -q -f raw {name} 1M"),
        format!("create -q -f qcow2 -o data_file={name} made 1M"),
        format!("dd -f raw -O raw if=source.raw of={name} count=0"),
        format!("convert -f raw -O raw empty.raw {name}"),
    ] {
        rig.qemu(&format!("create -q -f qcow2 {name} 1M"));
        assert!(!is_zeroed(name));
        rig.works(&words);
        assert!(is_zeroed(name), "{words}");
    }
}

#[test]
fn no_space_is_set_aside_on_devices() {
    let rig = Rig::empty();
    rig.write("store.raw", 16 << 20, &[]);
    let Some(device) = Loop::over(&rig, "store.raw") else { return };
    for (format, mode) in [("qcow2", "full"), ("qcow2", "falloc"), ("raw", "full"), ("raw", "falloc")] {
        rig.same(&format!("create -f {format} -o preallocation={mode} {} 8M", device.0));
    }
    rig.same(&format!("info host_device:{}", device.0));
}

#[test]
fn files_are_not_made_where_a_device_is_asked_for() {
    let rig = Rig::empty();
    rig.write("source.raw", 1 << 20, &[(0, 4096, 7)]);
    rig.write("there.raw", 1 << 20, &[(0, 4096, 8)]);
    for words in [
        "convert -O host_device source.raw gone.raw",
        "convert -O host_device source.raw there.raw",
        "create -f host_device there.raw 1M",
    ] {
        let ran = rig.ours(words);
        assert_eq!(ran, rig.real(words), "{words}");
        assert_eq!(ran.code, Some(1), "{words}");
    }
    assert_eq!(rig.ours("info host_device:source.raw").code, Some(1));
    assert!(!rig.path("gone.raw").exists());
    assert_eq!(std::fs::read(rig.path("there.raw")).unwrap()[0], 8);
}
