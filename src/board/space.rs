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

/// What functions decode.
#[derive(Default)]
struct Places {
    /// What is mapped for each function now.
    mapped: BTreeMap<Bdf, Vec<Mapped>>,
    /// What each decodes where others are, until these go.
    covered: BTreeMap<Bdf, Vec<Region>>,
}

/// Ports and memory-mapped registers of the machine.
pub(super) struct AddressSpaces {
    doorbells: Box<dyn DoorbellHost>,
    /// x86 I/O ports.
    pub(super) io: Bus,
    /// Guest-physical addresses that are not RAM.
    pub(super) memory: Bus,
    /// Locked before the buses' tables, never the other way round.
    places: Mutex<Places>,
}

impl AddressSpaces {
    /// Empty spaces whose doorbells are matched by `doorbells`.
    pub(super) fn new(doorbells: Box<dyn DoorbellHost>) -> Self {
        Self { doorbells, io: Bus::new(), memory: Bus::new(), places: Mutex::default() }
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

    /// Makes the spaces agree with `wanted`, the ranges that the function at `bdf` decodes now, and lets those appear that
    /// it was in the way of. Idempotent; ranges that stay are left alone, so that traffic to them is not disturbed.
    /// O((regions of the function + covered ones) × log of all).
    pub(super) fn remap(&self, bdf: Bdf, wanted: impl FnOnce() -> Vec<Region>) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let Places { mapped, covered } = &mut *places;
        // Asked under the lock: two vCPUs that move BARs at once end with what the last one sees.
        let wanted = wanted();
        let current = mapped.remove(&bdf).unwrap_or_default();
        let stays = |m: &Mapped| wanted.iter().any(|w| same(&m.region, w));
        let (kept, gone): (Vec<_>, Vec<_>) = current.into_iter().partition(stays);
        let has_freed = !gone.is_empty();
        // With their doorbells, whose places the next may want.
        for old in gone {
            self.bus(old.region.space).remove(old.region.base);
        }
        let new = wanted.into_iter().filter(|region| !kept.iter().any(|k| same(&k.region, region))).collect();
        if !kept.is_empty() {
            mapped.insert(bdf, kept);
        }
        covered.insert(bdf, new);
        // This function first, the others where something has become free.
        self.uncover(bdf, mapped, covered);
        if has_freed {
            let others: Vec<_> = covered.keys().copied().collect();
            others.into_iter().for_each(|other| self.uncover(other, mapped, covered));
        }
    }

    /// Maps what of the function at `bdf` is covered no more.
    fn uncover(&self, bdf: Bdf, mapped: &mut BTreeMap<Bdf, Vec<Mapped>>, covered: &mut BTreeMap<Bdf, Vec<Region>>) {
        for region in covered.remove(&bdf).unwrap_or_default() {
            match self.map(bdf, &region) {
                Some(here) => mapped.entry(bdf).or_default().push(here),
                None => covered.entry(bdf).or_default().push(region),
            }
        }
    }

    fn map(&self, bdf: Bdf, region: &Region) -> Option<Mapped> {
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
        Some(Mapped { region: region.clone(), _doorbells: doorbells })
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
    fn covered_region_appears_when_the_function_above_it_moves_or_goes() {
        let spaces = AddressSpaces::new(Box::new(NoDoorbells));
        let devices: Vec<Arc<dyn BusDevice>> = (1..=3).map(|byte| Arc::new(Constant(byte)) as _).collect();
        let slots = [3, 4, 5].map(|slot| Bdf::new(0, slot, 0));
        for (bdf, device) in slots.iter().zip(&devices) {
            spaces.remap(*bdf, || vec![region(0x1000, device), region(0x10_000 * u64::from(bdf.device()), device)]);
        }
        assert_eq!(byte_at(&spaces, 0x1000), 1);

        spaces.remap(slots[0], || vec![region(0x8000, &devices[0])]);
        assert_eq!([0x1000, 0x8000, 0x30_000].map(|at| byte_at(&spaces, at)), [2, 1, 0xff], "the next one of two");

        spaces.remap(slots[1], Vec::new);
        assert_eq!(byte_at(&spaces, 0x1000), 3);

        spaces.remap(slots[2], Vec::new);
        assert_eq!(byte_at(&spaces, 0x1000), 0xff);
        spaces.remap(slots[0], || vec![region(0x1000, &devices[0])]);
        assert_eq!(byte_at(&spaces, 0x1000), 1, "who has gone takes no place");
    }

    /// Matches each address once, as KVM does.
    #[derive(Clone, Default)]
    struct Exclusive(Arc<Mutex<Vec<u64>>>);

    struct Placed(Exclusive, u64);

    impl Drop for Placed {
        fn drop(&mut self) {
            self.0.0.lock().unwrap().retain(|address| *address != self.1);
        }
    }

    impl DoorbellHost for Exclusive {
        fn place(&self, _: Space, address: u64, _: &Doorbell) -> io::Result<Box<dyn Any + Send>> {
            let mut places = self.0.lock().unwrap();
            if places.contains(&address) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            places.push(address);
            Ok(Box::new(Placed(self.clone(), address)))
        }
    }

    #[test]
    fn covered_region_appears_with_its_doorbells() {
        let host = Exclusive::default();
        let spaces = AddressSpaces::new(Box::new(host.clone()));
        let event = Arc::new(vmm_sys_util::eventfd::EventFd::new(0).unwrap());
        let doorbells = vec![Doorbell { offset: 8, len: 2, value: None, event }];
        for slot in [3, 4] {
            let device: Arc<dyn BusDevice> = Arc::new(Constant(slot));
            let region = Region { doorbells: doorbells.clone(), ..region(0x1000, &device) };
            spaces.remap(Bdf::new(0, slot, 0), || vec![region]);
        }

        spaces.remap(Bdf::new(0, 3, 0), Vec::new);

        assert_eq!((byte_at(&spaces, 0x1000), &*host.0.lock().unwrap()), (4, &vec![0x1008]));
    }

    #[test]
    fn covered_region_that_is_wanted_no_more_does_not_appear() {
        let spaces = AddressSpaces::new(Box::new(NoDoorbells));
        let first: Arc<dyn BusDevice> = Arc::new(Constant(1));
        let second: Arc<dyn BusDevice> = Arc::new(Constant(2));
        spaces.remap(Bdf::new(0, 3, 0), || vec![region(0x1000, &first)]);
        spaces.remap(Bdf::new(0, 4, 0), || vec![region(0x1000, &second)]);

        spaces.remap(Bdf::new(0, 4, 0), || vec![region(0x8000, &second)]);
        spaces.remap(Bdf::new(0, 3, 0), Vec::new);

        assert_eq!([0x1000, 0x8000].map(|at| byte_at(&spaces, at)), [0xff, 2]);
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
