//! What a multiboot kernel finds of a BIOS, though none has run.
//!
//! The specification promises nothing of it, but the loaders that people have are started by a BIOS, and kernels make
//! use of that: Xen reads from the BIOS data area where low memory ends, and calls the BIOS from real mode. Each of
//! its interrupts answers here as a BIOS does that has not the function asked for: with the carry flag.

use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::files;
use crate::x86_64::boot::BootError;
use crate::x86_64::layout::EBDA_START;

/// Vectors of real mode, segment and offset each, from address 0.
const VECTORS: usize = 256;
/// The BIOS data area: segment of the extended data area, KiB of memory below it (IBM PC AT Technical Reference, 5).
const EBDA_SEGMENT: usize = 0x40e;
const LOW_MEMORY: usize = 0x413;
/// Sixteen bytes of the data area that are left to programs.
const HANDLER: usize = 0x4f0;
/// End of the data area.
const END: usize = 0x500;
/// `push bp; mov bp, sp; or word [bp+6], 1; pop bp; iret`: the flags on the stack get the carry.
const REFUSE: [u8; 9] = [0x55, 0x89, 0xe5, 0x83, 0x4e, 0x06, 0x01, 0x5d, 0xcf];

/// Writes vectors and data area.
pub(super) fn write<M: GuestMemoryBackend>(mem: &M) -> Result<(), BootError> {
    let mut area = [0; END];
    for vector in area.chunks_exact_mut(4).take(VECTORS) {
        vector[..2].copy_from_slice(&(HANDLER as u16).to_le_bytes());
    }
    area[EBDA_SEGMENT..][..2].copy_from_slice(&((EBDA_START >> 4) as u16).to_le_bytes());
    area[LOW_MEMORY..][..2].copy_from_slice(&((EBDA_START >> 10) as u16).to_le_bytes());
    area[HANDLER..][..REFUSE.len()].copy_from_slice(&REFUSE);
    files::write(mem, "the BIOS data area", &area, GuestAddress(0))
}
