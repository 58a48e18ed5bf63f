//! Reading and writing a disk from the human monitor, as the guest would: `qemu-io DISK "write -P 7 0 64k"`.

use rhea_block::layer::{self, Layer};

use super::Machine;
use crate::qmp::QmpError;
use crate::qmp::channel::DiskWork;

/// Bytes in memory at a time.
const PIECE: u64 = 1 << 20;

impl Machine {
    /// Does `work` on the disk that the device `disk` has, or on a node that nobody has. Gives what is to be printed.
    ///
    /// # Errors
    /// When there is no such disk, somebody else writes to it, or it fails.
    pub(super) fn disk_io(&self, disk: &str, work: DiskWork) -> Result<String, QmpError> {
        let name = self.facts.find_disk(disk).map_or(disk, |disk| disk.node.as_str());
        let node = self.host.graph.get(name).ok_or_else(|| QmpError::device_not_found(disk))?;
        let attached = self.disks_of(&node).into_iter().next();
        if attached.is_none() && !matches!(work, DiskWork::Read { .. }) {
            let unused = self.host.graph.check_write(&node, "qemu-io");
            unused.map_err(|error| QmpError::from_error(&error))?;
        }
        // A job's filter stands on top of a device's disk, and a job may hold that still.
        let done = match attached {
            Some(disk) => disk.perform(|top| carry_out(top, work)),
            None => carry_out(node.layer().as_ref(), work),
        };
        self.host.graph.lock_as_used(&node);
        done
    }
}

fn carry_out(disk: &dyn Layer, work: DiskWork) -> Result<String, QmpError> {
    if let Some((offset, len)) = work.range() {
        let end = offset.checked_add(len).filter(|end| *end <= disk.size());
        end.ok_or_else(|| QmpError::generic(format!("the disk ends at {}", disk.size())))?;
    }
    if disk.limits().read_only && !matches!(work, DiskWork::Read { .. }) {
        return Err(QmpError::generic("the disk is read-only"));
    }
    let done = match work {
        DiskWork::Read { pattern, offset, len } => {
            for (at, len) in pieces(offset, len) {
                let bytes = layer::read_vec(disk, at, len).map_err(|error| QmpError::from_error(&error))?;
                let other = pattern.and_then(|byte| bytes.iter().position(|found| *found != byte));
                if let Some(place) = other {
                    return Ok(format!("Pattern verification failed at offset {}\n", at + place as u64));
                }
            }
            Ok(())
        }
        DiskWork::Write { pattern, offset, len } => {
            pieces(offset, len).try_for_each(|(at, len)| layer::write_all(disk, &vec![pattern; len], at))
        }
        DiskWork::Zero { unmap, offset, len } => disk.write_zeroes(offset, len, unmap),
        DiskWork::Discard { offset, len } => disk.discard(offset, len),
        DiskWork::Flush => disk.flush(),
    };
    done.map_err(|error| QmpError::from_error(&error))?;
    Ok(String::new())
}

/// A range in parts that fit in memory.
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize)> {
    let starts = (0..len.div_ceil(PIECE)).map(move |n| n * PIECE);
    starts.map(move |start| (offset + start, usize::try_from(PIECE.min(len - start)).unwrap_or_default()))
}
