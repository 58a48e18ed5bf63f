//! LZ4's legacy frame, which the kernel uses (lz4_Frame_format.md, "Legacy frame"), and its block format
//! (lz4_Block_format.md).
//!
//! The decoder is our own because of where it writes: into guest memory that reads as zero. Half of a kernel is
//! zeros, which it skips instead of writing them, so that the pages behind them are never touched. Its fast path
//! checks once a sequence what others check once a copy.

#![expect(unsafe_code, reason = "the fast path copies whole words without a check for each; see `Cursor`")]

use std::io;

#[cfg(test)]
pub(super) mod tests;

/// A legacy frame's first bytes.
pub(super) const MAGIC: [u8; 4] = 0x184c_2102u32.to_le_bytes();
/// Unpacked bytes of each block but the last.
const BLOCK: usize = 8 << 20;

/// Literal and match lengths of this nibble continue in further bytes.
const LONG: usize = 15;
const LEAST_MATCH: usize = 4;
/// What the fast path reads from the input at most: token, 16 literals, offset.
const FAST_INPUT: usize = 1 + 16 + 2;
/// What it writes at most: 16 bytes of literals, of which at least none count, and 24 of a match.
const FAST_OUTPUT: usize = 16 + 24;
/// The fast path writes this far past the end of a sequence at most, so that fresh memory is not fresh there.
const OVERSHOOT: usize = FAST_OUTPUT;

/// Unpacks a legacy frame into `out` and gives the number of bytes.
///
/// `out_is_zero`: `out` reads as zero, so that long runs of zeros need not be written.
pub(super) fn decode(frame: &[u8], out: &mut [u8], out_is_zero: bool) -> io::Result<usize> {
    let mut rest = frame.strip_prefix(&MAGIC).ok_or_else(|| broken("no magic"))?;
    let mut done = 0;
    while let Some((size, behind)) = rest.split_first_chunk::<4>() {
        let size = u32::from_le_bytes(*size) as usize;
        let (block, next) = behind.split_at_checked(size).ok_or_else(|| broken("a block passes the end"))?;
        let end = out.len().min(done + BLOCK);
        done += decode_block(block, &mut out[done..end], out_is_zero).ok_or_else(|| broken("a broken block"))?;
        rest = next;
    }
    if rest.is_empty() { Ok(done) } else { Err(broken("bytes behind the last block")) }
}

fn broken(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Unpacks one block; `None` if it is broken or passes the end of `out`.
fn decode_block(block: &[u8], out: &mut [u8], out_is_zero: bool) -> Option<usize> {
    let mut cursor = Cursor { input: block, output: out, read: 0, written: 0 };
    loop {
        let (token, literals) = cursor.fast_sequences()?;
        let literals = cursor.length(literals)?;
        cursor.literals(literals)?;
        if cursor.read == block.len() {
            return Some(cursor.written);
        }
        let offset = cursor.offset()?;
        let length = cursor.length(usize::from(token) & LONG)?.checked_add(LEAST_MATCH)?;
        cursor.copy_match(offset, length, out_is_zero)?;
    }
}

/// Positions in the block and in what it unpacks to: `read <= input.len()` and `written <= output.len()` always.
struct Cursor<'a> {
    input: &'a [u8],
    output: &'a mut [u8],
    read: usize,
    written: usize,
}

impl Cursor<'_> {
    /// Unpacks sequences as long as they are short and far from both ends, then reads the next token.
    ///
    /// Gives the token and its literal length nibble. A sequence that was begun here is either finished here, or its
    /// token alone was read.
    fn fast_sequences(&mut self) -> Option<(u8, usize)> {
        let input_limit = self.input.len().saturating_sub(FAST_INPUT);
        let output_limit = self.output.len().saturating_sub(FAST_OUTPUT);
        let (input, output) = (self.input.as_ptr(), self.output.as_mut_ptr());
        let (mut read, mut written) = (self.read, self.written);
        while read < input_limit && written < output_limit {
            // SAFETY: `read + FAST_INPUT <= input.len()` by the loop's condition, so that the token, 16 bytes behind
            // it, and the offset behind at most 14 literals lie inside. `written + FAST_OUTPUT <= output.len()`
            // likewise: 16 bytes at `written` lie inside, and 24 at `written + literals` with at most 14 literals.
            // The match is read from `distance` before that place: `distance <= written + literals`, so that it
            // begins inside, and it ends before the place it is copied to ends. A distance of 16 or more keeps the ranges of each
            // single copy apart; input and output are different slices.
            unsafe {
                let token = *input.add(read);
                let literals = usize::from(token >> 4);
                let length = usize::from(token) & LONG;
                if literals == LONG || length == LONG {
                    break;
                }
                let offset_at = read + 1 + literals;
                let distance = usize::from(u16::from_le(input.add(offset_at).cast::<u16>().read_unaligned()));
                if distance < 16 || distance > written + literals {
                    break;
                }
                output.add(written).cast::<[u8; 16]>().write(input.add(read + 1).cast::<[u8; 16]>().read());
                let to = output.add(written + literals);
                let from = to.sub(distance);
                to.cast::<[u8; 16]>().write(from.cast::<[u8; 16]>().read());
                to.add(16).cast::<[u8; 8]>().write(from.add(16).cast::<[u8; 8]>().read());
                read = offset_at + 2;
                written += literals + length + LEAST_MATCH;
            }
        }
        (self.read, self.written) = (read, written);
        let token = *self.input.get(read)?;
        self.read += 1;
        Some((token, usize::from(token >> 4)))
    }

    /// Completes a length from its nibble.
    fn length(&mut self, nibble: usize) -> Option<usize> {
        let mut length = nibble;
        if nibble == LONG {
            loop {
                let byte = *self.input.get(self.read)?;
                self.read += 1;
                length = length.checked_add(byte.into())?;
                if byte != u8::MAX {
                    break;
                }
            }
        }
        Some(length)
    }

    fn literals(&mut self, count: usize) -> Option<()> {
        let from = self.input.get(self.read..self.read.checked_add(count)?)?;
        self.output.get_mut(self.written..self.written.checked_add(count)?)?.copy_from_slice(from);
        self.read += count;
        self.written += count;
        Some(())
    }

    fn offset(&mut self) -> Option<usize> {
        let bytes = self.input.get(self.read..)?.first_chunk::<2>()?;
        self.read += 2;
        Some(u16::from_le_bytes(*bytes).into())
    }

    fn copy_match(&mut self, distance: usize, length: usize, out_is_zero: bool) -> Option<()> {
        let from = self.written.checked_sub(distance).filter(|_| distance > 0)?;
        let end = self.written.checked_add(length).filter(|end| *end <= self.output.len())?;
        let pattern = from..self.written.min(from + length);
        if out_is_zero && length > OVERSHOOT && self.output[pattern].iter().all(|byte| *byte == 0) {
            self.output[self.written..self.written + OVERSHOOT].fill(0);
            self.written = end;
            return Some(());
        }
        // An overlapping match repeats: each copy doubles what can be copied at once.
        while self.written < end {
            let count = (self.written - from).min(end - self.written);
            self.output.copy_within(from..from + count, self.written);
            self.written += count;
        }
        Some(())
    }
}
