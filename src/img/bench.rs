//! `bench`: many requests at once, and how long they took.

use std::sync::Arc;
use std::time::Instant;

use rhea_block::graph::CacheMode;
use rhea_block::spec::Aio;
use rhea_block::{Buffers, Disk, Image, ImageQueue, IoVecs, Op, Request};
use rustix::event::{PollFd, PollFlags, poll};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::args::{Opt, Parsed};
use super::error::ImgError;
use super::open::{self, Want};
use super::{output, size};

/// The verb's options.
pub(super) const OPTIONS: &[Opt] = &[
    open::OBJECT,
    open::IMAGE_OPTS,
    open::FORCE_SHARE,
    Opt::value('c').or("count"),
    Opt::value('d').or("depth"),
    Opt::value('f').or("format"),
    Opt::value('i').or("aio"),
    Opt::value('o').or("offset"),
    Opt::value('s').or("buffer-size"),
    Opt::value('S').or("step-size"),
    Opt::value('t').or("cache"),
    Opt::flag('n').or("native"),
    Opt::flag('q').or("quiet"),
    Opt::flag('w').or("write"),
    Opt::long_value("pattern"),
    Opt::long_value("flush-interval"),
    Opt::long_flag("no-drain"),
];

/// Bytes of all buffers together.
const MOST_MEMORY: u64 = 1 << 30;

fn said(text: impl Into<String>) -> ImgError {
    ImgError::Said(text.into())
}

/// What is to be done.
struct Plan {
    count: u64,
    depth: u64,
    bytes: u64,
    step: u64,
    offset: u64,
    write: bool,
    pattern: u8,
    flush_every: u64,
    drain: bool,
}

impl Plan {
    fn read(parsed: &Parsed) -> Result<Self, ImgError> {
        let number = |name: &str, what: &str, default: u64, least: u64, most: u64| {
            parsed.get(name).map_or(Ok(default), |text| match text.parse() {
                Ok(n) if (least..=most).contains(&n) => Ok(n),
                _ => Err(said(format!("Invalid {what} specified"))),
            })
        };
        let most = i32::MAX as u64;
        let bytes = parsed.get("s").map_or(Ok(4096), |text| size::read_in("buffer size", text, 1, most))?;
        let step = parsed.get("S").map_or(Ok(0), |text| size::read_in("step size", text, 0, most))?;
        let plan = Self {
            count: number("c", "request count", 75000, 0, most)?,
            depth: number("d", "queue depth", 64, 1, most)?,
            bytes,
            step: if step == 0 { bytes } else { step },
            offset: parsed.get("o").map_or(Ok(0), |text| size::read("offset", text))?,
            write: parsed.has("w"),
            pattern: number("pattern", "pattern byte", 0, 0, 255)? as u8,
            flush_every: number("flush-interval", "flush interval", 0, 0, most)?,
            drain: !parsed.has("no-drain"),
        };
        if plan.flush_every > 0 && !plan.write {
            return Err(said("--flush-interval is only available in write tests"));
        }
        if plan.flush_every > 0 && plan.flush_every < plan.depth {
            return Err(said("Flush interval can't be smaller than depth"));
        }
        if plan.bytes.checked_mul(plan.depth).is_none_or(|all| all > MOST_MEMORY) {
            return Err(said(format!("buffers of {} bytes for {} requests are too much memory", bytes, plan.depth)));
        }
        Ok(plan)
    }
}

/// Runs the verb.
///
/// # Errors
/// The image cannot be opened, or a request failed.
pub(super) fn run(parsed: &Parsed) -> Result<(), ImgError> {
    let [name] = parsed.operands.as_slice() else {
        return Err(ImgError::Usage("Expecting one image file name".to_owned()));
    };
    let plan = Plan::read(parsed)?;
    let aio = match parsed.get("i").or(parsed.has("n").then_some("native")) {
        None => None,
        Some("threads") => Some(Aio::Threads),
        Some("native") => Some(Aio::Native),
        Some("io_uring") => Some(Aio::IoUring),
        Some(other) => return Err(said(format!("Invalid aio option: {other}"))),
    };
    let cache = open::cache_mode("", parsed.get("t"), CacheMode::default())?;
    let want = Want { cache, aio, write: plan.write, ..Want::of(parsed)? };
    let image = open::open(name, want)?;
    if image.layer().size() < plan.bytes && plan.count > 0 {
        return Err(said(format!("'{name}' is smaller than one request")));
    }
    let quiet = parsed.has("q");
    if !quiet {
        let kind = if plan.write { "write" } else { "read" };
        output::line(format!(
            "Sending {} {kind} requests, {} bytes each, {} in parallel (starting at offset {}, step size {})",
            plan.count, plan.bytes, plan.depth, plan.offset, plan.step
        ))?;
        if plan.flush_every > 0 {
            let how = if plan.drain { "" } else { " without draining" };
            output::line(format!("Sending flush every {} requests{how}", plan.flush_every))?;
        }
    }
    let disk = Disk::new(image.layer().clone(), cache.write_cache());
    let started = Instant::now();
    Run::new(&disk, &plan)?.finish()?;
    let took = started.elapsed().as_secs_f64();
    image.close()?;
    if quiet { Ok(()) } else { output::line(format!("Run completed in {took:.3} seconds.")) }
}

struct Run<'a> {
    plan: &'a Plan,
    queue: Box<dyn ImageQueue>,
    memory: Arc<GuestMemoryMmap>,
    size: u64,
    /// Buffers that are not in use.
    free: Vec<u64>,
    next: u64,
    sent: u64,
    done: u64,
    since_flush: u64,
}

/// Tag of flushes.
const FLUSH: u64 = u64::MAX;

impl<'a> Run<'a> {
    fn new(disk: &Disk, plan: &'a Plan) -> Result<Self, ImgError> {
        let bytes = (plan.bytes * plan.depth) as usize;
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes)])
            .map_err(|e| said(format!("no memory for the buffers: {e}")))?;
        let filled = memory.write_slice(&vec![plan.pattern; bytes], GuestAddress(0));
        filled.map_err(|e| said(format!("could not fill the buffers: {e}")))?;
        let depth = u32::try_from(plan.depth).unwrap_or(u32::MAX);
        let queue = disk.open_queue(depth).map_err(ImgError::block("could not open a queue"))?;
        Ok(Self {
            plan,
            queue,
            memory: Arc::new(memory),
            size: disk.info().size,
            free: (0..plan.depth).collect(),
            next: plan.offset,
            sent: 0,
            done: 0,
            since_flush: 0,
        })
    }

    fn finish(&mut self) -> Result<(), ImgError> {
        while self.done < self.plan.count {
            while self.sent < self.plan.count && self.may_send() {
                self.send()?;
            }
            self.queue.kick();
            self.wait()?;
        }
        while self.queue.in_flight() > 0 {
            self.wait()?;
        }
        Ok(())
    }

    /// Whether a buffer is free and no flush is due that must come first.
    fn may_send(&mut self) -> bool {
        let due = self.plan.flush_every > 0 && self.since_flush == self.plan.flush_every;
        if due {
            if self.plan.drain && self.queue.in_flight() > 0 {
                return false;
            }
            self.queue.submit(Request { tag: FLUSH, op: Op::Flush, offset: 0, len: 0, buffers: Buffers::none() });
            self.since_flush = 0;
            if self.plan.drain {
                return false;
            }
        }
        !self.free.is_empty()
    }

    fn send(&mut self) -> Result<(), ImgError> {
        let Some(tag) = self.free.pop() else { return Ok(()) };
        if self.next > self.size - self.plan.bytes {
            self.next %= self.size;
            if self.next > self.size - self.plan.bytes {
                self.next = 0;
            }
        }
        let buffers = self.buffers(tag)?;
        let op = if self.plan.write { Op::Write { fua: false } } else { Op::Read };
        self.queue.submit(Request { tag, op, offset: self.next, len: self.plan.bytes, buffers });
        self.next += self.plan.step;
        self.sent += 1;
        self.since_flush += 1;
        Ok(())
    }

    /// The memory of buffer `tag`.
    #[expect(unsafe_code, reason = "requests take raw ranges, as guests' memory is given to them")]
    fn buffers(&self, tag: u64) -> Result<Buffers, ImgError> {
        let slice = self.memory.get_slice(GuestAddress(tag * self.plan.bytes), self.plan.bytes as usize);
        let slice = slice.map_err(|e| said(format!("no buffer {tag}: {e}")))?;
        let base = slice.ptr_guard_mut().as_ptr();
        let mut list = IoVecs::new();
        list.push(libc::iovec { iov_base: base.cast(), iov_len: self.plan.bytes as usize });
        // SAFETY: the range lies in the mapping that the owner keeps alive, and no reference into it exists.
        Ok(unsafe { Buffers::new(list, Some(self.memory.clone())) })
    }

    /// Waits for one completion at least, and takes all there are.
    fn wait(&mut self) -> Result<(), ImgError> {
        let mut any = false;
        loop {
            while let Some(completion) = self.queue.reap() {
                any = true;
                if let Err(errno) = completion.result {
                    let text = std::io::Error::from_raw_os_error(errno);
                    return Err(said(format!("Failed request: {text}")));
                }
                if completion.tag != FLUSH {
                    self.done += 1;
                    self.free.push(completion.tag);
                }
            }
            if any || self.queue.in_flight() == 0 {
                return Ok(());
            }
            let mut fds = [PollFd::from_borrowed_fd(self.queue.notifier(), PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(said(format!("could not wait for requests: {e}"))),
            }
        }
    }
}
