//! The two address spaces of the board, and keeping them in step with what PCI functions decode.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rhea_devices::bus::{Bus, BusDevice, Overlap};
use rhea_devices::pci::{Bdf, Doorbell, Region, Space};

/// Matches doorbell writes in the kernel (KVM ioeventfds); a machine without a kernel side has none.
pub trait DoorbellHost: Send + Sync {
    /// Starts matching, until what is returned is dropped.
    ///
    /// # Errors
    /// When the host refuses; the write then simply reaches the device.
    fn place(&self, space: Space, address: u64, doorbell: &Doorbell) -> io::Result<Box<dyn Any + Send>>;
}

/// A region on its bus, with its doorbells in place.
struct Mapped {
    region: Region,
    _doorbells: Vec<Box<dyn Any + Send>>,
}

/// Ports and memory-mapped registers of the machine.
pub(super) struct AddressSpaces {
    doorbells: Box<dyn DoorbellHost>,
    /// x86 I/O ports.
    pub(super) io: Bus,
    /// Guest-physical addresses that are not RAM.
    pub(super) memory: Bus,
    /// What is mapped for each function now. Locked before the buses' tables, never the other way round.
    mapped: Mutex<BTreeMap<Bdf, Vec<Mapped>>>,
}

impl AddressSpaces {
    /// Empty spaces whose doorbells are matched by `doorbells`.
    pub(super) fn new(doorbells: Box<dyn DoorbellHost>) -> Self {
        Self { doorbells, io: Bus::new(), memory: Bus::new(), mapped: Mutex::new(BTreeMap::new()) }
    }

    /// Puts a chip at fixed ports.
    ///
    /// # Errors
    /// [`Overlap`] when another chip is there.
    pub(super) fn insert_ports(&self, base: u16, len: u16, device: Arc<dyn BusDevice>) -> Result<(), Overlap> {
        self.io.insert(u64::from(base), u64::from(len), device)
    }

    fn bus(&self, space: Space) -> &Bus {
        match space {
            Space::Io => &self.io,
            Space::Memory => &self.memory,
        }
    }

    /// Makes the spaces agree with `wanted`, the ranges that the function at `bdf` decodes now. Idempotent; ranges that
    /// stay are left alone, so that traffic to them is not disturbed. O(regions of the function × log of all).
    pub(super) fn remap(&self, bdf: Bdf, wanted: impl FnOnce() -> Vec<Region>) {
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked under the lock: two vCPUs that move BARs at once end with what the last one sees.
        let wanted = wanted();
        let current = mapped.remove(&bdf).unwrap_or_default();
        let stays = |m: &Mapped| wanted.iter().any(|w| same(&m.region, w));
        let (mut kept, gone): (Vec<_>, Vec<_>) = current.into_iter().partition(stays);
        for old in gone {
            self.bus(old.region.space).remove(old.region.base);
        }
        for region in wanted {
            if !kept.iter().any(|k| same(&k.region, &region)) {
                kept.extend(self.map(bdf, region));
            }
        }
        if !kept.is_empty() {
            mapped.insert(bdf, kept);
        }
    }

    fn map(&self, bdf: Bdf, region: Region) -> Option<Mapped> {
        if let Err(overlap) = self.bus(region.space).insert(region.base, region.len, Arc::clone(&region.device)) {
            // A guest may place BARs anywhere, also over other devices: whoever was there first answers.
            log::debug!("PCI function {bdf}: {overlap}");
            return None;
        }
        let mut doorbells = Vec::with_capacity(region.doorbells.len());
        for doorbell in &region.doorbells {
            let address = region.base.saturating_add(doorbell.offset);
            match self.doorbells.place(region.space, address, doorbell) {
                Ok(placed) => doorbells.push(placed),
                Err(error) => log::debug!("PCI function {bdf}: doorbell at {address:#x} stays a normal exit: {error}"),
            }
        }
        Some(Mapped { region, _doorbells: doorbells })
    }
}

fn same(a: &Region, b: &Region) -> bool {
    (a.space, a.base, a.len) == (b.space, b.base, b.len) && Arc::ptr_eq(&a.device, &b.device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhea_devices::bus::{BusFault, Effect};

    struct Constant(u8);

    impl BusDevice for Constant {
        fn read(&self, _: u64, data: &mut [u8]) -> Result<(), BusFault> {
            data.fill(self.0);
            Ok(())
        }
        fn write(&self, _: u64, _: &[u8]) -> Result<Effect, BusFault> {
            Ok(Effect::None)
        }
    }

    struct NoDoorbells;

    impl DoorbellHost for NoDoorbells {
        fn place(&self, _: Space, _: u64, _: &Doorbell) -> io::Result<Box<dyn Any + Send>> {
            Ok(Box::new(()))
        }
    }

    fn region(base: u64, device: &Arc<dyn BusDevice>) -> Region {
        Region { space: Space::Memory, base, len: 0x1000, device: Arc::clone(device), doorbells: Vec::new() }
    }

    fn byte_at(spaces: &AddressSpaces, address: u64) -> u8 {
        let mut data = [0];
        spaces.memory.read(address, &mut data);
        data[0]
    }

    #[test]
    fn moved_region_answers_at_its_new_place_only() {
        let spaces = AddressSpaces::new(Box::new(NoDoorbells));
        let device: Arc<dyn BusDevice> = Arc::new(Constant(7));
        let bdf = Bdf::new(0, 3, 0);

        spaces.remap(bdf, || vec![region(0x1000, &device)]);
        spaces.remap(bdf, || vec![region(0x8000, &device)]);

        assert_eq!((byte_at(&spaces, 0x1000), byte_at(&spaces, 0x8000)), (0xff, 7));
    }

    #[test]
    fn region_over_another_function_is_not_mapped() {
        let spaces = AddressSpaces::new(Box::new(NoDoorbells));
        let first: Arc<dyn BusDevice> = Arc::new(Constant(1));
        let second: Arc<dyn BusDevice> = Arc::new(Constant(2));

        spaces.remap(Bdf::new(0, 3, 0), || vec![region(0x1000, &first)]);
        spaces.remap(Bdf::new(0, 4, 0), || vec![region(0x1000, &second)]);

        assert_eq!(byte_at(&spaces, 0x1000), 1);
    }
}
