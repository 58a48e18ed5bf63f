//! `rebase`: another image beneath.

use rhea_block::BlockError;
use rhea_block::format::qcow2::Qcow2;
use rhea_block::graph::CacheMode;
use rhea_block::layer::{Layer, write_all};
use rhea_block::mem::{Sink, is_zero};

use super::args::{Opt, Parsed};
use super::error::{ImgError, chain};
use super::open::{self, Image, Want};
use super::progress::Progress;

/// The verb's options.
pub(super) const OPTIONS: &[Opt] = &[
    open::OBJECT,
    open::IMAGE_OPTS,
    open::FORCE_SHARE,
    Opt::value('f').or("format"),
    Opt::value('F').or("backing-format"),
    Opt::value('b').or("backing"),
    Opt::flag('c').or("compress"),
    Opt::flag('u').or("backing-unsafe"),
    Opt::flag('p').or("progress"),
    Opt::flag('q').or("quiet"),
    Opt::value('t').or("cache"),
    Opt::value('T').or("source-cache"),
];

/// Bytes compared at a time.
const STEP: u64 = 1 << 20;

/// Runs the verb.
///
/// # Errors
/// The images cannot be opened, read or written.
pub(super) fn run(parsed: &Parsed) -> Result<(), ImgError> {
    let [name] = parsed.operands.as_slice() else {
        return Err(ImgError::Usage("Expecting one image file name".to_owned()));
    };
    let blind = parsed.has("u");
    let new = parsed.get("b");
    if new.is_none() && !blind {
        return Err(ImgError::Usage("Must specify backing file (-b) or use unsafe mode (-u)".to_owned()));
    }
    let format = parsed.get("F");
    if let Some(format) = format.filter(|format| !open::is_driver(format)) {
        return Err(ImgError::Said(format!("Invalid format name: '{format}'")));
    }
    let cache = open::cache_mode("", parsed.get("t"), CacheMode::default())?;
    let source_cache = open::cache_mode("source ", parsed.get("T"), CacheMode::default())?;
    // `-U` is for what comes beneath: the image itself is written.
    let given = Want::of(parsed)?;
    let want = Want { cache, no_backing: blind, force_share: false, ..given.writing() };
    let image = open::open(name, want)?;
    let compress = parsed.has("c");
    let Some(qcow2) = image.layer().as_any().downcast_ref::<Qcow2>() else {
        if compress {
            return Err(ImgError::Said("Compression not supported for this file format".to_owned()));
        }
        return Err(ImgError::Said(format!(
            "Could not change the backing file to '{}': driver '{}' has none",
            new.unwrap_or_default(),
            image.layer().driver()
        )));
    };
    let new = new.filter(|new| !new.is_empty());
    if new.is_some() && format.is_none() {
        return Err(ImgError::Said(format!(
            "Could not change the backing file to '{}': backing format must be specified",
            new.unwrap_or_default()
        )));
    }
    if !blind {
        if compress {
            check_compression(&image, qcow2)?;
        }
        let source = Want { format, cache: source_cache, image_opts: false, ..given };
        let below = new.map(|new| open_new(&image, new, source)).transpose()?;
        let progress = Progress::new(parsed.has("p") && !parsed.has("q"));
        keep_content(&image, below.as_ref(), Target { qcow2, compress }, &progress)?;
        progress.end();
    }
    let names = new.map(|new| (new, format));
    qcow2.set_backing_name(names).map_err(|e| {
        ImgError::Said(format!("Could not change the backing file to '{}': {}", new.unwrap_or_default(), chain(&e)))
    })?;
    image.close()
}

/// Refuses what cannot have compressed clusters, before anything is written.
fn check_compression(image: &Image, qcow2: &Qcow2) -> Result<(), ImgError> {
    let refused = |text: &str| Err(ImgError::Said(text.to_owned()));
    if image.node.child("data-file").is_some() {
        return refused("Compression not supported for an image with an external data file");
    }
    if qcow2.encryption().is_some() {
        return refused("Compression and encryption not supported at the same time");
    }
    Ok(())
}

/// The new image beneath; its name is as the header will have it.
fn open_new(image: &Image, new: &str, want: Want<'_>) -> Result<Image, ImgError> {
    let path = open::beside(&image.node.filename(), new);
    let shown = path.display().to_string();
    let fail = |e: ImgError| {
        let text = chain(&e);
        let cause = text.strip_prefix(&format!("Could not open '{shown}': ")).unwrap_or(&text);
        ImgError::Said(format!("Could not open new backing file '{new}': {cause}"))
    };
    open::open(&shown, want).map_err(fail)
}

/// Fills `buffer` with what `layer` has at `at`; past its end are zeroes.
fn read(layer: Option<&dyn Layer>, buffer: &mut [u8], at: u64) -> Result<(), ImgError> {
    let size = layer.map_or(0, Layer::size);
    let inside = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX).min(buffer.len());
    let (stored, beyond) = buffer.split_at_mut(inside);
    beyond.fill(0);
    match layer {
        Some(layer) if inside > 0 => Ok(layer.read(Sink::of(stored), at)?),
        _ => Ok(()),
    }
}

/// Length of a run, at most `len`, that `layer` knows to be zero from `at` on; 0 for none.
fn zero_run(layer: Option<&dyn Layer>, at: u64, len: u64) -> Result<u64, ImgError> {
    let size = layer.map_or(0, Layer::size);
    match layer {
        Some(layer) if at < size => {
            let status = layer.status(at, len.min(size - at))?;
            Ok(if status.zero { status.len } else { 0 })
        }
        _ => Ok(len),
    }
}

/// The image that is written to.
#[derive(Clone, Copy)]
struct Target<'a> {
    qcow2: &'a Qcow2,
    /// Whole clusters are compressed (`-c`).
    compress: bool,
}

impl Target<'_> {
    /// Whether the `len` bytes at `place` are a whole cluster, or all that the disk has of its last one.
    fn is_cluster(self, place: u64, len: usize) -> bool {
        let unit = self.qcow2.cluster_size();
        place.is_multiple_of(unit) && (len as u64 == unit || place + len as u64 == self.qcow2.size())
    }

    /// How much of `len` bytes from `at` on, known as zeroes, may be passed over: what is compressed begins with a
    /// cluster.
    fn passed(self, at: u64, len: u64, run: u64) -> u64 {
        if !self.compress || len == run {
            return len;
        }
        let unit = self.qcow2.cluster_size();
        ((at + len) / unit * unit).saturating_sub(at)
    }

    /// Writes a cluster, or a part of one.
    fn write(self, bytes: &[u8], place: u64) -> Result<(), BlockError> {
        let packed = if self.compress && self.is_cluster(place, bytes.len()) { self.pack(bytes)? } else { None };
        match packed {
            Some(packed) => self.qcow2.write_packed(place, &packed),
            None => write_all(self.qcow2, bytes, place),
        }
    }

    /// The cluster compressed, if that saves anything. What is past the disk's end reads as zeroes.
    fn pack(self, bytes: &[u8]) -> Result<Option<Vec<u8>>, BlockError> {
        let mut whole = bytes.to_vec();
        whole.resize(self.qcow2.cluster_size() as usize, 0);
        self.qcow2.pack_cluster(&whole)
    }
}

/// Writes to the image what it showed of the old backing file and would show otherwise of the new one.
fn keep_content(image: &Image, below: Option<&Image>, target: Target<'_>, progress: &Progress) -> Result<(), ImgError> {
    let unit = target.qcow2.cluster_size();
    let top = image.layer().as_ref();
    let old = image.node.child("backing");
    let old = old.as_ref().map(|node| node.layer().as_ref());
    let new = below.map(|image| image.layer().as_ref());
    let size = top.size();
    let step = STEP.max(unit);
    let (mut before, mut after) = (vec![0; step as usize], vec![0; step as usize]);
    let mut at = 0;
    while at < size {
        progress.at(at, size);
        let status = top.status(at, size - at)?;
        let run = status.len.clamp(1, size - at);
        if status.allocated {
            at += run;
            continue;
        }
        let both_zero = target.passed(at, zero_run(old, at, run)?.min(zero_run(new, at, run)?), run);
        if both_zero > 0 {
            at += both_zero;
            continue;
        }
        let len = run.min(step - at % step);
        let (before, after) = (&mut before[..len as usize], &mut after[..len as usize]);
        read(old, before, at)?;
        read(new, after, at)?;
        keep_piece(target, before, after, at)?;
        at += len;
    }
    top.flush().map_err(writing)
}

fn writing(error: BlockError) -> ImgError {
    ImgError::block("error while writing")(error)
}

/// Writes the clusters in which the two differ.
fn keep_piece(target: Target<'_>, before: &[u8], after: &[u8], at: u64) -> Result<(), ImgError> {
    let top = target.qcow2;
    let unit = top.cluster_size();
    let mut done = 0;
    while done < before.len() {
        let place = at + done as u64;
        let take = ((unit - place % unit) as usize).min(before.len() - done);
        let (old, new) = (&before[done..done + take], &after[done..done + take]);
        if old != new {
            // Only a whole cluster can be marked as zero. In part, zeroes that the old backing file shows would be taken
            // for there already.
            if target.is_cluster(place, take) && top.has_zero_clusters() && is_zero(old) {
                top.cover(place, take as u64).map_err(writing)?;
            } else {
                target.write(old, place).map_err(writing)?;
            }
        }
        done += take;
    }
    Ok(())
}
