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
        "-f qcow2 -o cluster_size=512 -b short.raw -F raw",
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
fn space_is_set_aside_as_asked() {
    use std::os::unix::fs::MetadataExt;
    let rig = Rig::empty();
    let held = |name: &str| std::fs::metadata(rig.path(name)).unwrap().blocks() * 512;
    for (mode, all) in [("off", false), ("metadata", false), ("falloc", true), ("full", true)] {
        for format in ["qcow2", "raw"] {
            if (mode, format) == ("metadata", "raw") {
                continue;
            }
            rig.works(&format!("create -q -f {format} -o preallocation={mode} made 6M"));
            assert_eq!(held("made") >= 6 << 20, all, "{format} {mode}: {}", held("made"));
            rig.works(&format!("resize -q -f {format} --preallocation={mode} made 9M"));
            assert_eq!(held("made") >= 9 << 20, all, "{format} {mode}, grown: {}", held("made"));
            if format == "qcow2" {
                rig.sound("made");
                let ran = rig.real("check made");
                assert_eq!(ran.out.contains("144/144 = 100.00% allocated"), mode != "off", "{mode}: {ran:?}");
            }
        }
    }
}

#[test]
fn space_is_reserved_between_the_tables_of_small_clusters() {
    use std::os::unix::fs::MetadataExt;
    let rig = Rig::empty();
    for mode in ["falloc", "full"] {
        rig.works(&format!("create -q -f qcow2 -o preallocation={mode},cluster_size=512 made 2000k"));
        rig.works(&format!("resize -q --preallocation={mode} made 3000k"));
        let held = std::fs::metadata(rig.path("made")).unwrap().blocks() * 512;
        assert!(held >= 3000 << 10, "{mode}: {held}");
        rig.sound("made");
    }
}

#[test]
fn disks_reach_to_the_limits_of_the_format() {
    let rig = Rig::empty();
    // An L1 table has at most 32 MiB; the format's clusters are 512 bytes to 2 MiB.
    let ends = [("512", 1u64 << 37), ("2M", 1 << 61)];
    for (cluster, most) in ends {
        for size in [most, most + 512, most * 2] {
            rig.same(&format!("create -q -f qcow2 -o cluster_size={cluster} big.qcow2 {size}"));
        }
        rig.works(&format!("create -q -f qcow2 -o cluster_size={cluster} big.qcow2 {most}"));
        let last = most - 65_536;
        rig.works(&format!("bench -q -w --pattern=5 -c 1 -s 65536 -o {last} -f qcow2 big.qcow2"));
        rig.io("big.qcow2", &[&format!("read -P 5 {last} 64k")]);
        rig.sound("big.qcow2");
        rig.same(&format!("map -s {} big.qcow2", most - (1 << 20)));
        assert_eq!(rig.ours("resize -q big.qcow2 +64k").code, Some(1));
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
fn zeroes_are_written_where_none_may_be_left_out() {
    let rig = Rig::empty();
    rig.write("plain.raw", 1 << 20, &[(0, 70_000, 1)]);
    for options in ["-O qcow2 -S 0", "-O qcow2 -c -S 0"] {
        rig.works(&format!("convert {options} plain.raw ours.qcow2"));
        rig.qemu(&format!("convert {options} plain.raw real.qcow2"));

        let map = |name| rig.real(&format!("map --output json {name}")).out;
        let without_places = |text: String| text.replace(|c: char| c.is_ascii_digit(), "");
        assert_eq!(without_places(map("ours.qcow2")), without_places(map("real.qcow2")), "{options}");
        assert!(!map("ours.qcow2").contains("\"zero\": true"), "{options}");
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
fn images_of_foreign_formats_are_backing_files() {
    let rig = Rig::new();
    for format in ["vmdk", "vdi", "vhdx", "qed"] {
        rig.qemu(&format!("convert -O {format} plain.raw base.{format}"));
        rig.works(&format!("create -q -f qcow2 -b base.{format} -F {format} over.qcow2"));
        rig.io("over.qcow2", &["write -P 8 64k 100k"]);

        rig.works("convert -O raw over.qcow2 ours.raw");

        rig.alike("over.qcow2", "ours.raw");
        rig.same_json("info --output json --backing-chain over.qcow2");
    }
}

#[test]
fn external_data_files_are_where_qemu_has_them() {
    let rig = Rig::new();
    std::fs::create_dir(rig.path("inner")).unwrap();
    for maker in [Rig::works, Rig::qemu] {
        maker(&rig, "convert -O qcow2 -o data_file=apart.data plain.raw inner/image.qcow2");
        assert!(rig.path("apart.data").exists());
        rig.alike("plain.raw", "inner/image.qcow2");
        rig.same("check inner/image.qcow2");
        rig.same("compare inner/image.qcow2 plain.raw");
        rig.same_json("map --output json inner/image.qcow2");
        rig.works("convert -O raw inner/image.qcow2 copy.raw");
        rig.alike("plain.raw", "copy.raw");
        // Beside the image is the second place to look.
        std::fs::rename(rig.path("apart.data"), rig.path("inner/apart.data")).unwrap();
        rig.works("compare inner/image.qcow2 plain.raw");
        std::fs::remove_file(rig.path("inner/apart.data")).unwrap();
    }
}

#[test]
fn images_with_external_data_files_go_through_every_verb_alike() {
    let rig = Rig::new();
    for raw in ["off", "on"] {
        rig.works(&format!("convert -O qcow2 -o data_file=a.data,data_file_raw={raw} full.qcow2 apart.qcow2"));
        rig.alike("full.qcow2", "apart.qcow2");
        for words in ["info", "check", "map", "measure -O qcow2", "snapshot -l", "compare full.qcow2"] {
            rig.same(&format!("{words} apart.qcow2"));
        }
        // QEMU has no snapshots of such images either.
        assert_eq!(rig.ours("snapshot -c s apart.qcow2").code, Some(1));
        rig.works("resize -q apart.qcow2 +1M");
        rig.works("dd if=apart.qcow2 of=part.raw bs=64k skip=3 count=9");
        rig.works("bitmap --add apart.qcow2 b");
        rig.works("amend -o lazy_refcounts=on,refcount_bits=8 apart.qcow2");
        rig.works("bench -w -c 20 -S 70000 -f qcow2 apart.qcow2");
        rig.sound("apart.qcow2");
        if raw == "on" {
            rig.alike("a.data", "apart.qcow2");
        } else {
            rig.works("create -q -f qcow2 -b apart.qcow2 -F qcow2 over.qcow2");
            rig.io("over.qcow2", &["write -P 9 1M 100k"]);
            rig.works("commit -q over.qcow2");
            rig.alike("apart.qcow2", "over.qcow2");
            rig.works("rebase -b full.qcow2 -F qcow2 apart.qcow2");
            rig.alike("apart.qcow2", "over.qcow2");
            rig.sound("apart.qcow2");
        }
    }
}

#[test]
fn signal_asks_how_far_a_copy_is() {
    let rig = Rig::empty();
    rig.write("slow.raw", 4 << 20, &[(0, 4 << 20, 1)]);
    let copy = rig.start("convert -r 2M -O raw slow.raw made.raw");
    // The target is made when the copy begins.
    while !rig.path("made.raw").exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    std::thread::sleep(std::time::Duration::from_millis(100));

    let told = std::process::Command::new("kill").args(["-USR1", &copy.id().to_string()]).status().unwrap();

    let ended = copy.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(told.success() && ended.status.success(), "{ended:?}");
    assert!(text.ends_with("/100%)\n") && text.starts_with("    ("), "{text}");
    rig.alike("slow.raw", "made.raw");
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

#[test]
fn copy_left_to_the_host_is_whole_and_nobody_looks_for_zeroes_in_it() {
    use std::os::unix::fs::MetadataExt;
    let rig = Rig::empty();
    rig.write("source.raw", 8 << 20, &[(0, 1 << 20, 5), (2 << 20, 2 << 20, 0), (5 << 20, 5000, 7)]);
    rig.qemu("convert -O qcow2 -S 0 source.raw source.qcow2");
    let held = |name: &str| std::fs::metadata(rig.path(name)).unwrap().blocks() * 512;

    for source in ["source.raw", "source.qcow2"] {
        rig.works(&format!("convert -O raw {source} plain.raw"));
        rig.works(&format!("convert -C -O raw {source} offloaded.raw"));

        rig.alike("source.raw", "offloaded.raw");
        assert!(held("plain.raw") < 2 << 20, "{source}");
        assert!(held("offloaded.raw") >= 3 << 20, "{source}");
    }
    rig.works("convert -C -O qcow2 source.raw new.qcow2");
    rig.alike("source.raw", "new.qcow2");
    for words in ["-C -c", "-C -S 4k", "-C --salvage"] {
        rig.same(&format!("convert {words} -O qcow2 source.raw refused"));
    }
}

#[test]
fn clusters_are_not_compressed_into_an_external_data_file() {
    let rig = Rig::new();

    let ran = rig.ours("convert -c -O qcow2 -o data_file=data empty.qcow2 apart.qcow2");

    assert_eq!(ran.code, rig.real("convert -c -O qcow2 -o data_file=data empty.qcow2 apart.qcow2").code);
    assert!(ran.err.contains("external data file"), "{ran:?}");
}

#[test]
fn targets_that_cannot_take_the_copy_are_refused_alike() {
    let rig = Rig::empty();
    rig.write("source.raw", 1 << 20, &[(0, 4096, 3)]);
    rig.write("target.raw", 1 << 20, &[(0, 4096, 9)]);
    for words in [
        "convert -n -c -O raw source.raw target.raw",
        "convert -n --target-image-opts source.raw driver=raw,read-only=on,file.filename=target.raw",
        "convert -n -O raw source.raw json:{'driver':'raw','read-only':true,'file':{'driver':'file','filename':'target.raw'}}",
    ] {
        let ran = rig.ours(words);
        assert_eq!(ran, rig.real(words), "{words}");
        assert_eq!(ran.code, Some(1), "{words}");
    }
    assert_eq!(std::fs::read(rig.path("target.raw")).unwrap()[0], 9);
}
