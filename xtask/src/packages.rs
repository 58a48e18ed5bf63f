//! Debian packages: which we need, what for, and their installation by name.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{command, host};

/// One package: its name, the program (or the file, by its whole path) that shows it is there, and the reason we want
/// it.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) program: &'static str,
    pub(crate) why: &'static str,
}

/// What the lab and every guest of ours is made with.
pub(crate) const LAB: &[Package] = &[
    Package { name: "qemu-system-x86", program: "qemu-system-x86_64", why: "emulates the lab's processor with SVM" },
    Package { name: "busybox-static", program: "busybox", why: "the user space of the lab and of small guests" },
    Package { name: "kmod", program: "depmod", why: "lists which kernel module needs which" },
];

/// What a guest's disk is made with.
pub(crate) const DISK: &[Package] =
    &[Package { name: "e2fsprogs", program: "mke2fs", why: "makes a guest's file system without mounting it" }];

/// What the tests compare with and verify by.
pub(crate) const TOOLS: &[Package] = &[
    Package { name: "qemu-utils", program: "qemu-img", why: "checks the images that Rhea writes" },
    Package { name: "fio", program: "fio", why: "verifies in a guest what it has written" },
    Package { name: "sg3-utils", program: "sg_inq", why: "asks a guest's SCSI units what they are and can do" },
    Package { name: "libiscsi-bin", program: "iscsi-test-cu", why: "holds a guest's SCSI units against the standards" },
    Package { name: "hdparm", program: "hdparm", why: "reads what a guest's IDE drives say of themselves" },
    Package { name: "smartmontools", program: "smartctl", why: "reads the health of a guest's drives" },
    Package { name: "pciutils", program: "lspci", why: "reads the registers of a guest's PCI functions" },
    Package { name: "eject", program: "eject", why: "opens and closes the tray of a guest's CD drive" },
    Package { name: "xorriso", program: "xorriso", why: "makes the discs in a guest's CD drive" },
    Package { name: "dmidecode", program: "dmidecode", why: "reads a guest's SMBIOS tables" },
    Package { name: "acpica-tools", program: "iasl", why: "reads the ACPI tables that Rhea makes" },
];

/// What firmware starts in the tests.
pub(crate) const FIRMWARE: &[Package] = &[
    Package { name: "seabios", program: "/usr/share/seabios/bios-256k.bin", why: "the firmware of a PC" },
    Package { name: "ovmf", program: UEFI, why: "the UEFI firmware of a PC" },
    Package { name: "grub-rescue-pc", program: RESCUE_DISC, why: "a boot loader's menu on a CD and on a disk" },
    Package { name: "ipxe", program: "/usr/lib/ipxe/ipxe.iso", why: "a network boot loader on a CD and as a kernel" },
    Package { name: "memtest86+", program: "/boot/memtest86+x64.bin", why: "a kernel that is not Linux" },
    Package { name: "grub-common", program: "grub-mkrescue", why: "makes a disc with a boot loader of our own" },
    Package { name: "grub-pc-bin", program: "/usr/lib/grub/i386-pc/boot.img", why: "the boot loader on that disc" },
    Package {
        name: "grub-efi-amd64-bin",
        program: "/usr/lib/grub/x86_64-efi/halt.mod",
        why: "the boot loader on that disc for UEFI",
    },
    Package { name: "mtools", program: "mformat", why: "what grub-mkrescue works with" },
    Package { name: "xorriso", program: "xorriso", why: "what grub-mkrescue works with" },
];

/// UEFI firmware in one piece; and for two flash chips, one with its code and one with its variables.
pub(crate) const UEFI: &str = "/usr/share/ovmf/OVMF.fd";
pub(crate) const UEFI_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
pub(crate) const UEFI_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// GRUB with its menu, as a CD and as a disk.
pub(crate) const RESCUE_DISC: &str = "/usr/lib/grub-rescue/grub-rescue-cdrom.iso";

/// What an installed disk is made with.
pub(crate) const INSTALLED: &[Package] = &[
    Package { name: "mmdebstrap", program: "mmdebstrap", why: "installs Debian into a directory" },
    Package { name: "grub-common", program: "grub-mkimage", why: "makes the boot loader of that disk" },
    Package { name: "grub-pc-bin", program: "/usr/lib/grub/i386-pc/boot.img", why: "the boot loader of that disk" },
    Package { name: "mtools", program: "mformat", why: "makes that disk's partition for UEFI" },
];

/// The manager that most virtual machines on Linux are started by.
pub(crate) const LIBVIRT: &[Package] = &[
    Package { name: "libvirt-daemon-system", program: "libvirtd", why: "starts Rhea as it starts QEMU" },
    Package { name: "libvirt-clients", program: "virsh", why: "tells libvirt what to do" },
];

/// What the unit and interface tests use.
pub(crate) const TESTS: &[Package] = &[
    Package { name: "bzip2", program: "bzip2", why: "packs kernels as their builds do" },
    Package { name: "lz4", program: "lz4", why: "packs kernels as their builds do" },
    Package { name: "lzop", program: "lzop", why: "packs kernels as their builds do" },
    Package { name: "xz-utils", program: "xz", why: "packs kernels as their builds do" },
    Package { name: "zstd", program: "zstd", why: "packs kernels as their builds do" },
    Package { name: "libnbd-bin", program: "nbdinfo", why: "the public client for Rhea's NBD server" },
    Package { name: "nbdkit", program: "nbdkit", why: "a public server for Rhea's NBD client" },
    Package { name: "gdb", program: "gdb", why: "debugs a guest through Rhea" },
    Package { name: "python3-venv", program: "python3", why: "runs the public QMP client against Rhea" },
];

/// Installs those of `wanted` that are missing, saying what and why.
pub(crate) fn ensure(wanted: &[Package]) -> Result<()> {
    let missing: Vec<_> = wanted.iter().filter(|package| !host::has_program(package.program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for package in &missing {
        println!("installing {}: {}", package.name, package.why);
    }
    let names: Vec<_> = missing.iter().map(|package| package.name).collect();
    with_fresh_lists(|| apt(&[&["install", "--yes", "--no-install-recommends"][..], &names].concat()))
        .with_context(|| format!("cannot install {}", names.join(", ")))?;
    match missing.iter().find(|package| !host::has_program(package.program)) {
        Some(package) => bail!("package {} is installed but has no {}", package.name, package.program),
        None => Ok(()),
    }
}

/// The versioned package behind a meta package: `linux-image-amd64` gives `linux-image-6.1.0-56-amd64`.
pub(crate) fn resolve(meta: &str) -> Result<String> {
    with_fresh_lists(|| {
        let shown = command::output(Command::new("apt-cache").args(["show", "--no-all-versions", meta]))?;
        first_dependency(&shown).with_context(|| format!("package {meta} names no dependency"))
    })
}

/// Downloads a package's archive into `directory` without installing it.
pub(crate) fn download(name: &str, directory: &Path) -> Result<()> {
    let fetch = || {
        // Apt's own user cannot write below a home directory and says so at length: not worth reading.
        let options = ["-qq", "-o", "APT::Sandbox::User=root", "download", name];
        command::output(Command::new("apt-get").args(options).current_dir(directory)).map(drop)
    };
    with_fresh_lists(fetch).with_context(|| format!("cannot download package {name}"))
}

/// Downloads a source package into `directory`, from where `sources` (lines of a sources.list) say.
pub(crate) fn download_source(name: &str, sources: &str, directory: &Path) -> Result<()> {
    let apt = directory.join("apt");
    for needed in ["lists/partial", "cache/archives/partial"] {
        std::fs::create_dir_all(apt.join(needed))?;
    }
    let list = apt.join("sources.list");
    std::fs::write(&list, sources)?;
    let options = [
        format!("Dir::Etc::sourcelist={}", list.display()),
        "Dir::Etc::sourceparts=-".to_owned(),
        format!("Dir::State::lists={}", apt.join("lists").display()),
        format!("Dir::Cache={}", apt.join("cache").display()),
        "APT::Sandbox::User=root".to_owned(),
    ];
    for action in [&["update"][..], &["source", "--download-only", name]] {
        let mut command = Command::new("apt-get");
        command.arg("-qq").args(options.iter().flat_map(|option| ["-o", option])).args(action);
        command::output(command.current_dir(directory))
            .with_context(|| format!("cannot fetch the source of {name}"))?;
    }
    Ok(())
}

/// Runs `work`; if it fails, the package lists may be missing or stale: updates them and runs it once more.
fn with_fresh_lists<T>(work: impl Fn() -> Result<T>) -> Result<T> {
    work().or_else(|first| {
        println!("updating the package lists, for this failed without: {first:#}");
        apt(&["update"])?;
        work()
    })
}

/// Runs apt-get as the super-user, through sudo if need be, and waits ten minutes for another that installs at the time.
fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = if host::is_root() {
        Command::new("apt-get")
    } else if host::has_program("sudo") {
        let mut sudo = Command::new("sudo");
        sudo.arg("apt-get");
        sudo
    } else {
        bail!("installing packages needs root or sudo; as root, run: apt-get {}", arguments.join(" "));
    };
    let options = ["-qq", "-o", "DPkg::Lock::Timeout=600"];
    command::run(command.args(options).args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null()))
}

/// The first package a `Depends:` field names.
fn first_dependency(shown: &str) -> Option<String> {
    let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let name: String = depends.chars().take_while(|c| !" ,|(".contains(*c)).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::first_dependency;

    #[test]
    fn dependency_is_read_without_its_version() {
        let shown = "Package: linux-image-amd64\nDepends: linux-image-6.1.0-56-amd64 (= 6.1.192-2), foo\n";

        assert_eq!(first_dependency(shown).as_deref(), Some("linux-image-6.1.0-56-amd64"));
    }

    #[test]
    fn package_without_dependencies_has_none() {
        assert_eq!(first_dependency("Package: x\n"), None);
    }
}
