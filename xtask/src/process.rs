//! What a monitor's process uses: memory beside the guest's, processor time, KVM exits.

use std::collections::BTreeMap;
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
    resident(smaps).into_iter().filter(|mapping| mapping.size < guest_kib).map(|mapping| mapping.resident).sum()
}

/// Resident memory by what is mapped, in KiB, the guest's own included.
pub(crate) fn mappings(pid: u32) -> Result<BTreeMap<String, u64>> {
    let path = format!("/proc/{pid}/smaps");
    let smaps = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let mut sums = BTreeMap::new();
    for mapping in resident(&smaps) {
        *sums.entry(mapping.name.to_owned()).or_insert(0) += mapping.resident;
    }
    sums.retain(|_, sum| *sum > 0);
    Ok(sums)
}

/// One mapping of `/proc/PID/smaps`, sizes in KiB.
#[derive(Default)]
struct Mapping<'a> {
    name: &'a str,
    size: u64,
    resident: u64,
}

fn resident(smaps: &str) -> Vec<Mapping<'_>> {
    let mut mappings: Vec<Mapping<'_>> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match mappings.last_mut() {
            _ if !first.ends_with(':') => {
                // Address, permissions, offset, device, inode, name.
                mappings.push(Mapping { name: words.nth(3).unwrap_or("anonymous"), ..Mapping::default() });
            }
            Some(mapping) if first == "Size:" => mapping.size = second.parse().unwrap_or(0),
            Some(mapping) if first == "Rss:" => mapping.resident = second.parse().unwrap_or(0),
            _ => {}
        }
    }
    mappings
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

/// Times that the threads of a process gave the processor up to wait.
pub(crate) fn waits(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread that ended meanwhile waits no more.
        let status = fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += count.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// KVM's counters of a machine and its vCPUs that are not zero, `exits` and its kinds among them; none if debugfs is
/// not mounted.
pub(crate) fn exits(pid: u32) -> BTreeMap<String, u64> {
    let prefix = format!("{pid}-");
    let machines = fs::read_dir("/sys/kernel/debug/kvm").into_iter().flatten().flatten();
    let of_process = machines.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    let mut counters = BTreeMap::new();
    for entry in of_process.flat_map(|machine| fs::read_dir(machine.path()).into_iter().flatten().flatten()) {
        let count = fs::read_to_string(entry.path()).ok().and_then(|text| text.trim().parse().ok());
        if let Some(count @ 1..) = count {
            *counters.entry(entry.file_name().to_string_lossy().into_owned()).or_insert(0) += count;
        }
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::{processor_time, without_guest};

    #[test]
    fn guest_memory_is_left_out() {
        let smaps = "7f00-8f00 rw-p 0 00:00 0\nSize: 131072 kB\nRss: 90000 kB\n\
                     5500-5600 r-xp 0 08:01 7 /bin/x\nSize: 400 kB\nRss: 300 kB\nRss_: 1\n";

        assert_eq!(without_guest(smaps, 131_072), 300);
    }

    #[test]
    fn own_processor_time_is_read() {
        assert!(!processor_time(std::process::id()).unwrap().is_zero());
    }
}
