//! The memory of a virtio driver: rings and descriptors of any kind. What a chain yields must be memory of the guest.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use rhea_devices::virtio::device::{QueueParts, RingPosition};
use rhea_devices::virtio::queue::{Chain, VirtQueue};
use rhea_devices::virtio::testing::{DriverRing, RecordedEvents, ram};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

/// Bytes of guest memory, all of which the input may fill.
const MEMORY: usize = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    let memory = ram(MEMORY);
    let driver = DriverRing::new(&memory, 0x1000, 8);
    let content = &bytes[..bytes.len().min(MEMORY - 0x1000)];
    let _ = driver.ram.write_slice(content, GuestAddress(0x1000));
    let Ok(doorbell) = EventFd::new(0) else { return };
    let parts = QueueParts {
        index: 0,
        ring: driver.layout,
        event_idx: bytes.first().is_some_and(|byte| byte & 1 != 0),
        ready: true,
        memory: Arc::clone(&driver.ram),
        doorbell: Arc::new(doorbell),
        events: Arc::<RecordedEvents>::default(),
    };
    let Ok(mut queue) = VirtQueue::new(parts, &RingPosition::default()) else { return };
    let mut heads = Vec::new();
    let _ = queue.take(64, &mut heads);
    let mut chain = Chain::default();
    for head in heads {
        if queue.walk(head, &mut chain).is_ok() {
            for range in chain.readable(0, u32::MAX).chain(chain.writable(0, u32::MAX)) {
                let mut last = [0];
                let at = GuestAddress(range.addr + u64::from(range.len) - 1);
                assert!(driver.ram.read_slice(&mut last, at).is_ok(), "a chain leads out of memory");
            }
            let mut head = [0; 16];
            let _ = chain.read(queue.ram(), 0, &mut head);
            let _ = chain.write(queue.ram(), 0, &head);
            let _ = queue.push_used(chain.head(), 16);
        }
    }
    let _ = queue.interrupt();
    let _ = queue.listen();
});
