//! A driver's side of virtio: the registers of a device on PCI, and its queues in memory.

use anyhow::{Result, ensure};

use super::machine::Machine;

/// Where its registers are put; the parts lie as its capabilities say, which both programs say alike.
const BAR: u64 = 0xe000_0000;
const CONFIG: u64 = BAR + 0x2000;
const NOTIFY: u64 = BAR + 0x3000;
/// Where queues are in memory: each has this many bytes for descriptors, then for the driver, then for the device.
const QUEUES: u64 = 0x20_0000;
const PART: u64 = 0x1000;
/// Descriptors of a queue.
const SIZE: u16 = 16;

/// Part of a request: address, length, and whether the device writes there.
pub(super) type Part = (u64, u64, bool);

/// Sets the device up, with VERSION_1 and what it offers of `features`. False if it was already.
pub(super) fn enable(machine: &mut Machine, function: u8, features: u32, queues: &[u16]) -> Result<bool> {
    if machine.config(function, 0x20)? & !0xf == BAR as u32 {
        return Ok(false);
    }
    machine.set_config(function, 0x20, 'l', BAR as u32)?;
    machine.set_config(function, 0x24, 'l', 0)?;
    machine.set_config(function, 0x04, 'w', 6)?;
    for status in [0, 1, 3] {
        machine.poke('b', BAR + 0x14, status)?;
    }
    let features = features & features_of(machine)? as u32;
    for (select, features) in [(0, features), (1, 1)] {
        machine.poke('l', BAR + 0x08, select)?;
        machine.poke('l', BAR + 0x0c, features.into())?;
    }
    machine.poke('b', BAR + 0x14, 11)?;
    for queue in queues {
        machine.poke('w', BAR + 0x16, (*queue).into())?;
        machine.poke('w', BAR + 0x18, SIZE.into())?;
        for (at, address) in [0x20, 0x28, 0x30].into_iter().zip(parts_of(*queue)) {
            machine.poke('l', BAR + at, address)?;
            machine.poke('l', BAR + at + 4, 0)?;
        }
        machine.poke('w', BAR + 0x1c, 1)?;
    }
    machine.poke('b', BAR + 0x14, 15)?;
    Ok(true)
}

fn parts_of(queue: u16) -> [u64; 3] {
    [0, 1, 2].map(|n| QUEUES + (3 * u64::from(queue) + n) * PART)
}

/// The features that the device offers.
pub(super) fn features_of(machine: &mut Machine) -> Result<u64> {
    let mut features = 0;
    for select in [1, 0] {
        machine.poke('l', BAR, select)?;
        features = features << 32 | machine.peek('l', BAR + 4)?;
    }
    Ok(features)
}

/// The first bytes of the device's own registers.
pub(super) fn config(machine: &mut Machine, len: usize) -> Result<Vec<u8>> {
    machine.read(CONFIG, len)
}

/// Sends a request of these parts, and waits for its end; how many bytes were written, as the device says.
pub(super) fn send(machine: &mut Machine, queue: u16, parts: &[Part]) -> Result<u64> {
    let [descriptors, available, used] = parts_of(queue);
    let parts: Vec<_> = parts.iter().filter(|part| part.1 > 0).collect();
    for (n, (address, len, written)) in (0..).zip(&parts) {
        let more = u64::from(n + 1 < parts.len() as u64);
        let flags = more | if *written { 2 } else { 0 };
        machine.poke('q', descriptors + 16 * n, *address)?;
        machine.poke('q', descriptors + 16 * n + 8, len | flags << 32 | (n + 1) << 48)?;
    }
    let index = machine.peek('w', available + 2)?;
    machine.poke('w', available + 4 + 2 * (index % u64::from(SIZE)), 0)?;
    machine.poke('w', available + 2, (index + 1) & 0xffff)?;
    machine.poke('w', NOTIFY + 4 * u64::from(queue), queue.into())?;
    let done = machine.wait(|machine| Ok(machine.peek('w', used + 2)? == (index + 1) & 0xffff))?;
    ensure!(done, "the request does not come back");
    machine.peek('l', used + 8 + 8 * (index % u64::from(SIZE)))
}
