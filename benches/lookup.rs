//! Where are the bytes of a 4 KiB range? The question that every request on a warm disk asks once, for raw and qcow2.
//!
//! `cargo bench --bench lookup`. No input or output is timed: answers come from the format's own tables in memory.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use rhea_block::format::qcow2::{CreateOptions, OpenOptions, Qcow2, create};
use rhea_block::format::raw::Raw;
use rhea_block::layer::{Fast, FastOp, Layer, read_vec, write_all};
use rhea_block::protocol::file::{FileOptions, HostFile};

const SIZE: u64 = 256 << 20;
const BLOCK: u64 = 4096;

fn file(path: &Path) -> Arc<dyn Layer> {
    Arc::new(HostFile::open(path, FileOptions { ring: true, ..FileOptions::default() }).expect("file"))
}

/// A qcow2 image with every cluster allocated, its tables warm.
fn qcow2(path: &Path, options: CreateOptions) -> Qcow2 {
    std::fs::write(path, b"").expect("file");
    let image = create(&file(path), None, &CreateOptions { size: SIZE, ..options }).expect("image");
    let piece = vec![0x5a; 1 << 20];
    for at in (0..SIZE).step_by(piece.len()) {
        write_all(&image, &piece, at).expect("fill");
    }
    image.close().expect("close");
    drop(image);
    let image = Qcow2::open(file(path), &OpenOptions::default()).expect("image");
    for at in (0..SIZE).step_by(64 << 10) {
        read_vec(&image, at, 512).expect("warm up");
    }
    image
}

fn raw(path: &Path) -> Raw {
    std::fs::File::create(path).and_then(|file| file.set_len(SIZE)).expect("file");
    Raw::new(file(path), 0, None).expect("raw")
}

/// Marsaglia's xorshift: the same places in every run.
struct Places(u64);

impl Places {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % (SIZE / BLOCK) * BLOCK
    }
}

fn look_ups(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name| folder.path().join(name);
    let subclusters = CreateOptions { extended_l2: true, ..CreateOptions::default() };
    let images: [(&str, Box<dyn Layer>); 3] = [
        ("raw", Box::new(raw(&path("raw")))),
        ("qcow2", Box::new(qcow2(&path("qcow2"), CreateOptions::default()))),
        ("qcow2, extended L2", Box::new(qcow2(&path("extended"), subclusters))),
    ];
    let mut group = criterion.benchmark_group("look-up of a random 4 KiB range");
    for (name, image) in &images {
        let mut places = Places(88_172_645_463_325_252);
        group.bench_function(*name, |bencher| {
            bencher.iter(|| {
                let found = image.fast(FastOp::Read, places.next(), BLOCK);
                assert!(matches!(black_box(found), Fast::Direct(_)), "a warm range has a fast answer");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, look_ups);
criterion_main!(benches);
