//! MSI-X (PCI Local Bus Specification 3.0, 6.8.2): the capability, the vector table and the pending bits.
//!
//! ```text
//!   device threads ── signal(v) ──▶ vector v: live? ──▶ MsiVector (irqfd or ioctl)
//!                                      │ masked
//!                                      ▼
//!                                   pending bit ── unmasked ──▶ delivered then
//! ```
//!
//! Each vector has its own lock, held for a few instructions by [`Msix::signal`]. Whether a vector is live is decided
//! under that lock only, from what the last change of table or control left there: a message is either delivered or
//! pending, never lost between a mask and a signal.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::bus::{BusDevice, BusFault, Effect};
use crate::irq::{MsiMessage, MsiSink, MsiVector};

use super::Bdf;
use super::config::{ConfigError, ConfigSpace};

/// Capability ID (PCI 3.0, appendix H).
const CAPABILITY_ID: u8 = 0x11;
/// Message control: MSI-X enable, seen from the high byte of the register.
const ENABLE: u8 = 1 << 7;
/// Message control: function mask, seen from the high byte of the register.
const FUNCTION_MASK: u8 = 1 << 6;
/// Bytes of a table entry.
const ENTRY_BYTES: u64 = 16;
/// Vector control: masked.
const MASK_BIT: u32 = 1;
/// Most vectors that the 11-bit table size field can say.
pub const MAX_VECTORS: u16 = 2048;

/// The table cannot be laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MsixError {
    /// Not within 1 to [`MAX_VECTORS`].
    #[error("{0} MSI-X vectors where 1 to {MAX_VECTORS} are possible")]
    Vectors(u16),
    /// No room in the capability list.
    #[error("cannot add the MSI-X capability")]
    Capability(#[source] ConfigError),
}

/// Where table and pending bits lie in a BAR of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsixLayout {
    /// Number of the BAR.
    pub bar: u8,
    /// Vectors, 1 to [`MAX_VECTORS`].
    pub vectors: u16,
    /// Offset of the pending bit array in the BAR; the table lies at 0.
    pub pba: u32,
    /// Bytes of the BAR, a power of two.
    pub bar_size: u64,
}

impl MsixLayout {
    /// A BAR for MSI-X alone: 4 KiB, the pending bits at 2 KiB, as QEMU lays it out; larger for over 128 vectors.
    ///
    /// # Errors
    /// [`MsixError::Vectors`].
    pub fn exclusive(bar: u8, vectors: u16) -> Result<Self, MsixError> {
        if vectors == 0 || vectors > MAX_VECTORS {
            return Err(MsixError::Vectors(vectors));
        }
        let pba = (u32::from(vectors) * 16).max(2048);
        let end = u64::from(pba) + u64::from(vectors).div_ceil(64) * 8;
        Ok(Self { bar, vectors, pba, bar_size: end.next_power_of_two().max(4096) })
    }
}

/// Saved table and pending bits; the control word is in configuration space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MsixState {
    vectors: Vec<VectorState>,
}

/// One vector of [`MsixState`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VectorState {
    entry: [u32; 4],
    pending: bool,
}

/// A table entry: address low and high, data, control.
struct Vector {
    entry: [u32; 4],
    pending: bool,
    /// What a signal delivers; `None` while masked or disabled.
    live: Option<MsiMessage>,
    /// Opened when first live; `None` afterwards means that the host refused, and messages go through the sink.
    route: Option<Box<dyn MsiVector>>,
    route_tried: bool,
}

impl Vector {
    /// After power-on all vectors are masked (PCI 3.0, 6.8.2.9).
    const fn new() -> Self {
        Self { entry: [0, 0, 0, MASK_BIT], pending: false, live: None, route: None, route_tried: false }
    }
}

/// MSI-X of one function. Shared by the vCPUs (as [`BusDevice`] of its BAR) and the device's threads.
pub struct Msix {
    layout: MsixLayout,

    sink: Arc<dyn MsiSink>,
    requester: u16,

    /// High byte of message control: [`ENABLE`], [`FUNCTION_MASK`].
    control: AtomicU8,
    /// Held while control changes are carried to the vectors, so that two of them end in order.
    control_change: Mutex<()>,
    vectors: Box<[Mutex<Vector>]>,
}

impl Msix {
    /// All vectors masked, MSI-X disabled.
    #[must_use]
    pub fn new(layout: MsixLayout, sink: Arc<dyn MsiSink>, bdf: Bdf) -> Self {
        let vectors = (0..layout.vectors).map(|_| Mutex::new(Vector::new())).collect();
        let (control, control_change) = (AtomicU8::new(0), Mutex::new(()));
        Self { layout, sink, requester: bdf.requester(), control, control_change, vectors }
    }

    /// Where things lie.
    #[must_use]
    pub fn layout(&self) -> MsixLayout {
        self.layout
    }

    /// Adds the capability to `config` and returns its offset, which [`Msix::sync`] wants back.
    ///
    /// # Errors
    /// [`MsixError::Capability`].
    pub fn add_capability(&self, config: &mut ConfigSpace) -> Result<u8, MsixError> {
        let mut body = [0; 10];
        let bir = u32::from(self.layout.bar & 7);
        let fields = body.iter_mut().zip(
            (self.layout.vectors - 1)
                .to_le_bytes()
                .into_iter()
                .chain(bir.to_le_bytes())
                .chain((self.layout.pba | bir).to_le_bytes()),
        );
        fields.for_each(|(to, from)| *to = from);
        config.add_capability(CAPABILITY_ID, &body, &[0, ENABLE | FUNCTION_MASK]).map_err(MsixError::Capability)
    }

    /// Takes the control word at the capability on; to be called after every write to configuration space (it is
    /// cheap when nothing changed), after a restore and after a reset.
    pub fn sync(&self, config: &ConfigSpace, capability: u8) {
        let _order = lock(&self.control_change);
        let new = config.get8(capability.saturating_add(3)) & (ENABLE | FUNCTION_MASK);
        if self.control.swap(new, Ordering::AcqRel) != new {
            for vector in &self.vectors {
                self.refresh(&mut lock(vector));
            }
        }
    }

    /// Whether the guest enabled MSI-X; INTx must then stay silent (PCI 3.0, 6.8.2.3).
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.control.load(Ordering::Acquire) & ENABLE != 0
    }

    /// Interrupts on `vector` if MSI-X is enabled; says whether it is. `false` leaves the caller with INTx.
    /// A vector that does not exist is silently dropped, as guests may name one (virtio 1.2, 4.1.5.1.2).
    pub fn signal(&self, vector: u16) -> bool {
        if !self.enabled() {
            return false;
        }
        if let Some(vector) = self.vectors.get(usize::from(vector)) {
            let mut vector = lock(vector);
            match vector.live {
                Some(message) => self.deliver(&vector, message),
                None => vector.pending = true,
            }
        }
        true
    }

    fn deliver(&self, vector: &Vector, message: MsiMessage) {
        match &vector.route {
            Some(route) => route.signal(),
            None => self.sink.send(message),
        }
    }

    /// Brings `live`, route and pending bit in line with entry and control.
    fn refresh(&self, vector: &mut Vector) {
        let control = self.control.load(Ordering::Acquire);
        let [low, high, data, vector_control] = vector.entry;
        let open = control & ENABLE != 0 && control & FUNCTION_MASK == 0 && vector_control & MASK_BIT == 0;
        let live = open.then(|| MsiMessage {
            address: (u64::from(high) << 32) | u64::from(low),
            data,
            requester: self.requester,
        });
        if live.is_some() && !vector.route_tried {
            vector.route_tried = true;
            vector.route = self.sink.open_vector().inspect_err(|e| log::warn!("slow MSI-X vector: {e}")).ok();
        }
        if live != vector.live {
            vector.live = live;
            if let Some(route) = &vector.route {
                route.set(live);
            }
        }
        if let (Some(message), true) = (vector.live, vector.pending) {
            vector.pending = false;
            self.deliver(vector, message);
        }
    }

    /// Masked, disabled, nothing pending; the caller resets the capability's control word.
    pub fn reset(&self) {
        let _order = lock(&self.control_change);
        self.control.store(0, Ordering::Release);
        for vector in &self.vectors {
            let mut vector = lock(vector);
            vector.pending = false;
            vector.entry = [0, 0, 0, MASK_BIT];
            self.refresh(&mut vector);
        }
    }

    /// Table and pending bits, for saving.
    #[must_use]
    pub fn save(&self) -> MsixState {
        let of = |v: &Mutex<Vector>| {
            let v = lock(v);
            VectorState { entry: v.entry, pending: v.pending }
        };
        MsixState { vectors: self.vectors.iter().map(of).collect() }
    }

    /// Takes a saved table on; then restore configuration space and call [`Msix::sync`].
    ///
    /// # Errors
    /// A sentence when the number of vectors differs.
    pub fn restore(&self, state: &MsixState) -> Result<(), String> {
        if state.vectors.len() != self.vectors.len() {
            return Err(format!("{} MSI-X vectors where there are {}", state.vectors.len(), self.vectors.len()));
        }
        self.reset();
        for (vector, saved) in self.vectors.iter().zip(&state.vectors) {
            let mut vector = lock(vector);
            (vector.entry, vector.pending) = (saved.entry, saved.pending);
        }
        Ok(())
    }

    fn read_dword(&self, offset: u64) -> u32 {
        if let Some((vector, field)) = self.table_slot(offset) {
            return lock(vector).entry.get(field).copied().unwrap_or(0);
        }
        let Some(bit) = offset.checked_sub(u64::from(self.layout.pba)).map(|bytes| bytes.saturating_mul(8)) else {
            return 0;
        };
        let first = usize::try_from(bit).unwrap_or(usize::MAX);
        let pending = |v: &Mutex<Vector>| u32::from(lock(v).pending);
        (0..32).zip(self.vectors.iter().skip(first)).fold(0, |bits, (i, v)| bits | (pending(v) << i))
    }

    fn write_dword(&self, offset: u64, value: u32) {
        // The pending bits are read-only (PCI 3.0, 6.8.2.10).
        let Some((vector, field)) = self.table_slot(offset) else { return };
        let mut vector = lock(vector);
        let value = match field {
            0 => value & !3,
            3 => value & MASK_BIT,
            _ => value,
        };
        if let Some(slot) = vector.entry.get_mut(field) {
            *slot = value;
        }
        self.refresh(&mut vector);
    }

    fn check(&self, offset: u64, len: usize) -> Result<(), BusFault> {
        let aligned = matches!((len, offset % 8), (4, 0 | 4) | (8, 0));
        (aligned && offset < self.layout.bar_size).then_some(()).ok_or(BusFault { offset, len })
    }

    fn table_slot(&self, offset: u64) -> Option<(&Mutex<Vector>, usize)> {
        let index = usize::try_from(offset / ENTRY_BYTES).ok()?;
        let field = usize::try_from(offset % ENTRY_BYTES / 4).ok()?;
        Some((self.vectors.get(index)?, field))
    }
}

/// The BAR: table at 0, pending bits at [`MsixLayout::pba`]. Aligned accesses of 4 and 8 bytes (PCI 3.0, 6.8.2).
impl BusDevice for Msix {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        self.check(offset, data.len())?;
        for (at, dword) in (offset..).step_by(4).zip(data.chunks_exact_mut(4)) {
            dword.copy_from_slice(&self.read_dword(at).to_le_bytes());
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        self.check(offset, data.len())?;
        for (at, dword) in (offset..).step_by(4).zip(data.chunks_exact(4)) {
            if let Ok(dword) = dword.try_into() {
                self.write_dword(at, u32::from_le_bytes(dword));
            }
        }
        Ok(Effect::None)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
