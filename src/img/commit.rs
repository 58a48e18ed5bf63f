//! `commit`: what an overlay has, into the image beneath.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rhea_block::format::qcow2::Qcow2;
use rhea_block::graph::{CacheMode, Node};
use rhea_block::layer::{Layer, Preallocation, write_all};
use rhea_block::mem::Sink;

use super::args::{Opt, Parsed};
use super::error::ImgError;
use super::extents::{Extent, for_each};
use super::open::{self, Want};
use super::progress::Progress;
use super::{output, size};

/// The verb's options.
pub(super) const OPTIONS: &[Opt] = &[
    open::OBJECT,
    open::IMAGE_OPTS,
    Opt::value('f').or("format"),
    Opt::value('t').or("cache"),
    Opt::value('b').or("base"),
    Opt::value('r').or("rate-limit"),
    Opt::flag('d').or("drop"),
    Opt::flag('p').or("progress"),
    Opt::flag('q').or("quiet"),
];

/// Bytes copied at a time.
const STEP: u64 = 2 << 20;

/// Runs the verb.
///
/// # Errors
/// There is nothing beneath, or something cannot be opened, read or written.
pub(super) fn run(parsed: &Parsed) -> Result<(), ImgError> {
    let [name] = parsed.operands.as_slice() else {
        return Err(ImgError::Usage("Expecting one image file name".to_owned()));
    };
    let cache = open::cache_mode("", parsed.get("t"), CacheMode::default())?;
    let want = Want { cache, ..Want::of(parsed)? };
    let rate = parsed.get("r").map(|text| size::read("rate limit", text)).transpose()?;
    let depth = depth_of(name, parsed.get("b"), want)?;
    // Images between the two would show other content afterwards, so the top is kept as it is then.
    let empty = !parsed.has("d") && parsed.get("b").is_none();
    let top = open::open(name, Want { write: true, write_beneath: depth, ..want })?;
    top.check_writable()?;
    let base = top.node.beneath().nth(depth - 1).ok_or_else(nothing_beneath)?;
    let progress = Progress::new(parsed.has("p") && !parsed.has("q"));
    let committing = ImgError::block("Error while committing");
    copy_down(&top.node, base.layer(), depth as u64, rate, &progress)?;
    base.layer().flush().map_err(committing)?;
    if empty && let Some(qcow2) = top.layer().as_any().downcast_ref::<Qcow2>() {
        qcow2.make_empty().map_err(ImgError::block(format!("Could not empty {name}")))?;
    }
    top.close()?;
    progress.end();
    if !parsed.has("q") {
        output::beside(output::line("Image committed."));
    }
    Ok(())
}

/// How far beneath the image `name` the one is that `base` names, or the next one.
fn depth_of(name: &str, base: Option<&str>, want: Want<'_>) -> Result<usize, ImgError> {
    let top = open::open(name, Want { force_share: true, ..want })?;
    let chain: Vec<_> = std::iter::once(top.node.clone()).chain(top.node.beneath()).collect();
    let Some(base) = base else {
        return if chain.len() > 1 { Ok(1) } else { Err(nothing_beneath()) };
    };
    // As in QEMU a name is one from where the image above is; it may also be one from here.
    let named = |pair: &[Arc<Node>]| {
        let file = pair[1].filename();
        *file == *Path::new(base) || open::is_same_file(&open::beside(&pair[0].filename(), base), &file)
    };
    let here = |pair: &[Arc<Node>]| open::is_same_file(Path::new(base), &pair[1].filename());
    let found = chain.windows(2).position(named).or_else(|| chain.windows(2).position(here));
    let found =
        found.ok_or_else(|| ImgError::Said(format!("Did not find '{base}' in the backing chain of '{name}'")))?;
    Ok(found + 1)
}

fn nothing_beneath() -> ImgError {
    ImgError::Said("Image does not have a backing file".to_owned())
}

/// Writes to `base` all that images above it decide.
fn copy_down(
    top: &Arc<Node>,
    base: &Arc<dyn Layer>,
    depth: u64,
    rate: Option<u64>,
    progress: &Progress,
) -> Result<(), ImgError> {
    let size = top.layer().size();
    if base.size() < size {
        base.resize(size, Preallocation::Off).map_err(ImgError::block("could not grow the backing image"))?;
    }
    let mut buffer = vec![0; STEP as usize];
    let mut pace = Pace { rate, started: Instant::now(), done: 0 };
    for_each(top, 0, size, |run: &Extent| {
        progress.at(run.start, size);
        if run.depth >= depth {
            return Ok(());
        }
        if run.zero {
            return base.write_zeroes(run.start, run.len, true).map_err(ImgError::block("error while writing"));
        }
        let mut done = 0;
        while done < run.len {
            let take = (run.len - done).min(STEP);
            let (part, at) = (&mut buffer[..take as usize], run.start + done);
            top.layer().read(Sink::of(part), at)?;
            write_all(base.as_ref(), part, at).map_err(ImgError::block("error while writing"))?;
            done += take;
            pace.hold_back(take);
        }
        Ok::<(), ImgError>(())
    })
}

/// `-r`.
struct Pace {
    rate: Option<u64>,
    started: Instant,
    done: u64,
}

impl Pace {
    fn hold_back(&mut self, bytes: u64) {
        self.done += bytes;
        if let Some(rate) = self.rate.filter(|rate| *rate > 0) {
            let due = Duration::from_secs_f64(self.done as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(self.started.elapsed()));
        }
    }
}
