//! `dd`: part of an image into a new one.

use std::sync::Arc;

use rhea_block::format::raw::Raw;
use rhea_block::graph::CacheMode;
use rhea_block::layer::Layer;
use rhea_block::ops::copy::{CopyOptions, copy};

use super::args::{Opt, Parsed};
use super::convert::{Telling, is_new_zero};
use super::error::{ImgError, chain, tell};
use super::open::{self, Want};
use super::size;
use super::target::{Format, Options};

/// The verb's options.
pub(super) const OPTIONS: &[Opt] = &[
    open::OBJECT,
    open::IMAGE_OPTS,
    open::FORCE_SHARE,
    Opt::value('f').or("format"),
    Opt::value('O').or("output-format"),
];

/// What the operands say.
struct Operands {
    input: String,
    output: String,
    block: u64,
    count: Option<u64>,
    skip: u64,
}

impl Operands {
    fn read(words: &[String]) -> Result<Self, ImgError> {
        let (mut input, mut output) = (None, None);
        let (mut block, mut count, mut skip) = (512, None, 0);
        for word in words {
            let (key, value) = word.split_once('=').ok_or_else(|| unrecognized(word))?;
            match key {
                "if" => input = Some(value.to_owned()),
                "of" => output = Some(value.to_owned()),
                "bs" => block = size::read_in("bs", value, 1, i32::MAX as u64)?,
                "count" => count = Some(size::read("count", value)?),
                "skip" => skip = size::read("skip", value)?,
                _ => return Err(unrecognized(key)),
            }
        }
        let both = input.zip(output);
        let (input, output) =
            both.ok_or_else(|| ImgError::Said("Must specify both input and output files".to_owned()))?;
        Ok(Self { input, output, block, count, skip })
    }
}

fn unrecognized(operand: &str) -> ImgError {
    ImgError::Said(format!("unrecognized operand {operand}"))
}

/// Runs the verb.
///
/// # Errors
/// The images cannot be opened, made, read or written.
pub(super) fn run(parsed: &Parsed) -> Result<(), ImgError> {
    let operands = Operands::read(&parsed.operands)?;
    let image = open::open(&operands.input, Want::of(parsed)?)?;
    let called = parsed.get("O").unwrap_or("raw");
    let format = Format::by_name(called)?;
    open::check_protocol(&operands.output)?;
    // As qemu-img has it, `count` counts from the image's start, what is skipped included.
    let end = operands.count.map_or(u64::MAX, |count| count.saturating_mul(operands.block)).min(image.layer().size());
    let start = operands.skip.saturating_mul(operands.block);
    if start > end {
        tell(&format!("{}: cannot skip to specified offset", operands.input));
    }
    let len = end.saturating_sub(start);
    let mut options = Options::default();
    options.set("size", len.to_string());
    let made = format.make(called, &operands.output, &options, len.next_multiple_of(512), &parsed.secrets);
    made.map_err(|e| ImgError::Said(format!("{}: error while creating output image: {}", operands.output, chain(&e))))?;
    let want = Want { format: Some(called), write: true, cache: CacheMode::Unsafe, ..Want::default() };
    let output = open::open(&operands.output, want)?;
    if len > 0 {
        let part = Raw::new(image.layer().clone(), start, Some(len));
        let part: Arc<dyn Layer> = Arc::new(part.map_err(ImgError::block("no such part of the image"))?);
        let options = CopyOptions { target_is_zero: is_new_zero(&output), ..CopyOptions::default() };
        copy(&[part], output.layer(), &options, Telling::of(parsed)).map_err(ImgError::block("error while copying"))?;
    }
    output.close()
}
