//! Interrupts into a guest and doorbells out of it, through descriptors. Needs `/dev/kvm`; software KVM is enough.

mod guest;

use std::sync::Arc;

use guest::{Guest, Seen};
use rhea_arch::kvm::{Doorbell, DoorbellAddress, DoorbellMatch, Message, MsiRoute, RouteError, Vm};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// `mov al, 0; out 0xff, al`: the end of a guest.
const END: [u8; 4] = [0xb0, 0x00, 0xe6, 0xff];
/// `out 0xee, al`: the guest is ready.
const READY: [u8; 2] = [0xe6, 0xee];
/// Where the local APIC's registers are (SDM volume 3, 11.4.1).
const APIC: u64 = 0xfee0_0000;
/// A message to processor 0, vector 0x50, edge, fixed (SDM volume 3, 11.11).
const MESSAGE: Message = Message { address: APIC, data: 0x50 };

fn ready() -> Seen {
    Seen::Out { port: 0xee, width: 1, data: vec![0xff] }
}

fn event() -> EventFd {
    EventFd::new(EFD_NONBLOCK).expect("eventfd")
}

/// A handler at 0x1100 for `vector`: writes 0x2a to port 0x80 and returns.
fn handle(guest: &mut Guest, vector: u64) {
    // push ax; mov al, 0x2a; out 0x80, al; mov al, 0x20; out 0x20, al; pop ax; iret
    guest.load(0x1100, &[0x50, 0xb0, 0x2a, 0xe6, 0x80, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf]);
    guest.load(vector * 4, &[0x00, 0x11, 0x00, 0x00]);
}

/// A guest that sets the PIC up for interrupt 4 only, at vector 0x24, says that it is ready, and halts for one interrupt.
fn pic_guest() -> Guest {
    let mut body = Vec::new();
    // ICW1 to ICW4 (8259A), then the mask: mov al, value; out port, al.
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 0x04), (0x21, 0x01), (0x21, 0xef)] {
        body.extend([0xb0, value, 0xe6, port]);
    }
    body.extend([0xb0, 0xff]);
    body.extend(READY);
    // sti; hlt
    body.extend([0xfb, 0xf4]);
    body.extend(END);
    let mut guest = Guest::new(&body);
    handle(&mut guest, 0x24);
    assert_eq!(guest.step(), ready());
    guest
}

#[test]
fn guest_finds_pci_interrupts_level_triggered_where_firmware_would_have_set_them() {
    // mov dx, 0x4d1; in al, dx; out 0x80, al: the slave's edge/level control register.
    let body = [&[0xba, 0xd1, 0x04, 0xec, 0xe6, 0x80][..], &END].concat();
    let mut guest = Guest::new(&body);
    let irqchip = guest.vm.irqchip().expect("irqchip").with_level_triggered(&[10, 11]);

    guest.vm.set_irqchip(&irqchip).expect("set");

    assert_eq!(guest.step(), Seen::Out { port: 0x80, width: 1, data: vec![0x0c] });
}

/// A guest that switches its APIC on, says that it is ready, and halts for `count` interrupts.
fn apic_guest(count: usize) -> Guest {
    // mov dword es:[0xf0], 0x1ff: software enable (SDM volume 3, 11.4.7.2)
    let mut body = vec![0x66, 0x26, 0xc7, 0x06, 0xf0, 0x00, 0xff, 0x01, 0x00, 0x00];
    body.extend([0xb0, 0xff]);
    for _ in 0..count {
        body.extend(READY);
        // sti; hlt; cli; mov dword es:[0xb0], 0: end of interrupt
        body.extend([0xfb, 0xf4, 0xfa, 0x66, 0x26, 0xc7, 0x06, 0xb0, 0x00, 0x00, 0x00, 0x00, 0x00]);
    }
    body.extend(END);
    let mut guest = Guest::new(&body);
    guest.start_with(APIC);
    handle(&mut guest, 0x50);
    assert_eq!(guest.step(), ready());
    guest
}

fn handled(seen: &[Seen]) -> usize {
    seen.iter().filter(|s| matches!(s, Seen::Out { port: 0x80, data, .. } if data == &[0x2a])).count()
}

#[test]
fn line_interrupts_a_halted_guest() {
    let mut guest = pic_guest();

    guest.vm.set_irq_line(4, true).expect("line");
    let seen = guest.run_to_end();
    guest.vm.set_irq_line(4, false).expect("line");

    assert_eq!(handled(&seen), 1);
}

#[test]
fn kernel_takes_both_policies_for_lost_ticks() {
    let guest = pic_guest();

    let taken = [false, true].map(|reinject| guest.vm.set_pit_reinjection(reinject).is_ok());

    assert_eq!(taken, [true, true]);
}

#[test]
fn descriptor_on_a_pin_interrupts_a_halted_guest() {
    let mut guest = pic_guest();
    let event = event();
    guest.vm.bind_irqfd(&event, 4).expect("irqfd");

    event.write(1).expect("signal");
    let seen = guest.run_to_end();

    assert_eq!(handled(&seen), 1);
    guest.vm.unbind_irqfd(&event, 4).expect("unbound");
}

#[test]
fn message_interrupts_a_halted_guest() {
    let mut guest = apic_guest(1);

    assert!(guest.vm.signal_msi(MESSAGE).expect("message"));

    assert_eq!(handled(&guest.run_to_end()), 1);
}

#[test]
fn vector_delivers_its_message() {
    let mut guest = apic_guest(1);
    let route = MsiRoute::open(&guest.vm).expect("route");
    route.set(Some(MESSAGE)).expect("set");

    route.signal().expect("signal");

    assert_eq!(handled(&guest.run_to_end()), 1);
}

#[test]
fn masked_vector_delivers_nothing_and_unmasked_again_does() {
    let mut guest = apic_guest(2);
    let route = MsiRoute::open(&guest.vm).expect("route");
    route.signal().expect("no message yet");
    route.set(Some(MESSAGE)).expect("set");
    route.set(None).expect("masked");

    route.signal().expect("masked");
    // What was signalled while masked is not delivered: the guest stays halted until this one.
    guest.vm.signal_msi(MESSAGE).expect("message");
    let mut first = Vec::new();
    while first.last() != Some(&ready()) {
        first.push(guest.step());
    }
    route.set(Some(MESSAGE)).expect("unmasked");
    route.signal().expect("signal");
    let second = guest.run_to_end();

    assert_eq!((handled(&first), handled(&second)), (1, 1));
}

#[test]
fn many_vectors_are_set_at_once_and_each_delivers() {
    let mut guest = apic_guest(3);
    let routes: Vec<_> = (0..64).map(|_| MsiRoute::open(&guest.vm).expect("route")).collect();
    // Vectors 0x50 are handled; the others go to another vector, without a handler, and are not signalled.
    let message = |n: usize| if n.is_multiple_of(30) { MESSAGE } else { Message { data: 0x60, ..MESSAGE } };
    MsiRoute::set_all(routes.iter().enumerate().map(|(n, r)| (r, Some(message(n))))).expect("set");

    let mut count = 0;
    for n in [0, 30, 60] {
        routes[n].signal().expect("signal");
        while let Seen::Out { port: 0x80, .. } = guest.step() {
            count += 1;
        }
    }

    assert_eq!(count, 3);
}

#[test]
fn dropped_vector_gives_its_route_back() {
    let guest = Guest::new(&END);
    let first = MsiRoute::open(&guest.vm).expect("route");
    first.set(Some(MESSAGE)).expect("set");
    let gsi = first.gsi();

    drop(first);

    assert_eq!(MsiRoute::open(&guest.vm).expect("route").gsi(), gsi);
}

#[test]
fn vectors_run_out_with_an_error() {
    let guest = Guest::new(&END);
    // One descriptor each: stay below the usual limit of them.
    let mut routes = Vec::new();
    let error = loop {
        match MsiRoute::open(&guest.vm) {
            Ok(route) => routes.push(route),
            Err(error) => break error,
        }
        assert!(routes.len() <= 4096);
    };

    assert!(matches!(error, RouteError::Full(_) | RouteError::Descriptor(_)));
}

fn place(vm: &Arc<Vm>, at: DoorbellAddress, when: DoorbellMatch, event: &EventFd) -> Doorbell {
    Doorbell::place(vm, at, when, event).expect("doorbell")
}

#[test]
fn doorbell_in_memory_swallows_the_write() {
    // mov ax, 0x2000; mov es, ax; mov word es:[0], 5; mov word es:[2], 6
    let body = [
        0xb8, 0x00, 0x20, 0x8e, 0xc0, 0x26, 0xc7, 0x06, 0x00, 0x00, 0x05, 0x00, 0x26, 0xc7, 0x06, 0x02, 0x00, 0x06,
        0x00,
    ];
    let mut guest = Guest::new(&[&body[..], &END].concat());
    let event = event();
    let _doorbell = place(&guest.vm, DoorbellAddress::Memory(0x2_0000), DoorbellMatch::Any, &event);

    let seen = guest.run_to_end();

    assert_eq!(seen, [Seen::Write { address: 0x2_0002, data: vec![6, 0] }]);
    assert_eq!(event.read().expect("rung"), 1);
}

#[test]
fn doorbell_at_a_port_swallows_only_its_value() {
    // mov dx, 0x300; mov ax, 7; out dx, ax; mov ax, 8; out dx, ax
    let body = [0xba, 0x00, 0x03, 0xb8, 0x07, 0x00, 0xef, 0xb8, 0x08, 0x00, 0xef];
    let mut guest = Guest::new(&[&body[..], &END].concat());
    let event = event();
    let _doorbell = place(&guest.vm, DoorbellAddress::Port(0x300), DoorbellMatch::Word(7), &event);

    let seen = guest.run_to_end();

    assert_eq!(seen, [Seen::Out { port: 0x300, width: 2, data: vec![8, 0] }]);
    assert_eq!(event.read().expect("rung"), 1);
}

#[test]
fn doorbell_taken_away_rings_no_more() {
    let body = [0xb0, 0x01, 0xe6, 0x30];
    let mut guest = Guest::new(&[&body[..], &END].concat());
    let event = event();
    let doorbell = place(&guest.vm, DoorbellAddress::Port(0x30), DoorbellMatch::Byte(1), &event);

    drop(doorbell);
    let seen = guest.run_to_end();

    assert_eq!(seen.len(), 1);
    assert!(event.read().is_err());
}

#[test]
fn second_equal_doorbell_is_refused_and_the_first_stays() {
    let mut guest = Guest::new(&[&[0xb0, 0x01, 0xe6, 0x30][..], &END].concat());
    let event = event();
    let at = DoorbellAddress::Port(0x30);
    let _first = place(&guest.vm, at, DoorbellMatch::Byte(1), &event);

    let second = Doorbell::place(&guest.vm, at, DoorbellMatch::Byte(1), &event);

    assert!(second.is_err());
    assert_eq!(guest.run_to_end(), []);
    assert_eq!(event.read().expect("rung"), 1);
}
