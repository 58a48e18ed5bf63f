//! Encrypted images, made by one program and used by the other.

use crate::rig::{Ran, Rig};

/// Secrets that both programs are given.
const KEYS: &str = "--object secret,id=one,data=first --object secret,id=two,format=base64,data=c2Vjb25k";

fn opened(name: &str, key: &str) -> String {
    format!("--image-opts driver=qcow2,file.filename={name},encrypt.key-secret={key}")
}

fn volume(name: &str, key: &str) -> String {
    format!("--image-opts driver=luks,file.filename={name},key-secret={key}")
}

impl Rig {
    /// Both programs read `image` as `plain`.
    fn reads_as(&self, image: &str, plain: &str) {
        for (what, run) in [("ours", Self::ours as fn(&Self, &str) -> Ran), ("qemu-img", Self::real)] {
            let ran = run(self, &format!("convert -O raw {KEYS} {image} read.raw"));
            assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{what} {image}");
            self.alike("-f raw -F raw read.raw", plain);
        }
    }
}

/// Offset, length and byte of each run in a disk.
const CONTENT: &[(u64, usize, u8)] = &[(0, 70_000, 1), (500_000, 5000, 2), (1_000_001, 777, 3)];

const MIXES: [&str; 5] = [
    "encrypt.format=luks",
    "encrypt.format=luks,encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,cluster_size=4k",
    "encrypt.format=luks,encrypt.cipher-alg=serpent-256,encrypt.hash-alg=sha512,compat=0.10",
    "encrypt.format=luks,encrypt.cipher-alg=twofish-256,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=plain,extended_l2=on",
    "encrypt.format=aes",
];

#[test]
fn our_images_are_read_by_both() {
    let rig = Rig::empty();
    rig.write("plain.raw", 1 << 20, CONTENT);
    for mix in MIXES {
        let time = if mix.contains("luks") { ",encrypt.iter-time=10" } else { "" };
        rig.works(&format!(
            "convert -O qcow2 -o {mix},encrypt.key-secret=one{time} {KEYS} -f raw plain.raw ours.qcow2"
        ));
        rig.reads_as(&opened("ours.qcow2", "one"), "plain.raw");
        rig.same(&format!("check {KEYS} {}", opened("ours.qcow2", "one")));
        rig.same("info ours.qcow2");
        rig.same("info --output=json ours.qcow2");
    }
}

/// Of two kinds only: QEMU measures the processor for seconds whenever it makes a LUKS header, and what it reads of ours
/// in the other ciphers is what it would have written.
#[test]
fn images_of_qemu_are_read_by_both() {
    let rig = Rig::empty();
    rig.write("plain.raw", 1 << 20, CONTENT);
    // The generator has no use for the hash, which stands in the header all the same.
    let luks = "encrypt.format=luks,encrypt.iter-time=10,encrypt.ivgen-alg=plain64,encrypt.ivgen-hash-alg=md5";
    for mix in [luks, "encrypt.format=aes"] {
        rig.qemu(&format!("convert -O qcow2 -o {mix},encrypt.key-secret=one {KEYS} -f raw plain.raw real.qcow2"));
        rig.reads_as(&opened("real.qcow2", "one"), "plain.raw");
        rig.same("info real.qcow2");
        rig.same("info --output=json real.qcow2");
    }
}

#[test]
fn volumes_of_either_program_are_read_by_both() {
    let rig = Rig::empty();
    rig.write("plain.raw", 2 << 20, &[(0, 70_000, 1), (1 << 20, 5000, 2)]);
    let words = format!("convert -O luks -o key-secret=one,iter-time=10 {KEYS} -f raw plain.raw");
    rig.works(&format!("{words} ours.luks"));
    rig.reads_as(&volume("ours.luks", "one"), "plain.raw");
    rig.qemu(&format!("{words} real.luks"));
    rig.reads_as(&volume("real.luks", "one"), "plain.raw");
    rig.same("info ours.luks");
    rig.same("info --output=json real.luks");
    rig.same(&format!("map --output=human {KEYS} {}", volume("ours.luks", "one")));
}

#[test]
fn overlays_on_encrypted_images_are_read_and_committed() {
    let rig = Rig::empty();
    rig.write("plain.raw", 1 << 20, CONTENT);
    for (format, options, key) in [
        ("qcow2", "encrypt.format=luks,encrypt.key-secret=one,encrypt.iter-time=10", "backing.encrypt.key-secret=one"),
        ("luks", "key-secret=one,iter-time=10", "backing.key-secret=one"),
    ] {
        rig.works(&format!("convert -O {format} -o {options} {KEYS} -f raw plain.raw base"));
        let encrypt = "encrypt.format=luks,encrypt.key-secret=two,encrypt.iter-time=10";
        rig.works(&format!("create -q -f qcow2 -o {encrypt} {KEYS} -u -b base -F {format} top 1M"));
        let image = format!("{},{key}", opened("top", "two"));
        rig.reads_as(&image, "plain.raw");
        rig.reads_as(&format!("{image},backing.driver={format}"), "plain.raw");
        let onto = format!("convert -n {KEYS} --target-image-opts --image-opts driver=raw,file.filename=new.raw");
        rig.write("new.raw", 1 << 20, &[(0, 1 << 20, 9)]);
        rig.works(&format!("{onto} driver=qcow2,file.filename=top,encrypt.key-secret=two,{key}"));

        let ran = rig.ours(&format!("commit {KEYS} {image}"));

        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{format}");
        let below = if format == "luks" { volume("base", "one") } else { opened("base", "one") };
        rig.reads_as(&below, "new.raw");
        rig.reads_as(&image, "new.raw");
        rig.same(&format!("commit {KEYS} -b nosuch {image}"));
    }
}

#[test]
fn key_slots_are_changed_alike() {
    let rig = Rig::empty();
    let amend = |run: fn(&Rig, &str) -> Ran, image: &str, options: &str| {
        run(&rig, &format!("amend {KEYS} -o {options} {}", opened(image, "one")))
    };
    for image in ["ours.qcow2", "real.qcow2"] {
        rig.works(&format!(
            "create -q -f qcow2 {KEYS} -o encrypt.format=luks,encrypt.key-secret=one,encrypt.iter-time=10 {image} 1M"
        ));
    }
    for options in [
        "encrypt.state=active",
        "encrypt.state=foo",
        "encrypt.new-secret=two",
        "encrypt.state=inactive",
        "encrypt.state=inactive,encrypt.keyslot=0",
        "encrypt.state=inactive,encrypt.keyslot=3",
        "encrypt.state=inactive,encrypt.old-secret=one",
        "encrypt.state=inactive,encrypt.old-secret=two",
        "encrypt.state=inactive,encrypt.new-secret=two",
        "encrypt.state=active,encrypt.new-secret=two,encrypt.old-secret=one",
        "encrypt.state=active,encrypt.new-secret=two,encrypt.keyslot=0",
        "encrypt.state=active,encrypt.new-secret=two,encrypt.keyslot=9",
        "encrypt.cipher-alg=aes-128",
        "encrypt.state=active,encrypt.new-secret=nobody",
    ] {
        assert_eq!(amend(Rig::ours, "ours.qcow2", options), amend(Rig::real, "real.qcow2", options), "{options}");
    }
    let add = "encrypt.state=active,encrypt.new-secret=two,encrypt.keyslot=5,encrypt.iter-time=10";
    let ran = amend(Rig::ours, "ours.qcow2", add);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    rig.write("zero.raw", 1 << 20, &[(1 << 20, 0, 0)]);
    rig.reads_as(&opened("ours.qcow2", "two"), "zero.raw");
    let ran = amend(Rig::ours, "ours.qcow2", "encrypt.state=inactive,encrypt.old-secret=one");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    rig.same(&format!("check {KEYS} {}", opened("ours.qcow2", "two")));
    rig.reads_as(&opened("ours.qcow2", "two"), "zero.raw");
    let over = "encrypt.state=active,encrypt.new-secret=one,encrypt.keyslot=5,encrypt.iter-time=10";
    let ran = rig.ours(&format!("amend --force {KEYS} -o {over} {}", opened("ours.qcow2", "two")));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    rig.reads_as(&opened("ours.qcow2", "one"), "zero.raw");
}

#[test]
fn missing_and_wrong_keys_are_told_alike() {
    let rig = Rig::empty();
    rig.works(&format!(
        "create -q -f qcow2 {KEYS} -o encrypt.format=luks,encrypt.key-secret=one,encrypt.iter-time=10 disk.qcow2 1M"
    ));
    rig.works(&format!("create -q -f luks {KEYS} -o key-secret=one,iter-time=10 disk.luks 1M"));
    for words in [
        "convert -O raw disk.qcow2 x.raw".to_owned(),
        "convert -O raw disk.luks x.raw".to_owned(),
        "map disk.luks".to_owned(),
        format!("convert -O raw {} x.raw", opened("disk.qcow2", "one")),
        format!("convert -O raw {KEYS} {} x.raw", opened("disk.qcow2", "two")),
        format!("convert -O raw {KEYS} {},encrypt.format=aes x.raw", opened("disk.qcow2", "one")),
        "convert -O raw --object secret,id=a disk.qcow2 x.raw".to_owned(),
        "convert -O raw --object secret,id=a,data=x,file=y disk.qcow2 x.raw".to_owned(),
        "convert -O raw --object secret,id=a,data=x --object secret,id=a,data=y disk.qcow2 x.raw".to_owned(),
        format!("convert -c -O qcow2 {KEYS} -o encrypt.format=luks,encrypt.key-secret=one disk.qcow2 x.qcow2"),
        "convert -c -O qcow2 -o encryption=on disk.qcow2 x.qcow2".to_owned(),
        "convert -c -O luks disk.qcow2 x.luks".to_owned(),
        "create -f qcow2 -o encrypt.format=luks x.qcow2 1M".to_owned(),
        "create -f qcow2 -o encrypt.format=no x.qcow2 1M".to_owned(),
        "create -f qcow2 -o encrypt.key-secret=one x.qcow2 1M".to_owned(),
        "create -f luks x.luks 1M".to_owned(),
        format!(
            "create -f qcow2 {KEYS} -o encrypt.format=luks,encrypt.key-secret=one,encrypt.cipher-alg=no x.qcow2 1M"
        ),
        format!("measure -O qcow2 {KEYS} --size 1G -o encrypt.format=luks,encrypt.key-secret=one"),
        format!("measure -O luks {KEYS} --size 1G -o key-secret=one"),
        "measure -O luks --size 1G".to_owned(),
        format!("convert -c -O qcow2 {KEYS} {} x.qcow2", opened("disk.qcow2", "one")),
    ] {
        rig.same(&words);
    }
}
