use std::sync::Mutex;
use std::sync::mpsc;

use super::*;

fn recorder(clock: &ManualClock, log: &Arc<Mutex<Vec<u32>>>, mark: u32) -> Box<dyn Timer> {
    let log = Arc::clone(log);
    clock.timer(Box::new(move || log.lock().unwrap().push(mark)))
}

#[test]
fn manual_clock_runs_expiries_in_order_of_deadline() {
    let (clock, log) = (ManualClock::default(), Arc::default());
    let (a, b, c) = (recorder(&clock, &log, 1), recorder(&clock, &log, 2), recorder(&clock, &log, 3));
    a.arm(300);
    b.arm(100);
    c.arm(200);
    c.disarm();

    clock.advance(299);
    assert_eq!(*log.lock().unwrap(), [2]);

    clock.advance(1);
    assert_eq!(*log.lock().unwrap(), [2, 1]);
}

#[test]
fn manual_step_goes_to_the_nearest_deadline() {
    let (clock, log) = (ManualClock::new(Duration::from_secs(5)), Arc::default());
    let a = recorder(&clock, &log, 1);
    a.arm(70);

    assert!(clock.step());
    assert_eq!((clock.now(), clock.wall()), (70, Duration::new(5, 70)));
    assert!(!clock.step());
}

#[test]
fn dropped_timer_does_not_expire() {
    let (clock, log) = (ManualClock::default(), Arc::default());
    let a = recorder(&clock, &log, 1);
    a.arm(70);

    drop(a);
    clock.advance(100);

    assert!(log.lock().unwrap().is_empty());
}

#[test]
fn host_timer_expires_after_its_deadline() {
    let clock = Arc::new(HostClock::running());
    clock.start().unwrap();
    let (sender, receiver) = mpsc::channel();
    let reader = Arc::clone(&clock);
    let timer = clock.timer(Box::new(move || sender.send(reader.now()).unwrap()));
    let deadline = clock.now() + 2_000_000;

    timer.arm(deadline);

    assert!(receiver.recv_timeout(Duration::from_secs(10)).unwrap() >= deadline);
}

#[test]
fn earlier_deadline_overtakes_a_later_one() {
    let clock = HostClock::running();
    clock.start().unwrap();
    let (sender, receiver) = mpsc::channel();
    let far = clock.timer(Box::new(|| unreachable!("expires in an hour")));
    let near = clock.timer(Box::new(move || sender.send(()).unwrap()));

    far.arm(clock.now() + 3_600_000_000_000);
    near.arm(clock.now() + 1_000_000);

    receiver.recv_timeout(Duration::from_secs(10)).unwrap();
}

#[test]
fn stopped_host_clock_holds_time_and_timers() {
    let clock = HostClock::stopped();
    clock.start().unwrap();
    let (sender, receiver) = mpsc::channel();
    let timer = clock.timer(Box::new(move || sender.send(()).unwrap()));
    timer.arm(0);

    assert_eq!(clock.now(), 0);
    assert!(receiver.recv_timeout(Duration::from_millis(5)).is_err());

    clock.go();
    receiver.recv_timeout(Duration::from_secs(10)).unwrap();
    clock.stop();
    assert_eq!(clock.now(), clock.now());
}

#[test]
fn ticks_and_nanoseconds_agree() {
    for ticks in [0, 1, 2, 3_579_545, 0x7f_ffff, 0x80_0000, u64::from(u32::MAX)] {
        assert_eq!(ticks_of(nanoseconds_of(ticks, 3_579_545), 3_579_545), ticks);
    }
    assert_eq!(nanoseconds_of(u64::MAX, 1), u64::MAX);
    assert_eq!(ticks_of(u64::MAX, 3_579_545), 66_030_950_515_326_656);
}
