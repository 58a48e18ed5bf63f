//! What the machine we run on can do.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What stands behind `/dev/kvm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kvm {
    /// VT-x or SVM: any guest runs.
    Hardware,
    /// It opens, but the processor has no virtualization: guest code is interpreted, stock kernels do not boot.
    Software,
    /// It is missing or may not be opened.
    Missing,
}

/// Looks at `/dev/kvm` and at the processor's flags.
pub(crate) fn kvm() -> Kvm {
    if OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Kvm::Missing;
    }
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if has_virtualization(&cpuinfo) { Kvm::Hardware } else { Kvm::Software }
}

/// True if the first processor in a `/proc/cpuinfo` has VT-x or SVM.
fn has_virtualization(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

/// The processors that this process may run on, by their numbers.
pub(crate) fn processors() -> Result<Vec<u32>> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.and_then(|list| numbers(list.trim())).context("/proc/self/status does not list the allowed processors")
}

/// The numbers in a kernel's list of them, such as `0-1,4`.
fn numbers(list: &str) -> Option<Vec<u32>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse::<u32>().ok()?)
    };
    let ranges: Option<Vec<_>> = list.split(',').map(range).collect();
    ranges.map(|ranges| ranges.into_iter().flatten().collect())
}

/// True if we are the super-user.
pub(crate) fn is_root() -> bool {
    fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t0")))
}

/// True if a program of this name is installed.
pub(crate) fn has_program(name: &str) -> bool {
    find_program(name).is_some()
}

/// Where a program lies, the super-user's directories included.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    search_path().split(':').map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

/// The search path with the super-user's directories, where depmod and mke2fs lie.
pub(crate) fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{has_virtualization, numbers};

    #[test]
    fn list_of_processors_is_read_with_its_ranges() {
        assert_eq!(numbers("0-1,4"), Some(vec![0, 1, 4]));
        assert_eq!(numbers("0-x"), None);
    }

    #[test]
    fn svm_flag_means_hardware() {
        assert!(has_virtualization("processor\t: 0\nflags\t\t: fpu svm nx\n"));
    }

    #[test]
    fn vmx_inside_another_word_means_nothing() {
        assert!(!has_virtualization("flags\t\t: fpu vmx_extra\nvmx flags\t: vnmi\n"));
    }
}
