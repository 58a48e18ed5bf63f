//! GET EVENT STATUS NOTIFICATION (MMC-6, 6.6): media events, when asked for them.

use crate::scsi::cdb::Cdb;
use crate::scsi::commands::Run;
use crate::scsi::plan::{Plan, Reply};
use crate::scsi::sense::{self, Sense};

/// The class of media events, and its bit.
const MEDIA: u8 = 4;
const MEDIA_BIT: u8 = 1 << MEDIA;

/// Codes of media events (MMC-6, table 299).
const EJECT_REQUEST: u8 = 1;
const NEW_MEDIA: u8 = 2;
const MEDIA_REMOVAL: u8 = 3;

pub(super) fn status(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    // Nobody is told when an event happens: it has to be asked for.
    if !cdb.has(1, 1) {
        return Err(sense::INVALID_FIELD);
    }
    let allocation = cdb.length(7, 2);
    // Without an event, only the header: NEA and no class.
    let mut data = vec![0, 2, 0x80, MEDIA_BIT];
    if cdb.has(4, MEDIA_BIT) {
        data = vec![0, 6, MEDIA, MEDIA_BIT];
        data.extend(media(run, allocation >= 8));
    }
    Ok(Reply::data(data, allocation).into())
}

/// An event is over once it was told: to one who has room for it.
fn media(run: &mut Run<'_>, told: bool) -> [u8; 4] {
    let present = run.state.medium.is_some() && !run.state.tray.open;
    let tray = &mut run.state.tray;
    let code = match (tray.media_event, tray.eject_request) {
        (true, _) if present => NEW_MEDIA,
        (true, _) => MEDIA_REMOVAL,
        (false, true) => EJECT_REQUEST,
        (false, false) => 0,
    };
    if told {
        if tray.media_event {
            tray.media_event = false;
        } else {
            tray.eject_request = false;
        }
    }
    [code, u8::from(tray.open) | u8::from(present) << 1, 0, 0]
}
