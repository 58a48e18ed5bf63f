#![expect(unsafe_code, reason = "a disk in memory moves bytes through raw ranges, as the kernel does")]

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rhea_block::{BlockError, Completion, Image, ImageInfo, ImageQueue, Op, Request};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// A request as the image saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub op: Op,
    pub offset: u64,
    pub len: u64,
}

type Listener = Box<dyn Fn(ImageInfo) + Send + Sync>;

struct Queue {
    waiting: VecDeque<Request>,
    done: VecDeque<Completion>,
    event: EventFd,
}

struct Inner {
    data: Vec<u8>,
    info: ImageInfo,
    listeners: Vec<Listener>,
    queues: Vec<Arc<Mutex<Queue>>>,
    seen: Vec<Seen>,
    kicks: usize,
    held: bool,
    failure: Option<i32>,
}

/// A disk in memory: answers at once, or when told to, or with an error.
pub struct MemImage(Arc<Mutex<Inner>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemImage {
    /// `size` bytes, each sector filled with its number.
    #[must_use]
    pub fn new(size: u64) -> Arc<Self> {
        Self::with_info(ImageInfo {
            size,
            physical_block: 512,
            alignment: 1,
            read_only: false,
            discard: true,
            discard_granularity: 4096,
            write_cache: true,
        })
    }

    #[must_use]
    pub fn with_info(info: ImageInfo) -> Arc<Self> {
        let data = (0..info.size).map(|at| (at / 512) as u8).collect();
        let (listeners, queues, seen) = (Vec::new(), Vec::new(), Vec::new());
        let inner = Inner { data, info, listeners, queues, seen, kicks: 0, held: false, failure: None };
        Arc::new(Self(Arc::new(Mutex::new(inner))))
    }

    #[must_use]
    pub fn bytes(&self, at: usize, len: usize) -> Vec<u8> {
        lock(&self.0).data[at..at + len].to_vec()
    }

    /// Requests since the last call.
    #[must_use]
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut lock(&self.0).seen)
    }

    #[must_use]
    pub fn kicks(&self) -> usize {
        lock(&self.0).kicks
    }

    /// From now on every request ends with this error; `None` ends that.
    pub fn fail(&self, errno: Option<i32>) {
        lock(&self.0).failure = errno;
    }

    /// From now on requests wait until [`MemImage::release`].
    pub fn hold(&self) {
        lock(&self.0).held = true;
    }

    /// Lets all that waits finish, and what comes later finish at once.
    pub fn release(&self) {
        let mut inner = lock(&self.0);
        inner.held = false;
        let queues = inner.queues.clone();
        for queue in queues {
            let mut queue = lock(&queue);
            while let Some(request) = queue.waiting.pop_front() {
                let done = inner.carry_out(&request);
                queue.done.push_back(done);
            }
            queue.event.write(1).expect("event");
        }
    }

    pub fn resize(&self, size: u64) {
        let (info, listeners) = {
            let mut inner = lock(&self.0);
            inner.info.size = size;
            inner.data.resize(usize::try_from(size).expect("size"), 0);
            (inner.info, std::mem::take(&mut inner.listeners))
        };
        listeners.iter().for_each(|listener| listener(info));
        lock(&self.0).listeners.extend(listeners);
    }
}

impl Inner {
    fn carry_out(&mut self, request: &Request) -> Completion {
        let tag = request.tag;
        let (start, len) = (usize::try_from(request.offset), usize::try_from(request.len));
        let range = start.ok().zip(len.ok()).and_then(|(start, len)| Some(start..start.checked_add(len)?));
        let Some(disk) = range.and_then(|range| self.data.get_mut(range)) else {
            return Completion { tag, result: Err(libc::EIO) };
        };
        if let Some(errno) = self.failure {
            return Completion { tag, result: Err(errno) };
        }
        match request.op {
            Op::Flush => {}
            Op::Discard | Op::WriteZeroes { .. } => disk.fill(0),
            Op::Read | Op::Write { .. } => {
                assert_eq!(request.buffers.len(), request.len, "length of buffers");
                let mut rest = disk;
                for range in request.buffers.iovecs() {
                    let (now, later) = rest.split_at_mut(range.iov_len);
                    let memory = range.iov_base.cast::<u8>();
                    // SAFETY: the request keeps the ranges valid, and the disk's memory is its own.
                    unsafe {
                        if request.op == Op::Read {
                            memory.copy_from_nonoverlapping(now.as_ptr(), now.len());
                        } else {
                            now.as_mut_ptr().copy_from_nonoverlapping(memory, now.len());
                        }
                    }
                    rest = later;
                }
            }
        }
        Completion { tag, result: Ok(()) }
    }
}

struct MemQueue {
    image: Arc<Mutex<Inner>>,
    queue: Arc<Mutex<Queue>>,
    event: EventFd,
    in_flight: usize,
}

impl Image for MemImage {
    fn info(&self) -> ImageInfo {
        lock(&self.0).info
    }

    fn open_queue(&self, _depth: u32) -> Result<Box<dyn ImageQueue>, BlockError> {
        let no_event = |error| BlockError::io("cannot make an event", error);
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(no_event)?;
        let kept = event.try_clone().map_err(no_event)?;
        let (waiting, done) = (VecDeque::new(), VecDeque::new());
        let queue = Arc::new(Mutex::new(Queue { waiting, done, event: kept }));
        lock(&self.0).queues.push(Arc::clone(&queue));
        Ok(Box::new(MemQueue { image: Arc::clone(&self.0), queue, event, in_flight: 0 }))
    }

    fn on_change(&self, listener: Listener) {
        lock(&self.0).listeners.push(listener);
    }
}

impl ImageQueue for MemQueue {
    fn submit(&mut self, request: Request) {
        self.in_flight += 1;
        let mut image = lock(&self.image);
        image.seen.push(Seen { op: request.op, offset: request.offset, len: request.len });
        let mut queue = lock(&self.queue);
        if image.held {
            queue.waiting.push_back(request);
        } else {
            let done = image.carry_out(&request);
            queue.done.push_back(done);
        }
    }

    fn kick(&mut self) {
        lock(&self.image).kicks += 1;
    }

    fn reap(&mut self) -> Option<Completion> {
        // Under one lock with a release, or its event could be taken away unseen.
        let mut queue = lock(&self.queue);
        let done = queue.done.pop_front();
        match done {
            Some(_) => self.in_flight -= 1,
            // Empty: quiet until the next release.
            None => drop(self.event.read()),
        }
        done
    }

    fn is_ready(&mut self) -> bool {
        !lock(&self.queue).done.is_empty()
    }

    fn notifier(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is this queue's own and stays open as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) }
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}
