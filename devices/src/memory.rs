//! Guest RAM as devices see it: the one alias, a view that remembers the last region, and the mark for dirty pages.
//!
//! Only RAM is in here. A device that resolves an address through this module cannot reach another device's
//! registers, its own included.

use std::cell::Cell;
use std::iter::FusedIterator;
use std::sync::Arc;

use vm_memory::bitmap::Bitmap;
use vm_memory::guest_memory::{GuestMemoryBackendSliceIterator, GuestMemorySliceIterator};
use vm_memory::{
    ByteValued, Bytes, GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap,
    GuestMemoryRegion, GuestMemoryResult, GuestRegionMmap, MemoryRegionAddress, Permissions, VolatileMemory,
    VolatileSlice,
};

/// The dirty bitmap of the guest's RAM, chosen here and nowhere else.
type Dirty = ();

/// The guest's RAM.
pub type GuestRam = GuestMemoryMmap<Dirty>;

/// One region of [`GuestRam`].
pub type RamRegion = GuestRegionMmap<Dirty>;

/// Notes that the host wrote `len` bytes at guest address `addr` behind `vm-memory`'s back (a disk read through
/// an iovec). Everything else that `vm-memory` writes marks itself.
pub fn mark_written(ram: &RamView, addr: GuestAddress, len: usize) {
    // Without a bitmap there is nothing to mark.
    if size_of::<Dirty>() > 0
        && let Some((region, at)) = ram.ram.to_region_addr(addr)
    {
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
    last: Cell<Place>,
}

/// Where a region is: its number, its first address, its length.
#[derive(Clone, Copy, Default)]
struct Place {
    number: usize,
    start: u64,
    len: u64,
}

impl RamView {
    /// A view of `ram`.
    #[must_use]
    pub fn new(ram: Arc<GuestRam>) -> Self {
        Self { ram, last: Cell::default() }
    }

    /// `len` bytes at `addr` as one piece of memory; `None` where they do not lie in one region.
    ///
    /// What `vm-memory` offers for any range goes over regions one by one, which costs several times as much.
    #[inline]
    #[must_use]
    pub fn piece(&self, addr: u64, len: usize) -> Option<VolatileSlice<'_, ()>> {
        let region = self.region(addr)?;
        let within = MemoryRegionAddress(addr - region.start_addr().0);
        GuestMemoryRegion::get_slice(region, within, len).ok()
    }

    /// Reads `data.len()` bytes at `addr`.
    ///
    /// # Errors
    /// When they are not all RAM.
    #[inline]
    pub fn read_bytes(&self, data: &mut [u8], addr: u64) -> Result<(), GuestMemoryError> {
        match self.piece(addr, data.len()) {
            Some(piece) => {
                piece.copy_to(data);
                Ok(())
            }
            None => self.read_slice(data, GuestAddress(addr)),
        }
    }

    /// Reads a `T` at `addr`.
    ///
    /// # Errors
    /// When it is not all RAM.
    #[inline]
    pub fn read_value<T: ByteValued>(&self, addr: u64) -> Result<T, GuestMemoryError> {
        match self.piece(addr, size_of::<T>()) {
            Some(piece) => Ok(piece.get_ref::<T>(0)?.load()),
            None => self.read_obj(GuestAddress(addr)),
        }
    }

    /// Writes `data` at `addr`.
    ///
    /// # Errors
    /// When not all of it is RAM; what is may have been written.
    #[inline]
    pub fn write_bytes(&self, data: &[u8], addr: u64) -> Result<(), GuestMemoryError> {
        match self.piece(addr, data.len()) {
            Some(piece) => {
                piece.copy_from(data);
                Ok(())
            }
            None => self.write_slice(data, GuestAddress(addr)),
        }
    }

    /// The region that `addr` lies in.
    #[inline]
    fn region(&self, addr: u64) -> Option<&RamRegion> {
        let Place { number, start, len } = self.last.get();
        if addr.wrapping_sub(start) < len {
            return self.ram.iter().nth(number);
        }
        self.search(addr)
    }

    #[cold]
    fn search(&self, addr: u64) -> Option<&RamRegion> {
        let place = |region: &RamRegion| (region.start_addr().0, GuestMemoryRegion::len(region));
        let holds = |region: &RamRegion| {
            let (start, len) = place(region);
            addr.wrapping_sub(start) < len
        };
        let (number, region) = self.ram.iter().enumerate().find(|(_, region)| holds(region))?;
        let (start, len) = place(region);
        self.last.set(Place { number, start, len });
        Some(region)
    }

    /// The RAM itself, to keep it mapped as long as something points into it.
    #[must_use]
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }
}

/// All that `vm-memory` does with a view, and `virtio-queue` through it, goes by [`RamView::piece`] where it can.
impl GuestMemory for RamView {
    type PhysicalMemory = GuestRam;
    type Bitmap = Dirty;

    #[inline]
    fn check_range(&self, addr: GuestAddress, count: usize, _access: Permissions) -> bool {
        self.piece(addr.0, count).is_some() || GuestMemoryBackend::check_range(&*self.ram, addr, count)
    }

    #[inline]
    fn get_slices<'a>(
        &'a self,
        addr: GuestAddress,
        count: usize,
        _access: Permissions,
    ) -> GuestMemoryResult<impl GuestMemorySliceIterator<'a, Dirty>> {
        Ok(match self.piece(addr.0, count) {
            Some(piece) if count > 0 => Pieces::One(Some(piece)),
            _ => Pieces::Many(GuestMemoryBackend::get_slices(&*self.ram, addr, count)),
        })
    }

    fn physical_memory(&self) -> Option<&GuestRam> {
        Some(&self.ram)
    }
}

/// The pieces that a range consists of.
enum Pieces<'a> {
    One(Option<VolatileSlice<'a, Dirty>>),
    Many(GuestMemoryBackendSliceIterator<'a, GuestRam>),
}

impl<'a> Iterator for Pieces<'a> {
    type Item = GuestMemoryResult<VolatileSlice<'a, Dirty>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::One(piece) => piece.take().map(Ok),
            Self::Many(pieces) => pieces.next(),
        }
    }
}

impl FusedIterator for Pieces<'_> {}

impl<'a> GuestMemorySliceIterator<'a, Dirty> for Pieces<'a> {
    #[inline]
    fn stop_on_error(mut self) -> GuestMemoryResult<impl Iterator<Item = VolatileSlice<'a, Dirty>>> {
        let first = self.next().transpose()?;
        Ok(first.into_iter().chain(self.map_while(Result::ok)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(view.region(addr.0).map(GuestMemoryRegion::start_addr), expected, "{addr:?}");
        }
    }

    #[test]
    fn bytes_come_back_within_a_region_and_across_two_that_touch() {
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)]).unwrap();
        let view = RamView::new(Arc::new(ram));
        for addr in [0x10, 0xffd] {
            let mut back = [0; 7];

            view.write_bytes(&[1, 2, 3, 4, 5, 6, 7], addr).unwrap();
            view.read_bytes(&mut back, addr).unwrap();

            assert_eq!(back, [1, 2, 3, 4, 5, 6, 7], "{addr:#x}");
            assert_eq!(view.read_value::<u32>(addr).unwrap().to_le_bytes(), [1, 2, 3, 4], "{addr:#x}");
        }
        assert!(view.piece(0xffd, 7).is_none());
        assert!(view.read_bytes(&mut [0; 7], 0x1ffd).is_err());
        assert!(view.write_bytes(&[0; 7], u64::MAX - 2).is_err());
    }

    #[test]
    fn what_other_crates_do_by_the_view_they_do_as_by_the_ram() {
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)]).unwrap();
        let view = RamView::new(Arc::new(ram));
        for (addr, len) in [(0, 0), (0, 1), (0xff0, 0x10), (0xff0, 0x20), (0x1ff0, 0x20), (0x5000, 1), (u64::MAX, 2)] {
            let (at, access) = (GuestAddress(addr), Permissions::ReadWrite);
            let length = |slice: GuestMemoryResult<VolatileSlice<'_, Dirty>>| slice.ok().map(|slice| slice.len());
            let ours: Vec<_> = GuestMemory::get_slices(&view, at, len, access).unwrap().map(length).collect();
            let theirs: Vec<_> = GuestMemory::get_slices(&*view.ram, at, len, access).unwrap().map(length).collect();

            assert_eq!(ours, theirs, "{addr:#x}+{len:#x}");
            let whole = GuestMemory::check_range(&*view.ram, at, len, access);
            assert_eq!(GuestMemory::check_range(&view, at, len, access), whole, "{addr:#x}+{len:#x}");
        }
    }

    #[test]
    fn access_across_the_end_of_a_region_is_refused() {
        let view = two_regions();
        assert!(view.write_slice(&[0; 8], GuestAddress(0xffc)).is_err());
        assert!(view.write_slice(&[0; 8], GuestAddress(0xff8)).is_ok());
    }
}
