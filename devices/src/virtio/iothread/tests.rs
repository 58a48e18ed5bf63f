//! The loop: messages, descriptors, turns.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::virtio::testing::PATIENCE;

/// Reports every call, and watches one descriptor.
struct Reporter {
    event: Arc<EventFd>,
    trigger: Trigger,
    calls: Sender<Ready>,
    again: usize,
}

impl Worker for Reporter {
    fn attach(&mut self, sources: &mut Sources<'_>) -> io::Result<()> {
        sources.watch(self.event.as_raw_fd(), 5, self.trigger)
    }

    fn ready(&mut self, what: Ready, _sources: &mut Sources<'_>) -> Next {
        self.calls.send(what).expect("a listener");
        if self.trigger == Trigger::Level && matches!(what, Ready::Source(_)) {
            self.event.read().expect("event");
        }
        self.again = self.again.saturating_sub(1);
        if self.again > 0 { Next::Again } else { Next::Wait }
    }
}

fn reporter(trigger: Trigger, again: usize) -> (Box<Reporter>, Arc<EventFd>, Receiver<Ready>) {
    let event = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let (calls, seen) = channel();
    (Box::new(Reporter { event: Arc::clone(&event), trigger, calls, again }), event, seen)
}

#[test]
fn each_signal_of_an_unread_eventfd_wakes() {
    let thread = IoThread::spawn("test").unwrap();
    let (worker, event, seen) = reporter(Trigger::Edge, 0);
    let _handle = thread.add(worker);
    for _ in 0..3 {
        event.write(1).unwrap();
        assert_eq!(seen.recv_timeout(PATIENCE), Ok(Ready::Source(5)));
    }
}

#[test]
fn level_source_wakes_until_it_is_read() {
    let thread = IoThread::spawn("test").unwrap();
    let (worker, event, seen) = reporter(Trigger::Level, 0);
    event.write(1).unwrap();
    let handle = thread.add(worker);
    assert_eq!(seen.recv_timeout(PATIENCE), Ok(Ready::Source(5)));
    handle.wake();
    assert_eq!(seen.recv_timeout(PATIENCE), Ok(Ready::Woken));
    assert!(seen.try_recv().is_err());
}

#[test]
fn worker_that_wants_more_is_called_again() {
    let thread = IoThread::spawn("test").unwrap();
    let (worker, _event, seen) = reporter(Trigger::Edge, 3);
    let handle = thread.add(worker);
    handle.wake();
    let calls: Vec<Ready> = (0..3).map(|_| seen.recv_timeout(PATIENCE).unwrap()).collect();
    assert_eq!(calls, [Ready::Woken, Ready::Again, Ready::Again]);
}

#[test]
fn worker_goes_with_its_handle_and_others_stay() {
    let thread = IoThread::spawn("test").unwrap();
    let (first, first_event, first_seen) = reporter(Trigger::Edge, 0);
    let (second, second_event, second_seen) = reporter(Trigger::Edge, 0);
    let handle = thread.add(first);
    let _kept = thread.add(second);
    drop(handle);
    // The sender goes with the worker.
    assert!(first_seen.recv_timeout(PATIENCE).is_err());
    first_event.write(1).unwrap();
    second_event.write(1).unwrap();
    assert_eq!(second_seen.recv_timeout(PATIENCE), Ok(Ready::Source(5)));
    let (third, third_event, third_seen) = reporter(Trigger::Edge, 0);
    let _third = thread.add(third);
    third_event.write(1).unwrap();
    assert_eq!(third_seen.recv_timeout(PATIENCE), Ok(Ready::Source(5)));
}

#[test]
fn thread_ends_with_its_last_handle_and_drops_its_workers() {
    let thread = IoThread::spawn("test").unwrap();
    let (worker, _event, seen) = reporter(Trigger::Edge, 0);
    let handle = thread.add(worker);
    drop((handle, thread));
    assert!(seen.recv().is_err());
}

#[test]
fn thread_tells_its_kernel_id_and_name() {
    let thread = IoThread::spawn("disk-x-0").unwrap();
    let comm = std::fs::read_to_string(format!("/proc/self/task/{}/comm", thread.tid())).unwrap();
    assert_eq!((comm.trim(), thread.name()), ("disk-x-0", "disk-x-0"));
}
