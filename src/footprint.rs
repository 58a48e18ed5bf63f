//! What the process has for itself, and keeping it small.

use std::fs;
use std::ops::Range;

/// Gives back the memory of code that only the start needed, which is most of the program: options, tables, the loader
/// of kernels. What runs again comes back from the page cache, in pieces as large as the kernel likes.
///
/// Where the process cannot see its own mappings nothing happens.
#[expect(unsafe_code, reason = "madvise has no safe wrapper")]
pub fn let_go_of_code() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for code in maps.lines().filter_map(code_of_a_file) {
        // SAFETY: the range is code that is mapped from a file and that nobody can write to, so what the kernel takes out
        // is what it reads in again. A mapping that went away since the line was read was a library's; none is unloaded
        // here. The outcome does not matter: locked memory (-overcommit mem-lock=on) stays.
        unsafe { libc::madvise(code.start as *mut libc::c_void, code.end - code.start, libc::MADV_DONTNEED) };
    }
}

/// The addresses of a line of /proc/PID/maps, if it is one of code that was mapped from a file: `START-END r-xp OFFSET
/// DEVICE INODE PATH` (proc(5)).
fn code_of_a_file(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_code = words.next()? == "r-xp" && words.nth(3)?.starts_with('/');
    let address = |text| usize::from_str_radix(text, 16).ok();
    is_code.then_some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_let_go() {
        let line = "55d0c4a2b000-55d0c4c00000 r-xp 0002b000 fd:01 1234                       /usr/bin/rhea";
        assert_eq!(code_of_a_file(line), Some(0x55d0_c4a2_b000..0x55d0_c4c0_0000));
        for other in [
            "55d0c4a00000-55d0c4a2b000 r--p 00000000 fd:01 1234                       /usr/bin/rhea",
            "55d0c4c00000-55d0c4c10000 rw-p 00200000 fd:01 1234                       /usr/bin/rhea",
            "7ffd1b5f2000-7ffd1b5f4000 r-xp 00000000 00:00 0                          [vdso]",
            "7f0000000000-7f0000001000 r-xp 00000000 00:00 0",
            "",
        ] {
            assert_eq!(code_of_a_file(other), None, "{other}");
        }
    }

    /// Resident code of this process, in KiB.
    fn resident() -> u64 {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_code = false;
        let mut sum = 0;
        for line in maps.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("Rss:") if is_code => sum += words.next().unwrap().parse::<u64>().unwrap(),
                Some(name) if !name.ends_with(':') => is_code = code_of_a_file(line).is_some(),
                _ => {}
            }
        }
        sum
    }

    #[test]
    fn code_that_was_let_go_is_not_resident_and_runs_again() {
        let before = resident();
        let_go_of_code();
        let after = resident();
        assert!(after < before, "{before} KiB before, {after} after");
    }
}
