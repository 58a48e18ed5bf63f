//! `map`: where the bytes of an image are.

use std::io::{BufWriter, Write};

use super::args::{Opt, Parsed};
use super::error::ImgError;
use super::extents::{self, Extent};
use super::open::{self, Want};
use super::output::{self, Form};
use super::size;

/// The verb's options.
pub(super) const OPTIONS: &[Opt] = &[
    open::OBJECT,
    open::IMAGE_OPTS,
    open::FORCE_SHARE,
    Opt::value('f').or("format"),
    Opt::value('s').or("start-offset"),
    Opt::value('l').or("max-length"),
    Opt::long_value("output"),
];

/// Runs the verb.
///
/// # Errors
/// The image cannot be opened, or its metadata read; for people also if part of it is in no file as it is.
pub(super) fn run(parsed: &Parsed) -> Result<(), ImgError> {
    let form = Form::of(parsed.get("output"))?;
    let [name] = parsed.operands.as_slice() else {
        return Err(ImgError::Usage("Expecting one image file name".to_owned()));
    };
    let start = parsed.get("s").map_or(Ok(0), |text| size::read("start offset", text))?;
    let most = parsed.get("l").map_or(Ok(u64::MAX), |text| size::read("max length", text))?;
    let image = open::open(name, Want::of(parsed)?)?;
    let end = image.layer().size().min(start.saturating_add(most));
    let mut out = BufWriter::new(output::stream());
    match form {
        Form::Human => {
            writeln!(out, "{:<16}{:<16}{:<16}File", "Offset", "Length", "Mapped to")?;
            extents::for_each(&image.node, start, end, |run| human(&mut out, run))?;
        }
        Form::Json => {
            let mut before = "[";
            extents::for_each(&image.node, start, end, |run| {
                write!(out, "{before}{}", json(run))?;
                before = ",\n";
                Ok::<(), ImgError>(())
            })?;
            if before == "[" {
                // Of no bytes there is one run.
                write!(out, "[{}", json(&Extent::empty(start)))?;
            }
            writeln!(out, "]")?;
        }
    }
    out.flush()?;
    Ok(())
}

fn human(out: &mut impl Write, run: &Extent) -> Result<(), ImgError> {
    if !run.data || run.zero {
        return Ok(());
    }
    let Some(offset) = run.offset else {
        out.flush()?;
        return Err(ImgError::Said("File contains external, encrypted or compressed clusters.".to_owned()));
    };
    let (start, len) = (hex(run.start), hex(run.len));
    writeln!(out, "{start:<16}{len:<16}{:<16}{}", hex(offset), run.file.display())?;
    Ok(())
}

/// C's `%#x`: zero has no prefix.
fn hex(number: u64) -> String {
    if number == 0 { "0".to_owned() } else { format!("{number:#x}") }
}

fn json(run: &Extent) -> String {
    let Extent { start, len, depth, present, zero, data, compressed, offset, .. } = run;
    let mut text = format!(
        "{{ \"start\": {start}, \"length\": {len}, \"depth\": {depth}, \"present\": {present}, \"zero\": {zero}, \
         \"data\": {data}, \"compressed\": {compressed}"
    );
    if let Some(offset) = offset {
        text += &format!(", \"offset\": {offset}");
    }
    text + "}"
}
