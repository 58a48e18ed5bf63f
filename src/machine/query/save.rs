//! `memsave` and `pmemsave`: guest memory in a file.
//!
//! The file cannot grow past what the guest has as memory. QEMU writes as much as is asked for.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use vm_memory::{Address, GuestMemoryBackend};

use super::inspect::{FIRMWARE_END, FIRMWARE_START, pages};
use crate::machine::Machine;
use crate::qmp::QmpError;
use crate::qmp::channel::{Answer, done};
use crate::qmp::command::args::{Memsave, Pmemsave};
use crate::sentence::plain;

/// Bytes that are read at once.
const STEP: u64 = 64 << 10;

/// Fills bytes that lie in one page from this address on.
type ReadPage<'a> = dyn Fn(u64, &mut [u8]) -> Result<(), QmpError> + 'a;

/// What is written: QEMU's words name both numbers.
#[derive(Clone, Copy)]
struct Range {
    start: u64,
    size: i64,
}

impl Range {
    fn invalid(self) -> QmpError {
        QmpError::generic(format!("Invalid addr {:#018x}/size {} specified", self.start, self.size))
    }

    /// How many bytes, if that is a number of bytes below `most`.
    fn length(self, most: u64) -> Result<u64, QmpError> {
        u64::try_from(self.size).ok().filter(|size| *size <= most).ok_or_else(|| self.invalid())
    }
}

impl Machine {
    /// `memsave`.
    pub(in crate::machine) fn save_linear_memory(&self, args: &Memsave) -> Answer {
        let range = Range { start: args.val.cast_unsigned(), size: args.size };
        let index = args.cpu_index.unwrap_or(0);
        let vcpu = self.vcpus().iter().find(|vcpu| i64::from(vcpu.index()) == index);
        let cpu = vcpu.ok_or_else(|| QmpError::expects("cpu-index", "a CPU number"))?.index();
        // Page tables can show one page at many addresses: a guest does not choose how large the file is.
        let length = range.length(self.planner.spec().memory.size.0)?;
        self.save(range.start, length, &args.filename, &|at, part| {
            self.memory_in_page(Some(cpu), at, part).map_err(|_| range.invalid())
        })
    }

    /// `pmemsave`; what is no memory is zero.
    pub(in crate::machine) fn save_memory(&self, args: &Pmemsave) -> Answer {
        let range = Range { start: args.val.cast_unsigned(), size: args.size };
        let ram = self.guest.as_ref().map_or(0, |guest| guest.board.ram().last_addr().raw_value() + 1);
        let is_firmware = (FIRMWARE_START..FIRMWARE_END).contains(&range.start);
        let end = if is_firmware { FIRMWARE_END } else { ram };
        let length = range.length(end.saturating_sub(range.start))?;
        self.save(range.start, length, &args.filename, &|at, part| {
            if self.memory_in_page(None, at, part).is_err() {
                part.fill(0);
            }
            Ok(())
        })
    }

    /// Writes what `read` says of each page to a new file.
    fn save(&self, start: u64, length: u64, name: &str, read: &ReadPage<'_>) -> Answer {
        let mut file = create(name)?;
        let mut written = 0;
        while written < length {
            let mut bytes = vec![0; usize::try_from(STEP.min(length - written)).unwrap_or(0)];
            for (at, part) in pages(&mut bytes, start.wrapping_add(written)) {
                read(at, part)?;
            }
            let failed = |error: io::Error| QmpError::generic(plain(&format!("Could not write '{name}': {error}")));
            file.write_all(&bytes).map_err(failed)?;
            written += bytes.len() as u64;
        }
        done()
    }
}

/// Empties or makes the file. A pipe that nobody reads is refused, where waiting would hold the machine up.
fn create(name: &str) -> Result<File, QmpError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o666).custom_flags(libc::O_NONBLOCK);
    let failed = |error: io::Error| QmpError::generic(plain(&format!("Could not open '{name}': {error}")));
    options.open(name).map_err(failed)
}
