//! A vCPU under a debugger, shown by a few instructions. Needs `/dev/kvm`. Breakpoint instructions need a processor
//! with virtualization: this host's may not have it.

mod guest;

use guest::{CODE, Guest, Seen};
use rhea_arch::kvm::{DebugControl, DebugExit, Exit, Watch, WatchFor};

/// `inc ax; inc ax; int3; out 0xff, al`.
const PROGRAM: [u8; 5] = [0x40, 0x40, 0xcc, 0xe6, 0xff];

fn debugged(guest: &Guest, single_step: bool) {
    guest.vcpu.set_debug(&DebugControl { enabled: true, single_step, watches: Vec::new() }).expect("debugging");
}

#[test]
fn steps_end_after_one_instruction_each() {
    let mut guest = Guest::new(&PROGRAM);
    debugged(&guest, true);

    for done in 1..=2 {
        assert_eq!(guest.vcpu.run().unwrap(), Exit::Debug(DebugExit::Step));
        assert_eq!(guest.vcpu.regs().unwrap().rip, CODE + done);
    }
}

#[test]
fn watched_instruction_ends_the_run_before_it() {
    let mut guest = Guest::new(&PROGRAM);
    let watches = vec![Watch { address: CODE + 1, length: 1, what: WatchFor::Execution }];
    guest.vcpu.set_debug(&DebugControl { enabled: true, single_step: false, watches }).expect("debugging");

    assert_eq!(guest.vcpu.run().unwrap(), Exit::Debug(DebugExit::Watch(0)));
    assert_eq!(guest.vcpu.regs().unwrap().rip, CODE + 1);
}

#[test]
fn without_a_debugger_the_guest_handles_its_own_breakpoints() {
    let mut guest = Guest::new(&PROGRAM);
    // Interrupt 3 leads behind the breakpoint (SDM volume 3, 21.1.4).
    guest.load(4 * 3, &[0x03, 0x10, 0, 0]);

    assert_eq!(guest.step(), Seen::Out { port: 0xff, width: 1, data: vec![2] });
}
