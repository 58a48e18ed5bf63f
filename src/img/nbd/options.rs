//! The words of the command line.

use rhea_block::graph::CacheMode;
use rhea_block::spec::{Aio, DetectZeroes};

use crate::img::args::{Opt, Parsed};
use crate::img::error::ImgError;
use crate::img::open;

/// Every option, those that are refused included: these get a sentence of their own.
pub(super) const OPTIONS: &[Opt] = &[
    Opt::flag('h').or("help"),
    Opt::flag('V').or("version"),
    Opt::flag('v').or("verbose"),
    Opt::value('p').or("port"),
    Opt::value('b').or("bind"),
    Opt::value('k').or("socket"),
    Opt::value('e').or("shared"),
    Opt::flag('t').or("persistent"),
    Opt::flag('r').or("read-only"),
    Opt::value('f').or("format"),
    open::IMAGE_OPTS,
    open::OBJECT,
    Opt::value('o').or("offset"),
    Opt::value('x').or("export-name"),
    Opt::value('D').or("description"),
    Opt::value('B').or("bitmap"),
    Opt::flag('A').or("allocation-depth"),
    Opt::flag('n').or("nocache"),
    Opt::long_value("cache"),
    Opt::long_value("aio"),
    Opt::long_value("discard"),
    Opt::long_value("detect-zeroes"),
    Opt::long_flag("fork"),
    Opt::long_value("pid-file"),
    Opt::value('c').or("connect"),
    Opt::flag('d').or("disconnect"),
    Opt::flag('L').or("list"),
    Opt::flag('s').or("snapshot"),
    Opt::value('l').or("load-snapshot"),
    Opt::value('P').or("partition"),
    Opt::value('T').or("trace"),
    Opt::long_value("tls-creds"),
    Opt::long_value("tls-authz"),
    Opt::long_value("tls-hostname"),
    Opt::long_value("selinux-label"),
];

/// What is refused, and what would work.
const REFUSED: &[(&str, &str)] = &[
    ("connect", "the kernel's NBD client is set up by nbd-client(8)"),
    ("disconnect", "the kernel's NBD client is set up by nbd-client(8)"),
    ("list", "nbdinfo --list shows what a server has"),
    ("snapshot", "make an overlay with rhea img create -b and serve that"),
    ("load-snapshot", "internal snapshots are not served; convert -l makes an image of one"),
    ("partition", "-o takes the partition's offset in bytes"),
    ("trace", "there are no trace points"),
    ("tls-creds", "NBD has no TLS here; use a tunnel to a Unix socket"),
    ("tls-authz", "NBD has no TLS here; use a tunnel to a Unix socket"),
    ("tls-hostname", "NBD has no TLS here; use a tunnel to a Unix socket"),
    ("selinux-label", "label the socket with chcon(1)"),
];

/// Refuses what is not here, and what makes no sense whatever the image is.
///
/// # Errors
/// One sentence.
pub(super) fn check(parsed: &Parsed) -> Result<(), ImgError> {
    let said = |text: &str| Err(ImgError::Said(text.to_owned()));
    if let Some((option, instead)) = REFUSED.iter().find(|(option, _)| parsed.has(option)) {
        return said(&format!("--{option} is not supported: {instead}"));
    }
    let times = |option| parsed.all(option).count();
    if times("nocache") + times("cache") > 1 {
        return said("-n and --cache can only be specified once");
    }
    if let Some(option) = ["aio", "discard"].into_iter().find(|option| times(option) > 1) {
        return said(&format!("--{option} can only be specified once"));
    }
    // As in QEMU: where that is, would be another question once the server is in the background.
    if parsed.get("socket").is_some_and(|path| !path.starts_with('/')) {
        return said("socket path must be absolute");
    }
    cache(parsed)?;
    aio(parsed)?;
    detect_zeroes(parsed, discards(parsed)?).map(drop)
}

/// `--cache` and `-n`.
///
/// # Errors
/// There is no such mode.
pub(super) fn cache(parsed: &Parsed) -> Result<CacheMode, ImgError> {
    if parsed.has("nocache") {
        return Ok(CacheMode::None);
    }
    open::cache_mode("", parsed.get("cache"), CacheMode::Writeback)
}

/// `--aio`.
///
/// # Errors
/// There is no such way.
pub(super) fn aio(parsed: &Parsed) -> Result<Option<Aio>, ImgError> {
    Ok(match parsed.get("aio") {
        None => None,
        Some("threads") => Some(Aio::Threads),
        Some("native") => Some(Aio::Native),
        Some("io_uring") => Some(Aio::IoUring),
        Some(other) => return Err(ImgError::Said(format!("invalid aio mode '{other}'"))),
    })
}

/// `--discard`: whether clients' trims free space.
///
/// # Errors
/// There is no such way.
pub(super) fn discards(parsed: &Parsed) -> Result<bool, ImgError> {
    match parsed.get("discard") {
        None | Some("ignore" | "off") => Ok(false),
        Some("unmap" | "on") => Ok(true),
        Some(other) => Err(ImgError::Said(format!("Invalid discard mode `{other}'"))),
    }
}

/// `--detect-zeroes`.
///
/// # Errors
/// There is no such way, or it needs `--discard=unmap`.
pub(super) fn detect_zeroes(parsed: &Parsed, discard: bool) -> Result<DetectZeroes, ImgError> {
    match parsed.get("detect-zeroes") {
        None | Some("off") => Ok(DetectZeroes::Off),
        Some("on") => Ok(DetectZeroes::On),
        Some("unmap") if discard => Ok(DetectZeroes::Unmap),
        Some("unmap") => {
            let text = "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap";
            Err(ImgError::Said(text.to_owned()))
        }
        Some(other) => Err(ImgError::Said(format!("Failed to parse detect_zeroes mode: '{other}'"))),
    }
}

/// The help text.
pub(super) fn help(program: &str) -> String {
    format!(
        "usage: {program} [OPTIONS] FILE\n\
         Show an image to other machines as a network block device, until the last client has left.\n\n\
         Where:\n  \
         -k, --socket=PATH         on a Unix socket\n  \
         -p, --port=PORT           on TCP (10809)\n  \
         -b, --bind=HOST           only on this address (0.0.0.0)\n\
         What:\n  \
         -f, --format=FORMAT       format of the image; without, it is probed\n  \
         --image-opts              FILE is driver=...,file.filename=...\n  \
         -o, --offset=BYTES        leave out the beginning\n  \
         -r, --read-only           refuse writes\n  \
         -x, --export-name=NAME    name of the export (none)\n  \
         -D, --description=TEXT    what it is, for people\n  \
         -B, --bitmap=NAME         show a persistent bitmap as qemu:dirty-bitmap:NAME; may come many times\n  \
         -A, --allocation-depth    show qemu:allocation-depth\n\
         How:\n  \
         -e, --shared=NUMBER       clients at a time (1; 0: any number)\n  \
         -t, --persistent          go on when the last one has left\n  \
         --cache=MODE, -n          none, writeback, writethrough, directsync, unsafe; -n is none\n  \
         --aio=HOW                 threads, io_uring, native\n  \
         --discard=MODE            ignore, unmap\n  \
         --detect-zeroes=MODE      off, on, unmap\n  \
         --fork                    go into the background once clients may come\n  \
         --pid-file=PATH           write the process's number there\n\n\
         SIGTERM, SIGINT and SIGHUP end it; what clients wrote is written back."
    )
}
