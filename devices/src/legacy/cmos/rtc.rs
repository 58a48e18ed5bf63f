//! The clock: registers, flags and when they change.

use crate::clock::Clock;

use super::BYTES;
use super::alarm::Alarm;
use super::calendar::{Date, date_of, seconds_of};
use super::layout::CmosLayout;

/// Nanoseconds. A guest may set any year to 25,755: those do not fit 64 bits.
pub(super) type Nanos = i128;

pub(super) const SECOND: Nanos = 1_000_000_000;
/// The update-in-progress bit announces an update by 8 ticks of the time base (MC146818A, table 6), in nanoseconds.
const UPDATE_NOTICE: Nanos = 8 * SECOND / BASE_HERTZ;
/// The first update after the divider was let go comes half a second later.
const AFTER_DIVIDER_RESET: Nanos = SECOND / 2;
/// Frequency of the time base in hertz.
const BASE_HERTZ: Nanos = 32_768;

/// Seconds before and after 1970 that this clock can show: beyond any that its registers can hold.
pub(super) const MOST_SECONDS: i64 = 1_000_000_000_000;

const SECONDS: u8 = 0x00;
const SECONDS_ALARM: u8 = 0x01;
const MINUTES: u8 = 0x02;
const MINUTES_ALARM: u8 = 0x03;
const HOURS: u8 = 0x04;
const HOURS_ALARM: u8 = 0x05;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
pub(super) const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;
/// Where firmware keeps the century, and where some look for it instead.
const CENTURY: u8 = 0x32;
const CENTURY_PS2: u8 = 0x37;

/// Register A: an update is due.
const UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// Register A: these divider bits set hold the divider in reset.
const DIVIDER_RESET: u8 = 0x60;
const DIVIDER: u8 = 0x70;
const RATE: u8 = 0x0f;

/// Register B: no updates, the guest sets the time.
const SET: u8 = 1 << 7;
const PERIODIC: u8 = 1 << 6;
const ALARM: u8 = 1 << 5;
const UPDATE_ENDED: u8 = 1 << 4;
const SQUARE_WAVE: u8 = 1 << 3;
const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;
/// Register C: some enabled flag is set. The flags have the places of their enables.
const INTERRUPT: u8 = 1 << 7;
/// Register D: battery good.
const VALID: u8 = 1 << 7;

/// In 12-hour mode: afternoon.
const AFTERNOON: u8 = 1 << 7;
/// Alarm fields from here on match anything.
const ANY: u8 = 0xc0;

/// What drives the clock (`-rtc clock=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RtcClock {
    /// The host's time of day, with its jumps.
    #[default]
    Host,
    /// The host's monotonic time, also while the machine is stopped.
    Rt,
    /// The machine's time, which rests while it is stopped.
    Vm,
}

/// What the clock shows at first (`-rtc base=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RtcStart {
    /// The host's time in UTC plus so many seconds: 0 for `utc`, [`local_offset`] for `localtime`.
    Offset(i64),
    /// A moment, in seconds since 1970-01-01 00:00:00 as the guest reads its clock; within 10^12 of it.
    At(i64),
}

/// How the clock starts and runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RtcOptions {
    /// What drives it.
    pub clock: RtcClock,
    /// What it shows at first.
    pub start: RtcStart,
}

impl Default for RtcOptions {
    fn default() -> Self {
        Self { clock: RtcClock::Host, start: RtcStart::Offset(0) }
    }
}

/// Seconds that the host's local time is ahead of UTC now.
#[must_use]
#[expect(unsafe_code, reason = "the time zone is known to the C library only")]
pub fn local_offset() -> i64 {
    // SAFETY: time accepts a null pointer; localtime_r writes to the structure given and to nothing else of ours.
    unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut local = std::mem::zeroed::<libc::tm>();
        if libc::localtime_r(&raw const now, &raw mut local).is_null() { 0 } else { local.tm_gmtoff }
    }
}

/// The clock and its memory. All times are nanoseconds since 1970 as the guest reads its clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rtc {
    source: RtcClock,
    /// Seconds that guest time is ahead of the host's time of day while the guest does not set it.
    given: i64,

    /// Guest time minus source time.
    pub(super) offset: Nanos,
    /// Alarm and frozen time fields, registers A, B and memory; what else lies below 0x0e is computed.
    pub(super) memory: [u8; BYTES],
    /// Flags of register C, without the interrupt bit.
    pub(super) flags: u8,
    /// Guest time up to which flags are right.
    pub(super) caught_up: Nanos,
    /// Source time up to which the periodic flag is right.
    pub(super) periodic_caught_up: Nanos,
    /// Source time from which periods count.
    pub(super) periods_from: Nanos,
}

/// Whole seconds of `nanoseconds`; those that do not fit are beyond any calendar.
fn whole_seconds(nanoseconds: Nanos) -> i64 {
    i64::try_from(nanoseconds.div_euclid(SECOND)).unwrap_or(0)
}

fn bounded(seconds: i64) -> Nanos {
    Nanos::from(seconds.clamp(-MOST_SECONDS, MOST_SECONDS)) * SECOND
}

fn wall(clock: &dyn Clock) -> Nanos {
    Nanos::try_from(clock.wall().as_nanos()).unwrap_or(0)
}

impl Rtc {
    pub(super) fn new(options: RtcOptions, layout: &CmosLayout, clock: &dyn Clock) -> Self {
        let mut memory = [0; BYTES];
        layout.fill(&mut memory);
        let given = match options.start {
            RtcStart::Offset(seconds) => seconds,
            RtcStart::At(seconds) => seconds.saturating_sub(whole_seconds(wall(clock))),
        };
        let mut rtc = Self {
            source: options.clock,
            given,
            offset: 0,
            memory,
            flags: 0,
            caught_up: 0,
            periodic_caught_up: 0,
            periods_from: 0,
        };
        // Divider on at 32,768 Hz, periodic rate 1,024 Hz; 24 hours, BCD.
        rtc.put(REGISTER_A, 0x26);
        rtc.put(REGISTER_B, HOURS_24);
        let start = match options.start {
            RtcStart::Offset(seconds) => wall(clock) + bounded(seconds),
            RtcStart::At(seconds) => bounded(seconds),
        };
        rtc.offset = start - rtc.source_time(clock);
        rtc.caught_up = rtc.now(clock);
        rtc.periodic_caught_up = rtc.source_time(clock);
        rtc.show_century(clock);
        rtc
    }

    fn source_time(&self, clock: &dyn Clock) -> Nanos {
        match self.source {
            RtcClock::Host => wall(clock),
            RtcClock::Rt => clock.real().into(),
            RtcClock::Vm => clock.now().into(),
        }
    }

    fn now(&self, clock: &dyn Clock) -> Nanos {
        self.source_time(clock) + self.offset
    }

    /// Seconds by which the guest, when it set its clock, put it ahead of where the user had it start.
    pub(super) fn ahead(&self, clock: &dyn Clock) -> i64 {
        whole_seconds(self.now(clock)) - whole_seconds(wall(clock)) - self.given
    }

    fn get(&self, index: u8) -> u8 {
        self.memory.get(usize::from(index)).copied().unwrap_or(0xff)
    }

    fn put(&mut self, index: u8, value: u8) {
        if let Some(byte) = self.memory.get_mut(usize::from(index)) {
            *byte = value;
        }
    }

    /// Sets a byte of memory proper.
    pub(super) fn set_memory(&mut self, index: u8, value: u8) {
        if index > REGISTER_D {
            self.put(index, value);
        }
    }

    /// No updates: the guest is setting the time, or the divider does not run.
    fn frozen(&self) -> bool {
        self.get(REGISTER_B) & SET != 0 || self.get(REGISTER_A) & DIVIDER >= DIVIDER_RESET
    }

    fn encode(&self, value: u8) -> u8 {
        if self.get(REGISTER_B) & BINARY != 0 { value } else { (value / 10) << 4 | (value % 10) }
    }

    /// A field as the guest wrote it; bytes that are no BCD count on.
    fn decode(&self, value: u8) -> u8 {
        if self.get(REGISTER_B) & BINARY != 0 { value } else { (value >> 4) * 10 + (value & 0xf) }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.get(REGISTER_B) & HOURS_24 != 0 {
            return self.encode(hour);
        }
        let shown = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        self.encode(shown) | if hour >= 12 { AFTERNOON } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.get(REGISTER_B) & HOURS_24 != 0 {
            return self.decode(value);
        }
        let hour = self.decode(value & !AFTERNOON) % 12;
        if value & AFTERNOON != 0 { hour + 12 } else { hour }
    }

    /// Puts `seconds` into the time fields.
    fn show(&mut self, seconds: i64) {
        let date = date_of(seconds);
        let two_digits = |value: i64| u8::try_from(value.rem_euclid(100)).unwrap_or(0);
        let fields = [
            (SECONDS, self.encode(date.second)),
            (MINUTES, self.encode(date.minute)),
            (HOURS, self.encode_hour(date.hour)),
            (WEEKDAY, self.encode(date.weekday)),
            (DAY, self.encode(date.day)),
            (MONTH, self.encode(date.month)),
            (YEAR, self.encode(two_digits(date.year))),
            (CENTURY, self.encode(two_digits(date.year.div_euclid(100)))),
            (CENTURY_PS2, self.encode(two_digits(date.year.div_euclid(100)))),
        ];
        for (index, value) in fields {
            self.put(index, value);
        }
    }

    fn show_century(&mut self, clock: &dyn Clock) {
        self.show(whole_seconds(self.now(clock)));
    }

    /// The moment in the time fields.
    fn shown_seconds(&self) -> i64 {
        let field = |index| self.decode(self.get(index));
        let century = i64::from(field(CENTURY));
        seconds_of(&Date {
            year: century * 100 + i64::from(field(YEAR)),
            month: field(MONTH),
            day: field(DAY),
            weekday: 1,
            hour: self.decode_hour(self.get(HOURS)),
            minute: field(MINUTES),
            second: field(SECONDS),
        })
    }

    /// Makes the clock show `nanoseconds` now, without flags for the jump.
    fn set_now(&mut self, nanoseconds: Nanos, clock: &dyn Clock) {
        self.offset = nanoseconds - self.source_time(clock);
        self.caught_up = self.now(clock);
    }

    /// A guest's read; after [`Rtc::catch_up`].
    pub(super) fn read(&mut self, index: u8, clock: &dyn Clock) -> u8 {
        match index {
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY | CENTURY_PS2 if !self.frozen() => {
                self.show(whole_seconds(self.now(clock)));
                self.get(index)
            }
            REGISTER_A => {
                let due = !self.frozen() && self.now(clock).rem_euclid(SECOND) >= SECOND - UPDATE_NOTICE;
                self.get(REGISTER_A) | if due { UPDATE_IN_PROGRESS } else { 0 }
            }
            REGISTER_C => {
                let interrupt = if self.interrupting() { INTERRUPT } else { 0 };
                std::mem::take(&mut self.flags) | interrupt
            }
            REGISTER_D => VALID,
            _ => self.get(index),
        }
    }

    /// A guest's write; after [`Rtc::catch_up`]. Says whether it set the time.
    pub(super) fn write(&mut self, index: u8, value: u8, clock: &dyn Clock) -> bool {
        match index {
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY | CENTURY_PS2 => self.set_field(index, value, clock),
            REGISTER_A => self.set_control(REGISTER_A, value & !UPDATE_IN_PROGRESS, clock),
            // Setting the time ends update interrupts (MC146818A, register B, SET).
            REGISTER_B if value & SET != 0 => self.set_control(REGISTER_B, value & !UPDATE_ENDED, clock),
            REGISTER_B => self.set_control(REGISTER_B, value, clock),
            REGISTER_C | REGISTER_D => false,
            _ => {
                self.put(index, value);
                false
            }
        }
    }

    /// Says whether it set the time: not while that waits for the other fields.
    fn set_field(&mut self, index: u8, value: u8, clock: &dyn Clock) -> bool {
        let sets = !self.frozen();
        if !sets {
            self.put(index, value);
        } else {
            let now = self.now(clock);
            self.show(whole_seconds(now));
            self.put(index, value);
            self.set_now(Nanos::from(self.shown_seconds()) * SECOND + now.rem_euclid(SECOND), clock);
        }
        // Both places of the century say the same.
        match index {
            CENTURY => self.put(CENTURY_PS2, value),
            CENTURY_PS2 => self.put(CENTURY, value),
            _ => {}
        }
        sets
    }

    /// Writes register A or B: the fields freeze, or go on from what they show, which sets the time: says whether.
    fn set_control(&mut self, register: u8, value: u8, clock: &dyn Clock) -> bool {
        let was_frozen = self.frozen();
        if !was_frozen {
            // In the old number format; what is shown next is in the new one.
            self.show(whole_seconds(self.now(clock)));
        }
        let divider_held = self.get(REGISTER_A) & DIVIDER >= DIVIDER_RESET;
        let part = self.now(clock).rem_euclid(SECOND);
        let (old_rate, shown) = (self.period(), self.shown_seconds());
        self.put(register, value);
        if self.period() != old_rate {
            let source = self.source_time(clock);
            // A period that runs is not begun anew: it becomes longer or shorter.
            let begun = old_rate.map_or(ticks(source), |period| self.periods_end(source, period) - period);
            self.periods_from = nanoseconds_of_ticks(begun);
            self.periodic_caught_up = source;
        }
        let sets = was_frozen && !self.frozen();
        if sets {
            // With the format that is valid now: guests switch it together with the end of SET.
            let shown = if register == REGISTER_B { self.shown_seconds() } else { shown };
            let part = if divider_held { AFTER_DIVIDER_RESET } else { part };
            self.set_now(Nanos::from(shown) * SECOND + part, clock);
        }
        sets
    }

    /// Length of a period in ticks of the time base (MC146818A, table 5); `None` for none.
    fn period(&self) -> Option<Nanos> {
        match self.get(REGISTER_A) & RATE {
            0 => None,
            // The two highest rates of the 32,768 Hz base are those of 8 and 9.
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
        .filter(|_| self.get(REGISTER_A) & DIVIDER < DIVIDER_RESET)
    }

    /// The tick at which the period that runs at `source` ends.
    fn periods_end(&self, source: Nanos, period: Nanos) -> Nanos {
        let from = ticks(self.periods_from);
        from + ((ticks(source) - from).div_euclid(period) + 1) * period
    }

    fn alarm(&self) -> Alarm {
        let field = |index| Some(self.get(index)).filter(|value| *value < ANY);
        let hour = self.get(HOURS_ALARM);
        // In 12-hour mode bit 7 alone says afternoon; both upper bits say any.
        let hour = Some(hour).filter(|hour| hour & ANY != ANY).map(|hour| self.decode_hour(hour));
        Alarm {
            hour,
            minute: field(MINUTES_ALARM).map(|minute| self.decode(minute)),
            second: field(SECONDS_ALARM).map(|second| self.decode(second)),
        }
    }

    /// Sets the flags of what happened since the last call.
    pub(super) fn catch_up(&mut self, clock: &dyn Clock) {
        let (now, source) = (self.now(clock), self.source_time(clock));
        if !self.frozen() {
            let (before, after) = (whole_seconds(self.caught_up), whole_seconds(now));
            if after > before {
                self.flags |= UPDATE_ENDED;
                if self.alarm().next_after(before).is_some_and(|at| at <= after) {
                    self.flags |= ALARM;
                }
            }
        }
        self.caught_up = now;
        let ended = |period| self.periods_end(source, period) > self.periods_end(self.periodic_caught_up, period);
        if self.period().is_some_and(ended) {
            self.flags |= PERIODIC;
        }
        self.periodic_caught_up = source;
    }

    /// Whether the interrupt wire is to be high.
    pub(super) fn interrupting(&self) -> bool {
        self.flags & self.get(REGISTER_B) & (PERIODIC | ALARM | UPDATE_ENDED) != 0
    }

    /// Nanoseconds until the next flag that interrupts and is not yet set; after [`Rtc::catch_up`].
    pub(super) fn next_interrupt(&self, clock: &dyn Clock) -> Option<u64> {
        let waited_for = self.get(REGISTER_B) & !self.flags;
        let (now, source) = (self.now(clock), self.source_time(clock));
        let second = whole_seconds(now);
        let running = !self.frozen();
        let update = (running && waited_for & UPDATE_ENDED != 0).then(|| SECOND - now.rem_euclid(SECOND));
        let alarm = (running && waited_for & ALARM != 0)
            .then(|| self.alarm().next_after(second))
            .flatten()
            .map(|at| Nanos::from(at) * SECOND - now);
        let periodic = self.period().filter(|_| waited_for & PERIODIC != 0);
        let periodic = periodic.map(|period| nanoseconds_of_ticks(self.periods_end(source, period)) - source);
        let next = [update, alarm, periodic].into_iter().flatten().min()?;
        // Never 0: an expiry must move on, whatever rounding says.
        u64::try_from(next.max(1)).ok()
    }

    /// Interrupts go off; time and memory stay.
    pub(super) fn reset(&mut self, clock: &dyn Clock) {
        self.catch_up(clock);
        let enables = PERIODIC | ALARM | UPDATE_ENDED | SQUARE_WAVE;
        self.put(REGISTER_B, self.get(REGISTER_B) & !enables);
        self.flags = 0;
    }
}

/// Ticks of the time base in `nanoseconds`.
fn ticks(nanoseconds: Nanos) -> Nanos {
    (nanoseconds * BASE_HERTZ).div_euclid(SECOND)
}

/// The first nanosecond that shows `ticks`.
fn nanoseconds_of_ticks(ticks: Nanos) -> Nanos {
    -(-ticks * SECOND).div_euclid(BASE_HERTZ)
}
