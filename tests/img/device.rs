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
        "convert -n -O host_device source.raw there.raw",
        "convert -O raw source.raw host_device:there.raw",
        "convert -O qcow2 source.raw host_device:gone.raw",
        "convert -f host_device -O raw there.raw gone.raw",
        "dd -O host_device if=source.raw of=there.raw",
        "dd -f host_device if=there.raw of=gone.raw",
        "create -f host_device there.raw 1M",
        "create -f host_device host_device:gone.raw 1M",
        "create -f raw host_device:there.raw 1M",
        "create -f qcow2 host_device:gone.raw 1M",
        "info -f host_device there.raw",
        "info -f file host_device:there.raw",
        "info host_device:",
        "resize -f host_device there.raw 2M",
    ] {
        let ran = rig.ours(words);
        assert_eq!(ran, rig.real(words), "{words}");
        assert_eq!(ran.code, Some(1), "{words}");
    }
    assert_eq!(rig.ours("info host_device:source.raw").code, Some(1));
    assert!(!rig.path("gone.raw").exists());
    assert_eq!(std::fs::read(rig.path("there.raw")).unwrap()[0], 8);
}

#[test]
fn devices_are_no_files() {
    let rig = Rig::empty();
    rig.write("store.raw", 4 << 20, &[(0, 4 << 20, 9)]);
    rig.write("source.raw", 1 << 20, &[(0, 4096, 7)]);
    let Some(device) = Loop::over(&rig, "store.raw") else { return };
    let name = &device.0;
    for words in [
        format!("create -f file {name} 1M"),
        format!("create -f raw file:{name} 1M"),
        format!("create -f qcow2 file:{name} 1M"),
        format!("create -f qcow2 -o data_file=file:{name} apart 1M"),
        format!("create -f raw {name} 8M"),
        format!("convert -O file source.raw {name}"),
        format!("convert -n -O file source.raw {name}"),
        format!("convert -f raw -O raw file:{name} copy.raw"),
        format!("dd -O raw if=source.raw of=file:{name}"),
        format!("info file:{name}"),
    ] {
        let ran = rig.ours(&words);
        assert_eq!(ran, rig.real(&words), "{words}");
        assert_eq!(ran.code, Some(1), "{words}");
    }
    assert!(!rig.path("copy.raw").exists());
    let mut bytes = Vec::new();
    File::open(name).unwrap().read_to_end(&mut bytes).unwrap();
    assert!(bytes.len() == 4 << 20 && bytes.iter().all(|byte| *byte == 9));
    let ran = rig.ours(&format!("create -f qcow2 -o data_file=host_device:{name} apart 1M"));
    assert_eq!(ran.code, Some(1), "{ran:?}");
}

#[test]
fn protocol_that_is_asked_for_is_what_the_image_is_called() {
    let rig = Rig::empty();
    rig.write("plain.raw", 1 << 20, &[(0, 4096, 7)]);
    rig.same("info -f file plain.raw");
    rig.same_json("info -f file --output json plain.raw");
}
