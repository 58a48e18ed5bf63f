//! The work itself, in the guest: a line of JSON for each job, with the nanoseconds of a request by the guest's clock.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use io_uring::{IoUring, opcode, types};

use super::job::Job;

/// Time for the driver, which has the processor to itself then.
const PAUSE: Duration = Duration::from_millis(50);
const BLOCK: usize = 4096;
const MEBIBYTE: usize = 1 << 20;
const DEPTH: usize = 32;

/// Does every job on the guest's only disk.
pub(super) fn run() -> Result<u8> {
    let disk = Disk::open()?;
    for job in Job::ALL {
        // What is done for the first time is not counted. The driver looks at its counters while the guest sleeps.
        disk.work(job, job.requests() / 8)?;
        println!("begin");
        std::thread::sleep(PAUSE);
        let start = Instant::now();
        disk.work(job, job.requests())?;
        let each = start.elapsed().as_nanos() / u128::from(job.requests());
        println!("job {} {each}", serde_json::to_string(&job)?);
    }
    println!("end");
    Ok(0)
}

/// The disk, past the guest's page cache, and memory for its requests.
struct Disk {
    file: File,
    blocks: u64,
    memory: Memory,
}

impl Disk {
    fn open() -> Result<Self> {
        let path = ["/dev/vda", "/dev/sda"].into_iter().map(Path::new).find(|path| path.exists());
        let path = path.context("the guest has no disk")?;
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)?;
        let name = path.file_name().context("no name")?;
        let sectors = std::fs::read_to_string(Path::new("/sys/block").join(name).join("size"))?;
        let blocks = sectors.trim().parse::<u64>()? / 8;
        ensure!(blocks > 0, "the disk is empty");
        Ok(Self { file, blocks, memory: Memory::new() })
    }

    fn work(&self, job: Job, count: u32) -> Result<()> {
        match job {
            Job::Read32 => self.many(count, false),
            Job::Write32 => self.many(count, true),
            Job::Read1 => self.one_by_one(count, |offset| self.read(offset, BLOCK)),
            Job::WriteSync => self.one_by_one(count, |offset| {
                self.file.write_all_at(self.memory.block(0), offset)?;
                Ok(self.file.sync_data()?)
            }),
            Job::Sequential => (0..u64::from(count)).try_for_each(|n| self.read(n << 20, MEBIBYTE)),
        }
    }

    fn one_by_one(&self, count: u32, mut each: impl FnMut(u64) -> Result<()>) -> Result<()> {
        let mut offsets = Offsets::new(self.blocks);
        (0..count).try_for_each(|_| each(offsets.next()))
    }

    /// Keeps as many requests in flight as [`DEPTH`] says, through a ring of the guest's kernel.
    fn many(&self, count: u32, write: bool) -> Result<()> {
        let mut ring = IoUring::new(DEPTH as u32)?;
        let mut offsets = Offsets::new(self.blocks);
        let mut free: Vec<usize> = (0..DEPTH).collect();
        let (mut begun, mut done) = (0, 0);
        while done < count {
            while begun < count
                && let Some(slot) = free.pop()
            {
                self.submit(&mut ring, slot, offsets.next(), write)?;
                begun += 1;
            }
            ring.submit_and_wait(1)?;
            for completion in ring.completion() {
                ensure!(completion.result() == BLOCK as i32, "a request came to {}", completion.result());
                free.push(usize::try_from(completion.user_data())?);
                done += 1;
            }
        }
        Ok(())
    }

    fn submit(&self, ring: &mut IoUring, slot: usize, offset: u64, write: bool) -> Result<()> {
        let (fd, memory) = (types::Fd(self.file.as_raw_fd()), self.memory.pointer(slot * BLOCK));
        let entry = if write {
            opcode::Write::new(fd, memory, BLOCK as u32).offset(offset).build()
        } else {
            opcode::Read::new(fd, memory, BLOCK as u32).offset(offset).build()
        };
        #[expect(unsafe_code, reason = "io_uring's submission queue cannot check what an entry points to")]
        // SAFETY: the memory lives as long as `self`, longer than the ring, and each slot's is used by one request.
        unsafe {
            ring.submission().push(&entry.user_data(slot as u64))?;
        }
        Ok(())
    }

    fn read(&self, offset: u64, len: usize) -> Result<()> {
        // SAFETY: the pointer is to `len` bytes that live as long as `self`; nothing else looks at them.
        #[expect(unsafe_code, reason = "memory for direct I/O is aligned, which a vector's is not")]
        let count = unsafe {
            let memory = self.memory.pointer(0).cast();
            libc::pread(self.file.as_raw_fd(), memory, len, i64::try_from(offset)?)
        };
        if usize::try_from(count) != Ok(len) {
            bail!("a read of {len} bytes at {offset} came to {count}");
        }
        Ok(())
    }
}

/// Aligned memory.
struct Memory {
    bytes: Vec<u8>,
    start: usize,
}

impl Memory {
    fn new() -> Self {
        let bytes = vec![0x5a; MEBIBYTE + BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK);
        Self { bytes, start }
    }

    fn block(&self, at: usize) -> &[u8] {
        &self.bytes[self.start + at..][..BLOCK]
    }

    /// Only the kernel writes through it, while nobody looks.
    fn pointer(&self, at: usize) -> *mut u8 {
        self.bytes.as_ptr().wrapping_add(self.start + at).cast_mut()
    }
}

/// Offsets of blocks all over the disk, the same in every run.
struct Offsets {
    state: u64,
    blocks: u64,
}

impl Offsets {
    fn new(blocks: u64) -> Self {
        Self { state: 1, blocks }
    }

    /// Knuth's linear congruential generator (MMIX); the upper bits are the random ones.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 32) % self.blocks * BLOCK as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_blocks_of_the_disk_and_repeat() {
        let take = || {
            let mut offsets = Offsets::new(100);
            [(); 50].map(|()| offsets.next())
        };

        assert_eq!(take(), take());
        assert!(take().iter().all(|offset| offset % 4096 == 0 && *offset < 100 * 4096));
    }
}
