use serde_json::{Value, json};

use super::*;

fn snapshot() -> VcpuSnapshot {
    let mut lapic = kvm_bindings::kvm_lapic_state { regs: [0; LAPIC_LENGTH] };
    lapic.regs[0x20] = -1;
    let mut xcrs = kvm_bindings::kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    xcrs.xcrs[0].value = 7;
    VcpuSnapshot {
        regs: kvm_bindings::kvm_regs { rip: u64::MAX, ..Default::default() },
        sregs: kvm_bindings::kvm_sregs { cr0: 0x6000_0010, ..Default::default() },
        vectors: Vectors::Extended { area: (0..1024).collect(), xcrs: Box::new(xcrs) },
        debug: Some(kvm_bindings::kvm_debugregs { dr7: 0x400, ..Default::default() }),
        lapic,
        events: Some(kvm_bindings::kvm_vcpu_events { sipi_vector: 0x9f, ..Default::default() }),
        mp_state: kvm_mp_state { mp_state: 3 },
        msrs: vec![MsrValue { index: 0x10, value: 1 << 63 }],
    }
}

fn through_json(snapshot: &VcpuSnapshot) -> VcpuSnapshot {
    let text = serde_json::to_string(&VcpuState::from(snapshot)).unwrap();
    VcpuSnapshot::try_from(&serde_json::from_str::<VcpuState>(&text).unwrap()).unwrap()
}

fn changed(change: impl FnOnce(&mut Value)) -> Result<VcpuSnapshot, String> {
    let mut value = serde_json::to_value(VcpuState::from(&snapshot())).unwrap();
    change(&mut value);
    let state: VcpuState = serde_json::from_value(value).map_err(|e| e.to_string())?;
    VcpuSnapshot::try_from(&state).map_err(|e| e.to_string())
}

#[test]
fn vcpu_comes_back_as_it_was() {
    let before = snapshot();

    assert_eq!(through_json(&before), before);
}

#[test]
fn legacy_floating_point_comes_back_as_it_was() {
    let fpu = kvm_bindings::kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() };
    let before = VcpuSnapshot { vectors: Vectors::Legacy(Box::new(fpu)), debug: None, events: None, ..snapshot() };

    assert_eq!(through_json(&before), before);
}

#[test]
fn version_is_written_and_another_is_refused() {
    let value = serde_json::to_value(VcpuState::from(&snapshot())).unwrap();

    assert_eq!(value["version"], "1");
    assert!(changed(|v| v["version"] = json!("2")).is_err());
}

#[test]
fn unknown_and_missing_fields_are_refused() {
    assert!(changed(|v| v["surprise"] = json!(1)).is_err());
    assert!(changed(|v| v["regs"]["surprise"] = json!(1)).is_err());
    assert!(changed(|v| drop(v.as_object_mut().unwrap().remove("regs"))).is_err());
}

#[test]
fn areas_of_wrong_length_are_refused() {
    assert_eq!(changed(|v| v["lapic"] = json!("00")).unwrap_err(), "the local APIC has 1 bytes, not 1024");
    assert!(changed(|v| v["lapic"] = json!("0")).is_err());
    assert!(changed(|v| v["lapic"] = json!("zz")).is_err());
    assert!(changed(|v| v["vectors"]["extended"]["area"] = json!("00".repeat(4095))).is_err());
    assert!(changed(|v| v["vectors"]["extended"]["area"] = json!("00".repeat(65536 + 4))).is_err());
    assert!(changed(|v| v["vectors"]["extended"]["xcrs"] = json!(vec![(0, 1); 17])).is_err());
    assert!(changed(|v| v["msrs"] = json!(vec![(0, 1); 5000])).is_err());
}

#[test]
fn interrupt_controllers_come_back_as_they_were() {
    let mut pit = kvm_pit_state2 { flags: 1, ..Default::default() };
    pit.channels[2].count = 0x1_0000;
    let before = IrqchipSnapshot { chips: [vec![1; CHIP_LENGTH], vec![2; CHIP_LENGTH], vec![3; CHIP_LENGTH]], pit };

    let text = serde_json::to_string(&IrqchipState::from(&before)).unwrap();
    let after = IrqchipSnapshot::try_from(&serde_json::from_str::<IrqchipState>(&text).unwrap()).unwrap();

    assert_eq!(after, before);
}

#[test]
fn interrupt_controllers_of_wrong_shape_are_refused() {
    let pit = kvm_pit_state2::default();
    let short = IrqchipSnapshot { chips: [vec![1; CHIP_LENGTH], vec![2; 5], vec![3; CHIP_LENGTH]], pit };

    let error = IrqchipSnapshot::try_from(&IrqchipState::from(&short)).unwrap_err();

    assert_eq!(error.to_string(), "the slave PIC has 5 bytes, not 512");
}
