//! Exits of a vCPU, made by a few instructions each. Needs `/dev/kvm`; software KVM is enough.

mod guest;

use guest::{Guest, Seen};

/// `mov al, 0; out 0xff, al`: the end of a guest.
const END: [u8; 4] = [0xb0, 0x00, 0xe6, 0xff];

fn code(body: &[u8]) -> Vec<u8> {
    [body, &END].concat()
}

#[test]
fn out_of_each_width_arrives_whole() {
    // mov dx, 0x1234; mov eax, 0x44332211; out dx, al; out dx, ax; out dx, eax
    let body = [0xba, 0x34, 0x12, 0x66, 0xb8, 0x11, 0x22, 0x33, 0x44, 0xee, 0xef, 0x66, 0xef];
    let mut guest = Guest::new(&code(&body));

    let seen = guest.run_to_end();

    let out = |width, data: &[u8]| Seen::Out { port: 0x1234, width, data: data.to_vec() };
    assert_eq!(seen, [out(1, &[0x11]), out(2, &[0x11, 0x22]), out(4, &[0x11, 0x22, 0x33, 0x44])]);
}
