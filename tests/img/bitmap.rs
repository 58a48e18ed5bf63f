//! bitmap, with qemu-img's eyes and hands on the same images.

use crate::rig::Rig;

fn told(rig: &Rig) -> (serde_json::Value, serde_json::Value) {
    let read = |out: String| {
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        value["format-specific"]["data"]["bitmaps"].clone()
    };
    (read(rig.ours("info --output json full.qcow2").out), read(rig.real("info --output json full.qcow2").out))
}

#[test]
fn bitmaps_are_added_changed_and_removed_as_qemu_does() {
    let rig = Rig::new();
    rig.works("bitmap --add full.qcow2 one");
    rig.works("bitmap --add --disable -g 4k full.qcow2 two");
    rig.qemu("bitmap --add -g 512 full.qcow2 three");
    rig.sound("full.qcow2");
    let (ours, real) = told(&rig);
    assert_eq!(ours, real);
    assert_eq!(ours.as_array().map(Vec::len), Some(3));

    rig.works("bitmap --remove full.qcow2 one");
    rig.works("bitmap --enable --clear full.qcow2 two");
    let (ours, real) = told(&rig);
    assert_eq!(ours, real);
    rig.same("bitmap --add full.qcow2 two");
    rig.same("bitmap --remove full.qcow2 nowhere");
    rig.same("bitmap full.qcow2 two");
    rig.works("bitmap --remove full.qcow2 two");
    rig.works("bitmap --remove full.qcow2 three");
    assert_eq!(told(&rig).0, serde_json::Value::Null);
    rig.sound("full.qcow2");
}

#[test]
fn merged_bits_are_those_of_both() {
    let rig = Rig::new();
    rig.qemu("bitmap --add -g 64k full.qcow2 fine");
    rig.io("full.qcow2", &["write -P 1 0 64k", "write -P 1 2M 128k"]);
    rig.qemu("bitmap --disable full.qcow2 fine");
    rig.works("bitmap --add --disable -g 1M full.qcow2 coarse");

    rig.works("bitmap --merge fine full.qcow2 coarse");

    rig.works("bitmap --add --disable -g 64k full.qcow2 again");
    rig.works("bitmap --merge coarse full.qcow2 again");
    rig.sound("full.qcow2");
    let map = rig.real("measure --output json -O qcow2 full.qcow2");
    assert_eq!(map.code, Some(0), "{map:?}");
    let table = rig.path("full.qcow2");
    let bytes = std::fs::read(table).unwrap();
    // 4 MiB in units of 64 KiB: the first and the third MiB.
    let whole = [0xffu8, 0xff, 0x00, 0x00, 0xff, 0xff, 0x00, 0x00];
    let found = bytes.chunks(65536).any(|cluster| cluster.starts_with(&whole) && cluster[8..].iter().all(|b| *b == 0));
    assert!(found, "no cluster holds the merged bits");
}

#[test]
fn copies_take_bitmaps_along() {
    let rig = Rig::new();
    rig.qemu("bitmap --add -g 64k full.qcow2 used");
    rig.io("full.qcow2", &["write -P 1 1M 64k"]);
    rig.qemu("bitmap --add --disable -g 4k full.qcow2 still");

    rig.works("convert -O qcow2 --bitmaps full.qcow2 copy.qcow2");

    rig.sound("copy.qcow2");
    rig.alike("full.qcow2", "copy.qcow2");
    let bitmaps = |name: &str| {
        let out = rig.real(&format!("info --output json {name}")).out;
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        value["format-specific"]["data"]["bitmaps"].clone()
    };
    assert_eq!(bitmaps("copy.qcow2"), bitmaps("full.qcow2"));
    assert!(bitmaps("copy.qcow2").is_array());
    assert_eq!(rig.ours("convert -O raw --bitmaps full.qcow2 copy.raw").code, Some(1));
}
