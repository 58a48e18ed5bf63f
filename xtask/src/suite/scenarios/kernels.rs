//! A public kernel that is not Linux, as far as its first screen: played by name, for in an emulated processor's
//! virtualization it takes its time.

use std::time::Duration;

use anyhow::{Context, Result};

use super::firmware::{MENU, start, with_disc};
use crate::suite::stage::Stage;

super::scenarios![memory_test_starts_as_a_kernel_and_from_a_menu];

/// The memory test measures processor and memory before it shows anything.
const MEASURED: Duration = Duration::from_secs(180);

fn memory_test_starts_as_a_kernel_and_from_a_menu(stage: &Stage<'_>) -> Result<()> {
    for kernel in ["/boot/memtest86+x64.bin", "/boot/memtest86+ia32.bin"] {
        let mut vm = start(stage, &["-kernel", kernel, "-append", "console=ttyS0,115200"])?;
        vm.wait_for("Memtest86+", MEASURED).with_context(|| format!("started from {kernel}"))?;
    }
    let mut vm = with_disc(stage, &stage.boot_disc()?)?;
    vm.wait_for("Memory test", MENU)?;
    vm.type_line("")?;
    vm.wait_for("Memtest86+", MEASURED).map(drop)
}
