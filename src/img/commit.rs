//! `commit`: what an overlay has, into the image beneath.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rhea_block::format::qcow2::Qcow2;
use rhea_block::graph::{CacheMode, Graph, Node};
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
/// Longest chain that is followed.
const LONGEST: usize = 200;

/// One image of the chain, as found from the top down.
struct Link {
    path: PathBuf,
    /// The name by which the one above calls it.
    called: String,
    format: String,
}

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
    let chain = links(name, want)?;
    let depth = match parsed.get("b") {
        None => 1,
        Some(base) => {
            let found = chain.iter().skip(1).position(|link| link.called == base || link.path == Path::new(base));
            let found = found
                .ok_or_else(|| ImgError::Said(format!("Did not find '{base}' in the backing chain of '{name}'")))?;
            found + 1
        }
    };
    if chain.len() <= depth {
        return Err(ImgError::Said("Image does not have a backing file".to_owned()));
    }
    // Images between the two would show other content afterwards, so the top is kept as it is then.
    let empty = !parsed.has("d") && parsed.get("b").is_none();
    let (graph, top, base) = open_chain(&chain, depth, want, empty)?;
    let progress = Progress::new(parsed.has("p") && !parsed.has("q"));
    let committing = ImgError::block("Error while committing");
    copy_down(&top, base.layer(), depth as u64, rate, &progress)?;
    base.layer().flush().map_err(committing)?;
    if empty && let Some(qcow2) = top.layer().as_any().downcast_ref::<Qcow2>() {
        qcow2.make_empty().map_err(ImgError::block(format!("Could not empty {name}")))?;
    }
    graph.close_all().map_err(ImgError::block(format!("Could not write '{name}'")))?;
    progress.end();
    if parsed.has("q") { Ok(()) } else { output::line("Image committed.") }
}

/// The chain from the image `name` down, by what the headers say.
fn links(name: &str, want: Want<'_>) -> Result<Vec<Link>, ImgError> {
    let mut chain: Vec<Link> = Vec::new();
    let mut next = Some((name.to_owned(), name.to_owned(), want.format.map(str::to_owned), want.image_opts));
    while let Some((called, path, format, image_opts)) = next.take() {
        if chain.len() > LONGEST {
            return Err(ImgError::Said(format!("'{name}' has more than {LONGEST} images beneath it")));
        }
        let want = Want { format: format.as_deref(), image_opts, no_backing: true, force_share: true, ..want };
        let image = open::open(&path, want)?;
        let path = image.node.filename().to_path_buf();
        let driver = image.layer().driver().to_owned();
        if let Some(qcow2) = image.layer().as_any().downcast_ref::<Qcow2>()
            && let (Some(below), format) = qcow2.backing_name()
        {
            let full = open::beside(&path, &below).display().to_string();
            next = Some((below, full, format, false));
        }
        chain.push(Link { path, called, format: driver });
    }
    Ok(chain)
}

/// Opens the chain from the base at `depth` up, the base for writing, the top too if it is to be emptied.
fn open_chain(
    chain: &[Link],
    depth: usize,
    want: Want<'_>,
    write_top: bool,
) -> Result<(Graph, Arc<Node>, Arc<Node>), ImgError> {
    let graph = open::graph(want);
    let mut below: Option<Arc<Node>> = None;
    let mut base = None;
    for (n, link) in chain.iter().enumerate().take(depth + 1).rev() {
        let name = link.path.display().to_string();
        let want = Want {
            format: Some(&link.format),
            image_opts: false,
            write: n == depth || (n == 0 && write_top),
            no_backing: false,
            ..want
        };
        let node = open::open_on(&graph, &name, want, below.as_ref())?;
        if n == depth {
            base = Some(node.clone());
        }
        below = Some(node);
    }
    match below.zip(base) {
        Some((top, base)) => Ok((graph, top, base)),
        None => Err(ImgError::Said("Image does not have a backing file".to_owned())),
    }
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
            return Ok(base.write_zeroes(run.start, run.len, true)?);
        }
        let mut done = 0;
        while done < run.len {
            let take = (run.len - done).min(STEP);
            let (part, at) = (&mut buffer[..take as usize], run.start + done);
            top.layer().read(Sink::of(part), at)?;
            write_all(base.as_ref(), part, at)?;
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
