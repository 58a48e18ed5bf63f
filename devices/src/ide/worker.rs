//! A channel's thread: carries orders to images and completions back.

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};

use rhea_block::ImageQueue;

use super::channel::{Order, Shared};
use crate::virtio::iothread::{IoThread, Next, Ready, Sources, Trigger, Worker, WorkerHandle};

/// The way to the thread.
pub(super) struct Link {
    orders: Sender<Order>,
    handle: WorkerHandle,
}

impl Link {
    /// Puts the worker of `shared` on `thread`.
    pub(super) fn new(thread: &Arc<IoThread>, shared: &Arc<Shared>) -> Self {
        let (orders, mail) = channel();
        let worker = ChannelWorker { shared: Arc::downgrade(shared), mail, paths: Vec::new() };
        Self { orders, handle: thread.add(Box::new(worker)) }
    }

    pub(super) fn send(&self, order: Order) {
        // A worker that is gone takes its channel along: nobody waits for the answer.
        if self.orders.send(order).is_ok() {
            self.handle.wake();
        }
    }

    pub(super) fn wake(&self) {
        self.handle.wake();
    }
}

/// An open queue to one medium.
struct Path {
    generation: u64,
    queue: Box<dyn ImageQueue>,
}

struct ChannelWorker {
    shared: Weak<Shared>,
    mail: Receiver<Order>,
    /// One for each drive; those of media that left go when nothing is in flight on them.
    paths: Vec<Path>,
}

/// Completions of any path.
const COMPLETIONS: u32 = 0;

impl Worker for ChannelWorker {
    fn attach(&mut self, _sources: &mut Sources<'_>) -> std::io::Result<()> {
        Ok(())
    }

    fn ready(&mut self, _what: Ready, sources: &mut Sources<'_>) -> Next {
        let Some(shared) = self.shared.upgrade() else { return Next::Wait };
        while let Ok(order) = self.mail.try_recv() {
            self.carry_out(&shared, order, sources);
        }
        while let Some(result) = self.reap() {
            if let Some(order) = shared.completed(result) {
                self.carry_out(&shared, order, sources);
            }
        }
        if shared.media_changed.swap(false, Ordering::AcqRel) {
            self.let_go(&shared, sources);
        }
        Next::Wait
    }
}

impl ChannelWorker {
    /// Closes the paths to media that are no longer there, so that their files may be closed.
    fn let_go(&mut self, shared: &Shared, sources: &mut Sources<'_>) {
        let here = shared.media();
        self.paths.retain(|path| {
            let stays = here.contains(&path.generation);
            if !stays && path.queue.in_flight() > 0 {
                // Its completion brings us back here.
                shared.media_changed.store(true, Ordering::Release);
                return true;
            }
            if !stays {
                sources.forget(path.queue.notifier().as_raw_fd());
            }
            stays
        });
    }

    fn carry_out(&mut self, shared: &Arc<Shared>, order: Order, sources: &mut Sources<'_>) {
        let mut next = Some(order);
        while let Some(order) = next.take() {
            let Some(path) = self.path(&order, sources) else {
                log::error!("an IDE channel has no queue to a medium");
                next = shared.completed(Err(libc::EIO));
                continue;
            };
            path.queue.submit(order.request);
            path.queue.kick();
        }
    }

    /// The queue to the order's medium, opened by whoever put the medium in.
    fn path(&mut self, order: &Order, sources: &mut Sources<'_>) -> Option<&mut Path> {
        let generation = order.medium.generation();
        if let Some(at) = self.paths.iter().position(|path| path.generation == generation) {
            return self.paths.get_mut(at);
        }
        let queue = order.medium.take_queue(0)?;
        if let Err(error) = sources.watch(queue.notifier().as_raw_fd(), COMPLETIONS, Trigger::Level) {
            log::error!("cannot watch a disk: {error}");
            return None;
        }
        self.paths.push(Path { generation, queue });
        self.paths.last_mut()
    }

    fn reap(&mut self) -> Option<Result<(), i32>> {
        self.paths.iter_mut().find_map(|path| path.queue.reap()).map(|done| done.result)
    }
}
