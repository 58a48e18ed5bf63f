use super::*;

const MESSAGE: Message = Message { address: 0xfee0_1000, data: 0x4041 };

#[expect(unsafe_code, reason = "reading back a C union")]
fn pins(routes: &Routes) -> Vec<(u32, u32, u32)> {
    let entries = routes.entries();
    let chips = entries.iter().filter(|e| e.type_ == KVM_IRQ_ROUTING_IRQCHIP);
    // SAFETY: the type says which member was written.
    chips.map(|e| (e.gsi, unsafe { e.u.irqchip.irqchip }, unsafe { e.u.irqchip.pin })).collect()
}

fn count_commits(routes: &mut Routes) -> usize {
    let mut calls = 0;
    routes
        .commit(|_| {
            calls += 1;
            Ok(())
        })
        .unwrap();
    calls
}

#[test]
fn timer_goes_to_pic_pin_0_and_ioapic_pin_2() {
    let pins = pins(&Routes::new(4096));

    let timer: Vec<_> = pins.iter().filter(|p| p.0 == 0).copied().collect();
    assert_eq!(timer, [(0, KVM_IRQCHIP_PIC_MASTER, 0), (0, KVM_IRQCHIP_IOAPIC, 2)]);
}

#[test]
fn cascade_pin_has_no_route() {
    let pins = pins(&Routes::new(4096));

    assert!(pins.iter().all(|p| p.0 != 2));
}

#[test]
fn isa_interrupts_reach_both_controllers_and_pci_ones_the_ioapic() {
    let pins = pins(&Routes::new(4096));

    assert!(pins.contains(&(4, KVM_IRQCHIP_PIC_MASTER, 4)) && pins.contains(&(4, KVM_IRQCHIP_IOAPIC, 4)));
    assert!(pins.contains(&(14, KVM_IRQCHIP_PIC_SLAVE, 6)) && pins.contains(&(14, KVM_IRQCHIP_IOAPIC, 14)));
    assert_eq!(pins.iter().filter(|p| p.0 == 23).count(), 1);
}

#[test]
fn freed_vector_is_taken_again() {
    let mut routes = Routes::new(4096);
    let first = routes.allocate().unwrap();
    let second = routes.allocate().unwrap();

    routes.free(first);

    assert_eq!((first, second), (24, 25));
    assert_eq!(routes.allocate().unwrap(), 24);
    assert_eq!(routes.allocate().unwrap(), 26);
}

#[test]
fn taking_more_than_there_are_is_refused() {
    let mut routes = Routes::new(64);
    let taken = std::iter::from_fn(|| routes.allocate().ok()).count();

    assert!(matches!(routes.allocate(), Err(RouteError::Full(_))));
    // All of them, with the pins' entries, fit what the kernel takes.
    assert_eq!((taken, taken + pins(&routes).len()), (25, 63));
}

#[test]
fn many_changes_cost_one_commit_and_no_change_none() {
    let mut routes = Routes::new(4096);
    count_commits(&mut routes);
    let gsis: Vec<_> = (0..100).map(|_| routes.allocate().unwrap()).collect();

    gsis.iter().for_each(|&gsi| routes.set(gsi, MESSAGE));
    let after_changes = count_commits(&mut routes);
    gsis.iter().for_each(|&gsi| routes.set(gsi, MESSAGE));
    let after_none = count_commits(&mut routes);

    assert_eq!((after_changes, after_none), (1, 0));
}

#[test]
fn vector_without_a_message_is_not_routed() {
    let mut routes = Routes::new(4096);
    let silent = routes.allocate().unwrap();
    let loud = routes.allocate().unwrap();

    routes.set(loud, MESSAGE);

    let gsis: Vec<_> = routes.entries().iter().map(|e| e.gsi).collect();
    assert!(gsis.contains(&loud) && !gsis.contains(&silent));
}

#[test]
fn refused_table_is_offered_again() {
    let mut routes = Routes::new(4096);

    let refused = routes.commit(|_| Err(kvm_ioctls::Error::new(libc::EINVAL)));

    assert!(matches!(refused, Err(RouteError::Refused { .. })));
    assert_eq!(count_commits(&mut routes), 1);
}
