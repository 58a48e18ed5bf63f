//! A CD drive's mode pages (MMC-6, 7).

use crate::scsi::cdb::Cdb;
use crate::scsi::commands::Run;
use crate::scsi::mode::{self, Modes, Values};
use crate::scsi::plan::{Plan, Reply};
use crate::scsi::sense::Sense;

/// Read error recovery.
const RECOVERY: u8 = 0x01;
/// Audio control.
const AUDIO: u8 = 0x0e;
/// Capabilities and mechanical status.
const CAPABILITIES: u8 = 0x2a;

const PAGES: [u8; 3] = [RECOVERY, AUDIO, CAPABILITIES];

/// Kilobytes in a second at single speed.
const SPEED: u16 = 176;

fn page(locked: bool, code: u8, values: Values) -> Option<Vec<u8>> {
    let body = match code {
        // Five retries.
        RECOVERY => vec![0x00, 0x05, 0, 0, 0, 0],
        // Stop at the end of a track; two channels at full volume.
        AUDIO => vec![0x04, 0, 0, 0, 0, 0, 1, 0xff, 2, 0xff, 0, 0, 0, 0],
        CAPABILITIES => capabilities(locked),
        _ => return None,
    };
    Some(if values == Values::Changeable { vec![0; body.len()] } else { body })
}

fn capabilities(locked: bool) -> Vec<u8> {
    // Reads CD-R, CD-RW, DVD-ROM, DVD-R; writes nothing; mode 2 forms and sessions; READ CD of any part.
    let mut body = vec![0x3b, 0x00, 0x70, 0x01];
    // A tray that locks, ejects, and is not locked by a jumper.
    body.push(0x29 | if locked { 0x02 } else { 0 });
    body.push(0);
    for value in [50 * SPEED, 2, 2048, 16 * SPEED, 0, 0, 0] {
        body.extend(value.to_be_bytes());
    }
    body
}

fn with_modes<T>(run: &Run<'_>, f: impl FnOnce(&Modes<'_>) -> Result<T, Sense>) -> Result<T, Sense> {
    let locked = run.state.tray.locked;
    f(&Modes {
        medium_type: 0,
        device_specific: 0,
        blocks: None,
        pages: &PAGES,
        page: &|code, values| page(locked, code, values),
    })
}

pub(super) fn sense(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    with_modes(run, |modes| mode::mode_sense(cdb, modes))
}

pub(super) fn select(_run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    mode::mode_select(cdb)
}

/// Takes pages as they are: nothing can be changed.
pub(super) fn select_parameters(run: &mut Run<'_>, cdb: &Cdb, data: &[u8]) -> Result<Plan, Sense> {
    with_modes(run, |modes| mode::select(cdb, data, modes, |_, _| {}))?;
    Ok(Reply::good().into())
}
