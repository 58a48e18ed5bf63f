//! `pc-testdev`: ports and memory that hold what is written, interrupt lines that a program pulls itself, and a port
//! that takes a page of RAM out of the hypervisor's tables.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::bus::{BusDevice, BusFault, Effect};
use crate::irq::IrqLine;
use crate::legacy::{LegacyChip, PortRange};
use crate::lifecycle::{Lifecycle, Saver};
use crate::memory::GuestRam;

/// Four ports that hold what is written.
const HELD: u16 = 0xe0;
/// Takes the address of a page.
const FLUSH: u16 = 0xe4;
/// The same four ports again, for programs that ask for them a byte at a time.
const HELD_BYTES: u16 = 0xe8;
/// A port for each interrupt line.
const LINES: u16 = 0x2000;
/// Pins of an I/O APIC; those beyond the ISA bus lead nowhere.
const LINE_COUNT: usize = 24;
/// Bytes of a page.
const PAGE: u64 = 0x1000;

/// Bytes that hold what is written to them.
struct Held(Mutex<Box<[u8]>>);

impl Held {
    fn new(len: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(vec![0; len].into_boxed_slice())))
    }

    fn with<R>(&self, offset: u64, len: usize, act: impl FnOnce(&mut [u8]) -> R) -> Result<R, BusFault> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let range = usize::try_from(offset).ok().and_then(|start| bytes.get_mut(start..start.checked_add(len)?));
        range.map(act).ok_or(BusFault { offset, len })
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill(0);
    }
}

impl BusDevice for Held {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        self.with(offset, data.len(), |bytes| data.copy_from_slice(bytes))
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        self.with(offset, data.len(), |bytes| bytes.copy_from_slice(data)).map(|()| Effect::None)
    }
}

/// Takes the page at the address written out of the hypervisor's tables: the guest's next access to it leaves the
/// guest, once. Addresses that are not RAM do nothing.
struct Flush(Arc<GuestRam>);

impl BusDevice for Flush {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        Err(BusFault { offset, len: data.len() })
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        let (0, &[a, b, c, d]) = (offset, data) else { return Err(BusFault { offset, len: data.len() }) };
        let page = u64::from(u32::from_le_bytes([a, b, c, d])) & !(PAGE - 1);
        if let Err(error) = flush(&self.0, page) {
            log::warn!("pc-testdev: cannot flush the page at {page:#x}: {error}");
        }
        Ok(Effect::None)
    }
}

/// Changes the protection of the page at `page` for a moment, for which KVM has to forget where it is. What changes
/// forbids no access at any moment: other threads may be at work on the page.
#[expect(unsafe_code, reason = "mprotect on guest memory")]
fn flush(ram: &GuestRam, page: u64) -> io::Result<()> {
    let Ok(slice) = ram.get_slice(GuestAddress(page), PAGE as usize) else { return Ok(()) };
    let data = libc::PROT_READ | libc::PROT_WRITE;
    for protection in [data | libc::PROT_EXEC, data] {
        // SAFETY: the slice says that a whole page is mapped there; its bytes stay, and so do the rights to them.
        if unsafe { libc::mprotect(slice.ptr_guard_mut().as_ptr().cast(), PAGE as usize, protection) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Sets interrupt line n to what is written to port n: low for zero.
struct Lines(Vec<Arc<dyn IrqLine>>);

impl BusDevice for Lines {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        Err(BusFault { offset, len: data.len() })
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        let fault = BusFault { offset, len: data.len() };
        let line = usize::try_from(offset).ok().and_then(|n| self.0.get(n)).ok_or(fault)?;
        let &[value] = data else { return Err(fault) };
        line.set(value != 0);
        Ok(Effect::None)
    }
}

/// The device.
pub struct PcTestDevice {
    held: Arc<Held>,
    memory: Arc<Held>,
    flush: Arc<Flush>,
    lines: Arc<Lines>,
}

impl PcTestDevice {
    /// Where its memory lies.
    pub const MEMORY_BASE: u64 = 0xff00_0000;
    /// Bytes of its memory.
    pub const MEMORY_LEN: u64 = 0x1_0000;

    /// Flushes pages of `ram`; `line` gives interrupt lines by number, 0 to 23.
    #[must_use]
    pub fn new(ram: Arc<GuestRam>, line: impl Fn(usize) -> Arc<dyn IrqLine>) -> Self {
        Self {
            held: Held::new(4),
            memory: Held::new(Self::MEMORY_LEN as usize),
            flush: Arc::new(Flush(ram)),
            lines: Arc::new(Lines((0..LINE_COUNT).map(line).collect())),
        }
    }

    /// What answers in memory.
    #[must_use]
    pub fn memory(&self) -> Arc<dyn BusDevice> {
        Arc::clone(&self.memory) as Arc<dyn BusDevice>
    }
}

impl LegacyChip for PcTestDevice {
    fn ports(self: Arc<Self>) -> Vec<PortRange> {
        let range = |base, len, device| PortRange { base, len, device };
        vec![
            range(HELD, 4, Arc::clone(&self.held) as Arc<dyn BusDevice>),
            range(FLUSH, 4, Arc::clone(&self.flush) as Arc<dyn BusDevice>),
            range(HELD_BYTES, 4, Arc::clone(&self.held) as Arc<dyn BusDevice>),
            range(LINES, LINE_COUNT as u16, Arc::clone(&self.lines) as Arc<dyn BusDevice>),
        ]
    }
}

impl Lifecycle for PcTestDevice {
    fn name(&self) -> &str {
        "pc-testdev"
    }

    fn reset(&self) {
        self.held.clear();
        self.memory.clear();
        self.lines.0.iter().for_each(|line| line.set(false));
    }

    fn saver(&self) -> Saver<'_> {
        Saver::Refuses("pc-testdev is for test programs, which start anew")
    }
}
