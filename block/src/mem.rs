//! Views of memory that bytes move to ([`Sink`]) or from ([`Source`]), flat or scattered.
//!
//! Guest memory may change under our hands at any time, so it is never seen as a Rust slice: these views hand raw
//! ranges to the kernel or copy through raw pointers, and no reference into the memory ever exists.

use std::marker::PhantomData;
use std::ptr;

use crate::image::{Buffers, IoVecs};

/// One view: `len` bytes of `repr`, after `skip` bytes.
#[derive(Clone, Copy)]
struct View<'a> {
    repr: Repr<'a>,
    skip: usize,
    len: usize,
}

#[derive(Clone, Copy)]
enum Repr<'a> {
    Flat(*mut u8),
    Scattered(&'a [libc::iovec]),
}

impl View<'_> {
    fn part(self, at: usize, len: usize) -> Self {
        assert!(at <= self.len && len <= self.len - at, "part {at}+{len} of a view of {} bytes", self.len);
        Self { repr: self.repr, skip: self.skip + at, len }
    }

    /// Calls `each(pointer, length)` for every contiguous piece, in order.
    fn pieces(self, mut each: impl FnMut(*mut u8, usize)) {
        match self.repr {
            Repr::Flat(base) => {
                if self.len > 0 {
                    each(base.wrapping_add(self.skip), self.len);
                }
            }
            Repr::Scattered(iovecs) => {
                let (mut skip, mut left) = (self.skip, self.len);
                for iovec in iovecs {
                    if left == 0 {
                        break;
                    }
                    if skip >= iovec.iov_len {
                        skip -= iovec.iov_len;
                        continue;
                    }
                    let take = (iovec.iov_len - skip).min(left);
                    each(iovec.iov_base.cast::<u8>().wrapping_add(skip), take);
                    left -= take;
                    skip = 0;
                }
            }
        }
    }

    fn iovecs(self) -> IoVecs {
        let mut list = IoVecs::new();
        self.pieces(|base, len| list.push(libc::iovec { iov_base: base.cast(), iov_len: len }));
        list
    }

    fn aligned(self, align: usize) -> bool {
        let mut all = true;
        self.pieces(|base, len| all &= (base as usize | len) & (align - 1) == 0);
        all
    }
}

/// What views to fill and views to take from have in common.
macro_rules! as_view {
    ($life:lifetime) => {
        /// A request's memory.
        #[must_use]
        pub fn buffers(buffers: &$life Buffers) -> Self {
            Self(of_buffers(buffers), PhantomData)
        }

        /// Bytes `at..at + len` of this view.
        ///
        /// # Panics
        /// When the part is not inside the view: a fault of ours, never of input.
        #[must_use]
        pub fn part(self, at: usize, len: usize) -> Self {
            Self(self.0.part(at, len), PhantomData)
        }

        /// Length in bytes.
        #[must_use]
        pub fn len(self) -> usize {
            self.0.len
        }

        /// Whether there is nothing in it.
        #[must_use]
        pub fn is_empty(self) -> bool {
            self.0.len == 0
        }

        /// The contiguous ranges, for a system call.
        #[must_use]
        pub fn iovecs(self) -> IoVecs {
            self.0.iovecs()
        }

        /// Whether every range starts and ends at a multiple of `align` (a power of two).
        #[must_use]
        pub fn is_aligned(self, align: usize) -> bool {
            self.0.aligned(align)
        }
    };
}

/// Memory to fill. Copies of one view name the same memory; all belong to one thread.
#[derive(Clone, Copy)]
pub struct Sink<'a>(View<'a>, PhantomData<&'a mut [u8]>);

impl<'a> Sink<'a> {
    /// A buffer of our own.
    #[must_use]
    pub fn of(buffer: &'a mut [u8]) -> Self {
        let view = View { repr: Repr::Flat(buffer.as_mut_ptr()), skip: 0, len: buffer.len() };
        Self(view, PhantomData)
    }

    as_view!('a);

    /// Fills the view with `bytes`, which must be as long.
    ///
    /// # Panics
    /// When the lengths differ: a fault of ours.
    #[expect(unsafe_code, reason = "copies into memory that the guest may also touch, so no slice may exist")]
    pub fn copy_from(self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.0.len);
        let mut done = 0;
        self.0.pieces(|base, len| {
            // SAFETY: the view's range is valid for writes while the view lives (`Buffers::new`, or the exclusive
            // borrow in `of`); `bytes` holds `len` more bytes because the lengths are equal.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr().add(done), base, len) };
            done += len;
        });
    }

    /// Fills the view with zeroes.
    #[expect(unsafe_code, reason = "writes to memory that the guest may also touch, so no slice may exist")]
    pub fn zero(self) {
        self.0.pieces(|base, len| {
            // SAFETY: the view's range is valid for writes while the view lives, as in `copy_from`.
            unsafe { ptr::write_bytes(base, 0, len) };
        });
    }
}

/// Memory to take bytes from.
#[derive(Clone, Copy)]
pub struct Source<'a>(View<'a>, PhantomData<&'a [u8]>);

impl<'a> Source<'a> {
    /// A buffer of our own.
    #[must_use]
    pub fn of(buffer: &'a [u8]) -> Self {
        let view = View { repr: Repr::Flat(buffer.as_ptr().cast_mut()), skip: 0, len: buffer.len() };
        Self(view, PhantomData)
    }

    as_view!('a);

    /// Copies the view to `bytes`, which must be as long.
    ///
    /// # Panics
    /// When the lengths differ: a fault of ours.
    #[expect(unsafe_code, reason = "copies from memory that the guest may also touch, so no slice may exist")]
    pub fn copy_to(self, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), self.0.len);
        let mut done = 0;
        self.0.pieces(|base, len| {
            // SAFETY: the view's range is valid for reads while the view lives; `bytes` has room for `len` more
            // bytes because the lengths are equal.
            unsafe { ptr::copy_nonoverlapping(base, bytes.as_mut_ptr().add(done), len) };
            done += len;
        });
    }

    /// The bytes as a vector of our own, which nobody else can change.
    #[must_use]
    pub fn to_vec(self) -> Vec<u8> {
        let mut bytes = vec![0; self.0.len];
        self.copy_to(&mut bytes);
        bytes
    }

    /// Whether every byte is zero at the moment of looking.
    #[must_use]
    #[expect(unsafe_code, reason = "looks at memory that the guest may also touch, so no slice may exist")]
    pub fn is_zero(self) -> bool {
        const STEP: usize = 512;
        let mut zero = true;
        self.0.pieces(|base, len| {
            let mut at = 0;
            while zero && at < len {
                let take = STEP.min(len - at);
                let mut window = [0u8; STEP];
                // SAFETY: the view's range is valid for reads while the view lives and `take` stays inside it.
                unsafe { ptr::copy_nonoverlapping(base.add(at), window.as_mut_ptr(), take) };
                zero = is_zero(&window[..take]);
                at += take;
            }
        });
        zero
    }
}

fn of_buffers(buffers: &Buffers) -> View<'_> {
    let iovecs = buffers.iovecs();
    View { repr: Repr::Scattered(iovecs), skip: 0, len: iovecs.iter().map(|v| v.iov_len).sum() }
}

/// Whether all of `bytes` are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // Whole words at a time: the compiler makes vector code of it.
    let (words, rest) = bytes.as_chunks::<64>();
    words.iter().all(|w| w.iter().fold(0, |a, b| a | b) == 0) && rest.iter().all(|b| *b == 0)
}

/// A buffer of our own at an address that direct I/O accepts.
pub struct AlignedBuf {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// `len` zero bytes at a multiple of `align` (a power of two).
    #[must_use]
    pub fn new(len: usize, align: usize) -> Self {
        let bytes = vec![0u8; len + align];
        let start = bytes.as_ptr().align_offset(align).min(align);
        Self { bytes, start, len }
    }
}

impl std::ops::Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl std::ops::DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scattered(bytes: &mut [u8], cuts: &[usize]) -> Buffers {
        let mut list = IoVecs::new();
        let mut at = 0;
        for cut in cuts {
            list.push(libc::iovec { iov_base: bytes[at..].as_mut_ptr().cast(), iov_len: *cut });
            at += cut;
        }
        #[expect(unsafe_code, reason = "test memory outlives the buffers")]
        // SAFETY: the callers keep `bytes` alive and untouched while the buffers live.
        unsafe {
            Buffers::new(list, None)
        }
    }

    #[test]
    fn part_of_scattered_memory_crosses_pieces() {
        let mut bytes: Vec<u8> = (0..10).collect();
        let buffers = scattered(&mut bytes, &[3, 0, 4, 3]);

        let part = Source::buffers(&buffers).part(2, 6).to_vec();

        assert_eq!(part, [2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn filling_a_part_leaves_the_rest() {
        let mut bytes = vec![9u8; 8];
        let buffers = scattered(&mut bytes, &[2, 6]);

        Sink::buffers(&buffers).part(1, 3).copy_from(&[1, 2, 3]);
        Sink::buffers(&buffers).part(6, 2).zero();
        drop(buffers);

        assert_eq!(bytes, [9, 1, 2, 3, 9, 9, 0, 0]);
    }

    #[test]
    fn one_bit_in_the_last_byte_is_not_zero() {
        let mut bytes = vec![0u8; 4097];
        assert!(Source::of(&bytes).is_zero());
        bytes[4096] = 1;
        assert!(!Source::of(&bytes).is_zero());
        assert!(!is_zero(&bytes));
    }

    #[test]
    fn aligned_buffer_is_aligned_and_whole() {
        let buffer = AlignedBuf::new(5000, 4096);
        assert_eq!((buffer.as_ptr() as usize % 4096, buffer.len()), (0, 5000));
    }
}
