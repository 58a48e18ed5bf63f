//! resize, rebase, commit, snapshot, amend.

use crate::rig::Rig;

#[test]
fn resized_images_keep_what_they_had() {
    let rig = Rig::new();
    rig.works("convert -O raw full.qcow2 before.raw");
    rig.works("resize -q full.qcow2 +3M");
    rig.works("resize -q -f raw before.raw 7M");
    rig.alike("full.qcow2", "before.raw");
    rig.works("resize -q --shrink full.qcow2 -5M");
    rig.works("resize -q --shrink -f raw before.raw 2M");
    rig.alike("full.qcow2", "before.raw");
    rig.sound("full.qcow2");
    rig.works("resize -q --preallocation=full -f raw before.raw 3M");
    assert_eq!(std::fs::metadata(rig.path("before.raw")).unwrap().len(), 3 << 20);
}

#[test]
fn grown_overlay_shows_nothing_more_of_a_longer_backing_file() {
    let rig = Rig::empty();
    rig.write("filled.raw", 3 << 20, &[(0, 3 << 20, 9)]);
    let kinds = ["compat=0.10", "cluster_size=4k", "extended_l2=on,cluster_size=256k", "lazy_refcounts=on"];
    let grown = ["off", "metadata", "falloc", "full"];
    for (kind, preallocation) in kinds.iter().flat_map(|kind| grown.map(|grown| (kind, grown))) {
        rig.qemu(&format!("create -q -f qcow2 -o {kind} -b filled.raw -F raw top.qcow2 1000k"));
        rig.qemu("convert -O raw top.qcow2 before.raw");
        rig.qemu("resize -q -f raw before.raw 4M");

        rig.works(&format!("resize -q --preallocation={preallocation} top.qcow2 4M"));

        rig.alike("before.raw", "top.qcow2");
        rig.sound("top.qcow2");
    }
}

#[test]
fn safe_rebase_keeps_the_zeroes_of_an_image_that_had_nothing_beneath() {
    let rig = Rig::empty();
    rig.write("filled.raw", 2 << 20, &[(0, 2 << 20, 9)]);
    for options in ["compat=0.10", "cluster_size=512", "extended_l2=on", "cluster_size=2M"] {
        rig.qemu(&format!("create -q -f qcow2 -o {options} lone.qcow2 2500096"));
        rig.io("lone.qcow2", &["write -P 3 70k 1k", "write -z 128k 64k", "write -P 4 1021k 2k"]);
        rig.qemu("convert -O raw lone.qcow2 before.raw");

        rig.works("rebase -b filled.raw -F raw lone.qcow2");

        rig.alike("before.raw", "lone.qcow2");
        rig.sound("lone.qcow2");
    }
}

#[test]
fn safe_rebase_keeps_the_content() {
    let rig = Rig::new();
    rig.works("convert -O raw top.qcow2 before.raw");
    rig.write("other.raw", 2 << 20, &[(4096, 65_536, 3)]);
    for words in ["-b other.raw -F raw", "-b short.raw -F raw", "-b ''"] {
        rig.works(&format!("rebase {words} top.qcow2"));
        rig.alike("before.raw", "top.qcow2");
        rig.sound("top.qcow2");
    }
}

#[test]
fn safe_rebase_keeps_zeroes_that_only_the_old_backing_file_shows() {
    let rig = Rig::empty();
    rig.write("holes.raw", 2 << 20, &[(0, 4096, 1)]);
    rig.write("filled.raw", 2 << 20, &[(0, 2 << 20, 9)]);
    for options in ["compat=0.10", "cluster_size=512", "extended_l2=on", "cluster_size=2M", "lazy_refcounts=on"] {
        rig.qemu(&format!("create -q -f qcow2 -o {options} -b holes.raw -F raw top.qcow2 2500096"));
        rig.io("top.qcow2", &["write -P 3 70k 1k", "write -z 128k 64k", "write -P 4 1021k 2k"]);
        rig.qemu("convert -O raw top.qcow2 before.raw");

        rig.works("rebase -b filled.raw -F raw top.qcow2");

        rig.alike("before.raw", "top.qcow2");
        rig.sound("top.qcow2");
    }
}

#[test]
fn safe_rebase_compresses_what_it_keeps() {
    let rig = Rig::empty();
    rig.write("filled.raw", 2_500_096, &[(64 << 10, 2_434_560, 9)]);
    for options in ["cluster_size=64k", "compat=0.10", "extended_l2=on", "cluster_size=2M", "compression_type=zstd"] {
        rig.qemu(&format!("create -q -f qcow2 -o {options} -b filled.raw -F raw top.qcow2 2500096"));
        rig.io("top.qcow2", &["write -P 3 70k 1k"]);
        rig.qemu("convert -O raw top.qcow2 before.raw");

        rig.works("rebase -c -b '' top.qcow2");

        rig.alike("before.raw", "top.qcow2");
        rig.sound("top.qcow2");
        let checked = rig.real("check top.qcow2");
        assert!(!checked.out.contains(", 0.00% compressed"), "{options}: {checked:?}");
    }
    rig.qemu("create -q -f qcow2 -o data_file=data -b filled.raw -F raw apart.qcow2");
    for words in ["rebase -c -b '' apart.qcow2", "rebase -c -f raw -b '' filled.raw"] {
        let ran = rig.ours(words);
        assert!(ran.code == Some(1) && ran.err.contains("Compression not supported for"), "{words}: {ran:?}");
    }
    rig.alike("filled.raw", "apart.qcow2");
}

#[test]
fn unsafe_rebase_changes_the_name_alone() {
    let rig = Rig::new();
    rig.works("rebase -u -b nowhere -F qcow2 top.qcow2");
    let info = rig.real("info top.qcow2").out;
    assert!(info.contains("backing file: nowhere") && info.contains("backing file format: qcow2"), "{info}");
}

#[test]
fn commit_moves_the_overlay_into_the_image_beneath() {
    let rig = Rig::new();
    rig.works("convert -O raw top.qcow2 before.raw");

    rig.works("commit top.qcow2");

    rig.alike("before.raw", "middle.qcow2");
    rig.alike("before.raw", "top.qcow2");
    rig.sound("middle.qcow2");
    rig.sound("top.qcow2");
    assert!(!rig.ours("map --output json top.qcow2").out.contains("\"depth\": 0, \"present\": true"));
}

#[test]
fn commit_to_a_base_further_down_leaves_the_top() {
    let rig = Rig::new();
    rig.works("convert -O raw top.qcow2 before.raw");

    rig.works("commit -q -b short.raw top.qcow2");

    rig.alike("before.raw", "short.raw");
    assert!(rig.ours("map --output json top.qcow2").out.contains("\"depth\": 0, \"present\": true"));
}

#[test]
fn snapshots_are_made_applied_and_deleted() {
    let rig = Rig::new();
    rig.works("convert -O raw full.qcow2 before.raw");
    rig.works("snapshot -c two full.qcow2");
    rig.io("full.qcow2", &["write -P 9 0 2M"]);
    rig.same("snapshot -l full.qcow2");
    rig.works("snapshot -a two full.qcow2");
    rig.alike("full.qcow2", "before.raw");
    rig.works("snapshot -d two full.qcow2");
    rig.works("snapshot -d one full.qcow2");
    rig.sound("full.qcow2");
    rig.alike("full.qcow2", "before.raw");
    assert_eq!(rig.ours("snapshot -d two full.qcow2").code, Some(1));
}

#[test]
fn base_of_a_commit_is_found_by_any_of_its_names() {
    let rig = Rig::empty();
    std::fs::create_dir(rig.path("sub")).unwrap();
    rig.write("sub/base.raw", 1 << 20, &[(1 << 20, 0, 0)]);
    let whole = rig.path("sub/base.raw").display().to_string();
    for name in ["base.raw", "./base.raw", "../sub/base.raw", &whole] {
        for image in ["mid", "top"] {
            let below = if image == "mid" { "-b base.raw -F raw" } else { "-b mid -F qcow2" };
            rig.qemu(&format!("create -q -f qcow2 {below} sub/{image}"));
        }
        rig.io("sub/top", &["write -P 7 0 64k"]);
        rig.qemu("convert -O raw sub/top before.raw");

        rig.same(&format!("commit -b {name} sub/top"));

        rig.alike("-f raw -F raw before.raw", "sub/base.raw");
    }
    rig.same("commit -b nosuch sub/top");
    rig.works("commit -b sub/base.raw sub/top");
}

#[test]
fn commit_goes_down_long_chains() {
    let rig = Rig::empty();
    let last = 250;
    rig.qemu("create -q -f qcow2 -o cluster_size=512 n000 1M");
    rig.qemu("create -q -f qcow2 -o cluster_size=512 -u -b n000 -F qcow2 n001 1M");
    let bytes = std::fs::read(rig.path("n001")).unwrap();
    let name = u64::from_be_bytes(bytes[8..16].try_into().unwrap()) as usize;
    for n in 2..=last {
        let mut bytes = bytes.clone();
        bytes[name..name + 4].copy_from_slice(format!("n{:03}", n - 1).as_bytes());
        std::fs::write(rig.path(&format!("n{n:03}")), bytes).unwrap();
    }
    rig.io(&format!("n{last}"), &["write -P 7 64k 64k"]);

    rig.works(&format!("commit n{last}"));
    rig.works(&format!("commit -b n000 n{}", last - 1));

    rig.write("wanted.raw", 1 << 20, &[(65536, 65536, 7), (1 << 20, 0, 0)]);
    rig.alike("wanted.raw", "n000");
    rig.sound("n000");
}

#[test]
fn snapshot_is_deleted_by_its_name_alone() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 a.qcow2 4M");
    // Numbers 1 to 4.
    for name in ["2", "1", "x", "x"] {
        rig.qemu(&format!("snapshot -c {name} a.qcow2"));
    }
    rig.same("snapshot -d 3 a.qcow2");
    rig.same("snapshot -d nosuch a.qcow2");
    for name in ["2", "x"] {
        std::fs::copy(rig.path("a.qcow2"), rig.path("b.qcow2")).unwrap();
        rig.qemu(&format!("snapshot -d {name} b.qcow2"));

        rig.works(&format!("snapshot -d {name} a.qcow2"));

        assert_eq!(rig.real("snapshot -l a.qcow2"), rig.real("snapshot -l b.qcow2"), "{name}");
        rig.sound("a.qcow2");
    }
}

#[test]
fn snapshots_say_what_those_of_qemu_img_say() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 a.qcow2 4M");
    rig.works(&format!("snapshot -c {} a.qcow2", "n".repeat(300)));
    rig.works(&format!("snapshot -c {} a.qcow2", "\u{e9}".repeat(128)));

    let info = rig.real("info --output json a.qcow2");
    let info: serde_json::Value = serde_json::from_str(&info.out).unwrap();

    let snapshots = info["snapshots"].as_array().unwrap();
    let names: Vec<&str> = snapshots.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["n".repeat(255), "\u{e9}".repeat(127)]);
    assert!(snapshots.iter().all(|one| one["icount"] == 0), "{snapshots:?}");
    rig.sound("a.qcow2");
}

#[test]
fn snapshot_entries_that_lack_the_size_of_the_disk_are_told_and_completed() {
    for mark in [0, 2] {
        let rig = Rig::empty();
        rig.qemu("create -q -f qcow2 a.qcow2 4M");
        rig.io("a.qcow2", &["write -P 5 0 1M"]);
        rig.qemu("snapshot -c s a.qcow2");
        let mut bytes = std::fs::read(rig.path("a.qcow2")).unwrap();
        let entry = u64::from_be_bytes(bytes[64..72].try_into().unwrap()) as usize;
        // No extra data: number and name follow at once. And the bit of damage, where it is asked for.
        bytes.copy_within(entry + 64..entry + 66, entry + 40);
        bytes[entry + 36..entry + 40].fill(0);
        bytes[79] |= mark;
        std::fs::write(rig.path("a.qcow2"), bytes).unwrap();
        rig.same("check a.qcow2");
        rig.same("check -r leaks a.qcow2");
        std::fs::copy(rig.path("a.qcow2"), rig.path("b.qcow2")).unwrap();

        let ours = rig.ours("check -r all a.qcow2");

        let theirs = rig.real("check -r all b.qcow2");
        assert_eq!((ours.code, &ours.err), (theirs.code, &theirs.err));
        assert!(ours.out.contains("1 corruptions"), "{ours:?}");
        rig.same("check a.qcow2");
        rig.sound("a.qcow2");
        rig.qemu("snapshot -a s a.qcow2");
    }
}

#[test]
fn amended_options_are_told_by_info() {
    let rig = Rig::new();
    rig.works("amend -o compat=1.1 old.qcow2");
    rig.works("amend -o lazy_refcounts=on,size=8M old.qcow2");
    let info = rig.real("info old.qcow2").out;
    assert!(info.contains("compat: 1.1") && info.contains("lazy refcounts: true"), "{info}");
    assert!(info.contains("virtual size: 8 MiB"), "{info}");
    rig.sound("old.qcow2");
}

#[test]
fn commit_of_an_image_that_cannot_be_written_changes_nothing_beneath() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 base.qcow2 1M");
    rig.qemu("create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2");
    rig.io("top.qcow2", &["write -P 5 0 64k"]);
    let before = std::fs::read(rig.path("base.qcow2")).unwrap();
    for more in ["", "-d ", "-b base.qcow2 "] {
        let words = format!("commit {more}--image-opts driver=qcow2,read-only=on,file.filename=top.qcow2");
        let ran = rig.ours(&words);
        assert_eq!(ran, rig.real(&words), "{words}");
        assert_eq!(ran.code, Some(1), "{words}");
        assert!(std::fs::read(rig.path("base.qcow2")).unwrap() == before, "{words}");
    }
}
