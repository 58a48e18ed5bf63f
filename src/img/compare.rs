//! `compare`: do two images read alike?

use rhea_block::BlockError;
use rhea_block::graph::CacheMode;
use rhea_block::layer::read_vec;
use rhea_block::mem::is_zero;

use super::args::{Opt, Parsed};
use super::error::ImgError;
use super::extents::{Extent, extent_at};
use super::open::{self, Image, Want};
use super::output;
use super::progress::Progress;

/// The verb's options.
pub(super) const OPTIONS: &[Opt] = &[
    open::OBJECT,
    open::IMAGE_OPTS,
    open::FORCE_SHARE,
    Opt::value('f').or("a-format"),
    Opt::value('F').or("b-format"),
    Opt::value('T').or("cache"),
    Opt::flag('p').or("progress"),
    Opt::flag('q').or("quiet"),
    Opt::flag('s').or("strict"),
];

/// Bytes read at a time.
const STEP: u64 = 1 << 20;
/// Exit codes: different; cannot be opened; cannot be told what is where; cannot be read.
const DIFFERENT: u8 = 1;
const NOT_OPEN: u8 = 2;
const NO_STATUS: u8 = 3;
const NOT_READ: u8 = 4;

struct Comparison<'a> {
    images: [&'a Image; 2],
    strict: bool,
    quiet: bool,
    progress: Progress,
}

/// Runs the verb.
///
/// # Errors
/// The images differ (exit code 1), or cannot be compared (2 and above).
pub(super) fn run(parsed: &Parsed) -> Result<(), ImgError> {
    let [first, second] = parsed.operands.as_slice() else {
        return Err(ImgError::Usage("Expecting two image file names".to_owned()));
    };
    let cache = open::cache_mode("source ", parsed.get("T"), CacheMode::default()).map_err(|e| e.coded(NOT_OPEN))?;
    let want = Want { cache, ..Want::of(parsed).map_err(|e| e.coded(NOT_OPEN))? };
    let first = open::open(first, want).map_err(|e| e.coded(NOT_OPEN))?;
    let want = Want { format: parsed.get("F"), ..want };
    let second = open::open(second, want).map_err(|e| e.coded(NOT_OPEN))?;
    let quiet = parsed.has("q");
    let progress = Progress::new(parsed.has("p") && !quiet);
    Comparison { images: [&first, &second], strict: parsed.has("s"), quiet, progress }.run()
}

impl Comparison<'_> {
    /// Says what the exit code says, too.
    fn say(&self, text: &str) {
        if !self.quiet {
            output::beside(output::line(text));
        }
    }

    fn differ(&self, text: &str) -> Result<(), ImgError> {
        self.say(text);
        Err(ImgError::Exit(DIFFERENT))
    }

    fn run(&self) -> Result<(), ImgError> {
        let sizes = self.images.map(|image| image.layer().size());
        let (common, whole) = (sizes[0].min(sizes[1]), sizes[0].max(sizes[1]));
        if self.strict && sizes[0] != sizes[1] {
            return self.differ("Strict mode: Image size mismatch!");
        }
        let mut at = 0;
        while at < common {
            at += self.step(at, common)?;
            self.progress.at(at, whole);
        }
        if sizes[0] != sizes[1] {
            self.say("Warning: Image size mismatch!");
            self.rest(self.images[usize::from(sizes[1] > sizes[0])], common)?;
        }
        self.progress.end();
        self.say("Images are identical.");
        Ok(())
    }

    fn status(&self, image: &Image, at: u64, len: u64) -> Result<Extent, ImgError> {
        let text = format!("'{}': could not get the status of offset {at}", image.name);
        extent_at(&image.node, at, len).map_err(|e| ImgError::block(text)(e).coded(NO_STATUS))
    }

    fn read(image: &Image, at: u64, len: u64) -> Result<Vec<u8>, ImgError> {
        let fail = |e: BlockError| {
            ImgError::block(format!("Error while reading offset {at} of {}", image.name))(e).coded(NOT_READ)
        };
        read_vec(image.layer().as_ref(), at, len as usize).map_err(fail)
    }

    /// Compares the run at `at`; gives its length.
    fn step(&self, at: u64, end: u64) -> Result<u64, ImgError> {
        let first = self.status(self.images[0], at, end - at)?;
        let second = self.status(self.images[1], at, end - at)?;
        let len = first.len.min(second.len);
        // As in QEMU what lies past the end of the image beneath counts as that image's zeroes.
        let kind = |run: &Extent| (run.present || run.past_end, run.zero, run.data, run.compressed);
        if self.strict && kind(&first) != kind(&second) {
            self.differ(&format!("Strict mode: Offset {at} block status mismatch!"))?;
        }
        match (first.zero, second.zero) {
            (true, true) => Ok(len),
            (false, false) => {
                let len = len.min(STEP);
                let [left, right] = self.images.map(|image| Self::read(image, at, len));
                match left?.iter().zip(&right?).position(|(a, b)| a != b) {
                    Some(place) => self.mismatch(at + place as u64).map(|()| len),
                    None => Ok(len),
                }
            }
            (zero, _) => self.is_zero(self.images[usize::from(zero)], at, len.min(STEP)),
        }
    }

    fn mismatch(&self, at: u64) -> Result<(), ImgError> {
        // Told by sector.
        self.differ(&format!("Content mismatch at offset {}!", at & !511))
    }

    fn is_zero(&self, image: &Image, at: u64, len: u64) -> Result<u64, ImgError> {
        let bytes = Self::read(image, at, len)?;
        if !is_zero(&bytes) {
            let place = bytes.iter().position(|b| *b != 0).unwrap_or(0);
            self.mismatch(at + place as u64)?;
        }
        Ok(len)
    }

    /// The larger image's rest must be zero.
    fn rest(&self, image: &Image, from: u64) -> Result<(), ImgError> {
        let end = image.layer().size();
        let mut at = from;
        while at < end {
            let run = self.status(image, at, end - at)?;
            at += if run.zero { run.len } else { self.is_zero(image, at, run.len.min(STEP))? };
            self.progress.at(at, end);
        }
        Ok(())
    }
}
