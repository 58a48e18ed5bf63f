//! `convert --bitmaps`: the source's persistent bitmaps, into the copy.

use rhea_block::format::qcow2::{BitmapChange, Bits, Qcow2};

use super::error::{ImgError, tell};
use super::open::Image;

/// One bitmap of the source, read before the target is made.
pub(super) struct Copied {
    name: String,
    bits: Bits,
    enabled: bool,
}

/// Reads all bitmaps of `source`. Those that do not fit its data are an error, or left out if `skip_broken`.
///
/// # Errors
/// The format has no bitmaps, or one is inconsistent or cannot be read.
pub(super) fn read(source: &Image, skip_broken: bool) -> Result<Vec<Copied>, ImgError> {
    let Some(qcow2) = source.layer().as_any().downcast_ref::<Qcow2>() else {
        let driver = source.layer().driver();
        return Err(ImgError::Said(format!("This image format ('{driver}') does not support bitmaps")));
    };
    let fail = || ImgError::block(format!("Could not read the bitmaps of '{}'", source.name));
    let mut copied = Vec::new();
    for entry in qcow2.bitmaps().map_err(fail())? {
        if entry.in_use {
            if !skip_broken {
                let text = format!("Cannot copy inconsistent bitmap '{}'\nTry --skip-broken-bitmaps", entry.name);
                return Err(ImgError::Said(text));
            }
            tell(&format!("warning: Skipping inconsistent bitmap '{}'", entry.name));
            continue;
        }
        let bits = qcow2.bitmap_bits(&entry.name).map_err(fail())?;
        copied.push(Copied { name: entry.name, bits, enabled: entry.auto });
    }
    Ok(copied)
}

/// Writes them to `target`, after the data.
///
/// # Errors
/// The target cannot have them, or has one of that name.
pub(super) fn write(target: &Image, bitmaps: Vec<Copied>) -> Result<(), ImgError> {
    let Some(qcow2) = target.layer().as_any().downcast_ref::<Qcow2>() else {
        let driver = target.layer().driver();
        return Err(ImgError::Said(format!("Format driver '{driver}' does not support bitmaps")));
    };
    for Copied { name, bits, enabled } in bitmaps {
        let failed = || ImgError::block(format!("Failed to populate bitmap {name}"));
        let granularity = bits.granularity_bits;
        qcow2.change_bitmap(&name, &BitmapChange::Add(Some(granularity))).map_err(failed())?;
        qcow2.change_bitmap(&name, &BitmapChange::Merge(bits)).map_err(failed())?;
        if !enabled {
            qcow2.change_bitmap(&name, &BitmapChange::Disable).map_err(failed())?;
        }
    }
    Ok(())
}
