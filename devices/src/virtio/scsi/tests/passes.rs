//! A request queue pass by pass, without a thread.

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::requests::many_ranges;
use super::*;
use crate::scsi::Waiter;
use crate::virtio::queue::VirtQueue;
use crate::virtio::scsi::tasks::Which;
use crate::virtio::testing::RecordedEvents;
use crate::virtio::worker::QueueHandler;

/// Steps of [`many_ranges`].
const STEPS: usize = 255;

struct Bare {
    host: Host,
    handler: RequestQueue,
    queue: VirtQueue,
    image: Arc<MemImage>,
    tasks: Arc<Tasks>,
}

impl Bare {
    /// A queue whose disk has told of its power-on.
    fn new() -> Self {
        let device = VirtioScsi::new(ScsiConfig::new("scsi0", 1), Placement::PerQueue).unwrap();
        let (bus, shared) = (device.bus(), Arc::clone(&device.shared));
        // The device's own queues are never started.
        let host = Host::around(GuestBuilder::default().build(device), Arc::clone(&bus), 1);
        let image = MemImage::new(MIB);
        bus.attach(at(0, 0), unit_of(disk(&image), &host, OnError::Stop)).unwrap();
        let tasks = Tasks::new(1);
        let handler = RequestQueue::new(0, (bus, shared, Arc::clone(&tasks))).unwrap();
        let parts = QueueParts {
            index: 2,
            ring: host.requests[0].layout,
            event_idx: false,
            ready: true,
            memory: Arc::clone(&host.guest.ram),
            doorbell: Arc::new(EventFd::new(0).unwrap()),
            events: Arc::new(RecordedEvents::default()),
        };
        let queue = VirtQueue::new(parts, &RingPosition::default()).unwrap();
        let mut bare = Self { host, handler, queue, image, tasks };
        bare.begin(&[0; 6], &[]);
        let _attention = bare.host.requests[0].take_used().unwrap();
        let _ = bare.image.take_seen();
        bare
    }

    /// Takes a command; returns its head.
    fn begin(&mut self, cdb: &[u8], out: &[u8]) -> u16 {
        self.host.offer(0, 0, at(0, 0), cdb, out, 0);
        let mut heads = Vec::new();
        self.queue.take(1, &mut heads).unwrap();
        self.handler.begin(&mut self.queue, heads[0]).unwrap();
        self.handler.flush();
        heads[0]
    }

    fn begin_many(&mut self) -> u16 {
        let (cdb, list) = many_ranges();
        self.begin(&cdb, &list)
    }

    fn finish(&mut self) {
        self.handler.finish(&mut self.queue).unwrap();
    }

    fn response(&self) -> u8 {
        self.host.guest.ram.read_obj(GuestAddress(RESPONSE + 11)).unwrap()
    }

    /// Whether its thread would be called.
    fn calls(&self) -> bool {
        let epoll = Epoll::new().unwrap();
        let fd = self.handler.completions().unwrap();
        epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0)).unwrap();
        epoll.wait(0, &mut [EpollEvent::default()]).unwrap() == 1
    }
}

#[test]
fn pass_takes_a_command_one_step_on_and_calls_for_the_next() {
    let mut bare = Bare::new();
    bare.begin_many();
    assert_eq!(bare.image.take_seen().len(), 1);
    for step in 1..=STEPS {
        assert_eq!(bare.handler.in_flight(), 1);
        bare.finish();
        assert_eq!(bare.image.take_seen().len(), usize::from(step < STEPS), "step {step}");
        assert!(step == STEPS || bare.calls(), "step {step}");
    }
    assert_eq!((bare.handler.in_flight(), bare.response()), (0, response::OK));
    bare.finish();
    assert!(!bare.calls(), "quiet when nothing is found");
}

#[test]
fn stop_between_two_steps_holds_a_command_whose_image_answers_at_once() {
    let mut bare = Bare::new();
    let head = bare.begin_many();
    bare.finish();
    bare.handler.wind_up();
    bare.finish();
    assert_eq!((bare.handler.in_flight(), bare.handler.take_held()), (0, vec![head]));
    assert_eq!(bare.image.take_seen().len(), 2);
}

#[test]
fn command_of_a_unit_that_was_taken_out_goes_no_further() {
    let mut bare = Bare::new();
    bare.begin_many();
    bare.host.bus.detach(at(0, 0)).unwrap();
    bare.finish();
    assert_eq!((bare.handler.in_flight(), bare.response()), (0, response::BAD_TARGET));
    assert_eq!(bare.image.take_seen().len(), 1);
}

#[test]
fn unit_that_was_taken_out_stops_no_machine() {
    let mut bare = Bare::new();
    bare.image.fail(Some(libc::ENOMEDIUM));
    bare.begin_many();
    bare.host.bus.detach(at(0, 0)).unwrap();
    bare.finish();
    assert_eq!((bare.handler.in_flight(), bare.response()), (0, response::BAD_TARGET));
    assert_eq!((bare.handler.take_held(), bare.host.failures.lock().unwrap().len()), (vec![], 0));
}

#[test]
fn command_that_is_aborted_just_before_it_is_held_is_over() {
    let mut bare = Bare::new();
    bare.begin_many();
    let wake = Arc::new(EventFd::new(0).unwrap());
    let waiter = Waiter::new(&wake);
    bare.tasks.abort(Which::Unit(at(0, 0)), response::ABORTED, &waiter);
    waiter.one_ended();
    bare.handler.hold(&mut bare.queue, 0).unwrap();
    assert_eq!((bare.handler.in_flight(), bare.handler.take_held()), (0, vec![]));
    assert_eq!((bare.response(), waiter.is_done()), (response::ABORTED, true));
}

#[test]
fn queue_that_does_not_run_is_quiet_after_one_look() {
    let mut bare = Bare::new();
    let flush = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bare.begin(&flush, &[]);
    bare.finish();
    bare.finish();
    assert_eq!((bare.handler.in_flight(), bare.calls()), (0, false));
    // As by whoever held the disk still.
    bare.image.release();
    assert!(bare.calls());
    bare.handler.idle();
    assert!(!bare.calls());
    bare.host.bus.detach(at(0, 0)).unwrap();
    assert!(bare.calls());
    bare.handler.idle();
    assert!(!bare.calls());
}
