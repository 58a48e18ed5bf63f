//! create, convert, dd.

use crate::rig::Rig;

#[test]
fn created_images_are_what_qemu_creates() {
    let rig = Rig::new();
    for options in [
        "-f raw",
        "-f qcow2",
        "-f qcow2 -o cluster_size=512,refcount_bits=1",
        "-f qcow2 -o compat=0.10",
        "-f qcow2 -o extended_l2=on,lazy_refcounts=on",
        "-f qcow2 -o preallocation=metadata",
        "-f qcow2 -o compression_type=zstd",
        "-f qcow2 -b short.raw -F raw",
    ] {
        rig.same(&format!("create {options} made 7M"));
        rig.works(&format!("create -q {options} made 7M"));
        if options != "-f raw" {
            rig.sound("made");
        }
        let ours = rig.ours("info --output json made").out;
        rig.qemu(&format!("create -q {options} made 7M"));
        let real = rig.ours("info --output json made").out;
        let told = |text: &str| {
            let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
            value["actual-size"] = 0.into();
            value
        };
        assert_eq!(told(&ours), told(&real), "{options}");
    }
}

#[test]
fn converted_images_read_alike() {
    let rig = Rig::new();
    for source in ["plain.raw", "full.qcow2", "packed.qcow2", "extended.qcow2", "old.qcow2", "top.qcow2"] {
        for options in [
            "-O raw",
            "-O qcow2",
            "-O qcow2 -c",
            "-O qcow2 -c -o compression_type=zstd,cluster_size=2M",
            "-O qcow2 -c -o cluster_size=512,refcount_bits=1",
            "-O qcow2 -o extended_l2=on -W -m 4",
            "-O qcow2 -o data_file=data,compat=v3",
            "-O qcow2 -S 64k",
            "-O qcow2 -S 0",
            "-O qcow2 -C",
            "-O qcow2 -o preallocation=metadata",
        ] {
            rig.works(&format!("convert {options} {source} made"));
            rig.alike(source, "made");
            if options != "-O raw" {
                rig.sound("made");
            }
        }
    }
}

#[test]
fn copies_keep_holes() {
    let rig = Rig::new();
    rig.write("wide.raw", 1 << 40, &[(1 << 39, 4096, 1)]);

    rig.works("convert -O qcow2 wide.raw wide.qcow2");
    rig.works("convert -O raw wide.qcow2 again.raw");

    use std::os::unix::fs::MetadataExt;
    for name in ["wide.qcow2", "again.raw"] {
        assert!(std::fs::metadata(rig.path(name)).unwrap().blocks() < 8192, "{name}");
    }
    rig.alike("wide.raw", "again.raw");
}

#[test]
fn copy_over_the_same_backing_file_leaves_out_what_that_has() {
    let rig = Rig::new();

    rig.works("convert -O qcow2 -B middle.qcow2 -F qcow2 top.qcow2 made.qcow2");

    rig.alike("top.qcow2", "made.qcow2");
    let depth = rig.ours("map --output json made.qcow2").out.matches("\"depth\": 2, \"present\": true").count();
    assert!(depth > 0, "what only short.raw has is not in the copy");
}

#[test]
fn several_sources_are_put_end_to_end() {
    let rig = Rig::new();

    rig.works("convert -O raw short.raw full.qcow2 plain.raw ours");
    rig.qemu("convert -O raw short.raw full.qcow2 plain.raw real");

    rig.alike("ours", "real");
}

#[test]
fn foreign_formats_are_converted() {
    let rig = Rig::new();
    for format in ["vmdk", "vdi", "vhdx", "qed", "parallels"] {
        rig.qemu(&format!("convert -O {format} plain.raw foreign"));

        rig.works("convert -O qcow2 foreign made.qcow2");

        rig.alike("plain.raw", "made.qcow2");
    }
}

#[test]
fn target_that_is_there_is_written_over() {
    let rig = Rig::new();
    rig.write("there.raw", 5 << 20, &[(0, 5 << 20, 9)]);

    rig.works("convert -n -O raw plain.raw there.raw");

    rig.alike("plain.raw", "there.raw");
}

#[test]
fn dd_copies_the_same_part() {
    let rig = Rig::new();
    for words in ["bs=1000 count=7 skip=2", "bs=64k", "skip=3", "bs=1M count=1"] {
        rig.works(&format!("dd -f raw -O raw {words} if=plain.raw of=ours"));
        rig.qemu(&format!("dd -f raw -O raw {words} if=plain.raw of=real"));
        let read = |name: &str| std::fs::read(rig.path(name)).unwrap();
        assert!(read("ours") == read("real"), "{words}");
    }
}
