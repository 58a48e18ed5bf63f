//! What must not be lost, and mistakes that must be told: beside qemu-img.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use crate::rig::{Ran, Rig, split};

#[test]
fn image_is_not_made_over_what_shall_lie_beneath_it() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 base.qcow2 1M");
    rig.io("base.qcow2", &["write -P 1 0 1M"]);
    let before = fs::read(rig.path("base.qcow2")).unwrap();
    symlink("base.qcow2", rig.path("link")).unwrap();

    for words in ["-b base.qcow2 -F qcow2", "-u -b base.qcow2 -F qcow2", "-o backing_file=base.qcow2,backing_fmt=qcow2"]
    {
        rig.same(&format!("create -f qcow2 {words} base.qcow2"));
        rig.same(&format!("create -f qcow2 {words} base.qcow2 1M"));
    }
    let whole = rig.path("base.qcow2").display().to_string();
    for (below, name) in [("link", "base.qcow2"), (whole.as_str(), "base.qcow2"), ("base.qcow2", "link")] {
        let ran = rig.ours(&format!("create -f qcow2 -u -b {below} -F qcow2 {name} 1M"));
        assert_eq!(ran.code, Some(1), "{below}, {name}: {ran:?}");
    }
    rig.write("source.raw", 1 << 20, &[(0, 4096, 2)]);
    let ran = rig.ours("convert -O qcow2 -B base.qcow2 -F qcow2 source.raw link");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(fs::read(rig.path("base.qcow2")).unwrap() == before);
}

#[test]
fn damage_of_files_that_were_cut_off_is_told_alike() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 whole.qcow2 4M");
    rig.io("whole.qcow2", &["write -P 1 0 4M"]);
    rig.qemu("convert -c -O qcow2 whole.qcow2 packed.qcow2");
    let cut = |name: &str, len: u64| {
        let bytes = fs::read(rig.path(name)).unwrap();
        fs::write(rig.path("cut"), &bytes[..len as usize]).unwrap();
    };
    let packed = fs::metadata(rig.path("packed.qcow2")).unwrap().len();
    for (name, len) in [
        ("whole.qcow2", 1 << 20),
        ("whole.qcow2", (4 << 20) + 1),
        ("whole.qcow2", 200 << 10),
        ("whole.qcow2", 100 << 10),
        ("whole.qcow2", 70 << 10),
        ("packed.qcow2", packed - 65536),
        ("packed.qcow2", 200 << 10),
    ] {
        cut(name, len);
        rig.same("check cut");
        rig.same_json("check --output=json cut");
        let (ours, theirs) = (rig.ours("convert -O raw cut ours.raw"), rig.real("convert -O raw cut theirs.raw"));
        assert_eq!(ours.code, theirs.code, "{name}, {len}: {ours:?} {theirs:?}");
        if ours.code == Some(0) {
            rig.alike("ours.raw", "theirs.raw");
        }
    }
    cut("whole.qcow2", 1 << 20);
    rig.same("check -r leaks cut");
    rig.same("check -r all cut");
    assert_eq!(fs::metadata(rig.path("cut")).unwrap().len(), 1 << 20);
}

#[test]
fn wild_entries_are_told_and_what_is_beside_them_is_repaired_alike() {
    let rig = Rig::empty();
    // In the L2 table, in the L1 table.
    for place in [0x40000, 0x30000] {
        for program in ["ours", "theirs"] {
            rig.qemu(&format!("create -q -f qcow2 {program} 4M"));
            rig.io(program, &["write -P 1 0 4M"]);
            let mut bytes = fs::read(rig.path(program)).unwrap();
            bytes[place..place + 8].copy_from_slice(&0x8000_00ff_0005_0000u64.to_be_bytes());
            fs::write(rig.path(program), bytes).unwrap();
        }
        rig.same("check ours");
        let (ours, theirs) = (rig.ours("check -r all ours"), rig.real("check -r all theirs"));
        assert_eq!((ours.code, ours.out), (theirs.code, theirs.out), "{place:#x}");
        rig.same("check ours");
    }
}

#[test]
fn raw_data_file_is_what_the_image_shows() {
    let rig = Rig::empty();
    rig.works("create -q -f qcow2 -o data_file=d.raw,data_file_raw=on a 4M");
    rig.write("d.raw", 4 << 20, &[(1 << 20, 4096, 5)]);
    rig.alike("a", "d.raw");
    rig.same_json("map --output=json a");
    rig.works("convert -O raw a out.raw");
    rig.alike("out.raw", "d.raw");
    rig.works("resize -q a 8M");
    rig.write("d.raw", 8 << 20, &[(1 << 20, 4096, 5), (5 << 20, 4096, 7)]);
    rig.alike("a", "d.raw");
    rig.same_json("map --output=json a");
    rig.works("convert -O qcow2 -o data_file=w.raw,data_file_raw=on a b");
    rig.same_json("map --output=json b");
    rig.alike("w.raw", "d.raw");
    rig.sound("a");
    rig.sound("b");
}

#[test]
fn overlay_is_made_on_an_image_in_use() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 a.qcow2 4M");
    let socket = rig.path("s");
    let mut server = Command::new("qemu-nbd");
    server.args(["-t", "-k"]).arg(&socket).arg("-f").arg("qcow2").arg(rig.path("a.qcow2"));
    let mut server = server.spawn().expect("qemu-nbd holds the image: install the package qemu-utils");
    while !socket.exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }

    let ran = rig.ours("create -q -f qcow2 -b a.qcow2 -F qcow2 top.qcow2");

    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    rig.alike("a.qcow2", "top.qcow2");
}

#[test]
fn exports_of_servers_are_formatted_and_written() {
    let rig = Rig::empty();
    rig.write("disk.raw", 16 << 20, &[(0, 16 << 20, 0xee)]);
    rig.write("source.raw", 1 << 20, &[(0, 65536, 3)]);
    let socket = rig.path("s");
    let mut server = Command::new("qemu-nbd");
    server.args(["-t", "-k"]).arg(&socket).arg("-f").arg("raw").arg(rig.path("disk.raw"));
    let mut server = server.spawn().expect("qemu-nbd serves the image: install the package qemu-utils");
    while !socket.exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let uri = format!("nbd+unix:///?socket={}", socket.display());

    for words in [
        format!("create -q -f raw {uri} 1M"),
        format!("convert -O raw source.raw {uri}"),
        format!("compare -f raw -F raw {uri} source.raw"),
        format!("dd -f raw -O raw if=source.raw of={uri}"),
        format!("convert -O qcow2 source.raw {uri}"),
        format!("compare -f qcow2 -F raw {uri} source.raw"),
        format!("create -q -f qcow2 {uri} 3M"),
        format!("check -f qcow2 {uri}"),
    ] {
        // Past the end of what was copied is what was there.
        let expected = if words.starts_with("compare -f raw") { Some(1) } else { Some(0) };
        let ran = rig.ours(&words);
        assert_eq!(ran.code, expected, "{words}: {ran:?}");
    }
    let refused = rig.ours(&format!("create -q -f raw {uri} 17M"));
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(refused.code, Some(1), "{refused:?}");
}

#[test]
fn what_could_not_be_made_leaves_nothing_behind() {
    let rig = Rig::empty();
    rig.write("source.raw", 1 << 20, &[(0, 4096, 2)]);
    for words in [
        "create -f qcow2 -o refcount_bits=3 new 1M",
        "create -f qcow2 -o cluster_size=3k new 1M",
        "convert -O qcow2 -o refcount_bits=3 source.raw new",
        "create -f qcow2 -F qcow2 new 1M",
        "create -f qcow2 -u -F qcow2 new 1M",
        "convert -O qcow2 -o backing_fmt=qcow2 source.raw new",
    ] {
        rig.same(words);
        assert!(!rig.path("new").exists(), "{words}");
    }
    assert_eq!(rig.ours("create -q -f raw -o preallocation=full new 100000T").code, Some(1));
    assert!(!rig.path("new").exists());
}

#[test]
fn options_and_sizes_are_read_alike() {
    let rig = Rig::empty();
    rig.write("r", 1 << 20, &[(0, 4096, 2)]);
    for words in [
        "create -f qcow2 -o cluster_size=4k, x 1M",
        "create -f qcow2 -o ,cluster_size=4k x 1M",
        "create -f qcow2 -o '' x 1M",
        "create -f qcow2 -o nolazy_refcounts x 1M",
        "create -f qcow2 -o nocow x 1M",
        "create -f qcow2 x .5M",
        "create -f qcow2 x +1M",
        "create -f raw :x 1M",
        "convert -n -O raw --target-image-opts r driver=raw,file.filename=r2",
        "measure -O qcow2 -o '' r",
    ] {
        rig.same(words);
    }
    let ran = rig.ours("info :x");
    assert!(ran.code == Some(1) && ran.err.contains("Unknown protocol ''"), "{ran:?}");
}

#[test]
fn missing_backing_file_fails_the_check() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 below.qcow2 1M");
    rig.qemu("create -q -f qcow2 -b below.qcow2 -F qcow2 top.qcow2");
    rig.same("check top.qcow2");
    let described = "--image-opts driver=qcow2,file.filename=top.qcow2";
    rig.same(&format!("check {described}"));
    rig.same(&format!("check {described},backing.file.filename=nosuch"));
    fs::rename(rig.path("below.qcow2"), rig.path("other.qcow2")).unwrap();
    for words in ["top.qcow2", "-r all top.qcow2", "--output=json top.qcow2"] {
        rig.same(&format!("check {words}"));
    }
    for words in ["", ",backing.file.filename=nosuch", ",backing.driver=qcow2,backing.file.filename=other.qcow2"] {
        rig.same(&format!("check {described}{words}"));
        rig.same(&format!("check -r all {described}{words}"));
    }
}

#[test]
fn devices_without_content_are_empty_images() {
    let rig = Rig::empty();
    for words in ["info /dev/null", "map /dev/zero", "measure -O qcow2 /dev/null", "compare /dev/null /dev/zero"] {
        rig.same(words);
    }
    rig.same("create -f qcow2 -b /dev/zero -F raw y 1M");
    assert_eq!(rig.ours("info /dev/tty").code, Some(1));
}

#[test]
fn who_stops_reading_stops_no_verb() {
    let rig = Rig::empty();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_rhea"));
    command.args(["img", "create", "-f", "qcow2", "new.qcow2", "1M"]).current_dir(rig.path("")).stdout(writer);

    let ran = command.output().unwrap();

    assert_eq!((ran.status.code(), ran.stderr.as_slice()), (Some(0), b"".as_slice()));
    rig.sound("new.qcow2");
}

/// An image with a cluster that is counted and not used.
fn leaking(rig: &Rig, name: &str) {
    rig.qemu(&format!("create -q -f qcow2 {name} 1M"));
    let mut bytes = fs::read(rig.path(name)).unwrap();
    let word = |bytes: &[u8], at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let counts = word(&bytes, word(&bytes, 48));
    let last = bytes.len().div_ceil(65536);
    bytes.resize((last + 1) * 65536, 0);
    bytes[counts + 2 * last + 1] = 1;
    fs::write(rig.path(name), bytes).unwrap();
}

#[test]
fn words_that_cannot_be_written_change_neither_work_nor_exit_code() {
    let rig = Rig::empty();
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let code = |words: &str, out: bool, err: bool| {
        let mut command = rig.command(&split(words));
        command.stdout(if out { full().into() } else { Stdio::null() });
        command.stderr(if err { full().into() } else { Stdio::null() });
        command.status().unwrap().code()
    };
    leaking(&rig, "leaking");
    for (out, err) in [(false, true), (true, false), (true, true)] {
        assert_eq!(code("check leaking", out, err), Some(3), "{out} {err}");
        assert_eq!(code("check --output=json leaking", out, err), Some(3), "{out} {err}");
        assert_eq!(code("check", out, err), Some(1), "{out} {err}");
    }
    assert_eq!(code("check -r leaks leaking", true, true), Some(0));
    rig.sound("leaking");
    assert_eq!(code("create -f qcow2 base 1M", true, true), Some(0));
    assert_eq!(code("resize base 2M", true, true), Some(0));
    assert_eq!(code("create -f qcow2 -b base -F qcow2 top", true, true), Some(0));
    rig.io("top", &["write -P 5 0 64k"]);
    assert_eq!(code("commit top", true, true), Some(0));
    rig.io("base", &["read -P 5 0 64k", "read -P 0 64k 1984k"]);
}

#[test]
fn warnings_of_what_lies_beneath_reach_the_user() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 image 1M");
    rig.io("image", &["write -P 1 960k 64k"]);
    let mut bytes = fs::read(rig.path("image")).unwrap();
    let word = |bytes: &[u8], at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let (counts, last) = (word(&bytes, word(&bytes, 48)), bytes.len() / 65536 - 1);
    // The data are in use and not counted.
    bytes[counts + 2 * last..counts + 2 * last + 2].fill(0);
    fs::write(rig.path("image"), bytes).unwrap();

    let ran = rig.ours("resize --shrink image 512k");

    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.starts_with("qemu-img: warning: qcow2: cluster "), "{ran:?}");
}

#[test]
fn reader_who_has_read_enough_is_no_fault_of_the_map() {
    let rig = Rig::empty();
    rig.write("plain.raw", 1 << 20, &[(0, 4096, 1)]);
    for form in ["human", "json"] {
        let mut command = rig.command(&split(&format!("map -f raw --output={form} plain.raw")));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ran = child.wait_with_output().unwrap();
        assert_eq!((ran.status.code(), ran.stderr.as_slice()), (Some(0), &b""[..]), "{form}");
    }
}

#[test]
fn clusters_of_a_data_file_that_is_not_named_are_no_leaks() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 image 1M");
    rig.io("image", &["write -P 1 0 1M"]);
    let mut bytes = fs::read(rig.path("image")).unwrap();
    // Incompatible feature 2, and no header extension for the name.
    bytes[79] |= 4;
    fs::write(rig.path("image"), &bytes).unwrap();
    for words in ["check image", "check -r leaks image", "check -r all image"] {
        let ran = rig.ours(words);
        assert_eq!(ran, rig.real(words), "{words}");
        assert_eq!(ran.code, Some(1), "{words}");
        assert!(fs::read(rig.path("image")).unwrap() == bytes, "{words}");
    }
}

/// As under QEMU, whose tools do not end by SIGXFSZ.
#[test]
fn limit_of_a_files_size_is_an_error_of_the_write() {
    let rig = Rig::empty();
    rig.write("disk.raw", 4 << 20, &[(0, 4 << 20, 1)]);
    let limited = |words: &str| -> Ran {
        // 1 MiB, in units of 512 bytes.
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -f 2048; exec \"$0\" img \"$@\"", env!("CARGO_BIN_EXE_rhea")]);
        command.args(split(words)).current_dir(rig.path("")).output().unwrap().into()
    };

    for words in ["convert -O qcow2 disk.raw copy.qcow2", "create -f raw new.raw 4M"] {
        let ran = limited(words);
        assert_eq!(ran.code, Some(1), "{words}: {ran:?}");
        assert!(ran.err.contains("File too large"), "{words}: {ran:?}");
    }
}
