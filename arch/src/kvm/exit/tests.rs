use super::*;

#[test]
fn emulation_failure_shows_the_instruction() {
    // Length 3, bytes 0f 01 f9.
    let first = u64::from_le_bytes([3, 0x0f, 0x01, 0xf9, 0xcc, 0xcc, 0xcc, 0xcc]);

    let failure = internal_error(KVM_INTERNAL_ERROR_EMULATION, &[1, first, 0]);

    assert_eq!(failure, Failure::Emulation { instruction: vec![0x0f, 0x01, 0xf9] });
    assert_eq!(failure.to_string(), "KVM cannot emulate the guest's instruction 0f 01 f9");
}

#[test]
fn emulation_failure_with_a_wild_length_is_clipped() {
    let failure = internal_error(KVM_INTERNAL_ERROR_EMULATION, &[1, u64::MAX, u64::MAX, u64::MAX]);

    assert_eq!(failure, Failure::Emulation { instruction: vec![0xff; 15] });
}

#[test]
fn emulation_failure_without_bytes_says_so() {
    let failure = internal_error(KVM_INTERNAL_ERROR_EMULATION, &[]);

    assert_eq!(failure.to_string(), "KVM cannot emulate the guest's instruction (bytes not known)");
}

#[test]
fn other_internal_errors_keep_their_data() {
    let failure = internal_error(KVM_INTERNAL_ERROR_DELIVERY_EV, &[0x10, 0x20]);

    assert_eq!(failure.to_string(), "KVM internal error 3 (event delivery), data [10, 20]");
}

#[test]
fn system_events_are_told_apart() {
    assert_eq!(system_event(KVM_SYSTEM_EVENT_RESET), Exit::ResetRequest);
    assert_eq!(system_event(KVM_SYSTEM_EVENT_CRASH), Exit::Crashed);
    assert_eq!(system_event(KVM_SYSTEM_EVENT_SHUTDOWN), Exit::PowerOffRequest);
    assert!(matches!(system_event(77), Exit::Failed(Failure::Unexpected { .. })));
}

#[expect(unsafe_code, reason = "reading back a C union")]
fn hypercall(code: u64) -> u64 {
    let mut run = kvm_run { exit_reason: KVM_EXIT_HYPERV, ..Default::default() };
    let call = kvm_bindings::kvm_hyperv_exit__bindgen_ty_1__bindgen_ty_2 { input: code, result: 99, params: [0; 2] };
    let u = kvm_bindings::kvm_hyperv_exit__bindgen_ty_1 { hcall: call };
    run.__bindgen_anon_1.hyperv = kvm_bindings::kvm_hyperv_exit { type_: KVM_EXIT_HYPERV_HCALL, pad1: 0, u };
    answer_hyperv(&mut run);
    // SAFETY: written above.
    unsafe { run.__bindgen_anon_1.hyperv.u.hcall.result }
}

#[test]
fn hypercalls_find_no_port_and_no_connection() {
    // The code is in the low 16 bits; above it are flags.
    assert_eq!((hypercall(0x1_005c), hypercall(0x5d), hypercall(0x7777)), (18, 17, 2));
}
