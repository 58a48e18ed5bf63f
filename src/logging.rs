//! Messages for people, in QEMU's form: `program: warning: text`, on standard error or in a file (`-D`).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::sentence::plain;

/// How messages are written.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The name the program was called by.
    pub program: String,
    /// Put the time in front (`-msg timestamp=on`).
    pub timestamp: bool,
    /// Put the guest's name in front (`-msg guest-name=on`).
    pub guest: Option<String>,
    /// Show what helps to find a fault (`-d`), and how much of it.
    pub verbose: Option<LevelFilter>,
}

struct Logger {
    settings: Settings,
    file: Option<Mutex<File>>,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = self.line(record);
        // A message that cannot be written has nobody to be told to.
        let _ = match &self.file {
            Some(file) if record.level() > Level::Warn => {
                file.lock().map_or(Ok(()), |mut f| f.write_all(line.as_bytes()))
            }
            _ => io::stderr().write_all(line.as_bytes()),
        };
    }

    fn flush(&self) {}
}

impl Logger {
    fn line(&self, record: &Record<'_>) -> String {
        let mut line = String::new();
        if self.settings.timestamp {
            line.push_str(&timestamp(SystemTime::now()));
            line.push(' ');
        }
        if let Some(guest) = &self.settings.guest {
            line.push_str(guest);
            line.push(' ');
        }
        line.push_str(&self.settings.program);
        line.push_str(match record.level() {
            Level::Error => ": ",
            Level::Warn => ": warning: ",
            Level::Info => ": info: ",
            Level::Debug => ": debug: ",
            Level::Trace => ": trace: ",
        });
        line.push_str(&plain(&record.args().to_string()));
        line.push('\n');
        line
    }
}

/// ISO 8601 in UTC with microseconds, as `2026-11-23T20:05:00.123456Z`.
fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = civil_date(i64::try_from(since.as_secs() / 86_400).unwrap_or(0));
    let second = since.as_secs() % 86_400;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", since.subsec_micros())
}

/// Year, month and day of a day counted from 1970-01-01 in the proleptic Gregorian calendar.
fn civil_date(days: i64) -> (i64, i64, i64) {
    // Years start in March here, so that the leap day is the last of a year; 719,468 days lie before 1970-01-01.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// Starts logging; later calls change nothing.
///
/// # Errors
/// When the log file cannot be opened.
pub fn start(settings: Settings, path: Option<&Path>) -> io::Result<()> {
    let file = path.map(|p| OpenOptions::new().create(true).append(true).open(p)).transpose()?;
    install(Logger { settings, file: file.map(Mutex::new) });
    Ok(())
}

/// Starts logging warnings on standard error, for a program without options for more; later calls change nothing.
pub fn start_warnings(program: &str) {
    install(Logger { settings: Settings { program: program.to_owned(), ..Settings::default() }, file: None });
}

fn install(logger: Logger) {
    let level = logger.settings.verbose.unwrap_or(LevelFilter::Warn);
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(level);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timestamp_of_a_leap_day_is_right() {
        let leap_day = UNIX_EPOCH + Duration::new(1_709_210_096, 7_000);

        assert_eq!(timestamp(leap_day), "2024-02-29T12:34:56.000007Z");
    }

    #[test]
    fn first_day_is_the_epoch() {
        assert_eq!(civil_date(0), (1970, 1, 1));
    }

    #[test]
    fn warning_reads_as_qemu_writes_it() {
        let logger = Logger { settings: Settings { program: "rhea".into(), ..Settings::default() }, file: None };

        let line = logger.line(
            &Record::builder().level(Level::Warn).args(format_args!("host doesn't support requested feature")).build(),
        );

        assert_eq!(line, "rhea: warning: host doesn't support requested feature\n");
    }
}
