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

/// What qemu-img finds of the bitmaps: names and flags.
fn bitmaps_of(rig: &Rig, name: &str) -> serde_json::Value {
    let out = rig.real(&format!("info --output json {name}")).out;
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    value["format-specific"]["data"]["bitmaps"].clone()
}

/// The bits of a bitmap as text, by merging it into one of a raw look: qemu-img tells them through NBD only, so the file
/// is read. One cluster holds all of it.
fn bits_of(rig: &Rig, name: &str, bitmap: &str) -> Vec<u8> {
    rig.works(&format!("bitmap --add --disable -g 64k {name} probe"));
    rig.works(&format!("bitmap --merge {bitmap} {name} probe"));
    let bytes = std::fs::read(rig.path(name)).unwrap();
    let be = |at: usize, len: usize| bytes[at..at + len].iter().fold(0usize, |n, b| n << 8 | usize::from(*b));
    let mut at = 104.max(be(100, 4));
    while be(at, 4) != 0x2385_2875 {
        at += 8 + be(at + 4, 4).next_multiple_of(8);
    }
    let (count, mut entry) = (be(at + 8, 4), be(at + 24, 8));
    for _ in 0..count {
        let len = be(entry + 18, 2);
        if bytes[entry + 24..entry + 24 + len] == *b"probe" {
            break;
        }
        entry += (24 + len).next_multiple_of(8);
    }
    let cluster = be(be(entry, 8), 8) & 0x00ff_ffff_ffff_fe00;
    rig.works(&format!("bitmap --remove {name} probe"));
    if cluster == 0 { vec![0; 16] } else { bytes[cluster..cluster + 16].to_vec() }
}

#[test]
fn every_change_of_the_disk_is_recorded_and_bitmaps_stay_sound() {
    let rig = Rig::empty();
    rig.write("piece.raw", 4 << 20, &[(0, 100, 1), (1 << 20, 70_000, 2), (4 << 20, 0, 0)]);
    for (who, name) in [("ours", "ours.qcow2"), ("real", "real.qcow2")] {
        let run = |words: &str| {
            let ran = if who == "ours" { rig.ours(words) } else { rig.real(words) };
            assert_eq!(ran.code, Some(0), "{who} {words}: {ran:?}");
        };
        rig.qemu(&format!("create -q -f qcow2 {name} 4M"));
        rig.qemu(&format!("bitmap --add -g 64k {name} all"));
        rig.qemu(&format!("bitmap --add --disable -g 64k {name} none"));
        run(&format!("convert -n -O qcow2 piece.raw {name}"));
        run(&format!("snapshot -c one {name}"));
        run(&format!("resize {name} 6M"));
        run(&format!("amend -o lazy_refcounts=on {name}"));
        run(&format!("rebase -u -b piece.raw -F raw {name}"));
        run(&format!("rebase -u -b '' {name}"));
        run(&format!("resize --shrink {name} 5M"));
        run(&format!("amend -o lazy_refcounts=off,refcount_bits=32 {name}"));
        rig.sound(name);
    }
    assert_eq!(bitmaps_of(&rig, "ours.qcow2"), bitmaps_of(&rig, "real.qcow2"));
    assert_eq!(bits_of(&rig, "ours.qcow2", "all"), bits_of(&rig, "real.qcow2", "all"));
    assert_eq!(bits_of(&rig, "ours.qcow2", "none"), vec![0; 16]);
    rig.sound("ours.qcow2");
}

#[test]
fn commit_into_an_image_with_a_bitmap_records_it() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 base.qcow2 4M");
    rig.qemu("bitmap --add -g 64k base.qcow2 all");
    rig.qemu("create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2");
    rig.io("top.qcow2", &["write -P 5 128k 64k"]);
    rig.works("commit top.qcow2");
    rig.sound("base.qcow2");
    assert_eq!(bits_of(&rig, "base.qcow2", "all")[..2], [0b100, 0]);
}

#[test]
fn bitmap_that_cannot_be_copied_leaves_none_behind() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 source.qcow2 1M");
    rig.qemu("bitmap --add source.qcow2 b");
    rig.qemu("create -q -f qcow2 longer.qcow2 2M");
    let words = "convert -n --bitmaps -O qcow2 source.qcow2 longer.qcow2";

    let ran = rig.ours(words);

    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(bitmaps_of(&rig, "longer.qcow2"), serde_json::Value::Null);
    assert_eq!(ran, rig.real(words));
    rig.sound("longer.qcow2");
    rig.qemu("bitmap --add longer.qcow2 b");
    rig.same(words);
    assert_eq!(bitmaps_of(&rig, "longer.qcow2")[0]["name"], "b");
}

#[test]
fn inconsistent_bitmaps_are_told_and_measured_alike() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 image.qcow2 4M");
    rig.qemu("bitmap --add image.qcow2 b");
    let mut bytes = std::fs::read(rig.path("image.qcow2")).unwrap();
    let be = |at: usize, len: usize| bytes[at..at + len].iter().fold(0usize, |n, b| n << 8 | usize::from(*b));
    let mut at = be(100, 4);
    while be(at, 4) != 0x2385_2875 {
        at += 8 + be(at + 4, 4).next_multiple_of(8);
    }
    // Flag 0 of its directory entry: in use.
    let flags = be(at + 24, 8) + 15;
    bytes[flags] |= 1;
    std::fs::write(rig.path("image.qcow2"), bytes).unwrap();

    for words in [
        "measure -O qcow2 image.qcow2",
        "measure -O qcow2 -o compat=0.10 image.qcow2",
        "convert -O qcow2 --bitmaps image.qcow2 copy.qcow2",
        "bitmap --clear image.qcow2 b",
    ] {
        rig.same(words);
    }
}
