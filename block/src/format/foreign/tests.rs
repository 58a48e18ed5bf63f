//! Images that `qemu-img` (Debian: qemu-utils) makes, read by each format; and the same images damaged.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use proptest::prelude::*;

use crate::format::Foreign;
use crate::layer::{Layer, read_vec};
use crate::protocol::memory::Memory;

const SIZE: usize = 6 << 20;

/// A disk with data, holes between and zeroes at the end.
fn content() -> Vec<u8> {
    let mut disk = vec![0; SIZE];
    for (start, len, byte) in [(0, 70_000, 1), (1 << 20, 4096, 2), ((3 << 20) - 512, 100_352, 3), (5 << 20, 512, 4)] {
        for (n, place) in disk[start..start + len].iter_mut().enumerate() {
            *place = byte + (n % 7) as u8;
        }
    }
    disk
}

fn qemu_img(words: &[&str]) {
    let run = Command::new("qemu-img").args(words).output();
    let run = run.expect("qemu-img makes the images of this test: install the package qemu-utils");
    assert!(run.status.success(), "{words:?}: {}", String::from_utf8_lossy(&run.stderr));
}

fn name(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `content()` as an image of `format`, made with `options`.
fn image(format: Foreign, options: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (raw, made) = (folder.path().join("raw"), folder.path().join("made"));
    std::fs::write(&raw, content()).unwrap();
    let mut words = vec!["convert", "-f", "raw", "-O", format.name()];
    if !options.is_empty() {
        words.extend(["-o", options]);
    }
    words.extend([name(&raw), name(&made)]);
    qemu_img(&words);
    std::fs::read(&made).unwrap()
}

fn open(format: Foreign, bytes: Vec<u8>) -> Result<Arc<dyn Layer>, crate::error::BlockError> {
    let file: Arc<dyn Layer> = Arc::new(Memory::read_only(bytes));
    format.open(&file)
}

/// The image's disk is `content()`, followed by zeroes if the format rounds up.
fn reads_back(format: Foreign, options: &str) {
    let layer = open(format, image(format, options)).unwrap();

    let disk = read_vec(layer.as_ref(), 0, layer.size() as usize).unwrap();

    assert!(disk.len() >= SIZE && disk.len() < SIZE + (1 << 20), "{}", disk.len());
    assert!(disk[..SIZE] == content(), "{} {options}: other bytes", format.name());
    assert!(disk[SIZE..].iter().all(|b| *b == 0));
    walk(layer.as_ref());
    assert!(layer.limits().read_only);
}

/// Goes through all runs; they are never empty and together the disk.
fn walk(layer: &dyn Layer) -> u64 {
    let (mut at, mut steps) = (0, 0);
    while at < layer.size() && steps < 100_000 {
        let Ok(status) = layer.status(at, layer.size() - at) else { break };
        assert!(status.len > 0);
        at += status.len;
        steps += 1;
    }
    steps
}

#[test]
fn every_format_of_qemu_img_reads_back() {
    let cases = [
        (Foreign::Vdi, ""),
        (Foreign::Vdi, "static=on"),
        (Foreign::Vmdk, ""),
        (Foreign::Vmdk, "subformat=streamOptimized"),
        (Foreign::Vhdx, ""),
        (Foreign::Vhdx, "subformat=fixed"),
        (Foreign::Vhdx, "block_size=2M"),
        (Foreign::Vpc, ""),
        (Foreign::Vpc, "subformat=fixed"),
        (Foreign::Vpc, "force_size=on"),
        (Foreign::Qed, ""),
        (Foreign::Qed, "cluster_size=32768,table_size=2"),
        (Foreign::Parallels, ""),
    ];
    for (format, options) in cases {
        reads_back(format, options);
    }
}

#[test]
fn extents_in_other_files_are_refused_by_name() {
    let bytes = b"# Disk DescriptorFile\nversion=1\n".to_vec();

    let refused = open(Foreign::Vmdk, bytes).err().unwrap();

    assert!(refused.to_string().contains("other files"), "{refused}");
}

/// A stream (RFC 1950) of `bytes`.
fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, bytes).unwrap();
    packed.finish().unwrap()
}

#[test]
fn packed_grains_that_are_not_whole_are_no_zeroes() {
    let whole = image(Foreign::Vmdk, "subformat=streamOptimized");
    let sector = u64::from_le_bytes(whole[64..72].try_into().unwrap());
    let grain = usize::try_from(sector).unwrap() * 512;
    let len = u32::from_le_bytes(whole[grain + 8..grain + 12].try_into().unwrap());
    let with = |len: u32, bytes: &[u8]| {
        let mut image = whole.clone();
        image[grain + 8..grain + 12].copy_from_slice(&len.to_le_bytes());
        image[grain + 12..grain + 12 + bytes.len()].copy_from_slice(bytes);
        image
    };
    let stream = |bytes: usize| {
        let stream = packed(&vec![b'A'; bytes]);
        with(stream.len() as u32, &stream)
    };
    for (case, bytes) in
        [("cut", with(len / 2, &[])), ("empty", with(0, &[])), ("short", stream(1000)), ("long", stream(70_000))]
    {
        let layer = open(Foreign::Vmdk, bytes).unwrap();
        let error = read_vec(layer.as_ref(), 0, 512).unwrap_err();
        assert!(error.to_string().contains("does not unpack"), "{case}: {error}");
    }
    let layer = open(Foreign::Vmdk, stream(65536)).unwrap();
    assert_eq!(read_vec(layer.as_ref(), 0, 512).unwrap(), [b'A'; 512]);
}

#[test]
fn writes_are_refused() {
    let layer = open(Foreign::Vdi, image(Foreign::Vdi, "")).unwrap();

    let refused = crate::layer::write_all(layer.as_ref(), &[1; 512], 0);

    assert!(refused.unwrap_err().to_string().contains("only read"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Damage to the first 4 KiB, where headers are, and cuts of the file: an error or some bytes, never a panic.
    #[test]
    fn damaged_images_end_in_errors_or_bytes(
        which in 0..Foreign::ALL.len(),
        damage in prop::collection::vec((0..4096usize, any::<u8>()), 1..8),
        wide in prop::collection::vec((0..1usize << 19, prop::array::uniform8(any::<u8>())), 0..4),
        keep in prop::option::of(0..1usize << 20),
    ) {
        static IMAGES: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
        let images = IMAGES.get_or_init(|| Foreign::ALL.iter().map(|format| image(*format, "")).collect());
        let mut bytes = images[which].clone();
        for (at, byte) in damage {
            if let Some(place) = bytes.get_mut(at) { *place = byte; }
        }
        for (at, word) in wide {
            if let Some(place) = bytes.get_mut(at..at + 8) { place.copy_from_slice(&word); }
        }
        if let Some(keep) = keep { bytes.truncate(keep); }

        let opened = open(Foreign::ALL[which], bytes);

        if let Ok(layer) = opened {
            walk(layer.as_ref());
            for at in [0, layer.size() / 2, layer.size().saturating_sub(4096)] {
                let _ = read_vec(layer.as_ref(), at, 8192);
            }
        }
    }
}
