//! Images that are named by options and as `json:{...}`.

use std::fs::{self, File};
use std::os::unix::net::UnixListener;

use crate::rig::{Rig, split};

#[test]
fn what_lies_beneath_is_described_as_to_qemu() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 base 1M");
    rig.io("base", &["write -P 1 0 64k"]);
    rig.qemu("create -q -f qcow2 -b base -F qcow2 top 1M");
    rig.write("other.raw", 1 << 20, &[(65536, 65536, 2), (1 << 20, 0, 0)]);
    let top = "driver=qcow2,file.filename=top";
    for options in [
        top.to_owned(),
        "file.filename=top".to_owned(),
        "file.driver=blkdebug,file.image.filename=top".to_owned(),
        "driver=blkdebug,image.filename=top".to_owned(),
        format!("{top},backing.file.filename=base"),
        format!("{top},backing.driver=qcow2,backing.file.filename=base"),
        format!("{top},backing.driver=raw,backing.file.filename=other.raw"),
        format!("{top},backing.driver=raw,backing.file.driver=file,backing.file.filename=other.raw"),
        format!("{top},backing.filename=base"),
        format!("{top},backing.nosuch=1"),
        format!("{top},nosuch=1"),
        format!("{top},file.nosuch=1"),
        "driver=raw,file.filename=other.raw,backing.file.filename=base".to_owned(),
        "driver=raw,file.file.filename=top".to_owned(),
        "driver=raw,file.filename=other.raw,size=1000".to_owned(),
        "driver=qcow2".to_owned(),
        "driver=qcow2,file=top".to_owned(),
        "filename=top".to_owned(),
        "file.file.filename=top".to_owned(),
        "driver=nosuch,file.filename=top".to_owned(),
    ] {
        rig.same(&format!("map --image-opts {options}"));
    }
    rig.works(&format!("compare --image-opts driver=raw,file.driver=qcow2,file.file.filename=top {top}"));
    let failing = "driver=qcow2,file.driver=blkdebug,file.image.filename=top,file.inject-error.0.event=none";
    let ran = rig.ours(&format!("map --image-opts {failing}"));
    assert!(ran.code == Some(1) && ran.err.contains("Input/output error"), "{ran:?}");
    for json in [
        r#"{"driver":"qcow2","file":{"filename":"top"},"backing":{"driver":"qcow2","file":{"filename":"base"}}}"#,
        r#"{"driver":"qcow2","file.filename":"top","backing":{"file":{"filename":"base"}}}"#,
        r#"{"driver":"qcow2","file.filename":"top","backing":null}"#,
        r#"{"file.filename":"top"}"#,
    ] {
        rig.same(&format!("map json:{json}"));
    }
}

#[test]
fn raw_image_that_nobody_said_is_raw_is_guarded() {
    let rig = Rig::empty();
    rig.qemu("create -q -f qcow2 image.qcow2 1M");
    rig.write("target", 1 << 20, &[(1 << 20, 0, 0)]);
    let onto = "convert -n --image-opts --target-image-opts driver=raw,file.filename=image.qcow2";
    let (ours, real) =
        (rig.ours(&format!("{onto} file.filename=target")), rig.real(&format!("{onto} file.filename=target")));
    let warning = real.err.split_once("qemu-img:").unwrap().0;
    assert_eq!(ours.code, Some(1), "{ours:?}");
    assert!(ours.err.starts_with(warning), "{ours:?}");
    assert!(fs::read(rig.path("target")).unwrap().iter().all(|byte| *byte == 0));
    rig.works(&format!("{onto} driver=raw,file.filename=target"));
    rig.alike("-f raw -F raw image.qcow2", "target");
}

#[test]
fn snapshot_of_an_image_that_has_none_is_refused() {
    let rig = Rig::empty();
    rig.write("disk.raw", 1 << 20, &[(0, 4096, 1)]);
    rig.same("convert -l one disk.raw out.raw");
    rig.same("convert -l snapshot.name=one -f raw disk.raw out.raw");
    rig.same("convert -l one --image-opts driver=raw,file.filename=disk.raw out.raw");
    rig.same("measure -l one -f raw disk.raw");
    assert!(!rig.path("out.raw").exists());
}

#[test]
fn signal_that_asks_how_far_it_is_does_not_end_what_has_not_begun() {
    let rig = Rig::empty();
    let listener = UnixListener::bind(rig.path("s")).unwrap();
    for words in [
        "convert -O raw URI out.raw",
        "dd if=URI of=out.raw",
        "rebase -u -b x URI",
        "commit URI",
        "amend -o size=1 URI",
    ] {
        let mut child = rig.start(&words.replace("URI", "nbd+unix:///?socket=s"));
        // It waits for a server that says nothing yet.
        let (server, _) = listener.accept().unwrap();
        let sent = std::process::Command::new("kill").args(["-USR1", &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        std::thread::sleep(std::time::Duration::from_millis(50));
        drop(server);
        assert_eq!(child.wait().unwrap().code(), Some(1), "{words}");
    }
}

#[test]
fn exit_code_tells_the_difference_where_words_cannot() {
    let rig = Rig::empty();
    rig.write("disk.raw", 1 << 20, &[(0, 4096, 1)]);
    rig.write("other.raw", 1 << 20, &[(0, 4096, 2)]);
    rig.write("longer.raw", 2 << 20, &[(0, 4096, 1)]);
    for (other, code) in [("disk.raw", 0), ("other.raw", 1), ("longer.raw", 0)] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let ran = rig.command(&split(&format!("compare disk.raw {other}"))).stdout(full).status();
        assert_eq!(ran.unwrap().code(), Some(code), "{other}");
    }
}

#[test]
fn combinations_that_cannot_be_are_refused_before_anything_is_made() {
    let rig = Rig::empty();
    rig.write("disk.raw", 1 << 20, &[(0, 4096, 1)]);
    for words in [
        "create -f qcow2 -u -b nosuch new 1M",
        "convert -c -O qcow2 -o preallocation=metadata disk.raw new",
        "convert -c -O raw disk.raw new",
        "convert -c -O vdi disk.raw new",
        "amend -f raw -o help",
        "amend -f vmdk -o help",
        "amend -f nosuch -o help",
        "bitmap --add -g 1 disk.raw b",
    ] {
        rig.same(words);
        assert!(!rig.path("new").exists(), "{words}");
    }
    rig.works("convert -c -O qcow2 -o preallocation=off disk.raw new");
    rig.works("bitmap --add -g 0 new b");
    rig.same_json("info --output=json new");
}
