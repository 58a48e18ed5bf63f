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
    count_changes(routes, &[])
}

fn count_changes(routes: &mut Routes, messages: &[(u32, Message)]) -> usize {
    let mut calls = 0;
    routes
        .change(messages, |_| {
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

    let messages: Vec<_> = gsis.iter().map(|&gsi| (gsi, MESSAGE)).collect();
    let after_changes = count_changes(&mut routes, &messages);
    let after_none = count_changes(&mut routes, &messages);

    assert_eq!((after_changes, after_none), (1, 0));
}

#[test]
fn vector_without_a_message_is_not_routed() {
    let mut routes = Routes::new(4096);
    let silent = routes.allocate().unwrap();
    let loud = routes.allocate().unwrap();

    routes.change(&[(loud, MESSAGE)], |_| Ok(())).unwrap();

    let gsis: Vec<_> = routes.entries().iter().map(|e| e.gsi).collect();
    assert!(gsis.contains(&loud) && !gsis.contains(&silent));
}

#[test]
fn refused_table_is_offered_again() {
    let mut routes = Routes::new(4096);

    let refused = routes.change(&[], |_| Err(kvm_ioctls::Error::new(libc::EINVAL)));

    assert!(matches!(refused, Err(RouteError::Refused { .. })));
    assert_eq!(count_commits(&mut routes), 1);
}

#[test]
fn message_that_the_kernel_refuses_is_not_offered_again_with_those_of_others() {
    const BAD: Message = Message { address: 0x1_0000_0000, data: 0 };
    let kernel = |table: &KvmIrqRouting| match table.as_slice().iter().any(|entry| message_of(entry) == Some(BAD)) {
        true => Err(kvm_ioctls::Error::new(libc::EINVAL)),
        false => Ok(()),
    };
    let mut routes = Routes::new(4096);
    let [good, new, other] = [(); 3].map(|()| routes.allocate().unwrap());
    routes.change(&[(good, MESSAGE)], kernel).unwrap();

    let refused = routes.change(&[(good, BAD), (new, BAD), (new, MESSAGE)], kernel);
    let refused_twice = routes.change(&[(good, BAD), (new, MESSAGE), (new, BAD)], kernel);
    let later = routes.change(&[(other, MESSAGE)], kernel);

    assert!(refused.is_err() && refused_twice.is_err() && later.is_ok(), "{later:?}");
    let routed: Vec<_> = routes.entries().iter().filter_map(|entry| Some((entry.gsi, message_of(entry)?))).collect();
    assert_eq!(routed, [(good, MESSAGE), (other, MESSAGE)], "as before");
}

#[expect(unsafe_code, reason = "reading back a C union")]
fn message_of(entry: &kvm_irq_routing_entry) -> Option<Message> {
    if entry.type_ != KVM_IRQ_ROUTING_MSI {
        return None;
    }
    // SAFETY: the type says which member was written.
    let msi = unsafe { entry.u.msi };
    Some(Message { address: u64::from(msi.address_hi) << 32 | u64::from(msi.address_lo), data: msi.data })
}
