//! MODE SENSE and MODE SELECT (SPC-5, 6.13 to 6.16): headers, block descriptors and the walk over pages, for every
//! kind of unit.

use super::cdb::Cdb;
use super::plan::{Plan, Reply};
use super::sense::{self, Sense};

/// Which values of a page are wanted (SPC-5, table 195).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Values {
    Current,
    Changeable,
    Default,
}

/// What a kind of unit has to say.
pub(super) struct Modes<'a> {
    pub(super) medium_type: u8,
    /// Device-specific parameter: write protection, DPO and FUA.
    pub(super) device_specific: u8,
    /// Number of blocks and length of a block; `None` where there are no block descriptors.
    pub(super) blocks: Option<(u64, u32)>,
    /// Codes of the pages there are, ascending.
    pub(super) pages: &'a [u8],
    /// A page's parameters, without its two bytes of header.
    pub(super) page: &'a dyn Fn(u8, Values) -> Option<Vec<u8>>,
}

fn is_six(cdb: &Cdb) -> bool {
    cdb.len() == 6
}

/// MODE SENSE 6 and 10.
pub(super) fn mode_sense(cdb: &Cdb, modes: &Modes<'_>) -> Result<Plan, Sense> {
    let (page, subpage) = (cdb.byte(2) & 0x3f, cdb.byte(3));
    let values = match cdb.byte(2) >> 6 {
        0 => Values::Current,
        1 => Values::Changeable,
        2 => Values::Default,
        _ => return Err(sense::NO_SAVING),
    };
    // There are no subpages: 0 is the page itself, 0xff all of its subpages.
    if !matches!(subpage, 0 | 0xff) {
        return Err(sense::INVALID_FIELD);
    }
    let wanted: Vec<u8> = modes.pages.iter().copied().filter(|&code| page == 0x3f || code == page).collect();
    if wanted.is_empty() {
        return Err(sense::INVALID_FIELD);
    }
    let descriptor =
        modes.blocks.filter(|_| !cdb.has(1, 0x08)).map(|blocks| descriptor(blocks, !is_six(cdb) && cdb.has(1, 0x10)));
    let descriptor = descriptor.unwrap_or_default();
    let mut body = Vec::new();
    for code in wanted {
        let parameters = (modes.page)(code, values).ok_or(sense::INVALID_FIELD)?;
        body.extend([code, u8::try_from(parameters.len()).unwrap_or(u8::MAX)]);
        body.extend(parameters);
    }
    let small = u8::try_from(descriptor.len()).unwrap_or(0);
    let long = u8::from(small == 16);
    let (mut data, allocation) = if is_six(cdb) {
        let len = 3 + descriptor.len() + body.len();
        let len = u8::try_from(len).unwrap_or(u8::MAX);
        (vec![len, modes.medium_type, modes.device_specific, small], cdb.length(4, 1))
    } else {
        let [high, low] = u16::try_from(6 + descriptor.len() + body.len()).unwrap_or(u16::MAX).to_be_bytes();
        (vec![high, low, modes.medium_type, modes.device_specific, long, 0, 0, small], cdb.length(7, 2))
    };
    data.extend(descriptor);
    data.extend(body);
    Ok(Reply::data(data, allocation).into())
}

/// A block descriptor: short (SBC-4, 6.5.2.2), or long where MODE SENSE 10 allows it. No block is so long that it
/// reaches the reserved byte before the three of its length.
fn descriptor((blocks, len): (u64, u32), long: bool) -> Vec<u8> {
    if long {
        let mut data = blocks.to_be_bytes().to_vec();
        data.extend([0; 4]);
        data.extend(len.to_be_bytes());
        return data;
    }
    let mut data = u32::try_from(blocks).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    data.extend(len.to_be_bytes());
    data
}

/// How many bytes of parameters MODE SELECT 6 or 10 comes with.
pub(super) fn mode_select(cdb: &Cdb) -> Result<Plan, Sense> {
    // Pages of the standard's format, and none saved.
    if !cdb.has(1, 0x10) || cdb.has(1, 0x01) {
        return Err(sense::INVALID_FIELD);
    }
    match if is_six(cdb) { cdb.length(4, 1) } else { cdb.length(7, 2) } {
        0 => Ok(Reply::good().into()),
        len => Ok(Plan::Parameters(len)),
    }
}

/// Takes the list apart and checks all of it before any page is changed: `change` is called for each page with its new
/// parameters, which differ from the current ones in changeable bits only.
pub(super) fn select(
    cdb: &Cdb,
    data: &[u8],
    modes: &Modes<'_>,
    mut change: impl FnMut(u8, &[u8]),
) -> Result<(), Sense> {
    let (header, descriptors) = if is_six(cdb) {
        (4, data.get(3).copied().map(usize::from))
    } else {
        (8, data.get(6..8).map(|bytes| bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte))))
    };
    let descriptors = descriptors.ok_or(sense::PARAMETER_LENGTH)?;
    let given = data.get(header..header + descriptors).ok_or(sense::PARAMETER_LENGTH)?;
    check_descriptor(given, modes)?;
    let mut rest = data.get(header + descriptors..).ok_or(sense::PARAMETER_LENGTH)?;
    let mut pages = Vec::new();
    while let [code, len, after @ ..] = rest {
        let (parameters, next) = after.split_at_checked((*len).into()).ok_or(sense::PARAMETER_LENGTH)?;
        // A page is named by its code alone: PS is reserved here, SPF would mean a subpage.
        let code = code & 0x7f;
        if !modes.pages.contains(&code) {
            return Err(sense::INVALID_PARAMETER);
        }
        let current = (modes.page)(code, Values::Current).ok_or(sense::INVALID_PARAMETER)?;
        let changeable = (modes.page)(code, Values::Changeable).ok_or(sense::INVALID_PARAMETER)?;
        if parameters.len() != current.len() {
            return Err(sense::INVALID_PARAMETER);
        }
        let mut fields = parameters.iter().zip(&current).zip(&changeable);
        if fields.any(|((new, old), mask)| (new ^ old) & !mask != 0) {
            return Err(sense::INVALID_PARAMETER_VALUE);
        }
        pages.push((code, parameters));
        rest = next;
    }
    if !rest.is_empty() {
        return Err(sense::PARAMETER_LENGTH);
    }
    pages.into_iter().for_each(|(code, parameters)| change(code, parameters));
    Ok(())
}

/// Block lengths cannot be changed; the number of blocks may be told as it is, or as 0 or all ones.
fn check_descriptor(given: &[u8], modes: &Modes<'_>) -> Result<(), Sense> {
    let Some((_, len)) = modes.blocks else {
        return if given.is_empty() { Ok(()) } else { Err(sense::INVALID_PARAMETER) };
    };
    let told = match given {
        [] => return Ok(()),
        [_, _, _, _, _, a, b, c] => u32::from_be_bytes([0, *a, *b, *c]),
        [_, _, _, _, _, _, _, _, _, _, _, _, a, b, c, d] => u32::from_be_bytes([*a, *b, *c, *d]),
        _ => return Err(sense::INVALID_PARAMETER),
    };
    if told == len { Ok(()) } else { Err(sense::INVALID_PARAMETER_VALUE) }
}
