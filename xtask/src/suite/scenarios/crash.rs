//! The monitor dies in the midst of writes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::suite::stage::Stage;

super::scenarios![killed_monitor_leaves_a_sound_image_with_all_that_was_flushed];

/// One write of the guest: more than a cluster, and not aligned to one.
const BLOCK: usize = 98304;

fn killed_monitor_leaves_a_sound_image_with_all_that_was_flushed(stage: &Stage<'_>) -> Result<()> {
    for round in 0..3 {
        let disk = stage.image(&format!("disk-{round}"), "qcow2", "256M")?;
        let mut vm = stage.vm().disk(&disk, "qcow2").boot()?;
        // Every block says which it is. One that was reported is on stable storage.
        let write = "yes block-$i | head -c 98304 | dd of=/dev/vda bs=98304 seek=$i conv=notrunc,fsync 2>/dev/null";
        vm.type_line(&format!("i=0; while [ $i -lt 2000 ]; do {write}; echo \"flushed $i.\"; i=$((i+1)); done"))?;
        let last = 20 + round * 15;

        vm.wait_for(&format!("flushed {last}."), Duration::from_secs(120))?;
        vm.kill()?;

        ensure!(stage.faults(&disk)? == 0, "round {round}: the image is damaged");
        let content = stage.content(&disk, "qcow2")?;
        for block in 0..=last {
            let written = content.get(block * BLOCK..(block + 1) * BLOCK).context("the image is too short")?;
            let wanted = format!("block-{block}\n").into_bytes();
            let intact = written.iter().eq(wanted.iter().cycle().take(BLOCK));
            ensure!(intact, "round {round}: block {block} was flushed and is lost");
        }
    }
    Ok(())
}
