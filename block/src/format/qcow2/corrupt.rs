//! What happens when an image that is written to turns out to be damaged: nothing is destroyed further.
//!
//! The write is refused, the header says that the image is corrupt (version 3 can), whoever listens is told once, and
//! the open image does nothing more: what is only in memory stays there.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::header::{corrupt, incompatible};
use super::overlap::{Kinds, Metadata};
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Layer, read_vec, write_all};

/// Where the incompatible feature bits are in the header.
const INCOMPATIBLE: u64 = 72;

/// Damage that was found, as the event `BLOCK_IMAGE_CORRUPTED` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corruption {
    /// What was found, for people.
    pub message: String,
    /// First byte of the image file that would have been written.
    pub offset: u64,
    /// How many bytes.
    pub size: u64,
}

type Listener = Box<dyn Fn(&Corruption) + Send + Sync>;

/// Stands before every write to the image file.
pub(super) struct Guard {
    file: Arc<dyn Layer>,
    version: u32,
    pub(super) metadata: Metadata,
    dead: AtomicBool,
    listener: OnceLock<Listener>,
}

impl Guard {
    pub(super) fn new(file: Arc<dyn Layer>, version: u32, metadata: Metadata) -> Self {
        Self { file, version, metadata, dead: AtomicBool::new(false), listener: OnceLock::new() }
    }

    /// Refuses to write guest data ([`Kinds::NONE`]), or metadata of the kind `writing`, where other metadata is.
    ///
    /// # Errors
    /// There is; the image is not used any more.
    pub(super) fn check(&self, range: Range<u64>, writing: Kinds) -> Result<(), BlockError> {
        match self.metadata.find(range.clone(), writing) {
            None => Ok(()),
            Some(kind) => {
                let message = format!("Preventing invalid write on metadata (overlaps with {})", kind.name());
                Err(self.stop(range, &message))
            }
        }
    }

    /// Refuses to hand out a range of the file with metadata in it, whose counts must be wrong.
    ///
    /// # Errors
    /// As [`Guard::check`].
    pub(super) fn check_free(&self, range: Range<u64>) -> Result<(), BlockError> {
        self.check(range.clone(), Kinds::NONE)?;
        // Whatever is to be looked after: no structure can lie in the header's place, since offset 0 means none.
        if range.start == 0 {
            return Err(self.stop(range, "Preventing invalid allocation at offset 0"));
        }
        Ok(())
    }

    /// Writes metadata of the kind `kind`.
    ///
    /// # Errors
    /// As [`Guard::check`], and for the write itself.
    pub(super) fn write(&self, kind: Kinds, bytes: &[u8], offset: u64) -> Result<(), BlockError> {
        self.check(offset..offset + bytes.len() as u64, kind)?;
        write_all(self.file.as_ref(), bytes, offset)
    }

    /// Refuses all use of an image that was found to be damaged.
    ///
    /// # Errors
    /// It was.
    pub(super) fn alive(&self) -> Result<(), BlockError> {
        if self.is_dead() { Err(BlockError::new(ErrorKind::NoMedium, "No medium found")) } else { Ok(()) }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Has `listener` told of damage; the first one stays.
    pub(super) fn tell(&self, listener: Listener) {
        let _ = self.listener.set(listener);
    }

    fn stop(&self, range: Range<u64>, message: &str) -> BlockError {
        let size = range.end - range.start;
        if !self.dead.swap(true, Ordering::AcqRel) {
            log::error!("qcow2: Marking image as corrupt: {message}; further corruption events will be suppressed");
            if let Some(listener) = self.listener.get() {
                listener(&Corruption { message: message.to_owned(), offset: range.start, size });
            }
            if let Err(error) = self.mark() {
                log::error!("qcow2: cannot mark the image as corrupt: {error}");
            }
        }
        corrupt(format!("{message}, {size} bytes at host offset {:#x}: check -r all repairs that", range.start))
    }

    /// Says in the header that the image is corrupt; version 2 has no place for that.
    fn mark(&self) -> Result<(), BlockError> {
        if self.version < 3 {
            return Ok(());
        }
        let file = self.file.as_ref();
        let bits = read_vec(file, INCOMPATIBLE, 8)?.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        write_all(file, &(bits | incompatible::CORRUPT).to_be_bytes(), INCOMPATIBLE)?;
        file.flush()
    }
}

impl super::Qcow2 {
    /// Has `listener` told when this image is found to be damaged by a write; once, on the thread of that request: it
    /// must not wait.
    pub fn on_corruption(&self, listener: impl Fn(&Corruption) + Send + Sync + 'static) {
        self.guard.tell(Box::new(listener));
    }
}
