use proptest::prelude::*;

use super::*;

/// Answers with its mark; refuses offset 1.
struct Marked(u8);

impl Registers for Marked {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        if offset == 1 {
            return Err(BusFault { offset, len: data.len() });
        }
        data.fill(self.0);
        Ok(())
    }
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        if offset == 1 {
            return Err(BusFault { offset, len: data.len() });
        }
        Ok(Effect::Power(PowerRequest::Exit(self.0)))
    }
}

fn marked(mark: u8) -> Arc<dyn BusDevice> {
    Arc::new(Mutex::new(Marked(mark)))
}

fn read(bus: &Bus, address: u64) -> u8 {
    let mut data = [0];
    bus.read(address, &mut data);
    data[0]
}

#[test]
fn accesses_reach_the_device_of_the_range() {
    let bus = Bus::new();
    bus.insert(0x100, 8, marked(1)).unwrap();
    bus.insert(0x108, 8, marked(2)).unwrap();

    assert_eq!([0xff, 0x100, 0x107, 0x108, 0x10f, 0x110].map(|at| read(&bus, at)), [0xff, 1, 1, 2, 2, 0xff]);
    assert_eq!(bus.write(0x10f, &[0]), Effect::Power(PowerRequest::Exit(2)));
    assert_eq!(bus.write(0x110, &[0]), Effect::None);
}

#[test]
fn faults_read_as_ones_and_drop_writes() {
    let bus = Bus::new();
    bus.insert(0x100, 8, marked(1)).unwrap();

    assert_eq!(read(&bus, 0x101), 0xff);
    assert_eq!(bus.write(0x101, &[0]), Effect::None);
}

#[test]
fn overlapping_empty_and_wrapping_ranges_are_refused() {
    let bus = Bus::new();
    bus.insert(0x100, 8, marked(1)).unwrap();

    for (base, len) in [(0x100, 8), (0xff, 2), (0x107, 1), (0xf0, 0x100), (0x200, 0), (u64::MAX, 2)] {
        assert!(bus.insert(base, len, marked(2)).is_err(), "{base:#x}+{len:#x}");
    }

    let refused = bus.insert(0x104, 1, marked(2)).unwrap_err();
    assert_eq!(refused.to_string(), "address range 0x104+0x1 overlaps 0x100+0x8");
}

#[test]
fn removed_range_is_free_again() {
    let bus = Bus::new();
    bus.insert(0x100, 8, marked(1)).unwrap();

    assert!(!bus.remove(0x101));
    assert!(bus.remove(0x100));

    assert_eq!(read(&bus, 0x100), 0xff);
    assert_eq!(bus.insert(0x104, 1, marked(2)), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn table_agrees_with_a_plain_map(ranges in prop::collection::vec((0u64..200, 1u64..30, any::<bool>()), 0..40)) {
        let (bus, mut plain) = (Bus::new(), [0xffu8; 256]);
        for (mark, (base, len, insert)) in (0u8..).zip(ranges) {
            let span = usize::try_from(base).unwrap()..usize::try_from(base + len).unwrap();
            let free = plain[span.clone()].iter().all(|owner| *owner == 0xff);
            if insert {
                prop_assert_eq!(bus.insert(base, len, marked(mark)).is_ok(), free);
                if free {
                    plain[span].fill(mark);
                }
            } else if bus.remove(base) {
                let owner = plain[span.start];
                plain.iter_mut().filter(|o| **o == owner).for_each(|o| *o = 0xff);
            }
        }
        for (at, owner) in (0u64..).zip(plain) {
            prop_assert_eq!(bus.find(at).is_some(), owner != 0xff);
        }
    }
}
