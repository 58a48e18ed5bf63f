//! The lzop container, as lib/decompress_unlzo.c of the kernel reads it: a header, then blocks of LZO1X.

use std::io;

pub(super) const MAGIC: &[u8] = b"\x89LZO\0\r\n\x1a\n";

const VERSION_WITH_LEVEL: u16 = 0x0940;
/// Header flags: a filter (never in kernels), checksums of the unpacked and the packed blocks.
const FILTER: u32 = 0x800;
const UNPACKED_SUMS: [u32; 2] = [1 << 0, 1 << 8];
const PACKED_SUMS: [u32; 2] = [1 << 1, 1 << 9];
/// The largest block lzop makes.
const MOST_BLOCK: usize = 256 << 10;

/// A reader of big-endian numbers.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, width: usize) -> io::Result<u32> {
        Ok(self.take(width)?.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }
}

/// Unpacks into `out` and gives the number of bytes.
///
/// Checksums are not compared: the kernel's own unpacker does not either, and the ELF image is checked afterwards.
pub(super) fn decode(packed: &[u8], out: &mut [u8]) -> io::Result<usize> {
    let mut input = Input(packed);
    let flags = read_header(&mut input)?;
    let sums = |wanted: [u32; 2]| 4 * wanted.iter().filter(|flag| flags & **flag != 0).count();
    let mut done = 0;
    loop {
        let unpacked_len = input.number(4)? as usize;
        if unpacked_len == 0 {
            return Ok(done);
        }
        let packed_len = input.number(4)? as usize;
        if unpacked_len > MOST_BLOCK || packed_len > unpacked_len {
            return Err(invalid(format!("a block of {packed_len} bytes for {unpacked_len}")));
        }
        input.take(sums(UNPACKED_SUMS))?;
        if packed_len < unpacked_len {
            input.take(sums(PACKED_SUMS))?;
        }
        let block = input.take(packed_len)?;
        let target =
            out.get_mut(done..done + unpacked_len).ok_or_else(|| invalid("more bytes than announced".into()))?;
        if packed_len == unpacked_len {
            target.copy_from_slice(block);
        } else {
            let unpacked = lzokay_native::decompress_all(block, Some(unpacked_len))
                .map_err(|source| invalid(format!("a broken block: {source}")))?;
            if unpacked.len() != unpacked_len {
                return Err(invalid(format!("a block of {} bytes instead of {unpacked_len}", unpacked.len())));
            }
            target.copy_from_slice(&unpacked);
        }
        done += unpacked_len;
    }
}

/// Reads the header and gives its flags.
fn read_header(input: &mut Input<'_>) -> io::Result<u32> {
    input.take(MAGIC.len())?;
    let version = input.number(2)? as u16;
    // Library version, and from 0.94 on the version needed.
    input.take(if version >= VERSION_WITH_LEVEL { 4 } else { 2 })?;
    let _method = input.number(1)?;
    if version >= VERSION_WITH_LEVEL {
        let _level = input.number(1)?;
    }
    let flags = input.number(4)?;
    if flags & FILTER != 0 {
        input.take(4)?;
    }
    // Mode, time, and from 0.94 on the time's upper half.
    input.take(if version >= VERSION_WITH_LEVEL { 12 } else { 8 })?;
    let name_len = input.number(1)? as usize;
    // The name and the header's checksum.
    input.take(name_len + 4)?;
    Ok(flags)
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
