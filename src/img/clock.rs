//! Points in time as people read them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now: seconds and nanoseconds since 1970.
pub(super) fn now() -> (u32, u32) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (u32::try_from(since.as_secs()).unwrap_or(u32::MAX), since.subsec_nanos())
}

/// `seconds` since 1970 in the host's time zone: `2026-11-23 21:16:33`.
#[expect(unsafe_code, reason = "the host's time zone is only known to the C library")]
pub(super) fn local(seconds: u32) -> String {
    let time = libc::time_t::from(seconds);
    // SAFETY: `tm` is plain numbers and a pointer that may be null, so all zeroes are a value of it.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of ours; localtime_r keeps neither.
    if unsafe { libc::localtime_r(&raw const time, &raw mut parts) }.is_null() {
        return seconds.to_string();
    }
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        i64::from(parts.tm_year) + 1900,
        parts.tm_mon + 1,
        parts.tm_mday,
        parts.tm_hour,
        parts.tm_min,
        parts.tm_sec
    )
}

/// A guest's clock: hours, minutes, seconds and thousandths.
pub(super) fn guest(nanoseconds: u64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    format!("{:02}:{:02}:{:02}.{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60, nanoseconds / 1_000_000 % 1000)
}
