//! bench.

use crate::rig::Rig;

#[test]
fn requests_are_sent_and_counted() {
    let rig = Rig::new();
    rig.works("bench -q -c 500 -d 8 full.qcow2");

    let ran = rig.ours("bench -w -c 64 -d 4 -s 4096 -S 8192 --pattern=3 --flush-interval=8 -f raw plain.raw");

    assert!(ran.out.starts_with("Sending 64 write requests, 4096 bytes each, 4 in parallel"), "{ran:?}");
    let bytes = std::fs::read(rig.path("plain.raw")).unwrap();
    let written = bytes.chunks(8192).take(64).all(|step| step[..4096].iter().all(|b| *b == 3));
    assert!(written && bytes[4096] == 1);
}
