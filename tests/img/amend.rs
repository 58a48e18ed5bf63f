//! `amend`, and reading what an image was at a snapshot.

use crate::rig::Rig;

/// Images with zero clusters, snapshots of them, over a backing file and without.
fn images(rig: &Rig) {
    rig.write("base.raw", 2 << 20, &[(0, 2 << 20, 7)]);
    for (name, base) in [("plain.qcow2", ""), ("over.qcow2", "-b base.raw -F raw")] {
        rig.qemu(&format!("create -q -f qcow2 -o cluster_size=4k {base} {name} 2M"));
        rig.io(name, &["write -P 1 0 300k", "write -z 100k 64k", "write -z -u 200k 40k", "write -z 1M 100k"]);
        rig.qemu(&format!("snapshot -c first {name}"));
        rig.io(name, &["write -P 2 50k 100k", "write -z 1100k 50k", "write -P 3 1500k 64k"]);
        rig.qemu(&format!("snapshot -c second {name}"));
        rig.io(name, &["write -z 0 20k", "write -P 4 1900k 8k"]);
    }
}

/// The disk and its snapshots, as raw images.
fn all_states(rig: &Rig, name: &str, mark: &str) {
    rig.qemu(&format!("convert -O raw {name} {mark}.now"));
    for snapshot in ["first", "second"] {
        rig.qemu(&format!("convert -l {snapshot} -O raw {name} {mark}.{snapshot}"));
    }
}

fn states_are(rig: &Rig, mark: &str, other: &str) {
    for state in ["now", "first", "second"] {
        rig.alike(&format!("{mark}.{state}"), &format!("{other}.{state}"));
    }
}

#[test]
fn version_and_widths_change_and_the_content_stays() {
    let rig = Rig::empty();
    images(&rig);
    for name in ["plain.qcow2", "over.qcow2"] {
        all_states(&rig, name, "before");
        for options in
            ["compat=0.10", "compat=1.1", "refcount_bits=64", "refcount_bits=2", "refcount_bits=16,compat=0.10"]
        {
            rig.works(&format!("amend -f qcow2 -o {options} {name}"));
            rig.sound(name);
            all_states(&rig, name, "after");
            states_are(&rig, "before", "after");
        }
        rig.works(&format!("amend -o compat=v3,lazy_refcounts=on,refcount_bits=8 {name}"));
        rig.same(&format!("info {name}"));
        rig.sound(name);
    }
}

#[test]
fn overlay_in_small_clusters_gets_the_larger_header() {
    let rig = Rig::empty();
    rig.write("base.raw", 1 << 20, &[(0, 1 << 20, 7)]);
    rig.qemu("create -q -f qcow2 -o cluster_size=512,compat=0.10 -b base.raw -F raw small.qcow2");
    rig.io("small.qcow2", &["write -P 1 100k 70k"]);
    rig.qemu("convert -O raw small.qcow2 before.raw");

    rig.works("amend -o compat=1.1 small.qcow2");

    rig.sound("small.qcow2");
    rig.alike("small.qcow2", "before.raw");
}

#[test]
fn what_cannot_be_amended_is_refused_alike() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 plain.qcow2 1M");
    rig.io("plain.qcow2", &["write 0 64k"]);
    for n in 0..3 {
        rig.qemu(&format!("snapshot -c s{n} plain.qcow2"));
    }
    rig.qemu("create -q -f qcow2 -o compat=0.10 old.qcow2 1M");
    rig.qemu("create -q -f qcow2 -o data_file=data.raw apart.qcow2 1M");
    rig.write("a.raw", 4096, &[(4096, 0, 0)]);
    rig.qemu("create -q -f qcow2 -o extended_l2=on extended.qcow2 1M");
    rig.qemu("create -q -f qcow2 grown.qcow2 1M");
    rig.qemu("snapshot -c small grown.qcow2");
    rig.qemu("resize -q grown.qcow2 2M");
    for words in [
        "-o refcount_bits=3 plain.qcow2",
        "-o refcount_bits=128 plain.qcow2",
        "-o compat=0.9 plain.qcow2",
        "-o cluster_size=4k plain.qcow2",
        "-o foo=bar plain.qcow2",
        "-o backing_file=x plain.qcow2",
        "-o data_file=x plain.qcow2",
        "-o data_file_raw=on plain.qcow2",
        "-o data_file_raw=on apart.qcow2",
        "-o lazy_refcounts=on old.qcow2",
        "-o refcount_bits=1 old.qcow2",
        "-o refcount_bits=8,compat=0.10 plain.qcow2",
        "-o compat=0.10 apart.qcow2",
        "-o encrypt.state=active plain.qcow2",
        "-f raw -o size=8k a.raw",
        "-o compat=0.10 grown.qcow2",
        "-o compat=0.10 extended.qcow2",
    ] {
        rig.same(&format!("amend {words}"));
    }
    rig.works("amend -o compat=0.10 plain.qcow2");
    rig.works("amend -o compat=1.1,size=2M plain.qcow2");
    // The cluster in question is the first that is found, and images are laid out in different ways.
    let ran = rig.ours("amend -o refcount_bits=1 plain.qcow2");
    assert!(ran.code == Some(1) && ran.err.contains("Cannot decrease refcount entry width to 1 bits"), "{ran:?}");
    rig.sound("plain.qcow2");
}

#[test]
fn data_file_gets_another_name_and_is_no_longer_raw() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 -o data_file=data.raw,data_file_raw=on apart.qcow2 1M");
    rig.io("apart.qcow2", &["write -P 5 0 100k"]);
    rig.qemu("convert -O raw apart.qcow2 before.raw");
    std::fs::rename(rig.path("data.raw"), rig.path("moved.raw")).unwrap();
    rig.works("amend --image-opts driver=qcow2,file.filename=apart.qcow2,data-file.driver=file,data-file.filename=moved.raw -o data_file=moved.raw,data_file_raw=off");
    rig.same("info apart.qcow2");
    rig.sound("apart.qcow2");
    rig.alike("apart.qcow2", "before.raw");
}

#[test]
fn images_are_read_as_they_were_at_a_snapshot() {
    let rig = Rig::empty();
    images(&rig);
    for name in ["plain.qcow2", "over.qcow2"] {
        for which in
            ["first", "second", "1", "snapshot.id=2", "snapshot.name=first", "snapshot.id=1,snapshot.name=first"]
        {
            rig.works(&format!("convert -l {which} -O raw {name} ours.raw"));
            rig.qemu(&format!("convert -l {which} -O raw {name} real.raw"));
            rig.alike("ours.raw", "real.raw");
            rig.same(&format!("measure -l {which} -O qcow2 {name}"));
        }
        for which in ["third", "snapshot.id=3", "snapshot.id=1,snapshot.name=second", "snapshot.foo=1"] {
            rig.same(&format!("convert -l {which} -O raw {name} x.raw"));
        }
    }
}

#[test]
fn zstd_image_becomes_version_2_unless_a_cluster_is_packed() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 -o compression_type=zstd,cluster_size=4k plain.qcow2 1M");
    rig.io("plain.qcow2", &["write -P 5 0 100k"]);
    rig.qemu("convert -c -O qcow2 -o compression_type=zstd plain.qcow2 packed.qcow2");
    rig.qemu("create -q -f raw before.raw 1M");
    rig.qemu("convert -O raw plain.qcow2 before.raw");

    rig.works("amend -o compat=0.10 plain.qcow2");

    rig.same("amend -o compat=0.10 packed.qcow2");
    assert!(rig.real("info plain.qcow2").out.contains("compat: 0.10"));
    rig.sound("plain.qcow2");
    rig.alike("plain.qcow2", "before.raw");
}

#[test]
fn size_of_zero_is_no_size() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 plain.qcow2 1M");
    rig.io("plain.qcow2", &["write -P 5 0 100k"]);

    rig.works("amend -o size=0 plain.qcow2");

    assert!(rig.real("info plain.qcow2").out.contains("virtual size: 1 MiB"));
}

#[test]
fn snapshots_of_an_older_image_are_complete_in_the_newer_one() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 -o compat=0.10 old.qcow2 1M");
    rig.io("old.qcow2", &["write -P 1 0 300k"]);
    rig.qemu("snapshot -c first old.qcow2");
    rig.qemu("snapshot -c second old.qcow2");
    // Such as older versions wrote them: the fields that version 3 wants are not there.
    shorten_snapshots(&rig.path("old.qcow2"));

    rig.works("amend -o compat=1.1 old.qcow2");

    assert_eq!(rig.ours("check old.qcow2").code, Some(0));
    rig.sound("old.qcow2");
    rig.same("snapshot -l old.qcow2");
    rig.works("resize old.qcow2 2M");
    rig.works("snapshot -a first old.qcow2");
    assert_eq!(std::fs::read(rig.path("old.qcow2")).unwrap()[24..32], (1u64 << 20).to_be_bytes());
}

/// Takes the extra data out of each entry of the snapshot table.
fn shorten_snapshots(path: &std::path::Path) {
    let mut image = std::fs::read(path).unwrap();
    image.resize(image.len().next_multiple_of(65536), 0);
    let count = u32::from_be_bytes(image[60..64].try_into().unwrap());
    let table = u64::from_be_bytes(image[64..72].try_into().unwrap()) as usize;
    let (mut from, mut short) = (table, Vec::new());
    for _ in 0..count {
        let len =
            |at: usize, size: usize| image[from + at..from + at + size].iter().fold(0, |n, b| n << 8 | usize::from(*b));
        let (texts, extra) = (len(12, 2) + len(14, 2), len(36, 4));
        short.extend(&image[from..from + 36]);
        short.extend([0; 4]);
        short.extend(&image[from + 40 + extra..from + 40 + extra + texts]);
        short.resize(short.len().next_multiple_of(8), 0);
        from += (40 + extra + texts).next_multiple_of(8);
    }
    short.resize(from - table, 0);
    image[table..from].copy_from_slice(&short);
    std::fs::write(path, image).unwrap();
}

#[test]
fn older_version_and_the_size_of_all_snapshots_come_in_one_step() {
    let rig = Rig::empty();
    let mut ran = Vec::new();
    for run in [Rig::ours, Rig::real] {
        rig.qemu("create -q -f qcow2 grown.qcow2 1M");
        rig.qemu("snapshot -c small grown.qcow2");
        rig.qemu("resize -q grown.qcow2 2M");
        let refused = run(&rig, "amend -o compat=0.10,size=3M grown.qcow2");
        ran.push((refused, run(&rig, "amend -o compat=0.10,size=1M grown.qcow2"), rig.real("info grown.qcow2").out));
        rig.sound("grown.qcow2");
    }
    let without_dates = |text: &str| {
        text.lines()
            .filter(|line| !line.contains("small") && !line.contains("disk size"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!((&ran[0].0, &ran[0].1), (&ran[1].0, &ran[1].1));
    assert_eq!(without_dates(&ran[0].2), without_dates(&ran[1].2));
}
