//! The compressions that Linux kernels are packed with, each into memory of a known size.
//!
//! The kernel's build (scripts/Makefile.lib) ends each payload with the unpacked length, 32 bits little-endian; for
//! gzip this is the format's own last field. The decoders write no byte past that length.

use std::io::{self, Read};

use super::{UnpackError, lz4, lzop};

/// Memory that an xz or lzma decoder may take for its dictionary: kernels use up to 128 MiB.
const MOST_DICTIONARY: u64 = 192 << 20;
/// Bytes of the length behind a payload.
const SIZE_LEN: usize = 4;

/// A compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Xz,
    Zstd,
    Lz4,
    Lzma,
    Bzip2,
    Lzop,
    /// Not compressed at all (`CONFIG_KERNEL_UNCOMPRESSED`).
    Plain,
}

const MAGICS: [(&[u8], Packing); 8] = [
    (&[0x1f, 0x8b, 0x08], Packing::Gzip),
    (b"\xfd7zXZ\0", Packing::Xz),
    (&[0x28, 0xb5, 0x2f, 0xfd], Packing::Zstd),
    (&lz4::MAGIC, Packing::Lz4),
    (&[0x5d, 0x00, 0x00], Packing::Lzma),
    (b"BZh", Packing::Bzip2),
    (lzop::MAGIC, Packing::Lzop),
    (b"\x7fELF", Packing::Plain),
];

impl Packing {
    /// Tells the compression from a payload's first bytes.
    pub(super) fn of(payload: &[u8]) -> Option<Self> {
        MAGICS.iter().find(|(magic, _)| payload.starts_with(magic)).map(|(_, packing)| *packing)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Lzma => "lzma",
            Self::Bzip2 => "bzip2",
            Self::Lzop => "lzop",
            Self::Plain => "uncompressed",
        }
    }

    /// Unpacks a payload, its length included, so that it fills `out`.
    ///
    /// `out_is_zero`: `out` reads as zero, so that zeros need not be written.
    pub(super) fn decode(self, payload: &[u8], out: &mut [u8], out_is_zero: bool) -> Result<(), UnpackError> {
        let body = &payload[..payload.len().saturating_sub(SIZE_LEN)];
        let broken = |source| UnpackError::Broken { packing: self.name(), source };
        let found = match self {
            Self::Gzip => fill(flate2::bufread::GzDecoder::new(payload), out),
            Self::Xz => liblzma::stream::Stream::new_stream_decoder(MOST_DICTIONARY, 0)
                .map_err(io::Error::other)
                .and_then(|stream| fill(liblzma::bufread::XzDecoder::new_stream(body, stream), out)),
            Self::Lzma => liblzma::stream::Stream::new_lzma_decoder(MOST_DICTIONARY)
                .map_err(io::Error::other)
                .and_then(|stream| fill(liblzma::bufread::XzDecoder::new_stream(body, stream), out)),
            Self::Zstd => zstd::bulk::decompress_to_buffer(body, out),
            Self::Bzip2 => fill(bzip2::bufread::BzDecoder::new(body), out),
            Self::Lz4 => lz4::decode(body, out, out_is_zero),
            Self::Lzop => lzop::decode(body, out),
            Self::Plain => Err(io::ErrorKind::Unsupported.into()),
        };
        let (found, expected) = (found.map_err(broken)? as u64, out.len() as u64);
        if found == expected { Ok(()) } else { Err(UnpackError::Length { found, expected }) }
    }
}

/// The length behind a payload.
pub(super) fn unpacked_size(payload: &[u8]) -> u32 {
    payload.last_chunk::<SIZE_LEN>().map_or(0, |size| u32::from_le_bytes(*size))
}

/// Reads until `out` is full, and makes sure that nothing follows.
fn fill(mut decoder: impl Read, out: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < out.len() {
        match decoder.read(&mut out[filled..])? {
            0 => return Ok(filled),
            count => filled += count,
        }
    }
    let mut more = [0];
    Ok(filled + decoder.read(&mut more)?)
}
