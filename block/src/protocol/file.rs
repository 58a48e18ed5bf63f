//! Drivers `file` and `host_device`: an image file or a block device of the host.

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use crate::error::{BlockError, ErrorKind};
use crate::layer::{Direct, Fast, FastOp, Layer, Limits, Pass, Preallocation, Status};
use crate::lock::{self, Access};
use crate::mem::{AlignedBuf, Sink, Source};
use crate::sys;

use super::units::{Units, Writing};

mod discards;
mod options;
mod switch;
#[cfg(test)]
mod tests;
mod threshold;

pub use discards::Discarded;
use discards::Discards;
pub use options::FileOptions;
pub use switch::Ways;
pub use threshold::Tell;
use threshold::Threshold;

/// Bytes of a new file that are written, and no hole.
const FIRST_BLOCK: u64 = 4096;

/// An open host file or block device.
#[derive(Debug)]
pub struct HostFile {
    file: File,
    path: PathBuf,
    device: bool,
    options: FileOptions,
    read_only: bool,
    /// How it is used as of now: what `options` said of that was for the start.
    direct: AtomicBool,
    no_flush: AtomicBool,
    discard: AtomicBool,
    /// Alignment of direct I/O in bytes, 1 without.
    alignment: AtomicU32,
    /// Bytes of a block that the device takes, and of one that it writes by itself.
    logical: u32,
    physical: u32,
    /// Held by requests that go by the methods of [`Layer`], and for writing while the ways change.
    switching: RwLock<()>,
    len: AtomicU64,
    /// End of the write that reached farthest.
    highest: AtomicU64,
    threshold: Threshold,
    discards: Discards,
    /// A sync failed and the page cache may have dropped what it could not write: no later sync can make that good.
    sync_lost: AtomicBool,
    no_punch: AtomicBool,
    no_zero_range: AtomicBool,
    /// With direct I/O: a unit that is read, changed and written back must not undo what another request did to its
    /// other bytes, nor growth cut off what another put behind the end.
    units: Arc<Units>,
    /// What other programs are told through locks.
    held: Mutex<Option<Access>>,
}

/// Which file it is, on this host.
fn identity(file: &File) -> Option<(u64, u64)> {
    let meta = file.metadata().ok()?;
    Some((meta.dev(), meta.ino()))
}

impl HostFile {
    /// Opens `path`, which must be a regular file or a block device.
    ///
    /// # Errors
    /// When the host refuses, another program has the file locked, or it is something else (a directory, a socket).
    pub fn open(path: &Path, options: FileOptions) -> Result<Self, BlockError> {
        let shown = path.display();
        let fail = |e| BlockError::io(format!("Could not open '{shown}'"), e);
        let mut read_only = options.read_only;
        let file = match open_as(path, read_only, options.direct) {
            Ok(file) => file,
            Err(e) if !read_only && options.auto_read_only && is_permission(&e) => {
                read_only = true;
                open_as(path, true, options.direct).map_err(fail)?
            }
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && options.direct => {
                return Err(BlockError::new(
                    ErrorKind::Unsupported,
                    format!("Could not open '{shown}': the file system does not support O_DIRECT (cache.direct)"),
                ));
            }
            Err(e) => return Err(fail(e)),
        };
        Self::from_file(file, path, read_only, options)
    }

    /// Takes over an open file; `path` is only shown and locked names refer to it.
    ///
    /// # Errors
    /// As [`HostFile::open`].
    pub fn from_file(file: File, path: &Path, read_only: bool, options: FileOptions) -> Result<Self, BlockError> {
        let shown = path.display();
        let meta = file.metadata().map_err(|e| BlockError::io(format!("could not stat '{shown}'"), e))?;
        let device = meta.file_type().is_block_device();
        // Only what has an end has a size: /dev/null and /dev/zero, which are empty.
        let stream = meta.file_type().is_char_device();
        let empty = stream && read_only && (&file).seek(SeekFrom::End(0)).is_ok_and(|end| end == 0);
        if !device && !empty && !meta.is_file() {
            let text = format!("'file' driver requires '{shown}' to be a regular file");
            return Err(BlockError::new(ErrorKind::Unsupported, text));
        }
        let (len, logical, physical) = if device {
            sys::device_geometry(&file).map_err(|e| BlockError::io(format!("could not size device '{shown}'"), e))?
        } else {
            (meta.len(), 512, 512)
        };
        let alignment = if options.direct { sys::direct_alignment(&file, logical) } else { 1 };
        let mut held = None;
        if let Some(access) = options.lock {
            let access = if read_only { access.reading() } else { access };
            let got = lock::acquire(&file, None, access, options.lock_required).map_err(|e| e.hint(path))?;
            held = got.then_some(access);
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            device,
            read_only,
            direct: AtomicBool::new(options.direct),
            no_flush: AtomicBool::new(options.no_flush),
            discard: AtomicBool::new(options.discard),
            alignment: AtomicU32::new(alignment),
            logical,
            physical,
            switching: RwLock::default(),
            len: AtomicU64::new(len),
            highest: AtomicU64::new(0),
            threshold: Threshold::default(),
            discards: Discards::default(),
            sync_lost: AtomicBool::new(false),
            no_punch: AtomicBool::new(false),
            no_zero_range: AtomicBool::new(false),
            units: Arc::default(),
            held: Mutex::new(held),
            options,
        })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file at `path`, made if it is not there, opened for writing; what is in it stays until the locks are held.
    ///
    /// # Errors
    /// When it cannot be made, or as [`HostFile::open`].
    pub fn make(path: &Path) -> Result<Self, BlockError> {
        let made = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        drop(made.map_err(|e| BlockError::io(format!("Could not create '{}'", path.display()), e))?);
        Self::open(path, FileOptions::default())
    }

    /// Takes away what is in it, and asks btrfs to write in place from then on, if `in_place`. Other file systems refuse
    /// that, which is no reason to stop: only speed is at stake.
    ///
    /// # Errors
    /// When it cannot be made shorter.
    pub fn clear(&self, in_place: bool) -> Result<(), BlockError> {
        self.resize(0, Preallocation::Off)?;
        if in_place && let Err(error) = sys::write_in_place(&self.file) {
            log::debug!("{}: the file system does not take nocow: {error}", self.path.display());
        }
        Ok(())
    }

    /// What it was asked to discard since it was opened.
    #[must_use]
    pub fn discarded(&self) -> Discarded {
        self.discards.so_far()
    }

    /// The same file, opened again for writing.
    ///
    /// # Errors
    /// When the host does not let us, another program stands against it, or there is another file by its path now.
    pub fn again(&self) -> Result<Self, BlockError> {
        self.relock(Access::ReadShared)?;
        let lock = self.options.lock.map(|_| Access::Write);
        let Ways { direct, no_flush, discard } = self.ways();
        let options =
            FileOptions { read_only: false, auto_read_only: false, lock, direct, no_flush, discard, ..self.options };
        let again =
            Self::open(&self.path, options).and_then(|again| match (identity(&self.file), identity(&again.file)) {
                (Some(this), Some(that)) if this == that => Ok(again),
                _ => Err(BlockError::new(
                    ErrorKind::Invalid,
                    format!("'{}' is another file than the one that was opened before", self.path.display()),
                )),
            });
        if again.is_err()
            && let Err(error) = self.relock(Access::Read)
        {
            log::warn!("{error}");
        }
        again
    }

    /// Whether it is a block device.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.device
    }

    /// Changes what other programs are told, for instance before a backing file is written to.
    ///
    /// # Errors
    /// When another program stands against it; the former locks are then still held.
    pub fn relock(&self, access: Access) -> Result<(), BlockError> {
        if self.options.lock.is_none() {
            return Ok(());
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if *held == Some(access) {
            return Ok(());
        }
        let got =
            lock::acquire(&self.file, *held, access, self.options.lock_required).map_err(|e| e.hint(&self.path))?;
        *held = got.then_some(access);
        Ok(())
    }

    /// What other programs are told; nothing where there are no locks.
    pub(crate) fn access(&self) -> Option<Access> {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, what: &str, offset: u64, source: io::Error) -> BlockError {
        BlockError::io(format!("could not {what} '{}' at offset {offset:#x}", self.path.display()), source)
    }

    fn writable(&self) -> Result<(), BlockError> {
        if self.read_only {
            return Err(BlockError::new(ErrorKind::Permission, format!("'{}' is read-only", self.path.display())));
        }
        Ok(())
    }

    /// Keeps the ways as they are meanwhile.
    fn steady(&self) -> RwLockReadGuard<'_, ()> {
        self.switching.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alignment(&self) -> u32 {
        self.alignment.load(Ordering::Acquire)
    }

    fn physical_block(&self) -> u32 {
        let alignment = self.alignment();
        self.physical.max(if alignment > 1 { alignment } else { 512 })
    }

    fn aligned(&self, offset: u64, len: usize) -> bool {
        (offset | len as u64) & u64::from(self.alignment() - 1) == 0
    }

    /// Reads an aligned window around the range and copies the middle out.
    fn read_bounced(&self, into: Sink<'_>, offset: u64) -> io::Result<()> {
        let align = u64::from(self.alignment());
        let mut done = 0;
        while done < into.len() {
            let take = (into.len() - done).min(BOUNCE);
            let at = offset + done as u64;
            let start = at - at % align;
            let end = (at + take as u64).next_multiple_of(align);
            let mut window = AlignedBuf::new((end - start) as usize, self.alignment() as usize);
            sys::read_full(&self.file, Sink::of(&mut window), start, align as usize)?;
            let skip = (at - start) as usize;
            into.part(done, take).copy_from(&window[skip..skip + take]);
            done += take;
        }
        Ok(())
    }

    /// Has `tell` called for the first write that ends past `place`, in bytes; 0 takes that back.
    pub fn set_write_threshold(&self, place: u64, tell: Tell) {
        self.threshold.set(place, tell);
    }

    /// The place past which a write is told; 0 for none.
    #[must_use]
    pub fn write_threshold(&self) -> u64 {
        self.threshold.place()
    }

    /// Counts a write that is about to be done. Most are of no news, and cost a load.
    fn reached(&self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        if end > self.highest.load(Ordering::Relaxed) {
            self.highest.fetch_max(end, Ordering::Relaxed);
        }
        self.threshold.look(end);
    }

    /// Begins a change of a range, with direct I/O: of whole units, of parts, or of the file's end.
    fn begin(&self, offset: u64, len: u64) -> Option<Writing> {
        let align = u64::from(self.alignment());
        if align == 1 {
            return None;
        }
        let units = &self.units;
        let end = offset.saturating_add(len);
        if end > self.size() {
            return Some(units.parts(&(offset / align * align..u64::MAX)));
        }
        if (offset | len) & (align - 1) == 0 {
            return Some(units.whole(&(offset..end)));
        }
        Some(units.parts(&(offset / align * align..end.next_multiple_of(align))))
    }

    /// A write by someone who has begun it ([`HostFile::begin`]).
    fn write_held(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        let result = if self.aligned(offset, from.len()) && from.is_aligned(self.alignment() as usize) {
            sys::write_full(&self.file, from, offset)
        } else {
            self.write_bounced(from, offset)
        };
        result.map_err(|e| self.error("write to", offset, e))?;
        if !self.device {
            self.len.fetch_max(offset + from.len() as u64, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Reads what surrounds the range, puts the new bytes in and writes whole units, one at a time.
    fn write_bounced(&self, from: Source<'_>, offset: u64) -> io::Result<()> {
        let align = u64::from(self.alignment());
        let mut done = 0;
        while done < from.len() {
            let take = (from.len() - done).min(BOUNCE);
            let at = offset + done as u64;
            let start = at - at % align;
            let end = (at + take as u64).next_multiple_of(align);
            let mut window = AlignedBuf::new((end - start) as usize, self.alignment() as usize);
            if !self.aligned(at, take) {
                sys::read_full(&self.file, Sink::of(&mut window), start, align as usize)?;
            }
            let skip = (at - start) as usize;
            from.part(done, take).copy_to(&mut window[skip..skip + take]);
            sys::write_full(&self.file, Source::of(&window), start)?;
            done += take;
        }
        // Whole units may have grown the file past what was asked for.
        let end = offset + from.len() as u64;
        if !self.device && !end.is_multiple_of(align) && end > self.len.load(Ordering::Relaxed) {
            self.file.set_len(end)?;
        }
        Ok(())
    }

    fn write_plain_zeroes(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        let zeroes = AlignedBuf::new(BOUNCE.min(len as usize), self.alignment() as usize);
        let mut done = 0;
        while done < len {
            let take = (len - done).min(BOUNCE as u64);
            self.write_held(Source::of(&zeroes[..take as usize]), offset + done)?;
            done += take;
        }
        Ok(())
    }

    /// Tries one `fallocate` mode; false when the host cannot do it for this file.
    fn try_fallocate(&self, mode: i32, no: &AtomicBool, offset: u64, len: u64) -> io::Result<bool> {
        if no.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match sys::fallocate(&self.file, mode, offset, len) {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENODEV | libc::ENOSYS)) => {
                no.store(true, Ordering::Relaxed);
                Ok(false)
            }
            // A block device wants whole sectors.
            Err(e) if self.device && e.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// Largest piece that is copied for alignment, in bytes.
const BOUNCE: usize = 1 << 20;

fn open_as(path: &Path, read_only: bool, direct: bool) -> io::Result<File> {
    let flags = libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NONBLOCK | if direct { libc::O_DIRECT } else { 0 };
    OpenOptions::new().read(true).write(!read_only).custom_flags(flags).open(path)
}

fn is_permission(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS))
}

impl Layer for HostFile {
    fn driver(&self) -> &'static str {
        if self.device { "host_device" } else { "file" }
    }

    fn size(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    fn limits(&self) -> Limits {
        Limits {
            read_only: self.read_only,
            alignment: self.alignment(),
            physical_block: self.physical_block(),
            discard: self.discard.load(Ordering::Relaxed) && !self.read_only,
            discard_granularity: if self.device { self.physical_block() } else { 4096 },
        }
    }

    fn read(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        let _steady = self.steady();
        let result = if self.aligned(offset, into.len()) && into.is_aligned(self.alignment() as usize) {
            sys::read_full(&self.file, into, offset, self.alignment() as usize)
        } else {
            self.read_bounced(into, offset)
        };
        result.map_err(|e| self.error("read", offset, e))
    }

    fn highest_write(&self) -> u64 {
        self.highest.load(Ordering::Relaxed)
    }

    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        self.writable()?;
        let _steady = self.steady();
        self.reached(offset, from.len() as u64);
        let _writing = self.begin(offset, from.len() as u64);
        self.write_held(from, offset)
    }

    fn flush(&self) -> Result<(), BlockError> {
        if self.no_flush.load(Ordering::Relaxed) || self.read_only {
            return Ok(());
        }
        if self.sync_lost.load(Ordering::Acquire) {
            let text = format!("an earlier sync of '{}' failed, so written data may be lost", self.path.display());
            return Err(BlockError::new(ErrorKind::Io, text));
        }
        self.file.sync_data().map_err(|e| {
            self.sync_failed();
            BlockError::io(format!("could not sync '{}'", self.path.display()), e)
        })
    }

    fn sync_failed(&self) {
        // With O_DIRECT the page cache holds nothing that the kernel could have dropped.
        if !self.direct.load(Ordering::Relaxed) {
            self.sync_lost.store(true, Ordering::Release);
        }
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.writable()?;
        if !self.discard.load(Ordering::Relaxed) || len == 0 {
            return Ok(());
        }
        let _steady = self.steady();
        let _writing = self.begin(offset, len);
        if self.device {
            // A hint: what the device does with it is its own affair.
            let align = u64::from(self.physical_block().max(512));
            let (start, end) = (offset.next_multiple_of(align), (offset + len) / align * align);
            if start < end {
                self.discards.count(end - start, sys::device_discard(&self.file, start, end - start).is_ok());
            }
            return Ok(());
        }
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let punched = self.try_fallocate(mode, &self.no_punch, offset, len);
        self.discards.count(len, matches!(punched, Ok(true)));
        punched.map(drop).map_err(|e| self.error("discard in", offset, e))
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.writable()?;
        if len == 0 {
            return Ok(());
        }
        let end = offset.checked_add(len).ok_or_else(|| BlockError::new(ErrorKind::Invalid, "range past 2^64"))?;
        let fail = |e| self.error("zero", offset, e);
        let _steady = self.steady();
        self.reached(offset, len);
        let _writing = self.begin(offset, len);
        if unmap && self.discard.load(Ordering::Relaxed) {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            if self.try_fallocate(mode, &self.no_punch, offset, len).map_err(fail)? {
                if !self.device && end > self.len.load(Ordering::Acquire) {
                    // Setting the length could cut off what another request is putting behind.
                    self.write_held(Source::of(&[0]), end - 1)?;
                }
                return Ok(());
            }
        }
        let mode = libc::FALLOC_FL_ZERO_RANGE | if self.device { libc::FALLOC_FL_KEEP_SIZE } else { 0 };
        if self.try_fallocate(mode, &self.no_zero_range, offset, len).map_err(fail)? {
            if !self.device {
                self.len.fetch_max(end, Ordering::AcqRel);
            }
            return Ok(());
        }
        self.write_plain_zeroes(offset, len)
    }

    fn status(&self, offset: u64, len: u64) -> Result<Status, BlockError> {
        let size = self.size();
        if offset >= size {
            return Ok(Status::zero(len));
        }
        let len = len.min(size - offset);
        if self.device {
            return Ok(Status::data(len, Some(offset)));
        }
        Ok(match sys::data_extent(&self.file, offset) {
            Ok(None) => Status { offset: Some(offset), ..Status::zero(len) },
            Ok(Some(data)) if data.start > offset => {
                Status { offset: Some(offset), ..Status::zero(len.min(data.start - offset)) }
            }
            Ok(Some(data)) => Status::data(len.min(data.end.saturating_sub(offset).max(1)), Some(offset)),
            // File systems that cannot tell have no holes to tell of.
            Err(_) => Status::data(len, Some(offset)),
        })
    }

    fn fast(&self, op: FastOp, offset: u64, len: u64) -> Fast {
        match op {
            FastOp::Flush if self.no_flush.load(Ordering::Relaxed) || self.read_only => return Fast::Done,
            FastOp::Flush if self.sync_lost.load(Ordering::Acquire) => return Fast::Slow,
            // Past the end a read gives zeroes and a write moves the end.
            FastOp::Read | FastOp::Write if offset.saturating_add(len) > self.size() => return Fast::Slow,
            FastOp::Write if self.read_only => return Fast::Slow,
            FastOp::Write => self.reached(offset, len),
            _ => {}
        }
        let alignment = self.alignment();
        let writing = if alignment > 1 && op == FastOp::Write {
            let Some(writing) = self.units.try_whole(offset..offset + len) else { return Fast::Slow };
            Some(writing)
        } else {
            None
        };
        let (fd, pass) = (self.as_raw_fd(), Pass { token: None, writing });
        Fast::Direct(Direct { fd, offset, alignment, ring: self.options.ring, pass })
    }

    fn wants_ring(&self) -> bool {
        self.options.ring
    }

    fn is_cached(&self) -> bool {
        !self.direct.load(Ordering::Relaxed)
    }

    fn resize(&self, size: u64, preallocation: Preallocation) -> Result<(), BlockError> {
        self.writable()?;
        let _steady = self.steady();
        let shown = self.path.display();
        let old = self.size();
        if self.device {
            let (now, _, _) = sys::device_geometry(&self.file)
                .map_err(|e| BlockError::io(format!("could not size device '{shown}'"), e))?;
            self.len.store(now, Ordering::Release);
            return if size <= now {
                Ok(())
            } else {
                Err(BlockError::new(ErrorKind::Invalid, format!("device '{shown}' has only {now} bytes, not {size}")))
            };
        }
        let fail = |e| BlockError::io(format!("could not resize '{shown}' to {size} bytes"), e);
        if size < old && preallocation != Preallocation::Off {
            return Err(BlockError::new(ErrorKind::Invalid, "preallocation cannot be used for shrinking files"));
        }
        match preallocation {
            Preallocation::Metadata => {
                let text = "preallocation mode 'metadata' is not for raw files; off, falloc and full are";
                return Err(BlockError::new(ErrorKind::Invalid, text));
            }
            Preallocation::Off => {
                self.file.set_len(size).map_err(fail)?;
                if old == 0 && size > 0 {
                    self.len.store(size, Ordering::Release);
                    // QEMU finds out by reading the first block how O_DIRECT must be aligned; a hole does not tell.
                    self.write_plain_zeroes(0, size.min(FIRST_BLOCK))?;
                }
            }
            Preallocation::Falloc if size > old => {
                if let Err(e) = sys::fallocate(&self.file, 0, old, size - old) {
                    let _ = self.file.set_len(old);
                    return Err(fail(e));
                }
            }
            Preallocation::Full if size > old => {
                self.file.set_len(size).map_err(fail)?;
                self.len.store(size, Ordering::Release);
                if let Err(e) = self.write_plain_zeroes(old, size - old) {
                    let _ = self.file.set_len(old);
                    self.len.store(old, Ordering::Release);
                    return Err(e);
                }
            }
            Preallocation::Falloc | Preallocation::Full => {}
        }
        self.len.store(size, Ordering::Release);
        Ok(())
    }

    fn allocated_bytes(&self) -> Option<u64> {
        self.file.metadata().ok().map(|m| m.blocks() * 512)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl AsRawFd for HostFile {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
