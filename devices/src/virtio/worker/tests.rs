//! Starting and stopping, with a handler that finishes when it is told to.

mod polling;

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::virtio::device::QueueParts;
use crate::virtio::testing::{Buf, DriverRing, PATIENCE, RecordedEvents, ram};

/// Keeps chains until `go` is signalled or `polled` is set; holds those that are named in `hold`.
struct Slow {
    go: Arc<EventFd>,
    polled: Arc<AtomicBool>,
    kept: VecDeque<u16>,
    held: Vec<u16>,
    hold: Arc<Mutex<Vec<u16>>>,
    begun: Sender<u16>,
    idled: Sender<()>,
    /// Chains begun since the last flush, and how many there were at each.
    batch: usize,
    batches: Arc<Mutex<Vec<usize>>>,
}

impl QueueHandler for Slow {
    fn completions(&self) -> Option<RawFd> {
        Some(self.go.as_raw_fd())
    }
    fn has_work(&mut self) -> bool {
        self.polled.load(Ordering::SeqCst)
    }
    fn room(&self, size: u16) -> usize {
        usize::from(size) - self.kept.len() - self.held.len()
    }
    fn begin(&mut self, _queue: &mut VirtQueue, head: u16) -> Result<(), QueueError> {
        self.kept.push_back(head);
        self.batch += 1;
        self.begun.send(head).expect("a listener");
        Ok(())
    }
    fn flush(&mut self) {
        self.batches.lock().unwrap().push(std::mem::take(&mut self.batch));
    }
    fn finish(&mut self, queue: &mut VirtQueue) -> Result<(), QueueError> {
        let polled = self.polled.swap(false, Ordering::SeqCst);
        if self.go.read().is_err() && !polled {
            return Ok(());
        }
        while let Some(head) = self.kept.pop_front() {
            if self.hold.lock().unwrap().contains(&head) {
                self.held.push(head);
            } else {
                queue.push_used(head, 0)?;
            }
        }
        Ok(())
    }
    fn idle(&mut self) {
        if self.go.read().is_ok() {
            let _ = self.idled.send(());
        }
    }
    fn in_flight(&self) -> usize {
        self.kept.len()
    }
    fn take_held(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.held)
    }
}

struct Rig {
    thread: Arc<IoThread>,
    worker: QueueWorker,
    driver: DriverRing,
    event_idx: bool,
    ready: bool,
    events: Arc<RecordedEvents>,
    doorbell: Arc<EventFd>,
    go: Arc<EventFd>,
    polled: Arc<AtomicBool>,
    hold: Arc<Mutex<Vec<u16>>>,
    begun: Receiver<u16>,
    idled: Receiver<()>,
    batches: Arc<Mutex<Vec<usize>>>,
}

fn rig() -> Rig {
    rig_on(&IoThread::spawn("test").unwrap())
}

fn rig_on(thread: &Arc<IoThread>) -> Rig {
    let event = || Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let (go, doorbell) = (event(), event());
    let (hold, polled, batches) = (Arc::<Mutex<Vec<u16>>>::default(), Arc::<AtomicBool>::default(), Arc::default());
    let (tell, begun) = channel();
    let (tell_idle, idled) = channel();
    let handler = Slow {
        go: Arc::clone(&go),
        polled: Arc::clone(&polled),
        kept: VecDeque::new(),
        held: vec![],
        hold: Arc::clone(&hold),
        begun: tell,
        idled: tell_idle,
        batch: 0,
        batches: Arc::clone(&batches),
    };
    let worker = QueueWorker::new(thread, Box::new(handler));
    let driver = DriverRing::new(&ram(1 << 20), 0x1000, 4);
    let (thread, events) = (Arc::clone(thread), Arc::default());
    Rig {
        thread,
        worker,
        driver,
        event_idx: true,
        ready: true,
        events,
        doorbell,
        go,
        polled,
        hold,
        begun,
        idled,
        batches,
    }
}

impl Rig {
    fn start(&self, at: &RingPosition) {
        let parts = QueueParts {
            index: 0,
            ring: self.driver.layout,
            event_idx: self.event_idx,
            ready: self.ready,
            memory: Arc::clone(&self.driver.ram),
            doorbell: Arc::clone(&self.doorbell),
            events: Arc::clone(&self.events) as _,
        };
        self.worker.start(VirtQueue::new(parts, at).unwrap(), at.held.clone());
    }

    fn stop(&self) -> Receiver<Option<RingPosition>> {
        let (tell, told) = channel();
        self.worker.stop(Stopped::new(move |position| tell.send(position).unwrap()));
        told
    }

    /// Waits until the worker has taken `count` chains.
    fn wait_begun(&self, count: usize) {
        for _ in 0..count {
            let _head = self.begun.recv_timeout(PATIENCE).expect("a chain taken");
        }
    }

    fn post(&mut self) -> u16 {
        self.driver.post(&[Buf::writable(0x8000, 1)])
    }
}

#[test]
fn stop_waits_for_what_is_in_flight_and_tells_where() {
    let mut rig = rig();
    rig.post();
    rig.start(&RingPosition::default());
    rig.wait_begun(1);
    let told = rig.stop();
    assert!(told.try_recv().is_err());
    rig.go.write(1).unwrap();
    let position = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(position, Some(RingPosition { next_avail: 1, next_used: 1, held: vec![] }));
    assert_eq!(rig.driver.used_index(), 1);
}

#[test]
fn started_again_it_goes_on_where_it_was() {
    let mut rig = rig();
    rig.start(&RingPosition::default());
    let position = rig.stop().recv_timeout(PATIENCE).unwrap().unwrap();
    let head = rig.post();
    rig.start(&position);
    rig.wait_begun(1);
    rig.go.write(1).unwrap();
    rig.events.wait_used(0, 1);
    assert_eq!(rig.driver.take_all_used(), [(head, 0)]);
}

#[test]
fn held_chains_are_told_and_served_first() {
    let mut rig = rig();
    let head = rig.post();
    rig.hold.lock().unwrap().push(head);
    rig.start(&RingPosition::default());
    rig.wait_begun(1);
    rig.go.write(1).unwrap();
    let position = rig.stop().recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(position, RingPosition { next_avail: 1, next_used: 0, held: vec![head] });
    rig.hold.lock().unwrap().clear();
    rig.start(&position);
    rig.wait_begun(1);
    rig.go.write(1).unwrap();
    rig.events.wait_used(0, 1);
    assert_eq!(rig.driver.take_all_used(), [(head, 0)]);
}

#[test]
fn stop_of_an_idle_queue_breaks_the_promise() {
    let rig = rig();
    assert_eq!(rig.stop().recv_timeout(PATIENCE), Ok(None));
}

#[test]
fn what_calls_a_queue_that_does_not_run_is_made_quiet() {
    let mut rig = rig();
    rig.go.write(1).unwrap();
    rig.idled.recv_timeout(PATIENCE).expect("a look before the start");
    rig.ready = false;
    rig.post();
    rig.start(&RingPosition::default());
    rig.go.write(1).unwrap();
    rig.idled.recv_timeout(PATIENCE).expect("a look while the driver has not rung");
    assert!(rig.begun.try_recv().is_err());
    rig.doorbell.write(1).unwrap();
    rig.wait_begun(1);
    let told = rig.stop();
    rig.go.write(1).unwrap();
    assert!(told.recv_timeout(PATIENCE).unwrap().is_some());
    rig.go.write(1).unwrap();
    rig.idled.recv_timeout(PATIENCE).expect("a look after the stop");
}

#[test]
fn broken_ring_asks_for_a_reset_once_and_can_be_stopped() {
    let mut rig = rig();
    rig.driver.set_avail_index(1000);
    rig.start(&RingPosition::default());
    rig.events.wait_needs_reset();
    rig.doorbell.write(1).unwrap();
    assert!(rig.stop().recv_timeout(PATIENCE).unwrap().is_some());
    assert_eq!(rig.events.needs_reset_count(), 1);
}

#[test]
fn full_device_leaves_the_rest_in_the_ring_until_there_is_room() {
    let mut rig = rig();
    for _ in 0..4 {
        rig.post();
    }
    rig.start(&RingPosition::default());
    rig.wait_begun(4);
    rig.driver.offer(0);
    rig.doorbell.write(1).unwrap();
    assert!(rig.begun.try_recv().is_err());
    rig.go.write(1).unwrap();
    rig.wait_begun(1);
    assert_eq!(rig.driver.used_index(), 4);
}

#[test]
fn dropped_worker_breaks_the_promise() {
    let mut rig = rig();
    rig.post();
    rig.start(&RingPosition::default());
    rig.wait_begun(1);
    let Rig { worker, .. } = &rig;
    let (tell, told) = channel();
    worker.stop(Stopped::new(move |position| tell.send(position).unwrap()));
    drop(rig);
    assert_eq!(told.recv_timeout(PATIENCE), Ok(None));
}
