//! `pci-testdev` (QEMU's docs/specs/pci-testdev): a header tells a program where to write what, and how often it was
//! written, so that accesses of each kind can be timed: those that reach this process, and those that an eventfd takes
//! in the kernel.
//!
//! BAR 0 is memory and BAR 1 ports, with the same tests in each; BAR 2, if asked for, is memory with nothing behind.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::{BusDevice, BusFault, Effect};
use crate::lifecycle::{DeviceError, Lifecycle, SaveRestore, Saver, decode, encode, unfit};
use crate::pci::config::{Bar, BarInfo, BarKind, ConfigSpace, ConfigState, Identity, SUBSYSTEM, SUBSYSTEM_VENDOR};
use crate::pci::{Bdf, Doorbell, PciFunction, Region, Space};

/// Registers of the header; its name follows them.
mod reg {
    /// Write-only, 8 bits: starts the test of this number.
    pub(super) const TEST: u64 = 0;
    /// 8 bits: bytes of an access, or 0 when there is no such test.
    pub(super) const WIDTH: usize = 1;
    /// 32 bits: where to write.
    pub(super) const OFFSET: usize = 4;
    /// 32 bits: what to write.
    pub(super) const DATA: usize = 8;
    /// 32 bits: writes counted since the test started.
    pub(super) const COUNT: usize = 12;
    /// Text with a zero behind it.
    pub(super) const NAME: usize = 16;
}

/// Bytes of a header, the name included.
const HEADER: usize = 48;
/// What programs are told to write, each to where its test is.
const DATA: u8 = 0xfa;
/// Bytes of each access.
const WIDTH: u8 = 1;

/// Who takes the writes of a test.
#[derive(Clone, Copy)]
enum Taker {
    /// This process.
    Device,
    /// An eventfd, any value.
    Any,
    /// An eventfd, only the value that the header tells.
    Match,
}

/// The tests, by number.
const TESTS: [(&str, Taker); 3] =
    [("no-eventfd", Taker::Device), ("wildcard-eventfd", Taker::Any), ("datamatch-eventfd", Taker::Match)];

/// What one BAR shows.
struct Window {
    space: Space,
    len: u64,
    kind: &'static str,
    /// Signalled by the writes of the tests that have one.
    events: [Arc<EventFd>; TESTS.len()],
    running: Mutex<Running>,
}

/// Which test runs, and what it saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Running {
    test: Option<u8>,
    count: u32,
}

impl Window {
    fn new(space: Space, len: u64, kind: &'static str) -> std::io::Result<Arc<Self>> {
        let event = || EventFd::new(EFD_NONBLOCK).map(Arc::new);
        let events = [event()?, event()?, event()?];
        Ok(Arc::new(Self { space, len, kind, events, running: Mutex::default() }))
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where test `n` writes: each in a dword of its own, in the upper half.
    fn target(&self, n: usize) -> u64 {
        self.len / 2 + 4 * n as u64
    }

    fn header(&self, running: Running) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        let Some((n, (name, _))) = running.test.and_then(|n| Some((usize::from(n), TESTS.get(usize::from(n))?))) else {
            return header;
        };
        let mut set = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        set(reg::WIDTH, &[WIDTH]);
        set(reg::OFFSET, &(self.target(n) as u32).to_le_bytes());
        set(reg::DATA, &u32::from(DATA).to_le_bytes());
        set(reg::COUNT, &running.count.to_le_bytes());
        set(reg::NAME, format!("{}-{name}", self.kind).as_bytes());
        header
    }

    /// Adds what the running test's eventfd took.
    fn collect(&self, running: &mut Running) {
        let event = running.test.and_then(|n| self.events.get(usize::from(n)));
        let taken = event.and_then(|event| event.read().ok()).unwrap_or(0);
        running.count = running.count.wrapping_add(taken as u32);
    }

    fn doorbells(&self) -> Vec<Doorbell> {
        let doorbell = |(n, (_, taker)): (usize, &(&str, Taker))| {
            let value = match taker {
                Taker::Device => return None,
                Taker::Any => None,
                Taker::Match => Some(u64::from(DATA)),
            };
            Some(Doorbell { offset: self.target(n), len: WIDTH, value, event: Arc::clone(self.events.get(n)?) })
        };
        TESTS.iter().enumerate().filter_map(doorbell).collect()
    }

    fn start(&self, test: Option<u8>) {
        let mut running = self.running();
        *running = Running { test: test.filter(|n| usize::from(*n) < TESTS.len()), count: 0 };
        // What came before the test does not count.
        self.collect(&mut running);
        running.count = 0;
    }
}

impl BusDevice for Window {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        let mut running = self.running();
        self.collect(&mut running);
        let header = self.header(*running);
        let range = usize::try_from(offset).ok().and_then(|start| header.get(start..start.checked_add(data.len())?));
        match range {
            Some(bytes) => data.copy_from_slice(bytes),
            None => data.fill(0),
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        if let (reg::TEST, &[test]) = (offset, data) {
            self.start(Some(test));
            return Ok(Effect::None);
        }
        let mut running = self.running();
        if running.test.is_some_and(|n| self.target(usize::from(n)) == offset) && *data == [DATA] {
            running.count = running.count.wrapping_add(1);
        }
        Ok(Effect::None)
    }
}

/// Memory with nothing behind: it reads as ones and forgets what is written.
struct Nothing;

impl BusDevice for Nothing {
    fn read(&self, _offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        data.fill(0xff);
        Ok(())
    }
    fn write(&self, _offset: u64, _data: &[u8]) -> Result<Effect, BusFault> {
        Ok(Effect::None)
    }
}

/// The function.
pub struct PciTestDevice {
    id: String,
    bdf: Bdf,
    windows: [Arc<Window>; 2],
    nothing: Arc<Nothing>,
    config: Mutex<ConfigSpace>,
}

/// BAR of the memory with nothing behind.
const NOTHING_BAR: u8 = 2;

impl PciTestDevice {
    /// At `bdf`; `membar` is the size of BAR 2 in bytes, a power of two from 16 on, or 0 for none.
    ///
    /// # Errors
    /// When there is no such size, or the host gives no eventfd.
    pub fn new(id: &str, bdf: Bdf, multifunction: bool, membar: u64) -> Result<Arc<Self>, DeviceError> {
        let window = |space, len, kind| {
            let host = |source| DeviceError::Host { what: "cannot make an eventfd".into(), source };
            Window::new(space, len, kind).map_err(host)
        };
        let windows = [window(Space::Memory, 0x1000, "mmio")?, window(Space::Io, 0x100, "portio")?];
        let config = config_space(multifunction, membar).map_err(|source| DeviceError::Invalid(source.to_string()))?;
        let (id, nothing) = (id.to_owned(), Arc::new(Nothing));
        Ok(Arc::new(Self { id, bdf, windows, nothing, config: Mutex::new(config) }))
    }

    fn config(&self) -> MutexGuard<'_, ConfigSpace> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn config_space(multifunction: bool, membar: u64) -> Result<ConfigSpace, crate::pci::config::ConfigError> {
    let identity = Identity {
        vendor: 0x1b36,
        device: 0x0005,
        revision: 0,
        // A function of no class (PCI 3.0, appendix D): subclass 0xff as QEMU has it.
        class: 0x00_ff_00,
        subsystem_vendor: SUBSYSTEM_VENDOR,
        subsystem: SUBSYSTEM,
    };
    let space = ConfigSpace::type0(&identity)
        .with_multifunction(multifunction)
        .with_bar(0, Bar { kind: BarKind::Memory32, size: 0x1000 })?
        .with_bar(1, Bar { kind: BarKind::Io, size: 0x100 })?;
    if membar == 0 {
        Ok(space)
    } else {
        space.with_bar(NOTHING_BAR, Bar { kind: BarKind::Prefetchable64, size: membar })
    }
}

impl PciFunction for PciTestDevice {
    fn config_read(&self, offset: u8, data: &mut [u8]) {
        self.config().read(offset, data);
    }

    fn config_write(&self, offset: u8, data: &[u8]) -> Effect {
        let changed = self.config().write(offset, data);
        if changed.decode { Effect::Remap(self.bdf) } else { Effect::None }
    }

    fn regions(&self) -> Vec<Region> {
        let config = self.config();
        let mut regions = Vec::new();
        for (n, window) in (0..).zip(&self.windows) {
            if let Some(base) = config.bar(n) {
                let device = Arc::clone(window) as Arc<dyn BusDevice>;
                let doorbells = window.doorbells();
                regions.push(Region { space: window.space, base, len: window.len, device, doorbells });
            }
        }
        let nothing = config.bars().into_iter().find(|bar| bar.index == NOTHING_BAR);
        if let Some((base, bar)) = nothing.and_then(|info| Some((info.base?, info.bar))) {
            let device = Arc::clone(&self.nothing) as Arc<dyn BusDevice>;
            regions.push(Region { space: Space::Memory, base, len: bar.size, device, doorbells: Vec::new() });
        }
        regions
    }

    fn bars(&self) -> Vec<BarInfo> {
        self.config().bars()
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "version")]
enum Saved {
    #[serde(rename = "1")]
    V1(TestState),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TestState {
    config: ConfigState,
    windows: [Running; 2],
}

impl Lifecycle for PciTestDevice {
    fn name(&self) -> &str {
        &self.id
    }

    fn reset(&self) {
        let _ = self.config().reset();
        self.windows.iter().for_each(|window| window.start(None));
    }

    fn saver(&self) -> Saver<'_> {
        Saver::Saves(self)
    }
}

impl SaveRestore for PciTestDevice {
    fn save(&self) -> Result<Value, DeviceError> {
        let windows = self.windows.each_ref().map(|window| {
            let mut running = window.running();
            window.collect(&mut running);
            *running
        });
        encode(self.name(), &Saved::V1(TestState { config: self.config().save(), windows }))
    }

    fn restore(&self, state: Value) -> Result<(), DeviceError> {
        let Saved::V1(state) = decode(self.name(), state)?;
        if state.windows.iter().any(|running| running.test.is_some_and(|n| usize::from(n) >= TESTS.len())) {
            return Err(unfit(self.name(), "it runs a test that there is not"));
        }
        self.config().restore(&state.config).map_err(|why| unfit(self.name(), why))?;
        for (window, running) in self.windows.iter().zip(state.windows) {
            *window.running() = running;
        }
        Ok(())
    }
}
