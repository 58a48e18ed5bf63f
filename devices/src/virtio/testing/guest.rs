use std::sync::Arc;

use super::{DriverRing, SignalSink, ram};
use crate::bus::{BusDevice, Effect};
use crate::lifecycle::Lifecycle;
use crate::memory::GuestRam;
use crate::pci::{Bdf, PciFunction, Region, Space};
use crate::testing::RecordingLine;
use crate::virtio::device::VirtioDevice;
use crate::virtio::features::{self, status};
use crate::virtio::transport::{Connections, VirtioPci, VirtioPciConfig};

/// Where [`Guest`] puts the BARs.
const BAR0: u32 = 0xc000;
const BAR1: u32 = 0xe000_0000;
const BAR4: u64 = 0xe100_0000;

/// How a [`Guest`] is to be.
pub struct GuestBuilder {
    pub config: VirtioPciConfig,
    pub ram: Arc<GuestRam>,
}

impl Default for GuestBuilder {
    fn default() -> Self {
        Self { config: VirtioPciConfig::new("dev0", Bdf::new(0, 4, 0)), ram: ram(4 << 20) }
    }
}

impl GuestBuilder {
    /// Builds the function, starts it, and assigns its BARs.
    #[must_use]
    pub fn build(self, device: Box<dyn VirtioDevice>) -> Guest {
        let (line, sink) = (RecordingLine::new(), SignalSink::default());
        let to =
            Connections { memory: Arc::clone(&self.ram), line: Arc::clone(&line) as _, msi: Arc::new(sink.clone()) };
        let function = VirtioPci::new(self.config, device, to).expect("function");
        function.start().expect("start");
        let guest = Guest { function, ram: self.ram, line, sink };
        guest.assign_bars();
        guest
    }
}

/// A guest that drives one virtio function as the specification tells drivers to.
pub struct Guest {
    pub function: Arc<VirtioPci>,
    pub ram: Arc<GuestRam>,
    pub line: Arc<RecordingLine>,
    pub sink: SignalSink,
}

impl Guest {
    pub fn assign_bars(&self) {
        self.config_write(0x10, &BAR0.to_le_bytes());
        self.config_write(0x14, &BAR1.to_le_bytes());
        self.config_write(0x20, &(BAR4 as u32).to_le_bytes());
        self.config_write(0x24, &((BAR4 >> 32) as u32).to_le_bytes());
        self.config_write(0x04, &7u16.to_le_bytes());
    }

    pub fn config_write(&self, offset: u8, data: &[u8]) -> Effect {
        self.function.config_write(offset, data)
    }

    #[must_use]
    pub fn config16(&self, offset: u8) -> u16 {
        let mut bytes = [0; 2];
        self.function.config_read(offset, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    #[must_use]
    pub fn config32(&self, offset: u8) -> u32 {
        let mut bytes = [0; 4];
        self.function.config_read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[must_use]
    pub fn region(&self, space: Space, base: u64) -> Region {
        let regions = self.function.regions();
        regions.into_iter().find(|region| region.space == space && region.base == base).expect("region")
    }

    #[must_use]
    pub fn modern(&self) -> Arc<dyn BusDevice> {
        self.region(Space::Memory, BAR4).device
    }

    #[must_use]
    pub fn legacy(&self) -> Arc<dyn BusDevice> {
        self.region(Space::Io, BAR0.into()).device
    }

    #[must_use]
    pub fn read(&self, offset: u64, len: usize) -> u64 {
        let mut bytes = [0; 8];
        self.modern().read(offset, &mut bytes[..len]).expect("modern register");
        u64::from_le_bytes(bytes)
    }

    pub fn write(&self, offset: u64, len: usize, value: u64) {
        let _effect = self.modern().write(offset, &value.to_le_bytes()[..len]).expect("modern register");
    }

    #[must_use]
    pub fn inl(&self, offset: u64, len: usize) -> u64 {
        let mut bytes = [0; 8];
        self.legacy().read(offset, &mut bytes[..len]).expect("legacy register");
        u64::from_le_bytes(bytes)
    }

    pub fn outl(&self, offset: u64, len: usize, value: u64) {
        let _effect = self.legacy().write(offset, &value.to_le_bytes()[..len]).expect("legacy register");
    }

    #[must_use]
    pub fn status(&self) -> u8 {
        self.read(0x14, 1) as u8
    }

    pub fn set_status(&self, bits: u8) {
        self.write(0x14, 1, bits.into());
    }

    #[must_use]
    pub fn device_features(&self) -> u64 {
        let half = |n| {
            self.write(0, 4, n);
            self.read(4, 4)
        };
        half(0) | half(1) << 32
    }

    /// Reset, acknowledge, agree on `features` as far as offered (section 3.1.1); returns what was agreed.
    pub fn negotiate(&self, wanted: u64) -> u64 {
        self.reset();
        self.set_status(status::ACKNOWLEDGE);
        self.set_status(status::ACKNOWLEDGE | status::DRIVER);
        let agreed = self.device_features() & (wanted | features::VERSION_1);
        for n in [0, 1] {
            self.write(8, 4, n);
            self.write(0xc, 4, (agreed >> (32 * n)) & 0xffff_ffff);
        }
        self.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        assert_eq!(self.status() & status::FEATURES_OK, status::FEATURES_OK, "features {agreed:#x} refused");
        agreed
    }

    /// Writes 0 and waits for it to read back (section 4.1.4.3.2).
    pub fn reset(&self) {
        self.set_status(0);
        self.sink.wait_until_polling("the end of a reset", || self.status() == 0);
    }

    /// Enables MSI-X with vector `v` delivering data `v`, all unmasked.
    pub fn enable_msix(&self) {
        let table = self.region(Space::Memory, BAR1.into()).device;
        let vectors = u64::from(self.config16(0x9a) & 0x7ff) + 1;
        for v in 0..vectors {
            for (at, value) in [(0, 0xfee0_0000_u32), (4, 0), (8, v as u32), (12, 0)] {
                let _effect = table.write(16 * v + at, &value.to_le_bytes()).expect("table");
            }
        }
        self.config_write(0x9a, &0x8000u16.to_le_bytes());
    }

    /// Gives queue `n` a ring and the vector `n + 1` (0 is the configuration's), and enables it.
    pub fn setup_queue(&self, n: u16, ring: &DriverRing) {
        self.write(0x10, 2, 0);
        self.write(0x16, 2, n.into());
        self.write(0x18, 2, ring.layout.size.into());
        self.write(0x1a, 2, u64::from(n) + 1);
        self.write(0x20, 8, ring.layout.desc);
        self.write(0x28, 8, ring.layout.avail);
        self.write(0x30, 8, ring.layout.used);
        self.write(0x1c, 2, 1);
    }

    pub fn driver_ok(&self) {
        self.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK);
    }

    /// Writes the notification address of queue `n`, as where the hypervisor does not match it.
    pub fn kick(&self, n: u16) {
        self.write(0x3000 + 4 * u64::from(n), 2, n.into());
    }

    /// Waits until the ring has another used entry.
    #[must_use]
    pub fn wait_used(&self, ring: &mut DriverRing) -> (u16, u32) {
        self.sink.wait_until("a used buffer", || ring.used_index() != ring.used_seen());
        ring.take_used().expect("used entry")
    }

    /// Pause and drain, as the machine does.
    pub fn pause(&self) {
        self.function.pause();
        self.function.drain();
    }
}
