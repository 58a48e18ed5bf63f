use std::io::Write;
use std::process::Command;

use super::super::tests::fixture::{Elf, RUN, bzimage, files, memory, read};
use super::super::{BootError, Images, Options, Unpack};
use super::*;
use crate::x86_64::entry::EntryState;
use crate::x86_64::layout::MemoryLayout;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

fn sized(mut packed: Vec<u8>, len: usize) -> Vec<u8> {
    packed.extend((len as u32).to_le_bytes());
    packed
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn xz(data: &[u8]) -> Vec<u8> {
    use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
    // As scripts/xz_wrap.sh of the kernel: an x86 branch filter, LZMA2, CRC32.
    let mut filters = Filters::new();
    filters.x86().lzma2(&LzmaOptions::new_preset(1).unwrap());
    let stream = Stream::new_stream_encoder(&filters, Check::Crc32).unwrap();
    lzma_stream(data, stream)
}

fn lzma(data: &[u8]) -> Vec<u8> {
    use liblzma::stream::{LzmaOptions, Stream};
    lzma_stream(data, Stream::new_lzma_encoder(&LzmaOptions::new_preset(1).unwrap()).unwrap())
}

fn lzma_stream(data: &[u8], stream: liblzma::stream::Stream) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(data).unwrap();
    sized(encoder.finish().unwrap(), data.len())
}

fn zstd(data: &[u8]) -> Vec<u8> {
    sized(::zstd::encode_all(data, 1).unwrap(), data.len())
}

fn bzip2(data: &[u8]) -> Vec<u8> {
    let mut encoder = ::bzip2::write::BzEncoder::new(Vec::new(), ::bzip2::Compression::fast());
    encoder.write_all(data).unwrap();
    sized(encoder.finish().unwrap(), data.len())
}

fn lz4(data: &[u8]) -> Vec<u8> {
    sized(lz4::tests::frame(data), data.len())
}

/// A container with blocks of 256 KiB, with and without packing, as lzop writes them.
fn lzop(data: &[u8]) -> Vec<u8> {
    let mut out = lzop::MAGIC.to_vec();
    // Versions, method, level, flags (a checksum of each unpacked block), mode, time, name, checksum.
    out.extend([0x10, 0x40, 0x20, 0xa0, 0x09, 0x40, 3, 9, 0, 0, 0, 1]);
    out.extend([0; 12]);
    out.extend([0, 0, 0, 0, 0]);
    for block in data.chunks(256 << 10) {
        let packed = lzokay_native::compress(block).unwrap();
        let stored = if packed.len() < block.len() { &packed } else { block };
        out.extend((block.len() as u32).to_be_bytes());
        out.extend((stored.len() as u32).to_be_bytes());
        out.extend([0; 4]);
        out.extend_from_slice(stored);
    }
    out.extend([0; 4]);
    sized(out, data.len())
}

type Packer = (&'static str, fn(&[u8]) -> Vec<u8>);

const PACKERS: [Packer; 7] =
    [("gzip", gzip), ("xz", xz), ("lzma", lzma), ("zstd", zstd), ("bzip2", bzip2), ("lz4", lz4), ("lzop", lzop)];

fn load(mem: &GuestMemoryMmap, payload: &[u8], fresh: bool, unpack: Unpack) -> Result<super::super::Loaded, BootError> {
    let directory = files(&[("kernel", &bzimage(payload, 0x20f))]);
    let layout = MemoryLayout::new(super::super::tests::fixture::RAM, 40).unwrap();
    let options = Options { fresh_memory: fresh, unpack, ..Options::new(&layout, "") };
    Images::open(&directory.path().join("kernel"), None).unwrap().load(mem, &options)
}

fn assert_settled(mem: &GuestMemoryMmap, elf: &Elf, name: &str) {
    for (n, (_, address, file_size, memory_size)) in elf.segments.iter().enumerate() {
        let found = read(mem, *address, *memory_size);
        assert!(found[..*file_size] == elf.content(n), "{name}, segment {n}");
        assert!(found[*file_size..].iter().all(|byte| *byte == 0), "{name}, bss of segment {n}");
    }
}

#[test]
fn every_packing_unpacks_to_where_the_kernel_runs() {
    let elf = Elf::like_linux();
    for (name, pack) in PACKERS {
        let mem = memory();

        let loaded = load(&mem, &pack(&elf.bytes()), true, Unpack::Host).unwrap();

        assert_eq!(loaded.description, format!("bzImage, {name} payload unpacked on the host"));
        assert_eq!(loaded.entry, EntryState::Linux64 { rip: elf.entry, rsi: 0x7000 });
        assert_settled(&mem, &elf, name);
    }
}

#[test]
fn used_memory_is_overwritten_and_cleared() {
    let elf = Elf::like_linux();
    for (name, pack) in PACKERS {
        let mem = memory();
        mem.write_slice(&vec![0xa5; 16 << 20], GuestAddress(14 << 20)).unwrap();

        load(&mem, &pack(&elf.bytes()), false, Unpack::Host).unwrap();

        assert_settled(&mem, &elf, name);
    }
}

#[test]
fn cut_and_damaged_payloads_are_errors_or_harmless() {
    let data = Elf::small().bytes();
    for (name, pack) in PACKERS {
        let whole = pack(&data);
        for cut in [1, 7, 20, whole.len() / 2, whole.len() - 5] {
            let payload = sized(whole[..cut].to_vec(), data.len());
            assert!(load(&memory(), &payload, true, Unpack::Host).is_err(), "{name} cut to {cut}");
        }
        let mem = memory();
        let mut state = 1;
        for _ in 0..40 {
            let mut payload = whole.clone();
            let at = super::super::tests::fixture::xorshift(&mut state) as usize % payload.len();
            payload[at] ^= 1 << (state % 8);
            // Either outcome is right, a panic is not.
            let _ = load(&mem, &payload, true, Unpack::Host);
        }
    }
}

#[test]
fn a_payload_that_lies_about_its_length_is_an_error() {
    let data = Elf::small().bytes();
    for (name, pack) in PACKERS {
        for claimed in [0, 1, data.len() - 1, data.len() + 1, 1 << 31] {
            let mut payload = pack(&data);
            payload.truncate(payload.len() - 4);
            let payload = sized(payload, claimed);
            assert!(load(&memory(), &payload, true, Unpack::Host).is_err(), "{name} claims {claimed}");
        }
    }
}

#[test]
fn the_guest_unpacks_what_the_host_cannot() {
    let payload = sized(b"\x01\x02 no known packing".to_vec(), 100);

    let loaded = load(&memory(), &payload, true, Unpack::Auto).unwrap();
    let error = load(&memory(), &payload, true, Unpack::Host).unwrap_err();

    assert_eq!(loaded.entry, EntryState::Linux64 { rip: RUN + 0x200, rsi: 0x7000 });
    assert!(loaded.description.contains("unpacked by the guest"), "{}", loaded.description);
    assert!(matches!(error, BootError::Unpack { source: UnpackError::UnknownPacking(_), .. }), "{error}");
}

#[test]
fn segments_outside_the_kernels_range_are_refused() {
    for address in [0x10_0000, 0x200_0000 - 0x1000, 1 << 33] {
        let elf = Elf { segments: vec![(0x1000, address, 0x2000, 0x2000)], ..Elf::small() };

        let error = load(&memory(), &gzip(&elf.bytes()), true, Unpack::Host).unwrap_err();

        assert!(matches!(error, BootError::Unpack { .. }), "{address:#x}: {error}");
    }
}

/// Packs as the kernel's `scripts/Makefile.lib` does, which appends the size where the format itself ends without it.
fn packed_by(words: &[&str], data: &[u8]) -> Vec<u8> {
    let directory = files(&[("vmlinux", data)]);
    let unpacked = std::fs::File::open(directory.path().join("vmlinux")).unwrap();
    let output = Command::new(words[0]).args(&words[1..]).stdin(unpacked).output().unwrap_or_else(|error| {
        panic!("this test needs {}, of the Debian packages bzip2, lz4, lzop, xz-utils and zstd: {error}", words[0])
    });
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    if words[0] == "gzip" { output.stdout } else { sized(output.stdout, data.len()) }
}

#[test]
fn what_a_kernel_build_packs_is_unpacked() {
    let builds: [(&str, &[&str]); 9] = [
        ("gzip", &["gzip", "-n", "-f", "-9"]),
        ("bzip2", &["bzip2", "-9"]),
        ("lzma", &["lzma", "-9"]),
        ("lzop", &["lzop", "-9"]),
        ("lz4", &["lz4", "-l", "-9", "-", "-"]),
        ("lz4", &["lz4", "-l", "-1", "-", "-"]),
        ("xz", &["xz", "--check=crc32", "--x86", "--lzma2=dict=32MiB"]),
        ("zstd", &["zstd", "-22", "--ultra"]),
        ("zstd", &["zstd", "-19"]),
    ];
    let elf = Elf::like_linux();
    for (name, words) in builds {
        let mem = memory();

        let loaded = load(&mem, &packed_by(words, &elf.bytes()), true, Unpack::Host).unwrap();

        assert_eq!(loaded.description, format!("bzImage, {name} payload unpacked on the host"), "{words:?}");
        assert_settled(&mem, &elf, name);
    }
}
