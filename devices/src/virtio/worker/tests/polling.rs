//! Threads that poll: what they see without a signal, when they ask for signals again, and that they sleep.

use std::sync::atomic::fence;
use std::time::{Duration, Instant};

use super::*;
use crate::virtio::iothread::{Polling, Tuning};

fn tuning(polling: Polling) -> Tuning {
    Tuning { polling, batch: None, workers: 0..=1 }
}

/// A rig whose thread has come to poll for `longest`, if it was woken within that.
fn polling(longest: Duration, event_idx: bool) -> Rig {
    let max = longest.as_nanos() as u64;
    let thread = IoThread::tuned("test", &tuning(Polling { max, grow: max, shrink: 1 })).unwrap();
    let mut rig = rig_on(&thread);
    rig.event_idx = event_idx;
    rig.start(&RingPosition::default());
    for _ in 0..2 {
        rig.post();
        rig.doorbell.write(1).unwrap();
        rig.wait_begun(1);
        rig.finish();
    }
    rig
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

/// Longer than a test lasts.
const LONG: Duration = Duration::from_secs(60);

impl Rig {
    /// What a driver asks before it rings for what it has just made available (sections 2.7.10 and 2.7.13.4).
    fn wants_doorbell(&self) -> bool {
        fence(Ordering::SeqCst);
        if self.event_idx {
            self.driver.avail_event() == self.driver.next_avail()
        } else {
            self.driver.used_flags() == 0
        }
    }

    /// Waits until the thread sleeps and uses no processor time at all.
    fn wait_asleep(&self) {
        let task = format!("/proc/self/task/{}", self.thread.tid());
        let read = |name: &str| std::fs::read_to_string(format!("{task}/{name}")).unwrap();
        let time = || read("schedstat").split(' ').next().unwrap().to_owned();
        wait_for("sleep", || {
            let before = time();
            std::thread::sleep(Duration::from_millis(50));
            time() == before && read("stat").contains(") S ")
        });
    }

    /// Has what was begun complete, whether the thread polls or sleeps.
    fn finish(&mut self) {
        self.polled.store(true, Ordering::SeqCst);
        self.go.write(1).unwrap();
        wait_for("a used chain", || self.driver.used_index() == self.driver.next_avail());
        self.driver.take_all_used();
    }
}

#[test]
fn chains_and_completions_are_seen_without_a_signal() {
    for event_idx in [true, false] {
        let mut rig = polling(LONG, event_idx);

        for _ in 0..10 {
            assert!(!rig.wants_doorbell());
            rig.post();
            rig.wait_begun(1);
            rig.polled.store(true, Ordering::SeqCst);
            wait_for("a used chain", || rig.driver.used_index() == rig.driver.next_avail());
        }
    }
}

#[test]
fn polling_thread_hears_of_a_stop_and_of_its_end() {
    let rig = polling(LONG, true);

    let position = rig.stop().recv_timeout(PATIENCE).unwrap();

    assert_eq!(position, Some(RingPosition { next_avail: 2, next_used: 2, held: vec![] }));
}

#[test]
fn driver_is_asked_to_ring_when_the_time_is_over_and_the_thread_sleeps() {
    for event_idx in [true, false] {
        let mut rig = polling(Duration::from_millis(20), event_idx);
        wait_for("a request for signals", || rig.wants_doorbell());
        rig.wait_asleep();

        rig.post();
        rig.doorbell.write(1).unwrap();
        rig.wait_begun(1);
    }
}

#[test]
fn polling_ends_when_the_thread_is_told_so() {
    let rig = polling(LONG, true);
    assert!(!rig.wants_doorbell());

    rig.thread.tune(&tuning(Polling::default()));

    wait_for("a request for signals", || rig.wants_doorbell());
}

#[test]
fn full_device_is_no_reason_to_stay_awake() {
    let mut rig = polling(Duration::from_millis(1), true);
    for _ in 0..4 {
        rig.post();
    }
    rig.doorbell.write(1).unwrap();
    rig.wait_begun(4);
    rig.driver.offer(0);
    rig.doorbell.write(1).unwrap();
    rig.wait_asleep();

    // The chain that there is no room for is taken with the first completion.
    rig.go.write(1).unwrap();
    rig.wait_begun(1);
    assert_eq!(rig.driver.used_index(), 6);
}

/// A driver that rings only when it is asked to, at moments all around those at which the thread goes to sleep.
#[test]
fn no_chain_is_lost_between_polling_and_sleep() {
    for event_idx in [true, false] {
        let mut rig = polling(Duration::from_micros(100), event_idx);
        for n in 0..5000_u32 {
            let pause = Duration::from_nanos(u64::from(n.wrapping_mul(2_654_435_761) % 200_000));
            let began = Instant::now();
            while began.elapsed() < pause {
                std::hint::spin_loop();
            }
            // Without event indices the flags are those of after, with them what was asked for is before.
            let at = rig.driver.next_avail();
            rig.post();
            fence(Ordering::SeqCst);
            let wanted = if event_idx { rig.driver.avail_event() == at } else { rig.driver.used_flags() == 0 };
            if wanted {
                rig.doorbell.write(1).unwrap();
            }
            rig.wait_begun(1);
            rig.finish();
        }
    }
}

#[test]
fn no_more_chains_are_handed_on_at_once_than_the_thread_may() {
    let thread = IoThread::spawn("test").unwrap();
    thread.tune(&Tuning { batch: NonZeroUsize::new(3), ..tuning(Polling::default()) });
    let mut rig = rig_on(&thread);
    for _ in 0..4 {
        rig.post();
    }

    rig.start(&RingPosition::default());

    rig.wait_begun(4);
    rig.go.write(1).unwrap();
    rig.events.wait_used(0, 1);
    assert_eq!(rig.batches.lock().unwrap()[..2], [3, 1]);
}
