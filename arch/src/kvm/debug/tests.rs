use super::*;

#[test]
fn watches_are_encoded_as_the_processor_reads_them() {
    let watches = vec![
        Watch { address: 0x1000, length: 1, what: WatchFor::Execution },
        Watch { address: 0x2000, length: 8, what: WatchFor::Write },
        Watch { address: 0x3000, length: 4, what: WatchFor::Access },
    ];

    let wanted = registers(&DebugControl { enabled: true, single_step: false, watches });

    assert_eq!(wanted.arch.debugreg[..4], [0x1000, 0x2000, 0x3000, 0]);
    // Global enable bits 1, 3 and 5; fields 0000, 1001 and 1111 from bit 16 on.
    assert_eq!(wanted.arch.debugreg[7], 0x400 | 0b10_1010 | 0xf90 << 16);
    assert_eq!(wanted.control, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP | KVM_GUESTDBG_USE_HW_BP);
}

#[test]
fn without_a_debugger_nothing_is_asked_for() {
    assert_eq!(registers(&DebugControl::default()).control, 0);
}

#[test]
fn status_register_tells_steps_from_watches() {
    assert_eq!(DebugExit::new(1, 0x10, DR6_SINGLE_STEP), DebugExit::Step);
    assert_eq!(DebugExit::new(1, 0x10, 0b100), DebugExit::Watch(2));
    assert_eq!(DebugExit::new(3, 0x10, 0), DebugExit::Breakpoint(0x10));
}

#[test]
fn only_aligned_watches_are_possible() {
    let watch = |address, length| Watch { address, length, what: WatchFor::Write };

    assert!(watch(0x1004, 4).possible());
    assert!(!watch(0x1002, 4).possible());
    assert!(!watch(0x1000, 3).possible());
}
