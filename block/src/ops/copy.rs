//! Copying disks, one or several end to end, into one: holes stay holes, many threads read (and compress) at once.
//!
//! ```text
//!   cursor (one at a time)   what is the next piece? status() of the source
//!   workers                  read, look for zeroes, compress
//!   turn                     pieces are written in order, unless any order will do
//! ```

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{BlockError, ErrorKind};
use crate::format::qcow2::Qcow2;
use crate::layer::{Fast, FastOp, Layer};
use crate::mem::{Sink, Source, is_zero};
use crate::sys;
use crate::thread::{self, ThreadKind};

/// Most bytes that one worker has in hand.
const PIECE: u64 = 2 << 20;
/// Most workers.
pub const MOST_WORKERS: usize = 16;
/// Workers without a wish, as many as qemu-img has requests at once.
pub const DEFAULT_WORKERS: usize = 8;
/// Bytes at a time where a read failed and the rest is to be saved.
const SALVAGE: u64 = 512;

/// How to copy.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// Threads, from 1 to [`MOST_WORKERS`].
    pub workers: usize,
    /// Pieces may be written in any order.
    pub any_order: bool,
    /// Runs of zeroes of this many bytes are not written as data; 0 writes everything as data.
    pub sparse: u64,
    /// Leave copying to the host (`copy_file_range`) where the bytes are in files on both sides and are overwritten in
    /// place: it can share them, or copy without moving them through memory. Nobody looks for zeroes in those.
    pub offload: bool,
    /// The target reads as zeroes where nothing is written.
    pub target_is_zero: bool,
    /// The target has the first source's backing image (of this many bytes) beneath it: what the source does not hold
    /// itself is left to that.
    pub over_backing: Option<u64>,
    /// Write compressed clusters; the target is a qcow2 image.
    pub compress: bool,
    /// Go on after read errors, with zeroes in place of what cannot be read.
    pub salvage: bool,
    /// Bytes per second; `None` as fast as it goes.
    pub rate: Option<u64>,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            workers: DEFAULT_WORKERS,
            any_order: false,
            sparse: 4096,
            offload: false,
            target_is_zero: false,
            over_backing: None,
            compress: false,
            salvage: false,
            rate: None,
        }
    }
}

/// What to tell the one who waits.
pub trait Watcher: Send + Sync {
    /// `done` of `all` bytes are dealt with.
    fn progress(&self, done: u64, all: u64);
    /// What lies at `offset` of a source could not be read and was replaced with zeroes, or whether there is anything
    /// could not be told.
    fn unreadable(&self, what: Unreadable, offset: u64, error: &BlockError);
}

/// What of a source could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// Its bytes: they become zeroes.
    Data,
    /// Whether there are bytes, or zeroes: they are read.
    Status,
}

/// What a piece is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Zero,
    /// The target has it already.
    Keep,
}

/// A range of the target in one worker's hands.
#[derive(Debug, Clone, Copy)]
struct Piece {
    number: u64,
    offset: u64,
    len: u64,
    kind: Kind,
}

struct Cursor {
    offset: u64,
    number: u64,
    started: std::time::Instant,
}

struct Copy {
    /// Start in the target, and the disk.
    sources: Vec<(u64, Arc<dyn Layer>)>,
    target: Arc<dyn Layer>,
    options: CopyOptions,
    size: u64,
    /// Pieces of data start and end at multiples of this.
    unit: u64,
    cursor: Mutex<Cursor>,
    /// Number of the piece that may be written next.
    turn: Mutex<u64>,
    turned: Condvar,
    done: AtomicU64,
    stop: AtomicBool,
    /// The host has not refused so far.
    can_offload: AtomicBool,
    failure: Mutex<Option<BlockError>>,
    watcher: Arc<dyn Watcher>,
}

/// Copies `sources`, end to end, to the start of `target`. It is not flushed.
///
/// # Errors
/// When something cannot be read (without `salvage`) or written; the target then holds part of it.
pub fn copy(
    sources: &[Arc<dyn Layer>],
    target: &Arc<dyn Layer>,
    options: &CopyOptions,
    watcher: Arc<dyn Watcher>,
) -> Result<(), BlockError> {
    let copy = Arc::new(Copy::new(sources, target, options, watcher)?);
    let mut handles = Vec::new();
    for n in 1..options.workers.clamp(1, MOST_WORKERS) {
        let copy = copy.clone();
        let handle = thread::spawn(ThreadKind::Disk, &format!("copy-{n}"), move || copy.work());
        // With fewer threads it takes longer, no more.
        let Ok(handle) = handle else { break };
        handles.push(handle);
    }
    copy.work();
    for handle in handles {
        if handle.join().is_err() {
            copy.fail(BlockError::new(ErrorKind::Io, "a copying thread ended before its time"));
        }
    }
    let failure = lock(&copy.failure).take();
    failure.map_or(Ok(()), Err)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Copy {
    fn new(
        sources: &[Arc<dyn Layer>],
        target: &Arc<dyn Layer>,
        options: &CopyOptions,
        watcher: Arc<dyn Watcher>,
    ) -> Result<Self, BlockError> {
        let mut size = 0u64;
        let mut placed = Vec::new();
        for source in sources {
            placed.push((size, source.clone()));
            let next = size.checked_add(source.size());
            size = next.ok_or_else(|| BlockError::new(ErrorKind::Invalid, "the sources together pass 2^64 bytes"))?;
        }
        let unit = match target.as_any().downcast_ref::<Qcow2>() {
            Some(qcow2) if options.compress => qcow2.cluster_size(),
            None if options.compress => {
                return Err(BlockError::new(
                    ErrorKind::Unsupported,
                    format!("driver '{}' cannot hold compressed clusters", target.driver()),
                ));
            }
            _ => 1,
        };
        Ok(Self {
            sources: placed,
            target: target.clone(),
            options: options.clone(),
            size,
            unit,
            cursor: Mutex::new(Cursor { offset: 0, number: 0, started: std::time::Instant::now() }),
            turn: Mutex::new(0),
            turned: Condvar::new(),
            done: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            can_offload: AtomicBool::new(options.offload && !options.compress),
            failure: Mutex::new(None),
            watcher,
        })
    }

    fn fail(&self, error: BlockError) {
        lock(&self.failure).get_or_insert(error);
        self.stop.store(true, Ordering::Release);
        // Under the lock: whoever is about to wait has looked at `stop` before or will after.
        let _turn = lock(&self.turn);
        self.turned.notify_all();
    }

    /// One worker, to the end or the first failure.
    fn work(&self) {
        let mut buffer = Vec::new();
        while !self.stop.load(Ordering::Acquire) {
            match self.next_piece() {
                Ok(None) => return,
                Ok(Some(piece)) => {
                    if let Err(e) = self.carry(piece, &mut buffer) {
                        return self.fail(e);
                    }
                    let done = self.done.fetch_add(piece.len, Ordering::AcqRel) + piece.len;
                    self.watcher.progress(done, self.size);
                }
                Err(e) => return self.fail(e),
            }
        }
    }

    /// The source that has the byte at `offset` of the target: its start, itself.
    fn source_at(&self, offset: u64) -> Option<&(u64, Arc<dyn Layer>)> {
        let after = self.sources.partition_point(|(start, _)| *start <= offset);
        // Empty disks have the same start as the one behind them, which is the last of these.
        self.sources[..after].last()
    }

    /// Takes the next piece, its end at a boundary of what the source says.
    fn next_piece(&self) -> Result<Option<Piece>, BlockError> {
        let mut cursor = lock(&self.cursor);
        self.hold_back(&cursor);
        let offset = cursor.offset;
        if offset >= self.size {
            return Ok(None);
        }
        let (kind, run) = self.kind_at(offset)?;
        let end = self.size;
        let len = match kind {
            Kind::Data => {
                let len = run.min(PIECE.max(self.unit) - offset % self.unit.max(1));
                // Compressed clusters are written whole, whatever is in their rest.
                (offset + len).next_multiple_of(self.unit).min(end) - offset
            }
            // Zeroes that do not fill a cluster are left to the piece of data that does.
            Kind::Zero | Kind::Keep if self.unit > 1 => {
                let whole = (offset + run) / self.unit * self.unit;
                if offset + run == end {
                    run
                } else if whole > offset {
                    whole - offset
                } else {
                    return Ok(Some(self.take(&mut cursor, self.unit.min(end - offset), Kind::Data)));
                }
            }
            Kind::Zero | Kind::Keep => run,
        };
        Ok(Some(self.take(&mut cursor, len, kind)))
    }

    fn take(&self, cursor: &mut Cursor, len: u64, kind: Kind) -> Piece {
        let piece = Piece { number: cursor.number, offset: cursor.offset, len, kind };
        cursor.number += 1;
        cursor.offset += len;
        piece
    }

    /// Waits while the copy is ahead of its rate.
    fn hold_back(&self, cursor: &Cursor) {
        let Some(rate) = self.options.rate.filter(|rate| *rate > 0) else { return };
        let due = std::time::Duration::from_secs_f64(cursor.offset as f64 / rate as f64);
        if let Some(early) = due.checked_sub(cursor.started.elapsed()) {
            std::thread::sleep(early);
        }
    }

    /// What the run at `offset` is to become, and its length (at least 1, inside one source).
    fn kind_at(&self, offset: u64) -> Result<(Kind, u64), BlockError> {
        let Some((start, source)) = self.source_at(offset) else { return Ok((Kind::Zero, self.size - offset)) };
        let at = offset - start;
        let left = source.size() - at;
        if self.options.sparse == 0 {
            return Ok((Kind::Data, left));
        }
        let mut asked = left;
        let status = loop {
            match source.status(at, asked) {
                Ok(status) => break status,
                // It may be about a place farther on.
                Err(_) if self.options.salvage && asked > SALVAGE => asked = (asked / 4).next_multiple_of(SALVAGE),
                Err(e) if self.options.salvage => {
                    self.watcher.unreadable(Unreadable::Status, at, &e);
                    return Ok((Kind::Data, asked));
                }
                Err(e) => return Err(e.within(format!("error while reading block status at offset {offset}"))),
            }
        };
        let mut run = status.len.clamp(1, left);
        let kind = match self.options.over_backing {
            Some(backing) if !status.allocated && offset < backing => {
                run = run.min(backing - offset);
                Kind::Keep
            }
            _ if status.zero => Kind::Zero,
            _ => Kind::Data,
        };
        Ok((kind, run))
    }

    fn carry(&self, piece: Piece, buffer: &mut Vec<u8>) -> Result<(), BlockError> {
        match piece.kind {
            Kind::Keep => self.in_turn(piece, || Ok(())),
            Kind::Zero => self.in_turn(piece, || self.write_zeroes(piece.offset, piece.len)),
            Kind::Data if self.offloads(piece) => Ok(()),
            Kind::Data => {
                let len = piece.len as usize;
                if buffer.len() < len {
                    buffer.resize(len, 0);
                }
                let bytes = &mut buffer[..len];
                self.read(bytes, piece.offset)
                    .map_err(|e| e.within(format!("error while reading at byte {}", piece.offset)))?;
                if self.options.compress {
                    return self.carry_packed(piece, bytes);
                }
                self.in_turn(piece, || self.write_sparse(bytes, piece.offset))
            }
        }
    }

    /// Reads from wherever the bytes are, across sources.
    fn read(&self, bytes: &mut [u8], offset: u64) -> Result<(), BlockError> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let Some((start, source)) = self.source_at(at) else {
                bytes[done..].fill(0);
                return Ok(());
            };
            let inside = at - start;
            let left = usize::try_from(source.size().saturating_sub(inside)).unwrap_or(usize::MAX);
            let take = left.min(bytes.len() - done);
            if take == 0 {
                bytes[done..].fill(0);
                return Ok(());
            }
            self.read_one(source.as_ref(), &mut bytes[done..done + take], inside)?;
            done += take;
        }
        Ok(())
    }

    fn read_one(&self, source: &dyn Layer, bytes: &mut [u8], offset: u64) -> Result<(), BlockError> {
        let result = source.read(Sink::of(bytes), offset);
        let Err(e) = result else { return Ok(()) };
        if !self.options.salvage {
            return Err(e);
        }
        if bytes.len() as u64 <= SALVAGE {
            self.watcher.unreadable(Unreadable::Data, offset, &e);
            bytes.fill(0);
            return Ok(());
        }
        for (n, part) in bytes.chunks_mut(SALVAGE as usize).enumerate() {
            self.read_one(source, part, offset + n as u64 * SALVAGE)?;
        }
        Ok(())
    }

    /// Whether the host copied the piece; it may be copied again if not.
    fn offloads(&self, piece: Piece) -> bool {
        let Some((start, source)) = self.source_at(piece.offset).filter(|_| self.can_offload.load(Ordering::Relaxed))
        else {
            return false;
        };
        let from = source.fast(FastOp::Read, piece.offset - start, piece.len);
        let (Fast::Direct(from), Fast::Direct(to)) = (from, self.target.fast(FastOp::Write, piece.offset, piece.len))
        else {
            return false;
        };
        let copied = self.in_turn(piece, || {
            sys::copy_range((from.fd, from.offset), (to.fd, to.offset), piece.len)
                .map_err(|e| BlockError::io("copy_file_range", e))
        });
        // What the host cannot do once (another file system) it is not asked again.
        self.can_offload.fetch_and(copied.is_ok(), Ordering::Relaxed);
        copied.is_ok()
    }

    /// Compresses cluster by cluster, then writes in turn.
    fn carry_packed(&self, piece: Piece, bytes: &[u8]) -> Result<(), BlockError> {
        let Some(qcow2) = self.target.as_any().downcast_ref::<Qcow2>() else {
            return Err(BlockError::new(ErrorKind::Unsupported, "only qcow2 holds compressed clusters"));
        };
        let mut packed = Vec::new();
        for cluster in bytes.chunks(self.unit as usize) {
            packed.push(if self.options.sparse > 0 && is_zero(cluster) { Packed::Zero } else { pack(qcow2, cluster)? });
        }
        self.in_turn(piece, || {
            let clusters = bytes.chunks(self.unit as usize).zip(&packed);
            let mut at = piece.offset;
            for (cluster, packed) in clusters {
                match packed {
                    Packed::Zero => self.write_zeroes(at, cluster.len() as u64)?,
                    Packed::Plain => self.target.write(Source::of(cluster), at)?,
                    Packed::Smaller(bytes) => qcow2.write_packed(at, bytes)?,
                }
                at += cluster.len() as u64;
            }
            Ok(())
        })
    }

    /// Runs `write` when all pieces before are written, or at once if any order will do.
    fn in_turn(&self, piece: Piece, write: impl FnOnce() -> Result<(), BlockError>) -> Result<(), BlockError> {
        let write = || write().map_err(|e| e.within(format!("error while writing at byte {}", piece.offset)));
        if self.options.any_order {
            return write();
        }
        let mut turn = lock(&self.turn);
        while *turn != piece.number {
            if self.stop.load(Ordering::Acquire) {
                return Ok(());
            }
            turn = self.turned.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
        drop(turn);
        write()?;
        *lock(&self.turn) += 1;
        self.turned.notify_all();
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        if self.options.target_is_zero && self.options.over_backing.is_none() {
            return Ok(());
        }
        self.target.write_zeroes(offset, len, true)
    }

    /// Writes the runs that are not zero as data, the others as zeroes.
    fn write_sparse(&self, bytes: &[u8], offset: u64) -> Result<(), BlockError> {
        let step = self.options.sparse as usize;
        if step == 0 {
            return self.target.write(Source::of(bytes), offset);
        }
        let mut at = 0;
        while at < bytes.len() {
            let (zero, end) = run_of(bytes, at, offset, step);
            let place = offset + at as u64;
            if zero {
                self.write_zeroes(place, (end - at) as u64)?;
            } else {
                self.target.write(Source::of(&bytes[at..end]), place)?;
            }
            at = end;
        }
        Ok(())
    }
}

/// Whether `bytes[at..]` begins with zeroes, and where the run ends. Only whole steps (of the target's offsets) count
/// as zero.
fn run_of(bytes: &[u8], at: usize, offset: u64, step: usize) -> (bool, usize) {
    let next = |at: usize| (at + step - ((offset + at as u64) % step as u64) as usize).min(bytes.len());
    let kind = |at: usize| {
        let end = next(at);
        (is_zero(&bytes[at..end]), end)
    };
    let (zero, mut end) = kind(at);
    while end < bytes.len() {
        let (same, after) = kind(end);
        if same != zero {
            break;
        }
        end = after;
    }
    (zero, end)
}

enum Packed {
    Zero,
    /// Compression saves nothing.
    Plain,
    Smaller(Vec<u8>),
}

fn pack(qcow2: &Qcow2, cluster: &[u8]) -> Result<Packed, BlockError> {
    let unit = qcow2.cluster_size() as usize;
    let packed = if cluster.len() == unit {
        qcow2.pack_cluster(cluster)?
    } else {
        // The disk ends inside its last cluster; the rest of that reads as zeroes.
        let mut whole = cluster.to_vec();
        whole.resize(unit, 0);
        qcow2.pack_cluster(&whole)?
    };
    Ok(packed.map_or(Packed::Plain, Packed::Smaller))
}

#[cfg(test)]
mod tests;
