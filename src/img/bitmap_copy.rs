//! `convert --bitmaps`: the source's persistent bitmaps, into the copy.

use rhea_block::format::qcow2::{BitmapChange, Bits, NewBitmap, Qcow2};

use super::error::{ImgError, chain, tell};
use super::open::Image;

/// One bitmap of the source, read before the target is made.
pub(super) struct Copied {
    name: String,
    bits: Bits,
    enabled: bool,
}

/// The image, if it can have bitmaps.
fn keeper(image: &Image) -> Option<&Qcow2> {
    image.layer().as_any().downcast_ref::<Qcow2>().filter(|qcow2| qcow2.can_have_bitmaps())
}

/// Refuses a target that cannot have bitmaps, before its data are copied.
///
/// # Errors
/// It cannot.
pub(super) fn check_target(target: &Image) -> Result<(), ImgError> {
    let driver = target.layer().driver();
    let refused = || ImgError::Said(format!("Format driver '{driver}' does not support bitmaps"));
    keeper(target).map(drop).ok_or_else(refused)
}

/// Reads all bitmaps of `source`. Those that do not fit its data are an error, or left out if `skip_broken`.
///
/// # Errors
/// The format has no bitmaps, or one of them is inconsistent or cannot be read.
pub(super) fn read(source: &Image, skip_broken: bool) -> Result<Vec<Copied>, ImgError> {
    let qcow2 = keeper(source).ok_or_else(|| ImgError::Said("Source lacks bitmap support".to_owned()))?;
    let fail = || ImgError::block(format!("Could not read the bitmaps of '{}'", source.name));
    let mut copied = Vec::new();
    for entry in qcow2.bitmaps().map_err(fail())? {
        if entry.in_use {
            if !skip_broken {
                let text = format!(
                    "Cannot copy inconsistent bitmap '{}'\nTry --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it",
                    entry.name
                );
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
/// The target has one of that name, or they cannot be written.
pub(super) fn write(target: &Image, bitmaps: Vec<Copied>) -> Result<(), ImgError> {
    let Some(qcow2) = keeper(target) else { return Ok(()) };
    for Copied { name, bits, enabled } in bitmaps {
        let failed = || ImgError::block(format!("Failed to populate bitmap {name}"));
        let new = BitmapChange::Add(NewBitmap::stored(Some(bits.granularity_bits)));
        qcow2.change_bitmap(&name, &new).map_err(ImgError::block(format!("Failed to create bitmap {name}")))?;
        if let Err(e) = qcow2.change_bitmap(&name, &BitmapChange::Merge(bits)) {
            // Empty it would say that nothing was ever written.
            if let Err(e) = qcow2.change_bitmap(&name, &BitmapChange::Remove) {
                tell(&format!("warning: the bitmap '{name}' is empty and could not be removed: {}", chain(&e)));
            }
            return Err(failed()(e));
        }
        if !enabled {
            qcow2.change_bitmap(&name, &BitmapChange::Disable).map_err(failed())?;
        }
    }
    Ok(())
}
