//! A Python of our own below `target/`, with the public QMP client.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::{command, paths};

/// What is installed from PyPI, and why: `qemu.qmp` is the client that QEMU's users have.
const PACKAGE: &str = "qemu.qmp==0.0.6";

/// The interpreter of a virtual environment with the client; made the first time.
pub(crate) fn interpreter() -> Result<PathBuf> {
    let environment = paths::target().join("python");
    let python = environment.join("bin/python3");
    let imports = Command::new(&python).args(["-c", "import qemu.qmp"]).stderr(Stdio::null()).status();
    if imports.is_ok_and(|status| status.success()) {
        return Ok(python);
    }
    println!("installing {PACKAGE} from PyPI: the public QMP client drives Rhea in a test");
    command::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
    command::run(Command::new(&python).args(["-m", "pip", "install", "--quiet", PACKAGE]))
        .with_context(|| format!("cannot install {PACKAGE}"))?;
    Ok(python)
}
