//! `bitmap`: an image's persistent dirty bitmaps.

use rhea_block::format::qcow2::{BitmapChange, NewBitmap, Qcow2};

use super::args::{Opt, Parsed};
use super::error::{ImgError, chain};
use super::open::{self, Image, Want};
use super::size;

/// The verb's options.
pub(super) const OPTIONS: &[Opt] = &[
    open::OBJECT,
    open::IMAGE_OPTS,
    Opt::value('f').or("format"),
    Opt::value('b').or("source-file"),
    Opt::value('F').or("source-format"),
    Opt::value('g').or("granularity"),
    Opt::long_flag("add"),
    Opt::long_flag("remove"),
    Opt::long_flag("clear"),
    Opt::long_flag("enable"),
    Opt::long_flag("disable"),
    Opt::long_value("merge"),
];

/// Runs the verb: its actions in the order of the words.
///
/// # Errors
/// The image or the bitmap cannot be opened, or an action fails; those before it are done.
pub(super) fn run(parsed: &Parsed) -> Result<(), ImgError> {
    let said = |text: &str| Err(ImgError::Said(text.to_owned()));
    let actions: Vec<_> = parsed.in_order().filter(|(name, _)| ACTIONS.contains(name)).collect();
    if actions.is_empty() {
        return said("Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
    }
    let [file, name] = parsed.operands.as_slice() else {
        return said("Expecting filename and bitmap name");
    };
    if parsed.get("g").is_some() && !parsed.has("add") {
        return said("granularity only supported with --add");
    }
    if parsed.get("b").is_some() && !parsed.has("merge") {
        return said("Merge bitmap source file only supported with --merge");
    }
    if parsed.get("F").is_some() && parsed.get("b").is_none() {
        return said("-F only supported with -b");
    }
    let granularity = parsed.get("g").map(|text| size::read_in("granularity", text, 0, i64::MAX as u64)).transpose()?;
    // As in QEMU 0 is the usual one.
    let granularity = granularity.filter(|bytes| *bytes != 0);
    let want = Want { no_backing: true, ..Want::of(parsed)?.writing() };
    let image = open::open(file, want)?;
    let beside = Want { format: parsed.get("F"), image_opts: false, write: false, warn: false, ..want };
    let source = parsed.get("b").map(|source| open::open(source, beside));
    let source = source.transpose()?;
    for (action, value) in actions {
        let failed = |text: String| ImgError::Said(format!("Operation {action} on bitmap {name} failed: {text}"));
        let change = match action {
            "add" => BitmapChange::Add(NewBitmap::stored(granularity.map(bits).transpose().map_err(failed)?)),
            "remove" => BitmapChange::Remove,
            "clear" => BitmapChange::Clear,
            "enable" => BitmapChange::Enable,
            "disable" => BitmapChange::Disable,
            _ => {
                let from = qcow2_of(source.as_ref().unwrap_or(&image)).map_err(failed)?;
                BitmapChange::Merge(from.bitmap_bits(value).map_err(|e| failed(chain(&e)))?)
            }
        };
        qcow2_of(&image).map_err(failed)?.change_bitmap(name, &change).map_err(|e| failed(chain(&e)))?;
    }
    image.close()
}

const ACTIONS: [&str; 6] = ["add", "remove", "clear", "enable", "disable", "merge"];

fn qcow2_of(image: &Image) -> Result<&Qcow2, String> {
    let found = image.layer().as_any().downcast_ref();
    found.ok_or_else(|| format!("Driver '{}' does not support persistent bitmaps", image.layer().driver()))
}

/// Bytes of one bit as a power of two.
fn bits(bytes: u64) -> Result<u32, String> {
    let fits = bytes.is_power_of_two() && bytes >= 512;
    fits.then(|| bytes.trailing_zeros()).ok_or_else(|| "Granularity must be power of 2 and at least 512".to_owned())
}
