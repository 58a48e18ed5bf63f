//! What a monitor's process uses: memory beside the guest's, processor time, KVM exits.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// Resident memory without the guest's, in KiB: mappings as large as the guest's memory are the guest's.
pub(crate) fn own_memory(pid: u32, guest_kib: u64) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps");
    let smaps = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(without_guest(&smaps, guest_kib))
}

fn without_guest(smaps: &str, guest_kib: u64) -> u64 {
    let mut size = 0;
    let mut total = 0;
    for line in smaps.lines() {
        let number = || line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        if line.starts_with("Size:") {
            size = number();
        } else if line.starts_with("Rss:") && size < guest_kib {
            total += number();
        }
    }
    total
}

/// Processor time that all threads of a process have used, those that have ended included.
pub(crate) fn processor_time(pid: u32) -> Result<Duration> {
    let pid = i32::try_from(pid).context("process id out of range")?;
    // clock_getcpuclockid(3) on Linux: the process's clock of kind CPUCLOCK_SCHED.
    let clock = (!pid << 3) | 2;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    #[expect(unsafe_code, reason = "no safe wrapper reads the clock of another process")]
    // SAFETY: `time` is valid for writing for the whole call, and the kernel checks the clock's number.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    ensure!(result == 0, "no clock of process {pid}: {}", std::io::Error::last_os_error());
    Ok(Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0)))
}

/// Exits of all vCPUs to KVM so far, if debugfs is mounted.
pub(crate) fn exits(pid: u32) -> Option<u64> {
    let prefix = format!("{pid}-");
    let mut machines = fs::read_dir("/sys/kernel/debug/kvm").ok()?.flatten();
    let machine = machines.find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))?;
    let vcpus = fs::read_dir(machine.path()).ok()?.flatten();
    let counts =
        vcpus.filter_map(|vcpu| fs::read_to_string(vcpu.path().join("exits")).ok()?.trim().parse::<u64>().ok());
    let of_vcpus: u64 = counts.sum();
    let of_machine = || fs::read_to_string(machine.path().join("exits")).ok()?.trim().parse().ok();
    if of_vcpus > 0 { Some(of_vcpus) } else { of_machine() }
}

#[cfg(test)]
mod tests {
    use super::{processor_time, without_guest};

    #[test]
    fn guest_memory_is_left_out() {
        let smaps = "7f00 rw-p\nSize: 131072 kB\nRss: 90000 kB\n5500 r-xp\nSize: 400 kB\nRss: 300 kB\nRss_: 1\n";

        assert_eq!(without_guest(smaps, 131_072), 300);
    }

    #[test]
    fn own_processor_time_is_read() {
        assert!(!processor_time(std::process::id()).unwrap().is_zero());
    }
}
