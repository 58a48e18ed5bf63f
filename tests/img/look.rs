//! Verbs that look: info, map, check, compare, measure, snapshot -l.

use crate::rig::Rig;

const IMAGES: [&str; 10] = [
    "plain.raw",
    "short.raw",
    "empty.qcow2",
    "full.qcow2",
    "packed.qcow2",
    "zstd.qcow2",
    "extended.qcow2",
    "old.qcow2",
    "middle.qcow2",
    "top.qcow2",
];

#[test]
fn info_tells_the_same() {
    let rig = Rig::new();
    for image in IMAGES {
        rig.same_json(&format!("info --output json {image}"));
        rig.same_json(&format!("info --output=json --backing-chain {image}"));
    }
    for image in ["plain.raw", "full.qcow2", "top.qcow2", "old.qcow2"] {
        assert_eq!(rig.ours(&format!("info {image}")).out, rig.real(&format!("info {image}")).out);
    }
    rig.same_json("info --output json --image-opts driver=qcow2,file.filename=full.qcow2");
}

#[test]
fn map_tells_the_same() {
    let rig = Rig::new();
    for image in IMAGES {
        rig.same_json(&format!("map --output json {image}"));
        rig.same_json(&format!("map --output json --start-offset 1000 --max-length 1M {image}"));
    }
    for image in ["plain.raw", "full.qcow2", "top.qcow2"] {
        rig.same(&format!("map {image}"));
    }
    rig.same_json("map --output json --max-length 0 full.qcow2");
    rig.same_json("map --output json --start-offset 1G full.qcow2");
}

#[test]
fn map_tells_what_the_host_does_not_hold_of_preallocated_clusters() {
    let rig = Rig::empty();
    for (name, options) in [("a.qcow2", "preallocation=metadata"), ("b.qcow2", "preallocation=falloc")] {
        rig.qemu(&format!("create -q -f qcow2 -o {options} {name} 8M"));
        rig.io(name, &["write -P 1 1M 100k", "write -z 3M 64k", "write -P 2 5M 4k"]);

        rig.same_json(&format!("map --output json {name}"));
        rig.same(&format!("map {name}"));
    }
}

#[test]
fn images_are_named_by_json() {
    let rig = Rig::new();
    for name in [
        r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"top.qcow2"}}"#,
        "json:{'driver':'qcow2','file.filename':'top.qcow2'}",
        "json:{'driver':'qcow2','file.filename':'top.qcow2','file':{'driver':'file'}}",
        "json:{'driver':'qcow2','file.filename':'nosuch','file':{'filename':'top.qcow2'}}",
        "json:{'driver':'qcow2','file':{'driver':'raw','file.filename':'top.qcow2','file.driver':'file'}}",
        r#"json:{"file.filename":"full.qcow2"}"#,
        r#"json:{"driver":"raw","offset":4096,"size":"65536","file.filename":"plain.raw"}"#,
        r#"json:{"driver":"bogus","file.filename":"top.qcow2"}"#,
        r#"json:{"filename":"top.qcow2"}"#,
        "json:[]",
        "json:{'driver':'qcow2','file.filename':'nowhere'}",
    ] {
        rig.same(&format!("measure -O qcow2 {name}"));
        rig.same(&format!("compare {name} {name}"));
    }
    rig.works("convert -O qcow2 json:{'driver':'qcow2','file.filename':'top.qcow2'} made.qcow2");
    rig.alike("top.qcow2", "made.qcow2");
    rig.works("resize json:{'driver':'qcow2','file.filename':'full.qcow2'} 9M");
    rig.sound("full.qcow2");
}

#[test]
fn measure_tells_the_same() {
    let rig = Rig::new();
    for image in IMAGES {
        rig.same(&format!("measure -O raw {image}"));
        for options in
            ["cluster_size=64k", "cluster_size=512", "extended_l2=on", "refcount_bits=64", "preallocation=full"]
        {
            rig.same(&format!("measure -O qcow2 -o {options} {image}"));
        }
    }
    rig.qemu("create -q -f qcow2 -o cluster_size=512 small.qcow2 1M");
    rig.works("bitmap --add small.qcow2 b");
    rig.same("measure -O qcow2 small.qcow2");
    rig.same("measure -O qcow2 -o data_file_raw=on --size 1G");
    rig.same("measure -O qcow2 -o cluster_size=4k small.qcow2");
    for size in ["0", "1", "1000", "1G", "1T"] {
        rig.same_json(&format!("measure --output json -O qcow2 --size {size}"));
    }
}

#[test]
fn check_tells_the_same_of_sound_images() {
    let rig = Rig::new();
    for image in IMAGES {
        let words = format!("check {image}");
        rig.same(&words);
    }
    rig.same_json("check --output json full.qcow2");
    rig.same_json("check --output json packed.qcow2");
}

#[test]
fn check_tells_leaks_from_corruption_and_repairs_them() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 -o cluster_size=4k broken.qcow2 1M");
    rig.io("broken.qcow2", &["write -P 1 0 64k"]);
    let file = std::fs::OpenOptions::new().write(true).open(rig.path("broken.qcow2")).unwrap();
    file.set_len(200 * 4096).unwrap();
    // The refcount block is the third cluster, counts have 16 bits: one too high, then one too low.
    let patch = |at: u64, count: u16| {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).open(rig.path("broken.qcow2")).unwrap();
        file.write_all_at(&count.to_be_bytes(), at).unwrap();
    };
    patch(2 * 4096 + 2 * 100, 1);
    let code = |words: &str| (rig.ours(words).code, rig.real(words).code);
    assert_eq!(code("check broken.qcow2"), (Some(3), Some(3)));
    rig.works("check -r leaks broken.qcow2");
    rig.sound("broken.qcow2");

    patch(2 * 4096 + 2 * 8, 0);
    assert_eq!(code("check broken.qcow2"), (Some(2), Some(2)));
    assert_eq!(rig.ours("check -r leaks broken.qcow2").code, Some(2));
    rig.works("check -r all broken.qcow2");
    rig.sound("broken.qcow2");
    assert_eq!(rig.ours("check -q plain").code, Some(1));
}

#[test]
fn repairs_are_told_and_counted_alike() {
    use std::os::unix::fs::FileExt;
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 whole.qcow2 1M");
    rig.io("whole.qcow2", &["write -P 1 0 256k"]);
    let whole = std::fs::read(rig.path("whole.qcow2")).unwrap();
    // Counts of 16 bits stand in the third cluster, the L2 table is the fifth, and the data follow.
    let (counts, table) = (2 * 65536, 4 * 65536);
    let damage: [&[(u64, &[u8])]; 7] = [
        &[(counts + 2 * 6, &[0, 3])],
        // Two guest clusters share a host cluster.
        &[(table + 8, &((1u64 << 63) | (5 * 65536)).to_be_bytes())],
        &[(table, &(5u64 * 65536).to_be_bytes())],
        // An unknown autoclear bit goes with the repair.
        &[(88, &(1u64 << 63).to_be_bytes()), (counts + 2 * 7, &[0, 2])],
        // A cluster of zeroes cannot be there.
        &[(table + 8 * 100, &0x2a01u64.to_be_bytes())],
        // A count is lost, or all are.
        &[(counts + 2 * 5, &[0, 0])],
        &[(48, &[0; 8]), (56, &[0; 4])],
    ];
    for (n, patches) in damage.iter().enumerate() {
        // With the leaks alone QEMU counts further errors at a misplaced cluster, and repairs nothing where counts are lost.
        let ways = if n < 4 { &["check -r leaks", "check -r all"][..] } else { &["check -r all"] };
        for words in ways {
            let mut ran = Vec::new();
            for run in [Rig::ours, Rig::real] {
                std::fs::write(rig.path("broken.qcow2"), &whole).unwrap();
                let file = std::fs::OpenOptions::new().write(true).open(rig.path("broken.qcow2")).unwrap();
                patches.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
                let told = run(&rig, &format!("{words} broken.qcow2"));
                // QEMU tells what is left once more after each step.
                let repairs = told.err.lines().filter(|line| line.starts_with("Repairing")).map(str::to_owned);
                ran.push((told.code, told.out, repairs.collect::<Vec<_>>()));
            }
            assert_eq!(ran[0], ran[1], "damage {n}, {words}");
        }
        let left = std::fs::read(rig.path("broken.qcow2")).unwrap();
        assert_eq!(left[88], 0, "damage {n}");
    }
}

#[test]
fn what_was_repaired_is_told_beside_json_too() {
    use std::os::unix::fs::FileExt;
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 leaky.qcow2 1M");
    let whole = std::fs::read(rig.path("leaky.qcow2")).unwrap();
    let mut ran = Vec::new();
    for run in [Rig::ours, Rig::real] {
        std::fs::write(rig.path("leaky.qcow2"), &whole).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(rig.path("leaky.qcow2")).unwrap();
        file.write_all_at(&[0, 2], 2 * 65536).unwrap();
        ran.push(run(&rig, "check -r all --output json leaky.qcow2").err);
    }
    assert_eq!(ran[0], ran[1]);
    assert_eq!(ran[0], "Leaked cluster 0 refcount=2 reference=1\nRepairing cluster 0 refcount=2 reference=1\n");
}

#[test]
fn new_image_is_as_long_as_by_qemu_and_named_alike() {
    let rig = Rig::empty();
    for words in [
        "-f qcow2 64M",
        "-f qcow2 -o compat=0.10,cluster_size=4k 64M",
        "-f qcow2 -o cluster_size=512 9M",
        "-f qcow2 -o extended_l2=on,refcount_bits=64 1T",
        "-f file 1M",
    ] {
        let (options, size) = words.rsplit_once(' ').unwrap();
        let made = |run: fn(&Rig, &str) -> crate::rig::Ran| {
            let told = run(&rig, &format!("create {options} new {size}")).out;
            (told, std::fs::metadata(rig.path("new")).unwrap().len())
        };
        assert_eq!(made(Rig::ours), made(Rig::real), "{words}");
        let told = |run: fn(&Rig, &str) -> crate::rig::Ran| {
            run(&rig, &format!("create -q {options} file:image:a {size}")).code
        };
        assert_eq!((told(Rig::ours), told(Rig::real)), (Some(0), Some(0)));
        rig.same("info file:image:a");
    }
}

#[test]
fn options_of_an_image_leave_drivers_to_be_found() {
    let rig = Rig::new();
    rig.qemu("create -q -f qcow2 -o data_file=gone.raw apart.qcow2 1M");
    std::fs::rename(rig.path("gone.raw"), rig.path("data.raw")).unwrap();
    for words in [
        "info --output json --image-opts file.filename=apart.qcow2,data-file.filename=data.raw",
        "map --output json --image-opts file.filename=middle.qcow2,backing.file.filename=plain.raw",
        "map --output json --image-opts \
         file.filename=top.qcow2,backing.file.filename=middle.qcow2,backing.backing.file.filename=short.raw",
    ] {
        rig.same_json(words);
    }
    rig.same(
        "compare --image-opts file.filename=middle.qcow2,backing.file.filename=plain.raw file.filename=full.qcow2",
    );
}

#[test]
fn compare_agrees() {
    let rig = Rig::new();
    for first in ["plain.raw", "full.qcow2", "empty.qcow2", "middle.qcow2", "top.qcow2"] {
        for second in ["full.qcow2", "packed.qcow2", "extended.qcow2", "old.qcow2", "top.qcow2"] {
            rig.same(&format!("compare {first} {second}"));
        }
        rig.same(&format!("compare -s {first} {first}"));
    }
    rig.same("compare -s full.qcow2 packed.qcow2");
    rig.same("compare nowhere full.qcow2");
}

#[test]
fn mistakes_are_told_in_the_same_words() {
    let rig = Rig::new();
    for words in [
        "",
        "bogus",
        "info",
        "info -Z",
        "info --bogus x",
        "info --output foo plain.raw",
        "info nowhere",
        "info -f qcow2 plain.raw",
        "create",
        "create -f foo x 1M",
        "create -f qcow2 x 1X",
        "create -q -f qcow2 x",
        "create -f qcow2 -o foo=1 x 1M",
        "create -f qcow2 -o cluster_size=3 x 1M",
        "create -f raw x 99E",
        "resize plain.raw",
        "resize -f raw plain.raw 0",
        "resize full.qcow2 1M",
        "resize --preallocation=bogus plain.raw 9M",
        "create -f qcow2 -b '' x 1M",
        "measure -f qcow2",
        "measure --image-opts",
        "measure -O qcow2 -o cluster_size=512 --size 8E",
        "convert -n -O qcow2 -o cluster_size=4k full.qcow2 empty.qcow2",
        "bench -U -w -c 1 full.qcow2",
        "snapshot -U -c x full.qcow2",
        "check -U -r all full.qcow2",
        "convert",
        "convert full.qcow2",
        "convert -m 99 a b",
        "convert -S 100 a b",
        "convert -t foo plain.raw b",
        "convert --target-is-zero a b",
        "convert -c -O raw plain.raw b",
        "convert plain.raw /nowhere/x",
        "rebase top.qcow2",
        "rebase -b nowhere -F raw top.qcow2",
        "commit -b nowhere top.qcow2",
        "commit empty.qcow2",
        "compare full.qcow2",
        "measure",
        "measure -O vmdk --size 1G",
        "amend full.qcow2",
        "amend -f raw -o size=1 plain.raw",
        "bench --flush-interval=5 full.qcow2",
        "bench -i foo full.qcow2",
        "snapshot -c a -d b full.qcow2",
        "check -r foo full.qcow2",
        "check plain.raw",
        "dd",
        "dd if=plain.raw of=x bs=0",
        "dd if=plain.raw of=x bs",
        "dd if= of=x",
        "dd if=plain.raw of=x:y",
        "dd -O nosuch if=nosuch of=x",
        "convert -O raw plain.raw x:y",
        "convert -O file plain.raw /nowhere/x",
    ] {
        rig.same(words);
    }
}

#[test]
fn order_of_clusters_in_an_external_data_file_is_told_the_same() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 -o data_file=data apart.qcow2 1M");
    rig.io("apart.qcow2", &["write -P 1 0 4k", "write -P 2 512k 4k"]);

    rig.same("check apart.qcow2");
}

#[test]
fn strict_comparison_tells_zeroes_past_the_end_of_what_lies_beneath() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 base.qcow2 1M");
    rig.qemu("create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2 3M");
    rig.qemu("create -q -f qcow2 alone.qcow2 3M");

    rig.same("compare -s top.qcow2 alone.qcow2");
    rig.same("compare top.qcow2 alone.qcow2");
}

#[test]
fn raw_on_what_has_no_mark_of_a_good_end_has_none_either() {
    let rig = Rig::empty();
    let info = "info --output json --image-opts driver=raw,file.driver=null-co,file.size=1M";
    for ran in [rig.ours(info), rig.real(info)] {
        assert!(ran.out.contains("virtual-size") && !ran.out.contains("dirty-flag"), "{ran:?}");
    }
}

#[test]
fn options_of_what_is_not_opened_are_refused() {
    let rig = Rig::new();
    for more in ["backing.driver=qcow2,backing.file.filename=nosuch", "backing.file.filename=short.raw"] {
        let words = format!("info --image-opts driver=qcow2,file.filename=top.qcow2,{more}");
        let ran = rig.ours(&words);
        assert_eq!(ran, rig.real(&words), "{words}");
        assert_eq!(ran.code, Some(1), "{words}");
    }
}
