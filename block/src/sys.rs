//! The system calls that `std` does not wrap: vectored reads and writes at an offset, holes, device geometry, locks,
//! a thread's own time.

#![expect(unsafe_code, reason = "system calls that neither std nor vmm-sys-util wraps")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use crate::mem::{Sink, Source};

/// Most ranges in one vectored call (`IOV_MAX` on Linux).
const IOV_MAX: usize = 1024;
/// `BLKGETSIZE64`, `BLKSSZGET`, `BLKPBSZGET`, `BLKDISCARD` of `linux/fs.h`.
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
const BLKSSZGET: libc::c_ulong = 0x1268;
const BLKPBSZGET: libc::c_ulong = 0x127b;
const BLKDISCARD: libc::c_ulong = 0x1277;

fn check(result: i64) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn to_off(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

/// How long this thread has had a processor (clock_gettime(2)).
pub(crate) fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live value of ours that is of the type the kernel writes.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    debug_assert_eq!(result, 0, "Linux has this clock since 2.6.12");
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Fills the whole view; past the end of the file it gives zeroes. Reads begin at multiples of `unit` bytes only, as do
/// `offset` and the ranges of the view: 1, or what direct I/O asks for.
pub(crate) fn read_full(file: &File, into: Sink<'_>, offset: u64, unit: usize) -> io::Result<()> {
    let mut done = 0;
    while done < into.len() {
        let iovecs = into.part(done, into.len() - done).iovecs();
        let count = iovecs.len().min(IOV_MAX);
        let at = to_off(offset + done as u64)?;
        // SAFETY: the ranges are valid for writes while `into` lives; the count does not exceed the list.
        let n = unsafe { libc::preadv(file.as_raw_fd(), iovecs.as_ptr(), count as i32, at) };
        match check(n as i64) {
            // The file ends here, be it within a unit. One that has grown meanwhile has more.
            Ok(n) if n < unit => {
                into.part(done + n, into.len() - done - n).zero();
                return Ok(());
            }
            Ok(n) => done += n / unit * unit,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes the whole view.
pub(crate) fn write_full(file: &File, from: Source<'_>, offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < from.len() {
        let iovecs = from.part(done, from.len() - done).iovecs();
        let count = iovecs.len().min(IOV_MAX);
        let at = to_off(offset + done as u64)?;
        // SAFETY: the ranges are valid for reads while `from` lives; the count does not exceed the list.
        let n = unsafe { libc::pwritev(file.as_raw_fd(), iovecs.as_ptr(), count as i32, at) };
        match check(n as i64) {
            Ok(0) => return Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Reads what the page cache has, without waiting for a device; how many bytes that was.
pub(crate) fn read_nowait(fd: i32, iovecs: &[libc::iovec], offset: u64) -> io::Result<usize> {
    let count = iovecs.len().min(IOV_MAX) as i32;
    // SAFETY: the caller's buffers are valid for writes until the call returns; the count does not exceed the list.
    let n = unsafe { libc::preadv2(fd, iovecs.as_ptr(), count, to_off(offset)?, libc::RWF_NOWAIT) };
    check(n as i64)
}

/// Writes what goes in one call; how many bytes that was.
pub(crate) fn write_some(fd: i32, iovecs: &[libc::iovec], offset: u64) -> io::Result<i32> {
    let count = iovecs.len().min(IOV_MAX);
    let offset = to_off(offset)?;
    // Not by the function of that name: it is a point of cancellation, and in a process with threads it spends as many
    // instructions on that as it takes to find out where to write. The last argument is the offset's upper half, which
    // 64 bits leave empty.
    // SAFETY: the caller's buffers are valid for reads until the call returns; the count does not exceed the list.
    let n = unsafe { libc::syscall(libc::SYS_pwritev, i64::from(fd), iovecs.as_ptr(), count, offset, 0i64) };
    check(n).map(|n| n as i32)
}

/// `copy_file_range(2)`, continued until all is copied.
pub(crate) fn copy_range(from: (i32, u64), to: (i32, u64), len: u64) -> io::Result<()> {
    let (mut source, mut target) = (to_off(from.1)?, to_off(to.1)?);
    let mut left = usize::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    while left > 0 {
        // SAFETY: both offsets are valid for reads and writes until the call returns, which takes no other memory.
        let n = unsafe { libc::copy_file_range(from.0, &raw mut source, to.0, &raw mut target, left, 0) };
        match check(n as i64) {
            // The source ends here.
            Ok(0) => return Err(io::Error::from_raw_os_error(libc::EIO)),
            Ok(n) => left -= n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// `fdatasync(2)`.
pub(crate) fn sync_data(fd: i32) -> io::Result<i32> {
    // SAFETY: the call takes a number and no memory.
    check(i64::from(unsafe { libc::fdatasync(fd) })).map(|n| n as i32)
}

/// `fallocate(2)`, continued over signals.
pub(crate) fn fallocate(file: &File, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    let (offset, len) = (to_off(offset)?, to_off(len)?);
    loop {
        // SAFETY: no memory is passed.
        match check(i64::from(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) })) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(drop),
        }
    }
}

/// The first run of data at or after `offset`; `None` when there are only holes.
pub(crate) fn data_extent(file: &File, offset: u64) -> io::Result<Option<Range<u64>>> {
    let seek = |at: u64, whence| {
        // SAFETY: no memory is passed.
        check(unsafe { libc::lseek(file.as_raw_fd(), to_off(at)?, whence) }).map(|n| n as u64)
    };
    let start = match seek(offset, libc::SEEK_DATA) {
        Ok(start) => start,
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => return Ok(None),
        Err(e) => return Err(e),
    };
    Ok(Some(start..seek(start, libc::SEEK_HOLE)?))
}

/// Size, logical and physical block of a block device, in bytes.
pub(crate) fn device_geometry(file: &File) -> io::Result<(u64, u32, u32)> {
    let fd = file.as_raw_fd();
    let (mut size, mut logical, mut physical) = (0u64, 0i32, 0u32);
    // SAFETY: each request writes one value of the type that its pointer has.
    unsafe {
        check(i64::from(libc::ioctl(fd, BLKGETSIZE64, &raw mut size)))?;
        check(i64::from(libc::ioctl(fd, BLKSSZGET, &raw mut logical)))?;
        check(i64::from(libc::ioctl(fd, BLKPBSZGET, &raw mut physical)))?;
    }
    let logical = u32::try_from(logical).unwrap_or(512).clamp(512, 1 << 16);
    Ok((size, logical, physical.clamp(logical, 1 << 16)))
}

/// Tells a block device that a range is no longer needed.
pub(crate) fn device_discard(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: BLKDISCARD reads two 64-bit values.
    check(i64::from(unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD, range.as_ptr()) })).map(drop)
}

/// The alignment in bytes that direct I/O on `file` needs: what `statx` says, or else the logical block.
pub(crate) fn direct_alignment(file: &File, logical: u32) -> u32 {
    // SAFETY: statx is plain data for which all zeroes is a value.
    let mut facts: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the empty path with AT_EMPTY_PATH names the descriptor; `facts` is writable.
    let result =
        unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, STATX_DIOALIGN, &raw mut facts) };
    let told = if result == 0 && facts.stx_mask & STATX_DIOALIGN != 0 {
        facts.stx_dio_mem_align.max(facts.stx_dio_offset_align)
    } else {
        0
    };
    if told.is_power_of_two() && told <= 1 << 16 { told.max(512) } else { logical.max(4096) }
}

/// `STATX_DIOALIGN` of `linux/stat.h`.
const STATX_DIOALIGN: u32 = 0x2000;

/// Has the file system not copy on write what is written to `file`, which must be empty.
pub(crate) fn write_in_place(file: &File) -> io::Result<()> {
    let mut flags: libc::c_int = 0;
    // SAFETY: the kernel writes one int, whatever the numbers of these calls say of its size.
    check(i64::from(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) }))?;
    flags |= FS_NOCOW_FL;
    // SAFETY: the kernel reads one int.
    check(i64::from(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) })).map(drop)
}

/// `FS_NOCOW_FL` of `linux/fs.h`.
const FS_NOCOW_FL: libc::c_int = 0x0080_0000;

/// Has what is read from and written to `file` go past the page cache, or through it.
pub(crate) fn set_direct(file: &File, on: bool) -> io::Result<()> {
    // SAFETY: reads the flags of a descriptor that is open.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    let flags = if on { flags | libc::O_DIRECT } else { flags & !libc::O_DIRECT };
    // SAFETY: sets the flags of a descriptor that is open; no memory is involved.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// One `fcntl` on an open-file-description lock of one byte.
pub(crate) fn ofd_lock(file: &File, command: i32, kind: i32, byte: u64) -> io::Result<libc::flock> {
    // SAFETY: flock is plain data for which all zeroes is a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = to_off(byte)?;
    lock.l_len = 1;
    // SAFETY: the commands used take a pointer to a flock, read and written in place.
    check(i64::from(unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) }))?;
    Ok(lock)
}

/// Waits until `fd` is readable, or a signal comes.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>) {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, writable.
    unsafe { libc::poll(&raw mut poll, 1, -1) };
}

/// Whether the other end of the connection `fd` has closed it, or will send no more.
pub(crate) fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one entry, writable.
    unsafe { libc::poll(&raw mut poll, 1, 0) };
    poll.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
}

/// Waits until one of the two can be read.
pub(crate) fn wait_either(one: &impl AsFd, other: &impl AsRawFd) {
    let poll = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut polls = [poll(one.as_fd().as_raw_fd()), poll(other.as_raw_fd())];
    // SAFETY: two entries, writable.
    unsafe { libc::poll(polls.as_mut_ptr(), 2, -1) };
}

/// Gives memory that was freed back to the kernel, whole pages between what is in use included.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes a number and changes nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Borrows a descriptor that `owner` keeps open.
pub(crate) fn borrow_fd<T: AsRawFd>(owner: &T) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as its owner lives, which the borrow's lifetime is tied to.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}

/// Lets this process have so many files open, for a test that needs them.
#[cfg(test)]
pub(crate) fn allow_open_files(count: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one `rlimit`.
    check(i64::from(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }))?;
    limit.rlim_cur = limit.rlim_cur.max(count);
    // SAFETY: the kernel reads one `rlimit`.
    check(i64::from(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })).map(drop)
}
