//! Exits of a vCPU and its life, shown by a few instructions each. Needs `/dev/kvm`; software KVM is enough.

mod guest;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use guest::{CODE, Guest, Seen, host};
use rhea_arch::kvm::state::{IrqchipState, VcpuState};
use rhea_arch::kvm::{Access, Exit, HostKind, HostRange, IrqchipSnapshot, MsrValue, RunState, VcpuSnapshot, Vm};
use rhea_arch::x86_64::cpu::{CpuConfig, CpuPlan, HostCpu, Topology};
use serde_json::Value;
use vm_memory::GuestAddress;

/// `mov al, 0; out 0xff, al`: the end of a guest.
const END: [u8; 4] = [0xb0, 0x00, 0xe6, 0xff];

/// `lidt [0x3000]` (no entries); `mov eax, cr0; or al, 1; mov cr0, eax`; `ud2`: an exception without a handler, and so
/// a second, and a third (SDM volume 3, 6.15, interrupt 8).
const TRIPLE_FAULT: [u8; 15] =
    [0x0f, 0x01, 0x1e, 0x00, 0x30, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, 0x0f, 0x0b];

fn code(body: &[u8]) -> Vec<u8> {
    [body, &END].concat()
}

/// All items of all exits of one port, in order, whichever way the kernel cut them.
fn written(seen: &[Seen], at: u16) -> Vec<u8> {
    let bytes = seen.iter().filter_map(|s| match s {
        Seen::Out { port, data, .. } if *port == at => Some(data.as_slice()),
        _ => None,
    });
    bytes.collect::<Vec<_>>().concat()
}

/// The state as it is written, without what moves with time: the TSC, and Hyper-V's reference counter and run time.
fn state(snapshot: &VcpuSnapshot) -> Value {
    const MOVING: [u64; 3] = [0x10, 0x4000_0020, 0x4000_0010];
    let mut value = serde_json::to_value(VcpuState::from(snapshot)).expect("JSON");
    let msrs = value["msrs"].as_array_mut().expect("MSRs");
    msrs.retain(|m| !MOVING.contains(&m[0].as_u64().expect("index")));
    value
}

/// Where two written states differ.
fn differences(one: &Value, other: &Value) -> Vec<String> {
    fn collect(at: &str, one: &Value, other: &Value, found: &mut Vec<String>) {
        match (one, other) {
            (Value::Object(a), Value::Object(b)) if a.len() == b.len() => {
                a.iter().for_each(|(key, v)| collect(&format!("{at}.{key}"), v, &other[key], found));
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                a.iter().zip(b).enumerate().for_each(|(n, (v, w))| collect(&format!("{at}[{n}]"), v, w, found));
            }
            _ if one != other => found.push(at.to_owned()),
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect("state", one, other, &mut found);
    found
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

#[test]
fn kept_writes_are_done_in_order_before_the_exit_after_them() {
    // mov dx, 0x1f2; mov al, 1; out dx, al; inc ax; out dx, al; inc dx; inc ax; out dx, al; mov dx, 0x1f7; out dx, al;
    // mov dx, 0x1f1; mov al, 9; out dx, al; mov dx, 0x1f8; in al, dx
    let body = [
        0xba, 0xf2, 0x01, 0xb0, 1, 0xee, 0x40, 0xee, 0x42, 0x40, 0xee, 0xba, 0xf7, 0x01, 0xee, 0xba, 0xf1, 0x01, 0xb0,
        9, 0xee, 0xba, 0xf8, 0x01, 0xec,
    ];
    let mut guest = Guest::new(&code(&body));
    guest.input.push_back(0);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&kept);
    guest.vcpu.on_kept_write(Box::new(move |port, data| sink.lock().unwrap().push((port, data.to_vec()))));
    guest.vm.keep_port_writes(0x1f1, 6).unwrap();

    assert_eq!(guest.step(), Seen::Out { port: 0x1f7, width: 1, data: vec![3] });
    assert_eq!(std::mem::take(&mut *kept.lock().unwrap()), [(0x1f2, vec![1]), (0x1f2, vec![2]), (0x1f3, vec![3])]);
    assert_eq!(guest.step(), Seen::In { port: 0x1f8, width: 1, items: 1 });
    assert_eq!(*kept.lock().unwrap(), [(0x1f1, vec![9])]);
}

#[test]
fn a_kept_write_does_not_stay_behind_when_the_vcpu_is_stopped() {
    // mov dx, 0x1f2; mov al, 7; out dx, al; here: jmp here
    let mut guest = Guest::new(&[0xba, 0xf2, 0x01, 0xb0, 7, 0xee, 0xeb, 0xfe]);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&kept);
    guest.vcpu.on_kept_write(Box::new(move |port, data| sink.lock().unwrap().push((port, data.to_vec()))));
    guest.vm.keep_port_writes(0x1f1, 6).unwrap();
    let kicker = guest.vcpu.bind_to_this_thread();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        kicker.kick();
    });

    assert_eq!(guest.step(), Seen::Interrupted);
    assert_eq!(*kept.lock().unwrap(), [(0x1f2, vec![7])]);
    stopper.join().unwrap();
}

#[test]
fn in_of_each_width_reads_what_was_answered() {
    // mov dx, 0x1234; in al, dx; mov [0x2000], al; in ax, dx; mov [0x2002], ax; in eax, dx; mov [0x2004], eax
    let body = [0xba, 0x34, 0x12, 0xec, 0xa2, 0x00, 0x20, 0xed, 0xa3, 0x02, 0x20, 0x66, 0xed, 0x66, 0xa3, 0x04, 0x20];
    let mut guest = Guest::new(&code(&body));
    guest.input.extend(1..=7);

    let seen = guest.run_to_end();

    let read = |width| Seen::In { port: 0x1234, width, items: 1 };
    assert_eq!(seen, [read(1), read(2), read(4)]);
    assert_eq!(guest.peek(0x2000, 8), [1, 0, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn rep_outsb_writes_every_byte_in_order() {
    // mov si, 0x3000; mov cx, 100; mov dx, 0x80; cld; rep outsb
    let body = [0xbe, 0x00, 0x30, 0xb9, 100, 0, 0xba, 0x80, 0x00, 0xfc, 0xf3, 0x6e];
    let mut guest = Guest::new(&code(&body));
    let text: Vec<u8> = (1..=100).collect();
    guest.load(0x3000, &text);

    let seen = guest.run_to_end();

    assert_eq!(written(&seen, 0x80), text);
    assert!(seen.iter().all(|s| matches!(s, Seen::Out { width: 1, .. })));
}

#[test]
fn rep_outsw_has_items_of_two_bytes() {
    // mov si, 0x3000; mov cx, 10; mov dx, 0x80; cld; rep outsw
    let body = [0xbe, 0x00, 0x30, 0xb9, 10, 0, 0xba, 0x80, 0x00, 0xfc, 0xf3, 0x6f];
    let mut guest = Guest::new(&code(&body));
    let text: Vec<u8> = (1..=20).collect();
    guest.load(0x3000, &text);

    let seen = guest.run_to_end();

    assert_eq!(written(&seen, 0x80), text);
    assert!(seen.iter().all(|s| matches!(s, Seen::Out { width: 2, data, .. } if data.len() % 2 == 0)));
}

#[test]
fn rep_insb_fills_memory_with_every_answer() {
    // mov di, 0x3000; mov cx, 512; mov dx, 0x1f0; cld; rep insb
    let body = [0xbf, 0x00, 0x30, 0xb9, 0x00, 0x02, 0xba, 0xf0, 0x01, 0xfc, 0xf3, 0x6c];
    let mut guest = Guest::new(&code(&body));
    let sector: Vec<u8> = (0..512u16).map(|n| n.to_le_bytes()[0] ^ 0x5a).collect();
    guest.input.extend(&sector);

    let seen = guest.run_to_end();

    let items: usize = seen.iter().map(|s| if let Seen::In { items, .. } = s { *items } else { 0 }).sum();
    assert_eq!(items, 512);
    assert_eq!(guest.peek(0x3000, 512), sector);
}

#[test]
fn rep_insw_fills_memory_with_every_answer() {
    // mov di, 0x3000; mov cx, 256; mov dx, 0x1f0; cld; rep insw
    let body = [0xbf, 0x00, 0x30, 0xb9, 0x00, 0x01, 0xba, 0xf0, 0x01, 0xfc, 0xf3, 0x6d];
    let mut guest = Guest::new(&code(&body));
    let sector: Vec<u8> = (0..512u16).map(|n| n.to_le_bytes()[0] ^ 0xa5).collect();
    guest.input.extend(&sector);

    let seen = guest.run_to_end();

    assert!(seen.iter().all(|s| matches!(s, Seen::In { width: 2, .. })));
    assert_eq!(guest.peek(0x3000, 512), sector);
}

#[test]
fn memory_that_is_not_there_is_read_and_written_outside() {
    // mov ax, 0x2000; mov es, ax; mov eax, es:[0x10]; mov [0x2000], eax; mov word es:[0x20], 0xbeef
    let body = [
        0xb8, 0x00, 0x20, 0x8e, 0xc0, 0x66, 0x26, 0xa1, 0x10, 0x00, 0x66, 0xa3, 0x00, 0x20, 0x26, 0xc7, 0x06, 0x20,
        0x00, 0xef, 0xbe,
    ];
    let mut guest = Guest::new(&code(&body));
    guest.input.extend([1, 2, 3, 4]);

    let seen = guest.run_to_end();

    assert_eq!(
        seen,
        [Seen::Read { address: 0x2_0010, length: 4 }, Seen::Write { address: 0x2_0020, data: vec![0xef, 0xbe] }]
    );
    assert_eq!(guest.peek(0x2000, 4), [1, 2, 3, 4]);
}

#[test]
fn write_to_read_only_memory_leaves_and_changes_nothing() {
    // mov ax, 0x2000; mov es, ax; mov byte es:[0], 0x55; mov al, es:[0]; out 0x80, al
    let body = [0xb8, 0x00, 0x20, 0x8e, 0xc0, 0x26, 0xc6, 0x06, 0x00, 0x00, 0x55, 0x26, 0xa0, 0x00, 0x00, 0xe6, 0x80];
    let mut guest = Guest::new(&code(&body));
    guest.load(0x8000, &[0x77]);
    // The same memory again, where the guest may only read it.
    let range = HostRange::of_ram(&guest.ram, GuestAddress(0x8000), 0x1000).expect("range");
    guest.vm.add_memory(0x2_0000, range, Access::ReadOnly, false).expect("slot");

    let seen = guest.run_to_end();

    assert_eq!(seen[0], Seen::Write { address: 0x2_0000, data: vec![0x55] });
    assert_eq!(written(&seen, 0x80), [0x77]);
}

#[test]
fn removed_memory_is_gone_and_its_slot_is_used_again() {
    // mov ax, 0x2000; mov es, ax; mov al, es:[0]
    let mut guest = Guest::new(&code(&[0xb8, 0x00, 0x20, 0x8e, 0xc0, 0x26, 0xa0, 0x00, 0x00]));
    let range = HostRange::of_ram(&guest.ram, GuestAddress(0x8000), 0x1000).expect("range");
    let slot = guest.vm.add_memory(0x2_0000, range.clone(), Access::ReadWrite, false).expect("slot");

    guest.vm.remove_memory(slot).expect("removed");
    let seen = guest.run_to_end();

    assert_eq!(seen, [Seen::Read { address: 0x2_0000, length: 1 }]);
    assert!(guest.vm.remove_memory(slot).is_err());
    let again = guest.vm.add_memory(0x2_0000, range, Access::ReadWrite, false).expect("slot");
    assert_eq!(again, slot);
}

#[test]
fn overlapping_and_unaligned_memory_is_refused() {
    let guest = Guest::new(&END);
    let range = |start, length| HostRange::of_ram(&guest.ram, GuestAddress(start), length).expect("range");

    assert!(guest.vm.add_memory(0, range(0x8000, 0x1000), Access::ReadWrite, false).is_err());
    assert!(guest.vm.add_memory(0x2_0800, range(0x8000, 0x1000), Access::ReadWrite, false).is_err());
    assert!(guest.vm.add_memory(0x2_0000, range(0x8000, 0x800), Access::ReadWrite, false).is_err());
}

#[test]
fn pages_that_the_guest_wrote_are_told_once() {
    // mov ax, 0x2000; mov es, ax; mov byte es:[0x3004], 1
    let mut guest = Guest::new(&code(&[0xb8, 0x00, 0x20, 0x8e, 0xc0, 0x26, 0xc6, 0x06, 0x04, 0x30, 0x01]));
    let range = HostRange::of_ram(&guest.ram, GuestAddress(0x4000), 0x8000).expect("range");
    let slot = guest.vm.add_memory(0x2_0000, range, Access::ReadWrite, true).expect("slot");
    guest.vm.take_dirty(slot).expect("dirty log");

    guest.run_to_end();

    assert_eq!(guest.vm.take_dirty(slot).expect("dirty log")[0] & 0xff, 1 << 3);
    assert_eq!(guest.vm.take_dirty(slot).expect("dirty log")[0] & 0xff, 0);
}

#[test]
fn triple_fault_is_a_shutdown() {
    let mut guest = Guest::new(&TRIPLE_FAULT);
    guest.load(0x3000, &[0; 6]);

    assert_eq!(guest.run_to_end(), [Seen::Shutdown]);
}

#[test]
fn reset_brings_the_power_on_state_back() {
    // wrmsr 0x174 (SYSENTER_CS) = 0x1234; mov eax, cr4... ; mov dr0; fldpi; then load segments and stop
    let body = [
        0x66, 0xb9, 0x74, 0x01, 0x00, 0x00, // mov ecx, 0x174
        0x66, 0xb8, 0x34, 0x12, 0x00, 0x00, // mov eax, 0x1234
        0x66, 0x31, 0xd2, // xor edx, edx
        0x0f, 0x30, // wrmsr
        0x0f, 0x20, 0xe0, // mov eax, cr4
        0x66, 0x83, 0xc8, 0x04, // or eax, 4: TSD
        0x0f, 0x22, 0xe0, // mov cr4, eax
        0xb8, 0x00, 0x10, 0x8e, 0xd8, // mov ax, 0x1000; mov ds, ax
    ];
    let mut guest = Guest::new(&code(&body));
    guest.vcpu.reset().expect("reset");
    let fresh = guest.vcpu.snapshot().expect("snapshot");
    guest.start_with(0);
    guest.run_to_end();
    while guest.vcpu.finish_access().expect("finished").is_some() {}
    let used = guest.vcpu.snapshot().expect("snapshot");

    guest.vcpu.reset().expect("reset");

    let after = guest.vcpu.snapshot().expect("snapshot");
    assert_ne!(differences(&state(&used), &state(&fresh)), [""; 0]);
    assert_eq!(differences(&state(&after), &state(&fresh)), [""; 0]);
    let (regs, sregs) = (guest.vcpu.regs().expect("registers"), guest.vcpu.sregs().expect("registers"));
    // SDM volume 3, table 10-1.
    assert_eq!((sregs.cs.base, sregs.cs.selector, regs.rip, regs.rflags), (0xffff_0000, 0xf000, 0xfff0, 2));
    assert_eq!((sregs.cr0, sregs.cr4, sregs.efer), (0x6000_0010, 0, 0));
    assert_eq!(guest.vcpu.msrs(&[0x174]), [MsrValue { index: 0x174, value: 0 }]);
    assert_eq!(guest.vcpu.run_state().expect("run state"), RunState::Running);
}

#[test]
fn reset_guest_runs_again() {
    let mut guest = Guest::new(&code(&[0xb0, 0x41, 0xe6, 0x80]));
    let first = guest.run_to_end();

    guest.vcpu.reset().expect("reset");
    guest.start_with(0);

    assert_eq!(guest.run_to_end(), first);
}

#[test]
fn reset_after_a_triple_fault_runs_again() {
    let mut guest = Guest::new(&TRIPLE_FAULT);
    guest.load(0x3000, &[0; 6]);
    guest.run_to_end();

    guest.load(CODE, &code(&[0xb0, 0x41, 0xe6, 0x80]));
    guest.vcpu.reset().expect("reset");
    guest.start_with(0);

    assert_eq!(written(&guest.run_to_end(), 0x80), [0x41]);
}

#[test]
fn restored_vcpu_goes_on_where_the_saved_one_stopped() {
    // mov bx, 0x1234; out 0x80, al; mov ax, bx; out 0x81, ax
    let body = [0xbb, 0x34, 0x12, 0xe6, 0x80, 0x89, 0xd8, 0xe7, 0x81];
    let mut first = Guest::new(&code(&body));
    first.step();
    while first.vcpu.finish_access().expect("finished").is_some() {}
    let saved = first.vcpu.snapshot().expect("snapshot");
    let text = serde_json::to_string(&VcpuState::from(&saved)).expect("JSON");

    let mut second = Guest::new(&code(&body));
    let read = VcpuSnapshot::try_from(&serde_json::from_str::<VcpuState>(&text).expect("JSON")).expect("state");
    second.vcpu.restore(&read).expect("restored");

    let restored = second.vcpu.snapshot().expect("snapshot");
    assert_eq!(differences(&state(&restored), &state(&saved)), [""; 0]);
    assert_eq!(written(&second.run_to_end(), 0x81), [0x34, 0x12]);
}

#[test]
fn unfinished_access_ends_before_the_state_is_read() {
    // in al, 0x60; mov [0x2000], al
    let mut guest = Guest::new(&code(&[0xe4, 0x60, 0xa2, 0x00, 0x20]));
    guest.input.extend([0x42]);
    guest.step();

    assert!(guest.vcpu.finish_access().expect("finished").is_none());

    assert_eq!(guest.vcpu.regs().expect("registers").rax & 0xff, 0x42);
    assert_eq!(guest.vcpu.regs().expect("registers").rip, CODE + 2);
}

#[test]
fn other_processors_wait_to_be_started() {
    let guest = Guest::new(&END);
    let mut second = guest.vm.create_vcpu(1).expect("vCPU");
    second.configure(&guest::cpuid(&host()), &[]).expect("CPUID");
    let before = second.run_state().expect("run state");

    second.set_run_state(RunState::Running).expect("run state");
    second.reset().expect("reset");

    assert_eq!(
        (before, second.run_state().expect("run state")),
        (RunState::WaitingForStart, RunState::WaitingForStart)
    );
}

#[test]
fn nmi_is_taken() {
    // jmp $; the handler writes and stops
    let mut guest = Guest::new(&[0xeb, 0xfe]);
    guest.load(2 * 4, &[0x00, 0x11, 0x00, 0x00]);
    guest.load(0x1100, &code(&[0xb0, 0x02, 0xe6, 0x80]));

    guest.vcpu.inject_nmi().expect("NMI");

    assert_eq!(written(&guest.run_to_end(), 0x80), [2]);
}

#[test]
fn planned_cpuid_is_taken_and_answered() {
    // xor eax, eax; cpuid; mov eax, ebx; mov dx, 0x80; out dx, eax
    let body = [0x66, 0x31, 0xc0, 0x0f, 0xa2, 0x66, 0x89, 0xd8, 0xba, 0x80, 0x00, 0x66, 0xef];
    let host = host();
    let config = CpuConfig::from_text("max,vendor=GenuineIntel,check=off").expect("CPU");
    let topology = Topology::new(1, 1, 2, 2).expect("topology");
    let plan = CpuPlan::new(&config, &HostCpu::read(&host).expect("host CPU"), topology).expect("plan");
    let mut guest = Guest::new(&code(&body));

    guest.vcpu.configure(&plan.cpuid(0), &plan.msrs()).expect("CPUID");

    assert_eq!(written(&guest.run_to_end(), 0x80), b"Genu");
}

#[test]
fn every_model_is_taken_by_kvm() {
    let host = host();
    let cpu = HostCpu::read(&host).expect("host CPU");
    let topology = Topology::new(1, 1, 2, 2).expect("topology");
    let names = ["host", "max", "base", "qemu64", "kvm32", "486", "Haswell", "EPYC-Milan", "SapphireRapids"];

    for name in names {
        let plan = CpuPlan::new(&CpuConfig::new(name).expect("model"), &cpu, topology).expect("plan");
        let vm = Vm::create(&host).expect("machine");
        let mut vcpu = vm.create_vcpu(topology.apic_id(3)).expect("vCPU");
        vcpu.configure(&plan.cpuid(3), &plan.msrs()).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    }
}

#[test]
fn host_says_what_kind_it_is_and_how_many_it_takes() {
    let host = host();

    assert!(matches!(host.kind(), HostKind::Hardware | HostKind::Software));
    assert!(host.max_vcpus() >= 1 && host.max_vcpu_id() >= host.max_vcpus());
}

#[test]
fn interrupt_controllers_come_back_as_they_were() {
    let guest = Guest::new(&END);
    let before = guest.vm.irqchip().expect("irqchip");
    let text = serde_json::to_string(&IrqchipState::from(&before)).expect("JSON");

    let read: IrqchipState = serde_json::from_str(&text).expect("JSON");
    guest.vm.set_irqchip(&IrqchipSnapshot::try_from(&read).expect("state")).expect("set");

    assert_eq!(guest.vm.irqchip().expect("irqchip"), before);
}

#[test]
fn clock_goes_on_from_what_it_was_set_to() {
    let guest = Guest::new(&END);
    const HOUR: u64 = 3_600_000_000_000;

    guest.vm.set_clock(HOUR).expect("clock");

    assert!((HOUR..2 * HOUR).contains(&guest.vm.clock().expect("clock")));
    guest.vcpu.tell_stopped().expect("told");
}

#[test]
fn exit_of_an_unfinished_instruction_is_not_lost() {
    // A read of 8 bytes that a page border cuts: two exits of one instruction on every KVM.
    // mov ax, 0x2000; mov es, ax; mov eax, es:[0x0ffe]; mov [0x2000], eax
    let body = [0xb8, 0x00, 0x20, 0x8e, 0xc0, 0x66, 0x26, 0xa1, 0xfe, 0x0f, 0x66, 0xa3, 0x00, 0x20];
    let mut guest = Guest::new(&code(&body));
    guest.input.extend([1, 2, 3, 4]);
    let Seen::Read { address: 0x2_0ffe, .. } = guest.step() else { panic!("no read") };

    while let Some(exit) = guest.vcpu.finish_access().expect("finished") {
        assert!(matches!(exit, Exit::MemoryRead { .. }));
        guest::serve(&mut guest.input, exit);
    }
    guest.run_to_end();

    assert_eq!(guest.peek(0x2000, 4), [1, 2, 3, 4]);
}
