//! What is asked of the process rather than of the guest.

use std::path::PathBuf;

use crate::qmp::command::args::{PanicAction, RebootAction, ShutdownAction, WatchdogAction};

use super::error::{SpecError, Words};

spec_struct! {
    /// `-name`.
    pub struct NameSpec as "name" {
        /// Name of the guest.
        pub guest: Option<String>,
        /// Name of the process in the host's lists.
        pub process: Option<String>,
        /// Give threads names that say what they do.
        pub debug_threads: bool = false,
    }
}

spec_struct! {
    /// `-overcommit`.
    pub struct OvercommitSpec as "overcommit" {
        /// Keep the guest's memory in the host's, never swapped.
        pub mem_lock: bool = false,
        /// Let the guest put the host's processors to sleep; only off here.
        pub cpu_pm: bool = false,
    }
}

impl OvercommitSpec {
    /// Refuses what is not to be had.
    ///
    /// # Errors
    /// One sentence.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.cpu_pm { Err(SpecError::refused("'cpu-pm=on'", "leave it off")) } else { Ok(()) }
    }
}

spec_struct! {
    /// `-msg`.
    pub struct MsgSpec as "msg" {
        /// Put the time in front of messages.
        pub timestamp: bool = false,
        /// Put the guest's name in front of messages.
        pub guest_name: bool = false,
    }
}

spec_enum! {
    /// What a sandbox option says about a group of system calls.
    pub enum SandboxRule {
        /// They may be used.
        Allow = "allow",
        /// They end the process.
        Deny = "deny",
        /// They may be used by the programs it starts.
        Children = "children",
    }
}

spec_struct! {
    /// `-sandbox`. On unless switched off; the groups are denied always, because this program has no use for them.
    pub struct SandboxSpec as "sandbox" {
        /// Filter system calls.
        pub enable: bool = true,
        /// System calls that are no longer in use.
        pub obsolete: SandboxRule = SandboxRule::Deny,
        /// System calls that change users and groups.
        pub elevateprivileges: SandboxRule = SandboxRule::Deny,
        /// System calls that start programs.
        pub spawn: SandboxRule = SandboxRule::Deny,
        /// System calls that change priorities and processors.
        pub resourcecontrol: SandboxRule = SandboxRule::Deny,
    }
}

impl SandboxSpec {
    /// Refuses what is not to be had.
    ///
    /// # Errors
    /// One sentence.
    pub fn check(&self) -> Result<(), SpecError> {
        let groups = [
            ("obsolete", self.obsolete),
            ("elevateprivileges", self.elevateprivileges),
            ("spawn", self.spawn),
            ("resourcecontrol", self.resourcecontrol),
        ];
        match groups.iter().find(|(_, rule)| *rule != SandboxRule::Deny) {
            Some((name, rule)) => {
                Err(SpecError::refused(format_args!("'{name}={rule}'"), "use deny, or -sandbox off for no filter"))
            }
            None => Ok(()),
        }
    }
}

spec_enum! {
    /// Which clock the guest's clock follows.
    pub enum RtcClock {
        /// The host's clock, with its corrections.
        Host = "host",
        /// The host's clock, from start on without corrections.
        Rt = "rt",
        /// The guest's clock, which stands still while the guest is stopped.
        Vm = "vm",
    }
}

spec_enum! {
    /// What is done about ticks that came too late.
    pub enum DriftFix {
        /// Nothing.
        None = "none",
        /// They are made up for.
        Slew = "slew",
    }
}

spec_struct! {
    /// `-rtc` as written.
    pub struct RtcOptions as "rtc" {
        /// utc, localtime, or a date with or without a time: 2026-11-23T20:05:00.
        pub base: String = String::from("utc"),
        /// Which clock it follows.
        pub clock: RtcClock = RtcClock::Host,
        /// What is done about ticks of the periodic interrupt that came too late.
        pub driftfix: DriftFix = DriftFix::None,
    }
}

/// What the guest's clock shows at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RtcBase {
    /// The host's time in UTC.
    #[default]
    Utc,
    /// The host's time in its time zone.
    LocalTime,
    /// This time: seconds since 1970-01-01, as the clock's own face shows it.
    At(i64),
}

/// `-rtc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RtcSpec {
    /// What it shows at start.
    pub base: RtcBase,
    /// Which clock it follows.
    pub clock: RtcClock,
    /// What is done about late ticks.
    pub driftfix: DriftFix,
}

impl RtcOptions {
    /// Reads the date.
    ///
    /// # Errors
    /// It is none.
    pub fn resolve(&self) -> Result<RtcSpec, SpecError> {
        let base = match self.base.as_str() {
            "utc" => RtcBase::Utc,
            "localtime" => RtcBase::LocalTime,
            text => RtcBase::At(parse_datetime(text).ok_or_else(|| {
                SpecError::new("invalid datetime format; valid formats: '2006-06-17T16:01:21' or '2006-06-17'")
            })?),
        };
        Ok(RtcSpec { base, clock: self.clock, driftfix: self.driftfix })
    }
}

/// Seconds since 1970-01-01 of `YYYY-MM-DD`, with `THH:MM:SS` behind or without.
fn parse_datetime(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T').unwrap_or((text, "00:00:00"));
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last_day = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    let valid =
        (1900..=9999).contains(&year) && (1..=last_day).contains(&day) && hour < 24 && minute < 60 && second < 60;
    valid.then(|| days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

fn numbers(text: &str, between: char) -> Option<[i64; 3]> {
    let mut parts = text.split(between).map(|part| {
        let digits = !part.is_empty() && part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| part.parse::<i64>().ok())?
    });
    let three = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(three)
}

/// Of a day in the proleptic Gregorian calendar. Years are counted from March, so that a leap day is the last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + leap_days + day_of_year - 719_468
}

/// What happens on reboot, power-off, panic and watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actions {
    /// The guest reboots.
    pub reboot: RebootAction,
    /// The guest turns the machine off.
    pub shutdown: ShutdownAction,
    /// The guest's kernel panics.
    pub panic: PanicAction,
    /// A watchdog fires.
    pub watchdog: WatchdogAction,
}

impl Default for Actions {
    fn default() -> Self {
        Self {
            reboot: RebootAction::Reset,
            shutdown: ShutdownAction::Poweroff,
            panic: PanicAction::Shutdown,
            watchdog: WatchdogAction::Reset,
        }
    }
}

impl Actions {
    /// Sets what is done on `event`.
    ///
    /// # Errors
    /// There is no such event or action.
    pub fn set(&mut self, event: &str, action: &str) -> Result<(), SpecError> {
        match event {
            "reboot" => self.reboot = choose(event, action, RebootAction::ALL, RebootAction::as_str)?,
            "shutdown" => self.shutdown = choose(event, action, ShutdownAction::ALL, ShutdownAction::as_str)?,
            "panic" => self.panic = choose(event, action, PanicAction::ALL, PanicAction::as_str)?,
            "watchdog" => self.watchdog = choose(event, action, WatchdogAction::ALL, WatchdogAction::as_str)?,
            _ => {
                return Err(SpecError::unknown(Words::Options, event, ["reboot", "shutdown", "panic", "watchdog"]));
            }
        }
        Ok(())
    }
}

fn choose<T: Copy>(event: &str, action: &str, all: &[T], name: fn(T) -> &'static str) -> Result<T, SpecError> {
    let names: Vec<&str> = all.iter().map(|value| name(*value)).collect();
    let found = all.iter().find(|value| name(**value) == action);
    found.copied().ok_or_else(|| SpecError::not_one_of(event, action, &names))
}

spec_struct! {
    /// `-add-fd`: an open descriptor for `/dev/fdset/SET`.
    pub struct AddFdSpec as "add-fd" {
        /// The descriptor, above 2.
        pub fd: i32,
        /// The set.
        pub set: i64,
        /// Given back by `query-fdsets`.
        pub opaque: Option<String>,
    }
}

impl AddFdSpec {
    /// Refuses what is not to be had.
    ///
    /// # Errors
    /// One sentence.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.fd < 0 {
            Err(SpecError::new("fd option is required and must be non-negative"))
        } else if self.fd <= 2 {
            Err(SpecError::new("fd cannot be a standard I/O stream"))
        } else if self.set < 0 {
            Err(SpecError::new("set option is required and must be non-negative"))
        } else {
            Ok(())
        }
    }
}

spec_enum! {
    /// Which language a monitor speaks.
    pub enum MonitorMode {
        /// Lines for people.
        Readline = "readline",
        /// QMP.
        Control = "control",
    }
}

spec_struct! {
    /// A monitor on a character device.
    pub struct MonitorSpec as "mon" {
        /// Name of the monitor.
        pub id: Option<String>,
        /// The character device.
        pub chardev: String,
        /// Which language it speaks.
        pub mode: MonitorMode = MonitorMode::Readline,
        /// QMP with line breaks and indentation.
        pub pretty: bool = false,
    }
}

/// `-runas`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunAs {
    /// A user's name.
    User(String),
    /// Numbers.
    Ids {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// Everything about the process.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ProcessSpec {
    /// Go into the background once all is set up.
    pub daemonize: bool,
    /// A file that gets the process's number.
    pub pidfile: Option<PathBuf>,
    /// The user to become.
    pub runas: Option<RunAs>,
    /// The directory to make the root.
    pub chroot: Option<PathBuf>,
    /// System call filters.
    pub sandbox: SandboxSpec,
    /// Form of messages.
    pub msg: MsgSpec,
    /// A file that gets messages of `-d`.
    pub logfile: Option<PathBuf>,
    /// How much `-d` asks for.
    pub verbose: Option<log::LevelFilter>,
    /// Descriptors in sets.
    pub add_fds: Vec<AddFdSpec>,
}
