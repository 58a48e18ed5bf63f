//! Guest RAM as devices see it: the one alias, a view that remembers the last region, and the mark for dirty pages.
//!
//! Only RAM is in here. A device that resolves an address through this module cannot reach another device's
//! registers, its own included.

use std::cell::Cell;
use std::sync::Arc;

use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

/// The guest's RAM. The type parameter is the dirty bitmap; it is chosen here and nowhere else.
pub type GuestRam = GuestMemoryMmap<()>;

/// One region of [`GuestRam`].
pub type RamRegion = GuestRegionMmap<()>;

/// Notes that the host wrote `len` bytes at guest address `addr` behind `vm-memory`'s back (a disk read through
/// an iovec). Everything else that `vm-memory` writes marks itself.
pub fn mark_written(ram: &impl GuestMemoryBackend<R = RamRegion>, addr: GuestAddress, len: usize) {
    if let Some((region, at)) = ram.to_region_addr(addr) {
        mark_dirty(&region.bitmap(), usize::try_from(at.0).unwrap_or(usize::MAX), len);
    }
}

fn mark_dirty(bitmap: &impl Bitmap, offset: usize, len: usize) {
    bitmap.mark_dirty(offset, len);
}

/// A thread's own view of guest RAM: look-ups try the region that the last one found.
///
/// Nearly every address that a queue meets lies in one region; the search of the others is then skipped.
pub struct RamView {
    ram: Arc<GuestRam>,
    last: Cell<usize>,
}

impl RamView {
    /// A view of `ram`.
    #[must_use]
    pub fn new(ram: Arc<GuestRam>) -> Self {
        Self { ram, last: Cell::new(0) }
    }

    /// The RAM itself, to keep it mapped as long as something points into it.
    #[must_use]
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }
}

impl GuestMemoryBackend for RamView {
    type R = RamRegion;

    fn num_regions(&self) -> usize {
        self.ram.num_regions()
    }

    #[inline]
    fn find_region(&self, addr: GuestAddress) -> Option<&RamRegion> {
        let holds = |region: &&RamRegion| {
            addr.0.checked_sub(region.start_addr().0).is_some_and(|offset| offset < GuestMemoryRegion::len(*region))
        };
        if let Some(region) = self.ram.iter().nth(self.last.get()).filter(holds) {
            return Some(region);
        }
        let (at, region) = self.ram.iter().enumerate().find(|(_, region)| holds(region))?;
        self.last.set(at);
        Some(region)
    }

    fn iter(&self) -> impl Iterator<Item = &RamRegion> {
        self.ram.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    fn two_regions() -> RamView {
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000), (GuestAddress(0x10_0000), 0x2000)]).unwrap();
        RamView::new(Arc::new(ram))
    }

    #[test]
    fn view_finds_what_the_ram_finds_in_any_order() {
        let view = two_regions();
        for addr in [0, 0x10_0000, 0xfff, 0x10_1fff, 0x1000, 0x10_2000, 0x0f_ffff, u64::MAX, 0x10_0001, 1] {
            let addr = GuestAddress(addr);
            let expected = view.ram.find_region(addr).map(GuestMemoryRegion::start_addr);
            assert_eq!(view.find_region(addr).map(GuestMemoryRegion::start_addr), expected, "{addr:?}");
        }
    }

    #[test]
    fn access_across_the_end_of_a_region_is_refused() {
        let view = two_regions();
        assert!(view.write_slice(&[0; 8], GuestAddress(0xffc)).is_err());
        assert!(view.write_slice(&[0; 8], GuestAddress(0xff8)).is_ok());
    }
}
