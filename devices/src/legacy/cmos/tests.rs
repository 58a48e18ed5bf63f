use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::alarm::Alarm;
use super::calendar::{Date, date_of, seconds_of};
use super::*;
use crate::clock::{Clock, Expiry, ManualClock, Timer};
use crate::geometry::Geometry;
use crate::testing::{RecordingLine, assert_device_battery, hammer, peek, poke};

/// 2026-11-23 20:47:58 UTC, a Monday.
const START: u64 = 1_795_466_878;
const SECOND: u64 = 1_000_000_000;

struct Bench {
    cmos: Arc<Cmos>,
    ports: Arc<dyn BusDevice>,
    clock: Arc<ManualClock>,
    irq: Arc<RecordingLine>,
}

impl Bench {
    fn with(options: RtcOptions, layout: &CmosLayout) -> Self {
        let (clock, irq) = (Arc::new(ManualClock::new(Duration::from_secs(START))), RecordingLine::new());
        let cmos = Arc::new(Cmos::new(options, layout, Arc::clone(&clock) as SharedClock, Arc::clone(&irq) as _));
        let ports = Arc::clone(&cmos).ports().remove(0).device;
        Self { cmos, ports, clock, irq }
    }

    fn new() -> Self {
        Self::with(RtcOptions::default(), &CmosLayout::default())
    }

    fn read(&self, index: u64) -> u64 {
        poke(&*self.ports, 0, 1, index).unwrap();
        peek(&*self.ports, 1, 1).unwrap()
    }

    fn write(&self, index: u64, value: u64) -> Effect {
        poke(&*self.ports, 0, 1, index).unwrap();
        poke(&*self.ports, 1, 1, value).unwrap()
    }

    /// Century, year, month, day, weekday, hour, minute, second.
    fn time(&self) -> [u64; 8] {
        [0x32, 9, 8, 7, 6, 4, 2, 0].map(|index| self.read(index))
    }
}

#[test]
fn shows_the_hosts_time_in_bcd() {
    let b = Bench::new();

    assert_eq!(b.time(), [0x20, 0x26, 0x11, 0x23, 0x02, 0x20, 0x47, 0x58]);
    assert_eq!((b.read(0xa), b.read(0xb), b.read(0xd)), (0x26, 0x02, 0x80));
    assert_eq!(b.read(0x37), 0x20);
}

#[test]
fn modes_change_how_the_same_time_looks() {
    let b = Bench::new();

    b.write(0xb, 0x06);
    assert_eq!(b.time(), [20, 26, 11, 23, 2, 20, 47, 58]);

    b.write(0xb, 0x00);
    assert_eq!(b.read(4), 0x88);

    b.write(0xb, 0x04);
    assert_eq!(b.read(4), 0x88);
}

#[test]
fn twelve_hour_mode_knows_midnight_and_noon() {
    let hour_at = |start| {
        let options = RtcOptions { clock: RtcClock::Vm, start: RtcStart::At(start) };
        let b = Bench::with(options, &CmosLayout::default());
        b.write(0xb, 0x00);
        b.read(4)
    };

    assert_eq!([0, 3600, 12 * 3600, 13 * 3600].map(hour_at), [0x12, 0x01, 0x92, 0x81]);
}

#[test]
fn given_start_moves_with_the_machines_clock() {
    let options = RtcOptions { clock: RtcClock::Vm, start: RtcStart::At(951_782_399) };
    let b = Bench::with(options, &CmosLayout::default());
    assert_eq!(b.time(), [0x20, 0x00, 0x02, 0x28, 0x02, 0x23, 0x59, 0x59]);

    b.clock.advance(SECOND);

    assert_eq!(b.time(), [0x20, 0x00, 0x02, 0x29, 0x03, 0x00, 0x00, 0x00]);
}

#[test]
fn local_time_is_an_offset() {
    let options = RtcOptions { clock: RtcClock::Host, start: RtcStart::Offset(3600) };
    let b = Bench::with(options, &CmosLayout::default());

    assert_eq!(b.read(4), 0x21);
    assert!(local_offset().abs() <= 15 * 3600);
}

#[test]
fn setting_the_time_freezes_and_then_goes_on_from_it() {
    let b = Bench::new();
    b.write(0xb, 0x82);
    b.clock.advance(5 * SECOND);
    assert_eq!(b.read(0), 0x58, "frozen");

    for (index, value) in [(0, 0x30), (2, 0x59), (4, 0x23), (7, 0x31), (8, 0x12), (9, 0x99), (0x32, 0x19)] {
        b.write(index, value);
    }
    b.write(0xb, 0x02);
    b.clock.advance(30 * SECOND);

    assert_eq!(b.time(), [0x20, 0x00, 0x01, 0x01, 0x07, 0x00, 0x00, 0x00]);
}

#[test]
fn writing_a_field_while_running_moves_the_clock() {
    let b = Bench::new();

    b.write(4, 0x03);
    b.clock.advance(2 * SECOND);

    assert_eq!(b.time(), [0x20, 0x26, 0x11, 0x23, 0x02, 0x03, 0x48, 0x00]);
}

#[test]
fn guest_that_sets_its_clock_tells_how_far_from_where_it_was_to_be() {
    let starts = [RtcStart::Offset(0), RtcStart::Offset(3600), RtcStart::At(951_782_400)];
    for (start, clock) in
        starts.into_iter().flat_map(|start| [RtcClock::Host, RtcClock::Vm].map(|clock| (start, clock)))
    {
        let b = Bench::with(RtcOptions { clock, start }, &CmosLayout::default());
        b.clock.advance(7 * SECOND);
        let hour = b.read(4);

        assert_eq!(b.write(4, hour + 2), Effect::ClockSet(7200), "{start:?} {clock:?}");
        assert_eq!(b.write(4, hour), Effect::ClockSet(0));
        // All fields at once, and the divider: what ends the setting is what sets.
        assert_eq!([b.write(0xb, 0x82), b.write(4, hour + 1)], [Effect::None, Effect::None]);
        b.clock.advance(10 * SECOND);
        assert_eq!(b.write(0xb, 0x02), Effect::ClockSet(3600 - 10), "{start:?} {clock:?}");
        assert_eq!([b.write(0xa, 0x76), b.write(4, hour)], [Effect::None, Effect::None]);
        assert_eq!(b.write(0xa, 0x26), Effect::ClockSet(-10));
        assert_eq!([b.write(1, 0x30), b.write(0xb, 0x42), b.write(0x40, 1)], [Effect::None; 3], "an alarm is no time");
    }
}

#[test]
fn divider_let_go_updates_half_a_second_later() {
    let b = Bench::new();
    b.write(0xa, 0x76);
    b.clock.advance(10 * SECOND);
    b.write(0xa, 0x26);

    b.clock.advance(SECOND / 2 - 1);
    assert_eq!(b.read(0), 0x58);
    b.clock.advance(1);

    assert_eq!(b.read(0), 0x59);
}

#[test]
fn update_in_progress_announces_the_update() {
    let b = Bench::new();

    b.clock.advance(SECOND - 244_141);
    assert_eq!(b.read(0xa), 0x26);
    b.clock.advance(1);
    assert_eq!(b.read(0xa), 0xa6);
    b.clock.advance(244_140);

    assert_eq!(b.read(0xa), 0x26);
}

#[test]
fn update_interrupt_comes_each_second_until_register_c_is_read() {
    let b = Bench::new();
    b.write(0xb, 0x12);

    for _ in 0..3 {
        assert!(!b.irq.high());
        assert!(b.clock.step());
        assert!(b.irq.high());
        assert_eq!(b.read(0xc) & 0x90, 0x90);
        assert_eq!(b.read(0xc), 0x00);
    }
    assert_eq!(b.clock.now(), 3 * SECOND);
}

#[test]
fn flags_are_there_to_poll_without_interrupts_or_timers() {
    let b = Bench::new();
    assert_eq!(b.clock.next_deadline(), None);

    b.clock.advance(SECOND);

    assert_eq!(b.read(0xc), 0x50);
    assert!(!b.irq.high());
}

#[test]
fn periodic_interrupt_has_the_chosen_rate() {
    let b = Bench::new();
    b.write(0xa, 0x2d);
    b.write(0xb, 0x42);
    let _ = b.read(0xc);

    let mut interrupts = 0;
    while b.clock.now() < SECOND {
        assert!(b.clock.step());
        assert_eq!(b.read(0xc) & 0xc0, 0xc0);
        interrupts += 1;
    }

    assert_eq!(interrupts, 8);
}

#[test]
fn period_that_is_changed_counts_on_from_the_last_interrupt() {
    let b = Bench::new();
    b.write(0xa, 0x2d);
    b.write(0xb, 0x42);
    assert!(b.clock.step());
    let eighth = b.clock.now();

    b.write(0xa, 0x2f);
    let _ = b.read(0xc);
    assert!(b.clock.step());

    assert_eq!(b.clock.now() - eighth, SECOND / 2);
}

#[test]
fn alarm_interrupts_at_its_time() {
    let b = Bench::new();
    for (index, value) in [(1, 0x05), (3, 0x48), (5, 0x20), (0xb, 0x22)] {
        b.write(index, value);
    }

    assert!(b.clock.step());

    assert!(b.irq.high());
    assert_eq!(b.clock.now(), 7 * SECOND);
    assert_eq!(b.read(0xc) & 0xa0, 0xa0);
    assert!(b.clock.next_deadline().is_some_and(|next| next == (7 + 86_400) * SECOND));
}

#[test]
fn impossible_alarm_never_comes() {
    let b = Bench::new();
    for (index, value) in [(1, 0x00), (3, 0x00), (5, 0x30), (0xb, 0x22)] {
        b.write(index, value);
    }

    assert_eq!(b.clock.next_deadline(), None);
}

#[test]
fn read_only_registers_ignore_writes() {
    let b = Bench::new();

    b.write(0xc, 0xff);
    b.write(0xd, 0x00);

    assert_eq!((b.read(0xc), b.read(0xd)), (0x00, 0x80));
}

#[test]
fn memory_remembers_and_holds_what_firmware_wants() {
    let layout = CmosLayout {
        below_4g: 3 << 30,
        above_4g: 5 << 30,
        cpus: 4,
        boot_order: [3, 2, 4],
        check_floppy_signature: true,
    };
    let b = Bench::with(RtcOptions::default(), &layout);

    let word = |at| b.read(at) | (b.read(at + 1) << 8);
    assert_eq!([0x15, 0x17, 0x30, 0x34].map(word), [640, 0xffff, 0xffff, 0xbf00]);
    assert_eq!([0x5b, 0x5c, 0x5d, 0x5f].map(|at| b.read(at)), [0x00, 0x40, 0x01, 3]);
    assert_eq!([0x3d, 0x38, 0x0f].map(|at| b.read(at)), [0x23, 0x40, 0x00]);

    b.write(0x0f, 0x0a);
    b.cmos.set_byte(0x60, 0x77);
    assert_eq!((b.read(0x0f), b.read(0x60)), (0x0a, 0x77));
}

#[test]
fn index_port_reads_ones_and_ignores_the_nmi_bit() {
    let b = Bench::new();
    b.write(0x8f, 0x5a);

    assert_eq!(peek(&*b.ports, 0, 1), Some(0xff));
    assert_eq!(b.read(0x0f), 0x5a);
    assert_eq!(poke(&*b.ports, 0, 2, 0x330f), Some(Effect::None));
    assert_eq!(b.read(0x0f), 0x33);
}

#[test]
fn reset_keeps_time_and_memory_but_no_interrupts() {
    let b = Bench::new();
    b.write(0x0f, 0x0a);
    b.write(4, 0x03);
    b.write(0xb, 0x72);
    b.clock.advance(SECOND);
    assert!(b.irq.high());

    b.cmos.reset();

    assert!(!b.irq.high());
    assert_eq!((b.read(0xb), b.read(0x0f), b.read(4)), (0x02, 0x0a, 0x03));
    assert_eq!(b.clock.next_deadline(), None);
}

#[test]
fn saved_time_beyond_the_calendar_is_refused() {
    let b = Bench::new();
    let mut state = crate::testing::saved(&*b.cmos).unwrap();
    state["offset"]["seconds"] = i64::MAX.into();
    let Saver::Saves(saver) = b.cmos.saver() else { unreachable!("it saves") };

    let error = saver.restore(state).unwrap_err();

    assert!(error.to_string().contains("time"), "{error}");
    assert_eq!(b.read(0), 0x58);
}

#[test]
fn passes_the_battery() {
    assert_device_battery(
        || Bench::new().cmos,
        |cmos| {
            for (index, value) in [(0xb, 0x72), (0x0b, 0x42)] {
                let _ = cmos.chip.write(0, &[index, value]);
            }
        },
    );
}

#[test]
fn no_access_panics() {
    hammer(|| Bench::new().ports, 2);
}

/// The alarm found by trying every second.
fn next_by_search(alarm: Alarm, seconds: i64) -> Option<i64> {
    let hits = |field: Option<u8>, value: u8| field.is_none_or(|f| f == value);
    (seconds + 1..=seconds + 86_400).find(|at| {
        let date = date_of(*at);
        hits(alarm.hour, date.hour) && hits(alarm.minute, date.minute) && hits(alarm.second, date.second)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn dates_and_seconds_agree(seconds in -62_000_000_000i64..250_000_000_000) {
        let date = date_of(seconds);
        prop_assert!((1..=12).contains(&date.month) && (1..=31).contains(&date.day));
        prop_assert_eq!(seconds_of(&date), seconds);
        prop_assert_eq!(date_of(seconds + 7 * 86_400).weekday, date.weekday);
    }

    #[test]
    fn alarm_matches_what_a_search_finds(
        seconds in 0i64..1 << 33,
        hour in prop::option::of(0u8..25),
        minute in prop::option::of(0u8..61),
        second in prop::option::of(0u8..61),
    ) {
        let alarm = Alarm { hour, minute, second };
        prop_assert_eq!(alarm.next_after(seconds), next_by_search(alarm, seconds));
    }

    #[test]
    fn any_register_contents_survive(writes in prop::collection::vec((0u64..0x40, any::<u8>(), 0u64..3_000_000_000), 0..60)) {
        let b = Bench::new();
        for (index, value, wait) in writes {
            b.write(index, u64::from(value));
            let _ = b.read(index);
            b.clock.advance_to(b.clock.now() + wait.min(50_000_000));
        }
    }
}

/// A clock on which time passes with every look at it.
struct Restless(AtomicU64);

/// Nanoseconds a look takes: the better half of a period at 1,024 Hz.
const LOOK: u64 = 600_000;

struct Deaf;

impl Timer for Deaf {
    fn arm(&self, _: u64) {}
    fn disarm(&self) {}
}

impl Clock for Restless {
    fn now(&self) -> u64 {
        self.0.fetch_add(LOOK, Ordering::Relaxed)
    }
    fn wall(&self) -> Duration {
        Duration::from_nanos(self.now())
    }
    fn real(&self) -> u64 {
        self.now()
    }
    fn timer(&self, _: Expiry) -> Box<dyn Timer> {
        Box::new(Deaf)
    }
}

#[test]
fn flag_that_comes_while_the_last_is_read_is_an_edge_on_the_wire() {
    let (line, clock) = (RecordingLine::new(), Arc::new(Restless(AtomicU64::new(START * SECOND))));
    let cmos = Cmos::new(RtcOptions::default(), &CmosLayout::default(), clock, Arc::clone(&line) as Arc<dyn IrqLine>);
    let chip = Arc::new(cmos).ports().remove(0).device;
    // Register B: periodic interrupts.
    poke(&*chip, 0, 2, 0x420b).unwrap();
    poke(&*chip, 0, 1, 0x0c).unwrap();
    let mut came_at_once = 0;

    for _ in 0..100 {
        let before = line.rises();
        peek(&*chip, 1, 1).unwrap();
        assert!(!line.high() || line.rises() > before, "the wire stayed high");
        came_at_once += usize::from(line.high());
    }

    assert!(came_at_once > 0);
}

#[test]
fn leap_days_fall_where_they_should() {
    let date = |year, month, day| Date { year, month, day, weekday: 1, hour: 0, minute: 0, second: 0 };
    let next_day = |d: Date| {
        let n = date_of(seconds_of(&d) + 86_400);
        (n.month, n.day)
    };

    assert_eq!(next_day(date(2000, 2, 28)), (2, 29));
    assert_eq!(next_day(date(2100, 2, 28)), (3, 1));
    assert_eq!(next_day(date(2024, 2, 29)), (3, 1));
    assert_eq!(next_day(date(1999, 12, 31)), (1, 1));
}

#[test]
fn firmware_finds_shapes_of_disks_and_which_are_translated() {
    let b = Bench::new();
    let small = Shape::of(Geometry { cylinders: 480, heads: 4, sectors: 32 });
    let large = Shape::of(Geometry { cylinders: 16383, heads: 16, sectors: 63 });

    b.cmos.describe_disks([Some(small), None, None, Some(large)]);

    assert_eq!([0x12, 0x19, 0x1a, 0x39].map(|at| b.read(at)), [0xf0, 47, 0, 0x40]);
    let shape: Vec<_> = (0x1b..0x24).map(|at| b.read(at)).collect();
    assert_eq!(shape, [0xe0, 0x01, 4, 0xff, 0xff, 0xc0, 0xe0, 0x01, 32]);
}
