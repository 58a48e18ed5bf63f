//! `convert`: images into new images, or into one that is there.

use std::sync::Arc;

use rhea_block::BlockError;
use rhea_block::crypto::Secrets;
use rhea_block::graph::CacheMode;
use rhea_block::layer::Layer;
use rhea_block::ops::copy::{CopyOptions, DEFAULT_WORKERS, MOST_WORKERS, Unreadable, Watcher, copy};

use super::args::{Opt, Parsed};
use super::error::{ImgError, chain, tell};
use super::open::{self, Image, Want};
use super::progress::Progress;
use super::target::{Format, Options};
use super::{bitmap_copy, output, size, target};

/// The verb's options.
pub(super) const OPTIONS: &[Opt] = &[
    open::OBJECT,
    open::IMAGE_OPTS,
    open::FORCE_SHARE,
    Opt::long_flag("target-image-opts"),
    Opt::long_flag("target-is-zero"),
    Opt::long_flag("salvage"),
    Opt::long_flag("bitmaps"),
    Opt::long_flag("skip-broken-bitmaps"),
    Opt::value('f').or("source-format"),
    Opt::value('O').or("target-format"),
    Opt::value('B').or("backing"),
    Opt::value('F').or("backing-format"),
    Opt::flag('C').or("copy-range-offloading"),
    Opt::flag('c').or("compress"),
    Opt::flag('n').or("no-create"),
    Opt::flag('p').or("progress"),
    Opt::flag('q').or("quiet"),
    Opt::flag('W').or("out-of-order"),
    Opt::value('o').or("target-format-options"),
    Opt::value('l').or("source-snapshot"),
    Opt::value('S').or("sparse-size"),
    Opt::value('t').or("target-cache"),
    Opt::value('T').or("source-cache"),
    Opt::value('m').or("parallel"),
    Opt::value('r').or("rate-limit"),
];

/// Tells the user how far it is and what could not be read.
pub(super) struct Telling {
    progress: Progress,
    quiet: bool,
}

impl Telling {
    /// As `-p` and `-q` say.
    pub(super) fn of(parsed: &Parsed) -> Arc<Self> {
        let quiet = parsed.has("q");
        Arc::new(Self { progress: Progress::new(parsed.has("p") && !quiet), quiet })
    }

    /// All is done.
    pub(super) fn end(&self) {
        self.progress.end();
    }
}

impl Watcher for Telling {
    fn progress(&self, done: u64, all: u64) {
        self.progress.at(done, all);
    }

    fn unreadable(&self, what: Unreadable, offset: u64, error: &BlockError) {
        if !self.quiet {
            let place = match what {
                Unreadable::Data => format!("offset {offset}"),
                Unreadable::Status => format!("block status at offset {offset}"),
            };
            tell(&format!("warning: error while reading {place}: {}", chain(error)));
        }
    }
}

/// Longest run of zeroes that may be asked for.
const MOST_SPARSE: u64 = 16 << 20;

fn said(text: impl Into<String>) -> ImgError {
    ImgError::Said(text.into())
}

/// Runs the verb.
///
/// # Errors
/// The images cannot be opened, made, read or written.
pub(super) fn run(parsed: &Parsed) -> Result<(), ImgError> {
    let mut options = Options::read(parsed.all("o"))?;
    let format_name = parsed.get("O").unwrap_or("raw");
    if options.asks_for_help() {
        return output::line(Format::by_name(format_name)?.help());
    }
    let Some((target, sources)) = parsed.operands.split_last().filter(|(_, sources)| !sources.is_empty()) else {
        return Err(said("Must specify image file name"));
    };
    check_combinations(parsed)?;
    let (workers, sparse) = (workers(parsed)?, sparse(parsed)?);
    let rate = parsed.get("r").map(|text| size::read("rate limit", text)).transpose()?;
    let opened = open_sources(parsed, sources)?;
    let total: u64 = opened.iter().map(|image| image.layer().size()).fold(0, u64::saturating_add);
    // -B is short for -o backing_file=.
    for (option, key) in [("B", "backing_file"), ("F", "backing_fmt")] {
        if let Some(value) = parsed.get(option) {
            options.set(key, value);
        }
    }
    let backing = options.get("backing_file").filter(|name| !name.is_empty()).map(str::to_owned);
    if parsed.has("c") && !parsed.has("n") {
        check_compression(format_name, &options)?;
    }
    let bitmaps = match opened.as_slice() {
        _ if !parsed.has("bitmaps") => Vec::new(),
        [source] => bitmap_copy::read(source, parsed.has("skip-broken-bitmaps"))?,
        _ => return Err(said("Copying bitmaps only possible with single source")),
    };
    let create = !parsed.has("n");
    if create {
        make(target, format_name, &mut options, total, &parsed.secrets)?;
    }
    let key = options.get("encrypt.key-secret").or_else(|| options.get("key-secret"));
    let output = open_target(parsed, target, format_name, key.filter(|_| create))?;
    output.check_writable()?;
    if parsed.has("c") && output.layer().driver() != "qcow2" {
        return Err(said("Compression not supported for this file format"));
    }
    if parsed.has("bitmaps") {
        bitmap_copy::check_target(&output)?;
    }
    if parsed.has("c") && output.node.child("data-file").is_some() {
        return Err(said("Compression not supported for an image with an external data file"));
    }
    if output.layer().size() < total {
        return Err(said("output file is smaller than input file"));
    }
    let over_backing = backing.is_some().then(|| backing_size(&output));
    let copying = CopyOptions {
        workers,
        any_order: parsed.has("W"),
        sparse,
        offload: parsed.has("C"),
        target_is_zero: (create && is_new_zero(&output)) || parsed.has("target-is-zero"),
        over_backing,
        compress: parsed.has("c"),
        salvage: parsed.has("salvage"),
        rate,
    };
    let layers: Vec<Arc<dyn Layer>> = opened.iter().map(|image| image.layer().clone()).collect();
    let telling = Telling::of(parsed);
    copy(&layers, output.layer(), &copying, telling.clone()).map_err(|e| said(chain(&e)))?;
    if !bitmaps.is_empty() {
        bitmap_copy::write(&output, bitmaps)?;
    }
    output.layer().flush().map_err(ImgError::block(format!("could not flush '{target}'")))?;
    output.close()?;
    telling.end();
    Ok(())
}

fn check_combinations(parsed: &Parsed) -> Result<(), ImgError> {
    if parsed.has("C") && (parsed.has("c") || parsed.get("S").is_some()) {
        let other = if parsed.has("c") { "-c" } else { "-S" };
        return Err(said(format!("Cannot enable copy offloading when {other} is used")));
    }
    if parsed.has("C") && parsed.has("salvage") {
        return Err(said("Cannot use copy offloading in salvaging mode"));
    }
    if parsed.has("n") && parsed.get("o").is_some() {
        return Err(said("-o has no effect when skipping image creation"));
    }
    if parsed.has("target-image-opts") && !parsed.has("n") {
        return Err(said("--target-image-opts requires use of -n flag"));
    }
    if parsed.has("target-is-zero") && !parsed.has("n") {
        return Err(said("--target-is-zero requires use of -n flag"));
    }
    if parsed.get("F").is_some() && parsed.get("B").is_none() {
        return Err(said("-F can only be used with -B"));
    }
    if parsed.has("target-image-opts") && parsed.get("O").is_some() {
        return Err(said("--image-opts and --format are mutually exclusive"));
    }
    if parsed.has("skip-broken-bitmaps") && !parsed.has("bitmaps") {
        return Err(said("Use of --skip-broken-bitmaps requires --bitmaps"));
    }
    Ok(())
}

/// Refuses what an image that is made cannot have beside compressed clusters, before it is made.
fn check_compression(format: &str, options: &Options) -> Result<(), ImgError> {
    if format != "qcow2" && open::is_driver(format) {
        return Err(said("Compression not supported for this file format"));
    }
    if options.flag("encryption")? || options.get("encrypt.format").is_some() {
        return Err(said("Compression and encryption not supported at the same time"));
    }
    match options.get("preallocation") {
        None | Some("off") => Ok(()),
        Some(_) => Err(said("Compression and preallocation not supported at the same time")),
    }
}

fn open_sources(parsed: &Parsed, names: &[String]) -> Result<Vec<Image>, ImgError> {
    let cache = open::cache_mode("source ", parsed.get("T"), CacheMode::default())?;
    let snapshot = parsed.get("l").map(open::snapshot_ref).transpose()?;
    if snapshot.is_some() && names.len() > 1 {
        return Err(said("No support for concatenating multiple snapshot"));
    }
    let want = Want { cache, snapshot: snapshot.as_ref(), ..Want::of(parsed)? };
    let images: Vec<_> = names.iter().map(|name| open::open(name, want)).collect::<Result<_, _>>()?;
    let over_backing = parsed.get("B").is_some();
    if over_backing && images.len() > 1 {
        return Err(said(
            "Having a backing file for the target makes no sense when concatenating multiple input images",
        ));
    }
    Ok(images)
}

fn make(path: &str, called: &str, options: &mut Options, total: u64, secrets: &Secrets) -> Result<(), ImgError> {
    let format = Format::by_name(called)?;
    open::check_protocol(path)?;
    format.check(options)?;
    if format == Format::Raw && options.get("backing_file").is_some() {
        return Err(said("Backing file not supported for file format 'raw'"));
    }
    if options.get("backing_file").is_some_and(|name| !name.is_empty()) && options.get("backing_fmt").is_none() {
        return Err(said("Use of backing file requires explicit backing format"));
    }
    target::refuse_own_backing(path, options)?;
    // As in QEMU a size among the options does not count: the copy is as long as what is copied.
    options.set("size", total.to_string());
    let made = format.make(called, path, options, total, secrets);
    made.map_err(|e| said(format!("{path}: error while converting {called}: {}", chain(&e))))
}

fn open_target(parsed: &Parsed, name: &str, format: &str, key_secret: Option<&str>) -> Result<Image, ImgError> {
    let cache = open::cache_mode("", parsed.get("t"), CacheMode::Unsafe)?;
    let image_opts = parsed.has("target-image-opts");
    let format = (!image_opts).then_some(format);
    let secrets = Some(&parsed.secrets);
    let want = Want { format, image_opts, write: true, warn: true, cache, secrets, key_secret, ..Want::default() };
    open::open(name, want)
}

/// Size of what lies beneath the target.
fn backing_size(output: &Image) -> u64 {
    output.node.child("backing").map_or(0, |node| node.layer().size())
}

/// Whether an image just made reads as zeroes: all but raw devices and exports, whose content stays, and what a cipher
/// makes of zeroes in a file.
pub(super) fn is_new_zero(output: &Image) -> bool {
    if output.layer().driver() == "luks" {
        return false;
    }
    output.node.child("file").is_none_or(|file| !matches!(file.layer().driver(), "host_device" | "nbd"))
        && output.node.child("backing").is_none()
}

fn workers(parsed: &Parsed) -> Result<usize, ImgError> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let Some(text) = parsed.get("m") else {
        // Compression keeps every core busy.
        return Ok(if parsed.has("c") { cores.clamp(DEFAULT_WORKERS, MOST_WORKERS) } else { DEFAULT_WORKERS });
    };
    match text.trim_start().parse() {
        Ok(number) if (1..=MOST_WORKERS).contains(&number) => Ok(number),
        _ => Err(said(format!(
            "Invalid number of coroutines. Allowed number of coroutines is between 1 and {MOST_WORKERS}"
        ))),
    }
}

fn sparse(parsed: &Parsed) -> Result<u64, ImgError> {
    let Some(text) = parsed.get("S") else { return Ok(4096) };
    let bytes = size::read("buffer size for sparse output", text)?;
    if !bytes.is_multiple_of(512) || bytes > MOST_SPARSE {
        return Err(said(format!(
            "Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to {MOST_SPARSE}. \
             Select 0 to disable sparse detection (fully allocates output)."
        )));
    }
    Ok(bytes)
}
