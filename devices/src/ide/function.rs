//! The PCI function: configuration space, ports, and the life of both channels.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::channel::{Channel, Shared};
use super::drive::{DEPTH, Drive, IdeDrive, IdeError, Kind};
use super::ports::{BusMasterBlock, CommandBlock, ControlBlock};
use super::worker::Link;
use crate::bus::{BusDevice, Effect};
use crate::irq::IrqLine;
use crate::lifecycle::{DeviceError, Lifecycle, Saver};
use crate::memory::{GuestRam, RamView};
use crate::pci::config::{Bar, BarInfo, BarKind, ConfigSpace, Identity, SUBSYSTEM, SUBSYSTEM_VENDOR, command, status};
use crate::pci::{Bdf, PciFunction, Region, Space};
use crate::scsi::Medium;
use crate::virtio::iothread::Placement;

/// The bus master's base address register.
const BUS_MASTER_BAR: u8 = 4;
/// IDETIM of the first channel (82371SB, 2.3.9); the second's follows.
const TIMING: u8 = 0x40;
/// IDETIM bit 15: the channel's ports are decoded.
const DECODE: u16 = 0x8000;
/// First port of each channel's command and control block.
const PORTS: [(u64, u64); 2] = [(0x1f0, 0x3f6), (0x170, 0x376)];

/// Where each channel takes the operands of its next command, from features to device: first port and count. Writes to
/// them do nothing by themselves.
pub const OPERAND_PORTS: [(u16, u16); 2] = [(0x1f1, 6), (0x171, 6)];

/// What the function is wired to.
pub struct IdeConnections {
    /// Guest RAM.
    pub memory: Arc<GuestRam>,
    /// ISA interrupts 14 and 15.
    pub irqs: [Arc<dyn IrqLine>; 2],
    /// Where the channels' disks are served.
    pub placement: Placement,
}

/// The IDE function.
pub struct Piix3Ide {
    bdf: Bdf,
    placement: Placement,
    channels: [Arc<Shared>; 2],
    bus_master: Arc<BusMasterBlock>,
    config: Mutex<ConfigSpace>,
}

impl Piix3Ide {
    /// The function at `bdf` with drives by channel and number (`drives[1][0]` is the secondary master).
    ///
    /// # Errors
    /// When a property has a value that cannot be.
    pub fn new(bdf: Bdf, drives: [[Option<IdeDrive>; 2]; 2], to: IdeConnections) -> Result<Arc<Self>, IdeError> {
        let IdeConnections { memory, irqs, placement } = to;
        let [[a, b], [c, d]] = drives;
        let [first_irq, second_irq] = irqs;
        let build = |irq, one: Option<IdeDrive>, two: Option<IdeDrive>| {
            let drives = [one.map(Drive::new).transpose()?, two.map(Drive::new).transpose()?];
            Ok::<_, IdeError>(Shared::new(Channel::new(irq, RamView::new(Arc::clone(&memory)), drives)?))
        };
        let channels = [build(first_irq, a, b)?, build(second_irq, c, d)?];
        let bus_master = Arc::new(BusMasterBlock(channels.clone()));
        Ok(Arc::new(Self { bdf, placement, channels, bus_master, config: Mutex::new(config_space()?) }))
    }

    pub(super) fn channels(&self) -> &[Arc<Shared>; 2] {
        &self.channels
    }

    pub(super) fn config(&self) -> MutexGuard<'_, ConfigSpace> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the channels whether they may write to memory.
    pub(super) fn follow_config(&self, config: &ConfigSpace) {
        for channel in &self.channels {
            channel.with(|channel| channel.may_master = config.bus_master());
        }
    }
}

fn config_space() -> Result<ConfigSpace, IdeError> {
    let identity = Identity {
        vendor: 0x8086,
        device: 0x7010,
        revision: 0,
        class: 0x01_01_80,
        subsystem_vendor: SUBSYSTEM_VENDOR,
        subsystem: SUBSYSTEM,
    };
    let space = ConfigSpace::type0(&identity)
        .with_command(0, command::IO | command::MEMORY | command::MASTER)
        .with_status(status::FAST_BACK | status::DEVSEL_MEDIUM)
        // Decoding is on from the start, as firmware would leave it: a kernel that is loaded directly finds its disks.
        .with_field(TIMING, &[0x00, 0x80, 0x00, 0x80], &[0xff; 4])
        .with_field(TIMING + 4, &[0], &[0xff])
        .with_bar(BUS_MASTER_BAR, Bar { kind: BarKind::Io, size: 16 })?;
    Ok(space)
}

/// Whether channel `n` decodes its ports.
fn decodes(config: &ConfigSpace, n: u8) -> bool {
    config.get16(TIMING + 2 * n) & DECODE != 0
}

impl PciFunction for Piix3Ide {
    fn config_read(&self, offset: u8, data: &mut [u8]) {
        self.config().read(offset, data);
    }

    fn config_write(&self, offset: u8, data: &[u8]) -> Effect {
        let mut config = self.config();
        let before = [decodes(&config, 0), decodes(&config, 1)];
        let changed = config.write(offset, data);
        let after = [decodes(&config, 0), decodes(&config, 1)];
        if changed.command {
            self.follow_config(&config);
        }
        if changed.decode || before != after { Effect::Remap(self.bdf) } else { Effect::None }
    }

    fn regions(&self) -> Vec<Region> {
        let config = self.config();
        let region = |base, len, device: Arc<dyn BusDevice>| Region {
            space: Space::Io,
            base,
            len,
            device,
            doorbells: Vec::new(),
        };
        let mut regions = Vec::new();
        for (n, (channel, (command, control))) in (0..).zip(self.channels.iter().zip(PORTS)) {
            if decodes(&config, n) {
                regions.push(region(command, 8, Arc::new(CommandBlock(Arc::clone(channel)))));
                regions.push(region(control, 1, Arc::new(ControlBlock(Arc::clone(channel)))));
            }
        }
        if let Some(base) = config.bar(BUS_MASTER_BAR) {
            regions.push(region(base, 16, Arc::clone(&self.bus_master) as _));
        }
        regions
    }

    fn bars(&self) -> Vec<BarInfo> {
        self.config().bars()
    }
}

impl Lifecycle for Piix3Ide {
    fn name(&self) -> &str {
        "piix3-ide"
    }

    fn start(&self) -> Result<(), DeviceError> {
        for (n, shared) in (0..).zip(&self.channels) {
            let mut channel = shared.lock();
            if channel.drives.iter().all(Option::is_none) {
                continue;
            }
            for drive in channel.drives.iter_mut().flatten() {
                open(drive)?;
                if let Kind::Cd(unit) = &drive.kind {
                    let shared: Weak<Shared> = Arc::downgrade(shared);
                    unit.on_change(move |_| shared.upgrade().into_iter().for_each(|shared| shared.medium_changed()));
                }
            }
            drop(channel);
            let thread = self.placement.thread("ide", n).map_err(|source| DeviceError::Host {
                what: format!("cannot start a thread for IDE channel {n}"),
                source,
            })?;
            if shared.link.set(Link::new(&thread, shared)).is_err() {
                return Err(DeviceError::Invalid(format!("IDE channel {n} was started twice")));
            }
        }
        Ok(())
    }

    fn pause(&self) {
        for channel in &self.channels {
            channel.lock().paused = true;
        }
    }

    fn drain(&self) {
        for channel in &self.channels {
            channel.drain();
        }
    }

    fn resume(&self) {
        for channel in &self.channels {
            channel.with(Channel::resume);
        }
    }

    fn reset(&self) {
        let mut config = self.config();
        let _ = config.reset();
        for channel in &self.channels {
            channel.with(Channel::power_on);
        }
        self.follow_config(&config);
    }

    fn saver(&self) -> Saver<'_> {
        Saver::Saves(self)
    }
}

/// Opens the path to a drive's image.
fn open(drive: &mut Drive) -> Result<(), DeviceError> {
    let (id, result) = match &mut drive.kind {
        Kind::Disk(disk) => {
            let opened = Medium::open(Arc::clone(&disk.image), 1, DEPTH).map(|medium| disk.medium = medium);
            (disk.config.id.clone(), opened)
        }
        Kind::Cd(unit) => (unit.config().id.clone(), unit.attach(1, DEPTH)),
    };
    result.map_err(|source| DeviceError::Below {
        what: format!("cannot open a queue of drive \"{id}\""),
        source: Box::new(source),
    })
}
