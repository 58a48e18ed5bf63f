//! Driver `luks`: a file that is one LUKS volume, header first.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::crypto::{Luks, LuksInfo, LuksOptions, SECTOR, Secret, SlotChange, Volume};
use crate::error::{BlockError, ErrorKind};
use crate::graph::ImageDetails;
use crate::layer::{Layer, Limits, Preallocation, Status};
use crate::mem::{Sink, Source};

/// Bytes of zeroes that are encrypted at a time.
const STEP: u64 = 1 << 20;

/// An open volume.
pub struct LuksDisk {
    file: Arc<dyn Layer>,
    luks: Mutex<Luks>,
    volume: Volume,
    /// Start of the payload in bytes.
    start: u64,
}

impl LuksDisk {
    /// Opens the volume in `file`; without a password only its header can be looked at.
    ///
    /// # Errors
    /// When it is none, no key slot opens, or there is no password and `no_data` does not say that none is needed.
    pub fn open(file: Arc<dyn Layer>, password: Option<&Secret>, no_data: bool) -> Result<Self, BlockError> {
        let luks = Luks::read(file.as_ref(), 0, u64::MAX)?;
        let start = luks.payload_offset();
        if file.size() < start {
            return Err(BlockError::new(ErrorKind::Corrupt, "the LUKS payload begins past the end of the file"));
        }
        let cipher = match password {
            Some(password) => Some(luks.unlock(file.as_ref(), 0, password)?),
            None if no_data => None,
            None => {
                return Err(BlockError::new(ErrorKind::Invalid, "Parameter 'key-secret' is required for cipher"));
            }
        };
        Ok(Self { file, luks: Mutex::new(luks), volume: Volume::new(cipher), start })
    }

    /// Writes a new volume for a disk of `size` bytes into `file`.
    ///
    /// # Errors
    /// When the options contradict each other or the host cannot hold it.
    pub fn create(
        file: &Arc<dyn Layer>,
        size: u64,
        options: &LuksOptions,
        password: &Secret,
        preallocation: Preallocation,
    ) -> Result<(), BlockError> {
        let whole = size.checked_add(options.payload_offset());
        let whole = whole.ok_or_else(|| BlockError::new(ErrorKind::Invalid, "The requested file size is too large"))?;
        file.resize(whole, preallocation)?;
        Luks::create(file.as_ref(), 0, options, password).map(drop)
    }

    fn luks(&self) -> MutexGuard<'_, Luks> {
        self.luks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the header says.
    #[must_use]
    pub fn info(&self) -> LuksInfo {
        self.luks().info()
    }

    /// Changes key slots; `password` opens the volume.
    ///
    /// # Errors
    /// As [`Luks::change_slots`].
    pub fn change_slots(&self, password: &Secret, change: &SlotChange) -> Result<(), BlockError> {
        self.luks().change_slots(self.file.as_ref(), 0, password, change)
    }
}

impl Layer for LuksDisk {
    fn driver(&self) -> &'static str {
        "luks"
    }

    fn size(&self) -> u64 {
        self.file.size().saturating_sub(self.start) / SECTOR as u64 * SECTOR as u64
    }

    fn limits(&self) -> Limits {
        Limits { discard: false, discard_granularity: 0, ..self.file.limits() }
    }

    fn read(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        self.volume.read(self.file.as_ref(), into, self.start + offset, offset)
    }

    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        self.volume.write(self.file.as_ref(), from, self.start + offset, offset)
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.file.flush()
    }

    fn sync_failed(&self) {
        self.file.sync_failed();
    }

    /// Does nothing: holes would read as noise, and tell where there are no data.
    fn discard(&self, _offset: u64, _len: u64) -> Result<(), BlockError> {
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, _unmap: bool) -> Result<(), BlockError> {
        let zeroes = vec![0; len.min(STEP) as usize];
        let mut done = 0;
        while done < len {
            let take = (len - done).min(STEP);
            self.write(Source::of(&zeroes[..take as usize]), offset + done)?;
            done += take;
        }
        Ok(())
    }

    fn status(&self, _offset: u64, len: u64) -> Result<Status, BlockError> {
        Ok(Status::data(len, None))
    }

    fn resize(&self, size: u64, preallocation: Preallocation) -> Result<(), BlockError> {
        let whole = size.checked_add(self.start);
        let whole = whole.ok_or_else(|| BlockError::new(ErrorKind::Invalid, "The requested file size is too large"))?;
        self.file.resize(whole, preallocation)
    }

    fn close(&self) -> Result<(), BlockError> {
        self.file.close()
    }

    fn allocated_bytes(&self) -> Option<u64> {
        self.file.allocated_bytes()
    }

    fn describe(&self, details: &mut ImageDetails) {
        details.encrypted = Some(true);
        details.format_specific = Some(serde_json::json!({ "type": "luks", "data": self.info().to_map() }));
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
