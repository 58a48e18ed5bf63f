//! Stopping a vCPU from another thread, as often and as badly timed as can be. Needs `/dev/kvm`; software KVM is enough.

mod guest;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use guest::{Guest, Seen};
use rhea_arch::kvm::Exit;

/// `jmp $`
const FOREVER: [u8; 2] = [0xeb, 0xfe];

#[test]
fn kick_before_the_entry_is_not_lost() {
    let mut guest = Guest::new(&FOREVER);
    let kicker = guest.vcpu.bind_to_this_thread();

    kicker.kick();

    assert_eq!(guest.step(), Seen::Interrupted);
    // It stays until it is taken back.
    assert_eq!(guest.step(), Seen::Interrupted);
}

#[test]
fn kick_taken_back_does_not_stop_the_guest() {
    let mut guest = Guest::new(&[0xe6, 0x80, 0xeb, 0xfe]);
    let kicker = guest.vcpu.bind_to_this_thread();
    kicker.kick();

    guest.vcpu.clear_kick();

    assert!(matches!(guest.step(), Seen::Out { port: 0x80, .. }));
}

#[test]
fn halted_guest_is_kicked_out() {
    // cli; hlt: nothing but a kick ends it.
    let mut guest = Guest::new(&[0xfa, 0xf4]);
    let kicker = guest.vcpu.bind_to_this_thread();
    let helper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        kicker.kick();
    });

    assert_eq!(guest.step(), Seen::Interrupted);
    helper.join().expect("helper");
}

#[test]
fn kicker_outlives_the_vcpu() {
    let guest = Guest::new(&FOREVER);
    let kicker = guest.vcpu.bind_to_this_thread();

    drop(guest);

    kicker.kick();
}

#[test]
fn thousands_of_orders_are_all_seen() {
    const ORDERS: u32 = 3000;
    let mut guest = Guest::new(&FOREVER);
    let kicker = guest.vcpu.bind_to_this_thread();
    let (order, seen) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (order_there, seen_there) = (Arc::clone(&order), Arc::clone(&seen));
    let helper = std::thread::spawn(move || {
        for n in 1..=ORDERS {
            order_there.store(n, Ordering::SeqCst);
            kicker.kick();
            let deadline = Instant::now() + Duration::from_secs(10);
            while seen_there.load(Ordering::SeqCst) < n {
                if Instant::now() > deadline {
                    return Err(n);
                }
                std::thread::yield_now();
            }
        }
        Ok(())
    });

    while seen.load(Ordering::SeqCst) < ORDERS && !helper.is_finished() {
        guest.vcpu.clear_kick();
        seen.store(order.load(Ordering::SeqCst), Ordering::SeqCst);
        if seen.load(Ordering::SeqCst) < ORDERS {
            assert!(matches!(guest.vcpu.run().expect("KVM runs the guest"), Exit::Interrupted | Exit::Nothing));
        }
    }

    assert_eq!(helper.join().expect("helper"), Ok(()));
}
