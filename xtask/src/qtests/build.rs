//! The test programs, from Debian's source package to executables, below `target/qtests`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::packages::{self, Package};
use crate::{command, qemu_source};

/// The programs of QEMU's suite that test what Rhea has.
pub(super) const PROGRAMS: &[&str] = &[
    "ide-test",
    "cdrom-test",
    "i440fx-test",
    "fw_cfg-test",
    "rtc-test",
    "boot-order-test",
    "hd-geo-test",
    "qos-test",
    "qmp-test",
    "qmp-cmd-test",
    "machine-none-test",
    "readconfig-test",
    "drive_del-test",
    "device-plug-test",
    "device-introspect-test",
    "endianness-test",
    "pvpanic-test",
    "fuzz-virtio-scsi-test",
];

/// What QEMU's build needs.
const NEEDED: &[Package] = &[
    Package { name: "build-essential", program: "cc", why: "compiles QEMU's test programs" },
    Package { name: "ninja-build", program: "ninja", why: "builds QEMU's test programs" },
    Package { name: "meson", program: "meson", why: "configures QEMU's build" },
    Package { name: "pkg-config", program: "pkg-config", why: "finds the libraries of QEMU's build" },
    Package { name: "flex", program: "flex", why: "QEMU's configuration asks for it" },
    Package { name: "bison", program: "bison", why: "QEMU's configuration asks for it" },
    Package { name: "python3-venv", program: "python3", why: "runs the scripts of QEMU's build" },
    Package {
        name: "libglib2.0-dev",
        program: "glib-compile-resources",
        why: "QEMU's test programs are written with it",
    },
    Package { name: "genisoimage", program: "genisoimage", why: "makes the disks of QEMU's CD tests" },
    Package {
        name: "libpixman-1-dev",
        program: "/usr/include/pixman-1/pixman.h",
        why: "QEMU's configuration asks for it",
    },
    Package { name: "libfdt-dev", program: "/usr/include/libfdt.h", why: "QEMU's configuration asks for it" },
];

const CONFIGURE: &[&str] = &[
    "--target-list=x86_64-softmmu",
    "--without-default-features",
    "--enable-kvm",
    "--disable-docs",
    "--disable-werror",
    "--with-git-submodules=ignore",
    "--meson=meson",
];

/// The directory with the programs; built the first time.
pub(super) fn programs() -> Result<PathBuf> {
    packages::ensure(NEEDED)?;
    let build = qemu_source::directory().join("build");
    let source = qemu_source::fetch()?;
    if !build.join("build.ninja").is_file() {
        println!("configuring QEMU's build in {}", build.display());
        fs::create_dir_all(&build)?;
        command::output(Command::new(source.join("configure")).args(CONFIGURE).current_dir(&build))?;
    }
    let targets = PROGRAMS.iter().map(|program| format!("tests/qtest/{program}"));
    println!("building QEMU's test programs in {}", build.display());
    command::run(Command::new("ninja").arg("--quiet").args(targets).current_dir(&build))?;
    Ok(build.join("tests/qtest"))
}
