//! All on a clock that the tests move.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::group::Clock;
use super::*;

/// The members that are to be woken, and when.
type Alarms = Arc<Mutex<Vec<(Duration, Weak<Member>)>>>;

/// A clock that stands until it is told to move.
#[derive(Clone, Default)]
pub(crate) struct Manual {
    now: Arc<Mutex<Duration>>,
    alarms: Alarms,
}

impl Clock for Manual {
    fn now(&self) -> Duration {
        *self.now.lock().unwrap()
    }

    fn wake_at(&self, time: Duration, member: &Weak<Member>) {
        self.alarms.lock().unwrap().push((time, member.clone()));
    }
}

impl Manual {
    pub(crate) fn group(&self, limits: Limits) -> Arc<Group> {
        Group::with_clock("g", limits, Box::new(self.clone()))
    }

    /// Moves the clock, and wakes whose time has come.
    pub(crate) fn advance(&self, by: Duration) {
        *self.now.lock().unwrap() += by;
        let now = self.now();
        let due: Vec<_> = self.alarms.lock().unwrap().extract_if(.., |(time, _)| *time <= now).collect();
        due.iter().filter_map(|(_, member)| member.upgrade()).for_each(|member| member.wake());
    }
}

fn rate(average: u64) -> Rate {
    Rate { average, ..Rate::default() }
}

fn requests(total: Rate) -> Limits {
    Limits { requests: [total, Rate::default(), Rate::default()], ..Limits::default() }
}

/// A member that always has another request, of `bytes`.
struct Greedy {
    member: Arc<Member>,
    woken: Arc<AtomicU64>,
    had: u64,
}

fn greedy(group: &Arc<Group>) -> Greedy {
    let woken = Arc::new(AtomicU64::new(1));
    let waking = woken.clone();
    let member = group.join(Box::new(move || {
        waking.fetch_add(1, Ordering::SeqCst);
    }));
    Greedy { member, woken, had: 0 }
}

impl Greedy {
    /// Takes what it can get if it was woken.
    fn take(&mut self, direction: Direction, bytes: u64) {
        if self.woken.swap(0, Ordering::SeqCst) > 0 {
            while self.member.ask(direction, bytes) {
                self.had += 1;
            }
        }
    }

    /// Takes what it can get in `seconds`.
    fn take_for(&mut self, clock: &Manual, seconds: u64, direction: Direction, bytes: u64) -> u64 {
        let before = self.had;
        for _ in 0..seconds * 1000 {
            self.take(direction, bytes);
            clock.advance(Duration::from_millis(1));
        }
        self.had - before
    }
}

#[test]
fn average_is_kept_and_a_tenth_of_a_second_is_let_through_at_once() {
    let clock = Manual::default();
    let mut disk = greedy(&clock.group(requests(rate(100))));
    disk.take(Direction::Read, 512);
    assert_eq!(disk.had, 11);
    let ten_seconds = disk.take_for(&clock, 10, Direction::Read, 512);
    assert!((990..=1000).contains(&ten_seconds), "{ten_seconds}");
}

#[test]
fn burst_lasts_as_long_as_the_documented_bucket() {
    // The example of the document: 2000 a second for 60 seconds, then 100 a second.
    let clock = Manual::default();
    let mut disk = greedy(&clock.group(requests(Rate { average: 100, burst: 2000, length: 60 })));
    let first = disk.take_for(&clock, 60, Direction::Write, 512);
    assert!((119_000..=121_000).contains(&first), "{first}");
    disk.take_for(&clock, 10, Direction::Write, 512);
    let later = disk.take_for(&clock, 60, Direction::Write, 512);
    assert!((5900..=6100).contains(&later), "{later}");
}

#[test]
fn bytes_and_long_requests_count_by_their_length() {
    let clock = Manual::default();
    let bytes = Limits { bytes: [Rate::default(), rate(1 << 20), Rate::default()], ..Limits::default() };
    let mut disk = greedy(&clock.group(bytes));
    let reads = disk.take_for(&clock, 10, Direction::Read, 64 << 10);
    assert!((160..=164).contains(&reads), "{reads}");
    disk.take(Direction::Write, 1 << 30);
    assert!(disk.member.ask(Direction::Write, 1 << 30), "writes have no limit");

    let long = Limits { request_size: 8192, ..requests(rate(80)) };
    let mut disk = greedy(&clock.group(long));
    let had = disk.take_for(&clock, 10, Direction::Read, 65536);
    assert!((100..=103).contains(&had), "{had}");
}

#[test]
fn members_of_a_group_have_equal_shares_of_one_limit() {
    let clock = Manual::default();
    let group = clock.group(requests(rate(100)));
    let mut disks: Vec<Greedy> = (0..4).map(|_| greedy(&group)).collect();
    for _ in 0..20_000 {
        // The first always asks first.
        disks.iter_mut().for_each(|disk| disk.take(Direction::Read, 512));
        clock.advance(Duration::from_millis(1));
    }
    let had: Vec<u64> = disks.iter().map(|disk| disk.had).collect();
    assert!((1990..=2015).contains(&had.iter().sum::<u64>()), "{had:?}");
    assert!(had.iter().all(|n| (490..=515).contains(n)), "{had:?}");
}

#[test]
fn who_leaves_or_ends_while_first_in_line_holds_up_nobody() {
    let clock = Manual::default();
    let group = clock.group(requests(rate(10)));
    let (mut first, second, mut third) = (greedy(&group), greedy(&group), greedy(&group));
    first.take(Direction::Write, 1);
    assert!(!second.member.ask(Direction::Write, 1));
    third.take(Direction::Write, 1);

    first.member.leave();
    drop(second);
    let had = third.take_for(&clock, 10, Direction::Write, 1);

    assert!((95..=105).contains(&had), "{had}");
}

#[test]
fn lifted_limits_wake_who_waits() {
    let clock = Manual::default();
    let group = clock.group(requests(rate(1)));
    let mut disk = greedy(&group);
    disk.take(Direction::Read, 512);
    group.set_limits(Limits::default());
    assert!(disk.woken.load(Ordering::SeqCst) > 0);
    assert!((0..1000).all(|_| disk.member.ask(Direction::Read, 512)));
}

#[test]
fn machine_that_comes_to_rest_waits_for_no_limit() {
    let clock = Manual::default();
    let group = clock.group(requests(rate(1)));
    let mut disk = greedy(&group);
    disk.take(Direction::Read, 512);
    group.lift(true);
    assert!(disk.woken.load(Ordering::SeqCst) > 0);
    assert!((0..1000).all(|_| disk.member.ask(Direction::Read, 512)));
    group.lift(false);
    assert!(!disk.member.ask(Direction::Read, 512));
}

#[test]
fn limits_that_contradict_each_other_are_refused() {
    let no = Rate::default();
    let wrong = [
        Limits { bytes: [rate(1), rate(1), no], ..Limits::default() },
        requests(Rate { burst: 5, ..no }),
        requests(Rate { average: 6, burst: 5, length: 1 }),
        requests(Rate { length: 2, ..rate(6) }),
        requests(Rate { average: 6, burst: 10_000, length: u64::MAX }),
        requests(rate(u64::MAX)),
        Limits { request_size: 512, ..Limits::default() },
    ];
    assert!(wrong.iter().all(|limits| limits.check().is_err()));
    assert!(requests(Rate { average: 100, burst: 2000, length: 60 }).check().is_ok());
}

mod disk {
    use super::*;
    use crate::disk::Disk;
    use crate::filter::throttle::Throttle;
    use crate::format::raw::Raw;
    use crate::image::{Buffers, Image, ImageQueue, Op, Request};
    use crate::layer::{Layer, read_vec};
    use crate::protocol::file::{FileOptions, HostFile};
    use crate::protocol::null::Null;

    fn null() -> Arc<dyn Layer> {
        Arc::new(Null::new("null-co", 1 << 20, true, false))
    }

    #[expect(unsafe_code, reason = "test memory is leaked and so outlives everything")]
    fn write(tag: u64) -> Request {
        let memory = vec![1; 512].leak();
        let vector = libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: memory.len() };
        // SAFETY: the memory is leaked and nobody else uses it.
        let buffers = unsafe { Buffers::new(vec![vector], None) };
        Request { tag, op: Op::Write { fua: false }, offset: 0, len: 512, buffers }
    }

    fn discard(tag: u64) -> Request {
        Request { tag, op: Op::Discard, offset: 0, len: 512, buffers: Buffers::none() }
    }

    /// How many requests have ended by now, with no more to come until the clock moves.
    fn ended(queue: &mut dyn ImageQueue, of: usize) -> usize {
        let mut count = 0;
        loop {
            count += std::iter::from_fn(|| queue.reap()).count();
            // Workers do discards: what was let through comes soon, what is held back does not.
            if count >= of {
                return count;
            }
            crate::sys::wait_readable(queue.notifier());
        }
    }

    #[test]
    fn queue_holds_requests_back_and_lets_flushes_pass() {
        let clock = Manual::default();
        let disk = Disk::new(null(), true);
        disk.set_throttle(Some(&clock.group(requests(rate(20)))));
        let mut queue = disk.open_queue(64).unwrap();
        (0..50).for_each(|tag| queue.submit(discard(tag)));
        queue.submit(Request { op: Op::Flush, len: 0, ..discard(99) });
        queue.kick();

        assert_eq!(ended(queue.as_mut(), 4), 4, "two, one over the brim, and the flush");
        assert_eq!(queue.in_flight(), 47);
        clock.advance(Duration::from_secs(1));
        assert!((2..=4).contains(&ended(queue.as_mut(), 2)), "no more than the bucket holds, however long it leaked");

        disk.set_throttle(None);
        let left = queue.in_flight();
        assert_eq!(ended(queue.as_mut(), left), left);
    }

    #[test]
    fn disk_that_was_ended_refuses_at_once_what_limits_hold_back() {
        let disk = Disk::new(null(), true);
        disk.set_throttle(Some(&Manual::default().group(requests(rate(10)))));
        let mut queue = disk.open_queue(8).unwrap();
        (0..5).for_each(|tag| queue.submit(discard(tag)));
        assert_eq!(ended(queue.as_mut(), 2), 2);
        assert_eq!(queue.in_flight(), 3);

        disk.drain().end();
        let left: Vec<_> = std::iter::from_fn(|| queue.reap()).map(|done| done.result).collect();
        assert_eq!(left, [Err(libc::ENOMEDIUM); 3]);
    }

    #[test]
    fn two_queues_of_a_disk_share_its_limit_and_both_get_on() {
        let clock = Manual::default();
        let disk = Disk::new(null(), true);
        disk.set_throttle(Some(&clock.group(requests(rate(10)))));
        let mut queues = [disk.open_queue(8).unwrap(), disk.open_queue(8).unwrap()];
        for tag in 0..4 {
            queues.iter_mut().for_each(|queue| queue.submit(discard(tag)));
        }
        let mut had = [0, 0];
        while had != [4, 4] {
            clock.advance(Duration::from_millis(100));
            for (queue, had) in queues.iter_mut().zip(&mut had) {
                *had += std::iter::from_fn(|| queue.reap()).count();
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn node_with_limits_holds_back_the_queue_above_and_who_reads_directly() {
        let clock = Manual::default();
        let node = Arc::new(Throttle::new(null(), &clock.group(requests(rate(10)))));
        let disk = Disk::new(node.clone(), true);
        let mut queue = disk.open_queue(8).unwrap();
        (0..3).for_each(|tag| queue.submit(discard(tag)));
        assert_eq!(ended(queue.as_mut(), 2), 2);
        assert_eq!(queue.in_flight(), 1);

        let reading = std::thread::spawn(move || read_vec(node.as_ref(), 0, 512).map(drop));
        while !reading.is_finished() {
            clock.advance(Duration::from_millis(100));
            // The queue's request is first in line: it asks when its thread looks.
            while queue.reap().is_some() {}
            std::thread::yield_now();
        }
        reading.join().unwrap().unwrap();
    }

    #[test]
    fn limits_beneath_a_format_hold_up_neither_the_queue_nor_a_drain() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let file = HostFile::open(file.path(), FileOptions::default()).unwrap();
        let node = Throttle::new(Arc::new(file), &Manual::default().group(requests(rate(10))));
        let format = Raw::new(Arc::new(node), 0, None).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        // Its clock stands still: but for the first two, they wait for ever.
        std::thread::spawn(move || {
            let disk = Disk::new(Arc::new(format), true);
            let mut queue = disk.open_queue(8).unwrap();
            (0..5).for_each(|tag| queue.submit(write(tag)));
            queue.kick();
            tell.send("submitted").unwrap();
            std::thread::scope(|scope| {
                let drain = scope.spawn(|| drop(disk.drain()));
                while !drain.is_finished() {
                    while queue.reap().is_some_and(|done| done.result.is_ok()) {}
                    std::thread::yield_now();
                }
            });
            while queue.reap().is_some() {}
            tell.send(if queue.in_flight() == 0 { "drained" } else { "not drained" }).unwrap();
        });

        for expected in ["submitted", "drained"] {
            assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok(expected));
        }
    }

    /// Whether `work` on a node with limits, whose clock stands still, is over.
    fn ends_on_a_limited_node(work: impl FnOnce(Arc<Throttle>) + Send + 'static) -> bool {
        let node = Arc::new(Throttle::new(null(), &Manual::default().group(requests(rate(10)))));
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            work(node);
            let _ = tell.send(());
        });
        told.recv_timeout(Duration::from_secs(30)).is_ok()
    }

    /// More than a bucket holds.
    fn read_much(node: &dyn Layer) {
        (0..9).for_each(|_| drop(read_vec(node, 0, 512).unwrap()));
    }

    #[test]
    fn who_holds_a_disk_still_waits_for_no_limits_beneath() {
        assert!(ends_on_a_limited_node(|node| {
            let disk = Disk::new(Arc::new(Raw::new(node.clone(), 0, None).unwrap()), true);
            let _held = disk.drain();
            read_much(node.as_ref());
        }));
    }

    #[test]
    fn job_that_holds_a_disk_still_leaves_limits_as_they_are() {
        let disk = Disk::new(null(), true);
        let _held = disk.drain_within_limits();
        let waits = || {
            let node = Arc::new(Throttle::new(null(), &Manual::default().group(requests(rate(10)))));
            let through = Arc::clone(&node);
            let reader = std::thread::spawn(move || read_much(through.as_ref()));
            std::thread::sleep(Duration::from_millis(20));
            let waits = !reader.is_finished();
            let _lifted = node.lift();
            reader.join().unwrap();
            waits
        };
        // The clock stands still, and only other tests may lift all limits for a moment.
        assert!((0..100).any(|_| waits()), "another disk's limits are lifted");
    }

    #[test]
    fn lifted_limits_of_a_node_hold_up_nobody_there() {
        assert!(ends_on_a_limited_node(|node| {
            let _lifted = node.lift();
            read_much(node.as_ref());
        }));
    }
}
