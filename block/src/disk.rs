//! The handle that front ends hold: an [`Image`] that can be drained and pointed at another node under I/O.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use vmm_sys_util::eventfd::EventFd;

use crate::error::BlockError;
use crate::filter::throttle::Lifted;
use crate::image::{Image, ImageInfo, ImageQueue};
use crate::layer::{Fast, FastOp, Layer, Preallocation, quickest};
use crate::queue::DiskQueue;
use crate::throttle::{Group, Member};

type Listener = Box<dyn Fn(ImageInfo) + Send + Sync>;

/// What a queue and its disk share.
pub(crate) struct Meeting {
    /// Requests started and not finished. Only the queue's thread changes it.
    pub(crate) active: AtomicUsize,
    /// Wakes the queue's thread.
    pub(crate) wake: EventFd,
    /// Somebody did, and the queue has not looked since.
    pub(crate) woken: AtomicBool,
    /// Where the kernel puts what a ring's pending read of `wake` gives; nobody looks. It is here so that it lives as
    /// long as `wake`: that read ends some time after its ring.
    pub(crate) count: AtomicU64,
}

impl Meeting {
    /// One that nobody has woken yet.
    pub(crate) fn new(wake: EventFd) -> Arc<Self> {
        Arc::new(Self { active: 0.into(), wake, woken: false.into(), count: 0.into() })
    }

    pub(crate) fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        // A full counter is readable already.
        let _ = self.wake.write(1);
    }
}

/// What a disk stands on.
struct Top {
    /// The node's layer.
    layer: Arc<dyn Layer>,
    /// What queues send requests to: the same, or what is beneath a node with limits.
    below: Arc<dyn Layer>,
    /// The disk in the group of a node with limits.
    of_node: Option<Arc<Member>>,
    /// The disk in a group of its own.
    own: Option<Arc<Member>>,
}

pub(crate) struct Shared {
    top: Mutex<Top>,
    /// Counts swaps, so that queues notice without taking the lock.
    pub(crate) version: AtomicUsize,
    /// How many drains hold the disk still.
    pub(crate) held: AtomicUsize,
    /// Nothing is carried out any more.
    ended: AtomicBool,
    pub(crate) write_cache: AtomicBool,
    queues: Mutex<Vec<Weak<Meeting>>>,
    /// Told when a queue has become quiet, when a request without one has ended, and when the disk is let go.
    quiet: Condvar,
    /// Requests under way that came through no queue. While the disk is held it does not grow.
    direct: Mutex<usize>,
    listeners: Mutex<Vec<Listener>>,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The way of a request from a queue: as it is from one time that the disk was held to the next. What stands between an
/// image and its file, and does nothing to a request, is asked once in that time, not with each request.
pub(crate) struct Path {
    pub(crate) layer: Arc<dyn Layer>,
    /// Answers as `layer` does when asked for the fast way, if it can say where in `file` its bytes are.
    map: Option<Arc<dyn Layer>>,
    /// Holds the bytes of `map`, or answers as `layer` does.
    file: Arc<dyn Layer>,
    pub(crate) read_only: bool,
    /// The disk was taken from its guest.
    pub(crate) ended: bool,
    /// Who must let requests through, one after the other.
    pub(crate) members: Vec<Arc<Member>>,
}

impl Path {
    fn of(layer: Arc<dyn Layer>, members: Vec<Arc<Member>>, ended: bool) -> Self {
        let quick = quickest(&layer);
        let (map, file) = match quick.store() {
            Some(store) => (Some(quick), store),
            None => (None, quick),
        };
        Self { map, file, read_only: layer.limits().read_only, ended, layer, members }
    }

    /// What [`Layer::fast`] says of the layer. Where that is a place in a file, and the layer a map of it, `token` is set
    /// to what must be held with the answer's [`Pass`](crate::layer::Pass).
    #[inline]
    pub(crate) fn fast(&self, op: FastOp, offset: u64, len: u64, token: &mut Option<Arc<()>>) -> Fast {
        let Some(map) = &self.map else { return self.file.fast(op, offset, len) };
        match map.mapped(op, offset, len) {
            Some(mapped) => {
                *token = Some(mapped.token);
                self.file.fast(op, mapped.offset, len)
            }
            None => map.fast(op, offset, len),
        }
    }
}

impl Shared {
    fn layer(&self) -> Arc<dyn Layer> {
        lock(&self.top).layer.clone()
    }

    /// The way of a queue's requests as of now.
    pub(crate) fn path(&self) -> Path {
        let top = lock(&self.top);
        let (layer, members) = (top.below.clone(), top.own.iter().chain(&top.of_node).cloned().collect());
        drop(top);
        Path::of(layer, members, self.ended.load(Ordering::SeqCst))
    }

    /// Puts the disk on `layer`. Gives the former one back.
    fn place(self: &Arc<Self>, layer: Arc<dyn Layer>) -> Arc<dyn Layer> {
        let (group, below) = layer.throttled().map_or((None, layer.clone()), |(group, below)| (Some(group), below));
        let of_node = group.map(|group| self.join(&group));
        let mut top = lock(&self.top);
        let former = std::mem::replace(&mut top.layer, layer);
        top.below = below;
        // Dropped without the lock: the group wakes others.
        let left = std::mem::replace(&mut top.of_node, of_node);
        drop(top);
        drop(left);
        self.version.fetch_add(1, Ordering::SeqCst);
        former
    }

    fn join(self: &Arc<Self>, group: &Arc<Group>) -> Arc<Member> {
        let this = Arc::downgrade(self);
        group.join(Box::new(move || {
            if let Some(shared) = this.upgrade() {
                shared.wake_queues();
            }
        }))
    }

    fn wake_queues(&self) {
        for queue in lock(&self.queues).iter().filter_map(Weak::upgrade) {
            queue.wake();
        }
    }

    /// Called by a queue whose last request ended while the disk is held.
    pub(crate) fn became_quiet(&self) {
        drop(lock(&self.direct));
        self.quiet.notify_all();
    }

    fn busy(&self) -> bool {
        let mut queues = lock(&self.queues);
        queues.retain(|queue| queue.strong_count() > 0);
        queues.iter().filter_map(Weak::upgrade).any(|queue| queue.active.load(Ordering::SeqCst) > 0)
    }
}

/// A disk: one layer on top, any number of queues. Clones are the same disk.
#[derive(Clone)]
pub struct Disk {
    shared: Arc<Shared>,
}

/// A request that came through no queue, until this is dropped.
struct Direct<'a>(&'a Shared);

impl Drop for Direct<'_> {
    fn drop(&mut self) {
        *lock(&self.0.direct) -= 1;
        self.0.quiet.notify_all();
    }
}

/// Holds a disk still until dropped: nothing is in flight, new requests wait in their queues.
pub struct Drained {
    shared: Arc<Shared>,
    _lifted: Option<Lifted>,
}

impl Disk {
    /// A disk on `layer`; `write_cache` is the `writeback` half of `cache=`.
    #[must_use]
    pub fn new(layer: Arc<dyn Layer>, write_cache: bool) -> Self {
        let top = Top { layer: layer.clone(), below: layer.clone(), of_node: None, own: None };
        let shared = Arc::new(Shared {
            top: Mutex::new(top),
            version: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            write_cache: AtomicBool::new(write_cache),
            queues: Mutex::new(Vec::new()),
            quiet: Condvar::new(),
            direct: Mutex::new(0),
            listeners: Mutex::new(Vec::new()),
        });
        shared.place(layer);
        Self { shared }
    }

    /// Limits the disk by `group`, whatever node it stands on; `None` takes that back. Requests under way are not held
    /// up, and those that waited for the former group ask the new one.
    pub fn set_throttle(&self, group: Option<&Arc<Group>>) {
        let member = group.map(|group| self.shared.join(group));
        let left = std::mem::replace(&mut lock(&self.shared.top).own, member);
        drop(left);
        self.shared.version.fetch_add(1, Ordering::SeqCst);
        self.shared.wake_queues();
    }

    /// The group that limits the disk.
    #[must_use]
    pub fn throttle(&self) -> Option<Arc<Group>> {
        lock(&self.shared.top).own.as_ref().map(|member| member.group().clone())
    }

    /// The layer on top as of now.
    #[must_use]
    pub fn layer(&self) -> Arc<dyn Layer> {
        self.shared.layer()
    }

    /// Switches the volatile write cache that the guest sees; without, every write is flushed before it completes.
    pub fn set_write_cache(&self, on: bool) {
        self.shared.write_cache.store(on, Ordering::Release);
        self.announce();
    }

    /// Waits until nothing is in flight and holds new requests back until the answer is dropped.
    ///
    /// Limits of nodes hold up neither what has begun until then nor what the holder does itself. Queues' threads must go
    /// on reaping; must not be called from one of them with requests in flight.
    #[must_use]
    pub fn drain(&self) -> Drained {
        self.hold(|| Some(Lifted::everywhere()))
    }

    /// The same for a job, which has time and does that often: limits are as they are.
    #[must_use]
    pub fn drain_within_limits(&self) -> Drained {
        self.hold(|| None)
    }

    fn hold(&self, lift: impl FnOnce() -> Option<Lifted>) -> Drained {
        self.shared.held.fetch_add(1, Ordering::SeqCst);
        let lifted = lift();
        let mut direct = lock(&self.shared.direct);
        while *direct > 0 || self.shared.busy() {
            direct = self.shared.quiet.wait(direct).unwrap_or_else(PoisonError::into_inner);
        }
        Drained { shared: self.shared.clone(), _lifted: lifted }
    }

    /// Does `request` on the layer on top as a guest's would be done: while the disk is held still it waits, and who wants
    /// the disk still waits for it. Limits of the disk do not hold it up. Must not be called by who holds the disk.
    pub fn perform<T>(&self, request: impl FnOnce(&dyn Layer) -> T) -> T {
        let shared = &self.shared;
        let mut direct = lock(&shared.direct);
        while shared.held.load(Ordering::SeqCst) > 0 {
            direct = shared.quiet.wait(direct).unwrap_or_else(PoisonError::into_inner);
        }
        *direct += 1;
        drop(direct);
        let _under_way = Direct(shared);
        request(shared.layer().as_ref())
    }

    /// Drains, points the disk at `layer`, lets requests go on. Gives the former layer back.
    pub fn swap(&self, layer: Arc<dyn Layer>) -> Arc<dyn Layer> {
        let drained = self.drain();
        let former = drained.swap(layer);
        drop(drained);
        self.announce();
        former
    }

    /// Changes the size under a running guest and tells the listeners.
    ///
    /// # Errors
    /// As [`Layer::resize`].
    pub fn resize(&self, size: u64) -> Result<(), BlockError> {
        let drained = self.drain();
        self.layer().resize(size, Preallocation::Off)?;
        drop(drained);
        self.announce();
        Ok(())
    }

    /// Tells the listeners how the disk is now; for whoever swapped its layer while it was held still.
    pub fn announce(&self) {
        let info = self.info();
        for listener in lock(&self.shared.listeners).iter() {
            listener(info);
        }
    }
}

impl Drained {
    /// Points the disk at another layer while it is still.
    pub fn swap(&self, layer: Arc<dyn Layer>) -> Arc<dyn Layer> {
        self.shared.place(layer)
    }

    /// Takes the disk from its guest for good: what waits, and all that comes, fails as without a medium.
    pub fn end(self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        let mut top = lock(&self.shared.top);
        // What is only refused is not held back for that. Dropped without the lock: groups wake others.
        let left = (top.own.take(), top.of_node.take());
        drop(top);
        drop(left);
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        // Anything may have changed: queues look again before their next request.
        self.shared.version.fetch_add(1, Ordering::SeqCst);
        if self.shared.held.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.shared.wake_queues();
            drop(lock(&self.shared.direct));
            self.shared.quiet.notify_all();
        }
    }
}

impl Image for Disk {
    fn info(&self) -> ImageInfo {
        let layer = self.shared.layer();
        let limits = layer.limits();
        ImageInfo {
            size: layer.size(),
            physical_block: limits.physical_block,
            alignment: limits.alignment,
            read_only: limits.read_only,
            discard: limits.discard,
            discard_granularity: limits.discard_granularity,
            write_cache: self.shared.write_cache.load(Ordering::Acquire),
        }
    }

    fn open_queue(&self, depth: u32) -> Result<Box<dyn ImageQueue>, BlockError> {
        let (queue, meeting) = DiskQueue::new(self.shared.clone(), depth)?;
        lock(&self.shared.queues).push(Arc::downgrade(&meeting));
        Ok(Box::new(queue))
    }

    fn on_change(&self, listener: Box<dyn Fn(ImageInfo) + Send + Sync>) {
        lock(&self.shared.listeners).push(listener);
    }
}

#[cfg(test)]
pub(crate) mod rig;
#[cfg(test)]
mod tests;
