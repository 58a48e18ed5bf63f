//! The ELF kernel inside a bzImage (Linux Documentation/arch/x86/boot.rst: `payload_offset`, `payload_length`).

use std::io::Read;

use anyhow::{Context, Result, bail};

/// Offset of the count of 512-byte setup sectors.
const SETUP_SECTS: usize = 0x1f1;
/// Offset of `HdrS`.
const MAGIC: usize = 0x202;
/// Offsets of the payload's place behind the setup sectors, and of its length.
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// First bytes of an LZ4 legacy frame.
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// A legacy frame's blocks unpack to at most this.
const LZ4_BLOCK: usize = 8 << 20;
/// First bytes of an xz stream.
const XZ: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];

/// Unpacks the kernel of a bzImage. The formats are those of Debian's kernels.
pub(crate) fn unpack(image: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(image).context("this is no bzImage")?;
    if payload.starts_with(&LZ4_LEGACY) {
        unpack_lz4(payload)
    } else if payload.starts_with(&XZ) {
        let mut kernel = Vec::new();
        liblzma::read::XzDecoder::new(payload).read_to_end(&mut kernel)?;
        Ok(kernel)
    } else {
        bail!("the kernel is packed in a format that starts with {:02x?}", payload.get(..6).unwrap_or_default());
    }
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    if image.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let sectors = usize::from(*image.get(SETUP_SECTS)?);
    let start = (sectors + 1) * 512 + word(image, PAYLOAD_OFFSET)?;
    image.get(start..start.checked_add(word(image, PAYLOAD_LENGTH)?)?)
}

/// Unpacks blocks, each after its length, until what remains is only the unpacked length of the whole.
fn unpack_lz4(payload: &[u8]) -> Result<Vec<u8>> {
    let mut kernel = Vec::new();
    let mut at = LZ4_LEGACY.len();
    while payload.len() > at + 4 {
        let length = word(payload, at).context("block length past the end")?;
        let block = payload.get(at + 4..at + 4 + length).context("block past the end")?;
        kernel.extend(lz4_flex::block::decompress(block, LZ4_BLOCK)?);
        at += 4 + length;
    }
    Ok(kernel)
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}
