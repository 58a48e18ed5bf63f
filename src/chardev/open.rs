//! From [`Config`] to a device that runs.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, Mode, OFlags};

use super::config::{Backend, Config};
use super::fdset::{Access, FdTable};
use super::host_end::{HostEnd, Side};
use super::io_loop::IoLoop;
use super::log_file::LogFile;
use super::port::Port;
use super::pty::Pty;
use super::simple::{DEFAULT_RING, MAX_RING, Memory};
use super::socket::Socket;
use super::streams::Streams;
use super::terminal::RawTerminal;
use super::{Chardev, ChardevError};

/// A device, and the path of its terminal if it made one.
pub(super) struct Opened {
    pub(super) device: Arc<dyn Chardev>,
    pub(super) pty: Option<String>,
}

/// Makes the device.
pub(super) fn open(config: &Config, fds: &FdTable, io: &Arc<IoLoop>) -> Result<Opened, ChardevError> {
    let log = open_log(config, fds)?;
    let mut pty = None;
    let end: Box<dyn HostEnd> = match &config.backend {
        Backend::Null => return Ok(in_memory(Memory::null(&config.label, log))),
        Backend::Ringbuf { size } => {
            return Ok(in_memory(Memory::ringbuf(&config.label, log, ring_size(*size)?)));
        }
        // The registry has the other devices and makes it there.
        Backend::Mux { chardev } => return Err(ChardevError::NotFound(chardev.clone())),
        Backend::Stdio { signal } => Box::new(stdio(*signal)?),
        Backend::Pty => {
            let end = Pty::open()?;
            pty = Some(end.path().to_owned());
            Box::new(end)
        }
        Backend::File { path, append, input } => Box::new(file(path, *append, input.as_deref(), fds)?),
        Backend::Pipe { path } => Box::new(pipe(path)?),
        Backend::Socket(socket) => Box::new(Socket::open(&config.label, socket, fds)?),
    };
    Ok(Opened { device: Port::new(&config.label, end, log, io), pty })
}

fn in_memory(device: Memory) -> Opened {
    Opened { device: Arc::new(device), pty: None }
}

fn ring_size(size: Option<usize>) -> Result<usize, ChardevError> {
    let size = size.unwrap_or(DEFAULT_RING);
    if size.is_power_of_two() && size <= MAX_RING { Ok(size) } else { Err(ChardevError::RingSize) }
}

fn open_log(config: &Config, fds: &FdTable) -> Result<Option<LogFile>, ChardevError> {
    let Some(path) = &config.logfile else { return Ok(None) };
    output_file(path, config.logappend, fds).map(|file| Some(file.into()))
}

/// A file to write to, or the member of a set that can be written to.
fn output_file(path: &Path, append: bool, fds: &FdTable) -> Result<File, ChardevError> {
    let failed = |source| ChardevError::Open { path: path.to_owned(), source };
    if let Some(file) = fds.open(path, Access::Write) {
        return file.map_err(failed);
    }
    let mut options = OpenOptions::new();
    options.create(true).append(append).write(true).truncate(!append);
    // A named pipe must not make us wait for its reader for ever, nor anything else for its writer.
    options.custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)
}

fn input_file(path: &Path, fds: &FdTable) -> Result<File, ChardevError> {
    let failed = |source| ChardevError::Open { path: path.to_owned(), source };
    if let Some(file) = fds.open(path, Access::Read) {
        return file.map_err(failed);
    }
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)
}

fn file(path: &Path, append: bool, input: Option<&Path>, fds: &FdTable) -> Result<Streams, ChardevError> {
    let output = output_file(path, append, fds)?;
    let input = input.map(|input| input_file(input, fds)).transpose()?;
    Ok(Streams::new("file", input.map(OwnedFd::from), Some(output.into())))
}

/// `PATH.in` and `PATH.out`, or `PATH` for both. Opened for both ways, a pipe waits for nobody.
fn pipe(path: &Path) -> Result<Streams, ChardevError> {
    let open = |path: &Path| OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        name
    };
    if let (Ok(input), Ok(output)) = (open(Path::new(&with(".in"))), open(Path::new(&with(".out")))) {
        return Ok(Streams::new("pipe", Some(input.into()), Some(output.into())));
    }
    let failed = |source| ChardevError::Open { path: path.to_owned(), source };
    let both = open(path).map_err(failed)?;
    let output = both.try_clone().map_err(failed)?;
    Ok(Streams::new("pipe", Some(both.into()), Some(output.into())))
}

static STDIO_IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// Standard input and output, which there is one of.
struct Stdio(Streams);

fn stdio(signal: bool) -> Result<Stdio, ChardevError> {
    if STDIO_IS_TAKEN.swap(true, Ordering::AcqRel) {
        return Err(ChardevError::StdioTaken);
    }
    open_stdio(signal).map(Stdio).map_err(|source| {
        STDIO_IS_TAKEN.store(false, Ordering::Release);
        ChardevError::Io { what: "use standard input and output".into(), source }
    })
}

fn open_stdio(signal: bool) -> io::Result<Streams> {
    let input = without_waiting(rustix::stdio::stdin(), OFlags::RDONLY)?;
    let output = without_waiting(rustix::stdio::stdout(), OFlags::WRONLY)?;
    let terminal = RawTerminal::enter(rustix::stdio::stdin(), signal)?;
    Ok(Streams::new("stdio", Some(input), Some(output)).on_terminal(terminal))
}

/// The same file without waiting. Opened anew where that is possible: the mode would else change for the shell and all
/// who share the terminal or pipe with us, and stay so after us.
fn without_waiting(fd: impl AsFd, access: OFlags) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let fd = fd.as_fd();
    let kind = FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode);
    if matches!(kind, FileType::CharacterDevice | FileType::Fifo) {
        let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        if let Ok(again) = rustix::fs::openat(rustix::fs::CWD, name, flags, Mode::empty()) {
            return Ok(again);
        }
    }
    let same = rustix::io::fcntl_dupfd_cloexec(fd, 3)?;
    if kind != FileType::RegularFile {
        rustix::fs::fcntl_setfl(&same, rustix::fs::fcntl_getfl(&same)? | OFlags::NONBLOCK)?;
    }
    Ok(same)
}

impl Drop for Stdio {
    fn drop(&mut self) {
        STDIO_IS_TAKEN.store(false, Ordering::Release);
    }
}

impl HostEnd for Stdio {
    fn filename(&self) -> String {
        self.0.filename()
    }

    fn is_open(&self) -> bool {
        self.0.is_open()
    }

    fn input(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.0.input()
    }

    fn output(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.0.output()
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }

    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write(data)
    }

    fn close(&mut self, side: Side) {
        self.0.close(side);
    }
}
