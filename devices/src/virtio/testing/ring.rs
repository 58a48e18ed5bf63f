use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress};

use crate::memory::GuestRam;
use crate::virtio::device::RingLayout;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A buffer that a driver lends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buf {
    pub addr: u64,
    pub len: u32,
    pub writable: bool,
}

impl Buf {
    #[must_use]
    pub fn readable(addr: u64, len: u32) -> Self {
        Self { addr, len, writable: false }
    }

    #[must_use]
    pub fn writable(addr: u64, len: u32) -> Self {
        Self { addr, len, writable: true }
    }
}

/// A split ring as a driver keeps it (virtio 1.2, 2.7): descriptors are given out one after the other.
pub struct DriverRing {
    pub ram: Arc<GuestRam>,
    pub layout: RingLayout,
    next_desc: u16,
    avail: u16,
    used: u16,
}

impl DriverRing {
    /// A ring of `size` in one block from `base` (page-aligned), as legacy drivers lay it out.
    #[must_use]
    pub fn new(ram: &Arc<GuestRam>, base: u64, size: u16) -> Self {
        let count = u64::from(size);
        let avail = base + 16 * count;
        let used = (avail + 2 * (3 + count)).next_multiple_of(4096);
        let layout = RingLayout { size, desc: base, avail, used };
        let ring = Self { ram: Arc::clone(ram), layout, next_desc: 0, avail: 0, used: 0 };
        let end = used + 8 * count + 6;
        ring.ram.write_slice(&vec![0; usize::try_from(end - base).expect("len")], GuestAddress(base)).expect("ring");
        ring
    }

    /// Forgets all, as after a reset.
    pub fn renew(&mut self) {
        *self = Self::new(&self.ram, self.layout.desc, self.layout.size);
    }

    pub fn write_desc(&self, table: u64, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.ram.write_slice(&bytes, GuestAddress(table + 16 * u64::from(index))).expect("descriptor");
    }

    fn take_desc(&mut self) -> u16 {
        let index = self.next_desc;
        self.next_desc = (index + 1) % self.layout.size;
        index
    }

    fn write_chain(&self, table: u64, indices: &[u16], bufs: &[Buf]) {
        for (n, (&index, buf)) in indices.iter().zip(bufs).enumerate() {
            let next = indices.get(n + 1).copied();
            let flags = if buf.writable { WRITE } else { 0 } | if next.is_some() { NEXT } else { 0 };
            self.write_desc(table, index, buf.addr, buf.len, flags, next.unwrap_or(0));
        }
    }

    /// Lays a chain out and makes it available; returns its head.
    pub fn post(&mut self, bufs: &[Buf]) -> u16 {
        let indices: Vec<u16> = bufs.iter().map(|_| self.take_desc()).collect();
        self.write_chain(self.layout.desc, &indices, bufs);
        self.offer(indices[0]);
        indices[0]
    }

    /// The same through an indirect table at `table`.
    pub fn post_indirect(&mut self, table: u64, bufs: &[Buf]) -> u16 {
        let indices: Vec<u16> = (0..u16::try_from(bufs.len()).expect("few")).collect();
        self.write_chain(table, &indices, bufs);
        let head = self.take_desc();
        self.write_desc(self.layout.desc, head, table, 16 * u32::try_from(bufs.len()).expect("few"), INDIRECT, 0);
        self.offer(head);
        head
    }

    /// Makes `head` available.
    pub fn offer(&mut self, head: u16) {
        let slot = self.layout.avail + 4 + 2 * u64::from(self.avail % self.layout.size);
        self.ram.write_obj(head.to_le(), GuestAddress(slot)).expect("available ring");
        self.set_avail_index(self.avail.wrapping_add(1));
    }

    /// Sets the index that the device looks at.
    pub fn set_avail_index(&mut self, index: u16) {
        self.avail = index;
        self.ram.store(index.to_le(), GuestAddress(self.layout.avail + 2), Ordering::Release).expect("index");
    }

    /// The index of the next chain that is made available.
    #[must_use]
    pub fn next_avail(&self) -> u16 {
        self.avail
    }

    pub fn set_avail_flags(&self, flags: u16) {
        self.ram.store(flags.to_le(), GuestAddress(self.layout.avail), Ordering::Release).expect("flags");
    }

    pub fn set_used_event(&self, index: u16) {
        let at = self.layout.avail + 4 + 2 * u64::from(self.layout.size);
        self.ram.store(index.to_le(), GuestAddress(at), Ordering::Release).expect("used_event");
    }

    #[must_use]
    pub fn avail_event(&self) -> u16 {
        let at = self.layout.used + 4 + 8 * u64::from(self.layout.size);
        u16::from_le(self.ram.load(GuestAddress(at), Ordering::Acquire).expect("avail_event"))
    }

    #[must_use]
    pub fn used_flags(&self) -> u16 {
        u16::from_le(self.ram.load(GuestAddress(self.layout.used), Ordering::Acquire).expect("flags"))
    }

    #[must_use]
    pub fn used_index(&self) -> u16 {
        u16::from_le(self.ram.load(GuestAddress(self.layout.used + 2), Ordering::Acquire).expect("index"))
    }

    /// The index up to which used entries were taken.
    #[must_use]
    pub fn used_seen(&self) -> u16 {
        self.used
    }

    /// The next used entry: head and bytes written. When there is none, the driver wants to hear of the next.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        if self.used == self.used_index() {
            return None;
        }
        self.set_used_event(self.used.wrapping_add(1));
        let at = self.layout.used + 4 + 8 * u64::from(self.used % self.layout.size);
        self.used = self.used.wrapping_add(1);
        let [id, len]: [u32; 2] = self.ram.read_obj(GuestAddress(at)).expect("used entry");
        Some((u16::try_from(u32::from_le(id)).expect("head"), u32::from_le(len)))
    }

    /// All used entries not yet taken.
    pub fn take_all_used(&mut self) -> Vec<(u16, u32)> {
        std::iter::from_fn(|| self.take_used()).collect()
    }
}
