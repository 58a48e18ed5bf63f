use std::time::Duration;

use super::i440fx::I440fx;
use super::intx::PirqRouter;
use super::piix3::Piix3;
use super::piix4_pm::{Piix4Pm, PmOptions};
use super::*;
use crate::bus::{Bus, BusFault};
use crate::clock::ManualClock;
use crate::irq::Unconnected;
use crate::testing::hammer;

/// Configuration space as a range that can be hammered: no bounds are checked on the way.
struct ConfigRange(Arc<dyn PciFunction>);

impl BusDevice for ConfigRange {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        self.0.config_read(offset.to_le_bytes()[0], data);
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        let effect = self.0.config_write(offset.to_le_bytes()[0], data);
        let bus = Bus::new();
        for region in self.0.regions() {
            // Firmware may lay ranges over one another: the bus refuses, nothing panics.
            let _ = bus.insert(region.base, region.len, region.device);
        }
        Ok(effect)
    }
}

fn power_management() -> Arc<dyn PciFunction> {
    let clock = Arc::new(ManualClock::new(Duration::ZERO));
    Arc::new(Piix4Pm::new(Bdf::new(0, 1, 3), PmOptions::default(), clock, Arc::new(Unconnected)))
}

#[test]
fn no_configuration_access_panics() {
    let isa_bridge = || Arc::new(Piix3::new(PirqRouter::new(std::array::from_fn(|_| None)))) as Arc<dyn PciFunction>;
    let host_bridge = || Arc::new(I440fx::new()) as Arc<dyn PciFunction>;

    hammer(|| Arc::new(ConfigRange(host_bridge())) as Arc<dyn BusDevice>, 256);
    hammer(|| Arc::new(ConfigRange(isa_bridge())) as Arc<dyn BusDevice>, 256);
    hammer(|| Arc::new(ConfigRange(power_management())) as Arc<dyn BusDevice>, 256);
}

#[test]
fn address_parts_come_back() {
    let bdf = Bdf::new(3, 31, 7);

    assert_eq!((bdf.bus(), bdf.device(), bdf.function(), bdf.requester()), (3, 31, 7, 0x03ff));
    assert_eq!(bdf.to_string(), "03:1f.7");
}
