//! Several queues of one qcow2 image at once, each on a thread of its own: a guest's virtio-blk with `num-queues`.
//!
//! `cargo bench --bench queues`. The same number of random reads of 4 KiB, in the page cache, is divided among 1, 2 and
//! 4 queues of depth 32. Queues share the image's map and nothing else, so as many queues as there are processors are to
//! do that many times the work of one, and more are not to do less.

use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rhea_block::format::qcow2::{CreateOptions, create};
use rhea_block::layer::{Layer, write_all};
use rhea_block::protocol::file::{FileOptions, HostFile};
use rhea_block::{Buffers, Disk, Image, ImageQueue, IoVecs, Op, Request};
use rustix::event::{PollFd, PollFlags, poll};
use tempfile::NamedTempFile;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const SIZE: u64 = 256 << 20;
const BLOCK: u64 = 4096;
const DEPTH: u64 = 32;
/// Reads of one round, over all queues.
const READS: u64 = 1 << 16;
/// An odd number of blocks that visits all of them in no order that a disk would know.
const STRIDE: u64 = 9_893 * BLOCK;

/// An image whose every cluster is written, in the page cache.
fn disk() -> (NamedTempFile, Disk) {
    let file = NamedTempFile::new().expect("temporary file");
    let options = FileOptions { ring: true, ..FileOptions::default() };
    let host: Arc<dyn Layer> = Arc::new(HostFile::open(file.path(), options).expect("file"));
    let image = create(&host, None, &CreateOptions { size: SIZE, ..CreateOptions::default() }).expect("image");
    let piece = vec![7; 1 << 20];
    (0..SIZE >> 20).for_each(|n| write_all(&image, &piece, n << 20).expect("write"));
    image.flush().expect("flush");
    (file, Disk::new(Arc::new(image), true))
}

/// A queue with its memory, as a thread has it.
struct Reader {
    queue: Box<dyn ImageQueue>,
    memory: Arc<GuestMemoryMmap>,
}

impl Reader {
    fn new(disk: &Disk) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), (DEPTH * BLOCK) as usize)]).expect("memory");
        Self { queue: disk.open_queue(DEPTH as u32).expect("queue"), memory: Arc::new(memory) }
    }

    #[expect(unsafe_code, reason = "requests take raw ranges, as guests' memory is given to them")]
    fn buffers(&self, tag: u64) -> Buffers {
        let slice = self.memory.get_slice(GuestAddress(tag * BLOCK), BLOCK as usize).expect("buffer");
        let mut list = IoVecs::new();
        list.push(libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: BLOCK as usize });
        // SAFETY: the range lies in the mapping that the owner keeps alive, and no reference into it exists.
        unsafe { Buffers::new(list, Some(self.memory.clone())) }
    }

    /// Does `count` reads, the first at block `first` of the order.
    fn read(&mut self, first: u64, count: u64) {
        let mut free: Vec<u64> = (0..DEPTH).collect();
        let (mut sent, mut done) = (0, 0);
        while done < count {
            while let Some(tag) = if sent < count { free.pop() } else { None } {
                let offset = (first + sent) * STRIDE % SIZE;
                let request = Request { tag, op: Op::Read, offset, len: BLOCK, buffers: self.buffers(tag) };
                self.queue.submit(request);
                sent += 1;
            }
            self.queue.kick();
            let before = done;
            while let Some(completion) = self.queue.reap() {
                completion.result.expect("read");
                free.push(black_box(completion.tag));
                done += 1;
            }
            if done == before {
                let mut fds = [PollFd::from_borrowed_fd(self.queue.notifier(), PollFlags::IN)];
                let _ = poll(&mut fds, None);
            }
        }
    }
}

fn reads(criterion: &mut Criterion) {
    let (_file, disk) = disk();
    let mut group = criterion.benchmark_group("qcow2, random 4 KiB reads, cached");
    group.throughput(Throughput::Elements(READS)).sample_size(10);
    for queues in [1, 2, 4] {
        let mut readers: Vec<_> = (0..queues).map(|_| Reader::new(&disk)).collect();
        group.bench_function(BenchmarkId::new("queues", queues), |bencher| {
            bencher.iter_custom(|rounds| {
                let started = Instant::now();
                thread::scope(|scope| {
                    for (n, reader) in (0..).zip(&mut readers) {
                        let share = READS / queues * rounds;
                        scope.spawn(move || reader.read(n * READS / queues, share));
                    }
                });
                started.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, reads);
criterion_main!(benches);
