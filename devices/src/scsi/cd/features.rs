//! GET CONFIGURATION (MMC-6, 6.5): profiles and features (5.3).

use super::{is_dvd, sectors};
use crate::scsi::cdb::Cdb;
use crate::scsi::commands::Run;
use crate::scsi::plan::{Plan, Reply};
use crate::scsi::sense::{self, Sense};

/// Profiles.
const CD_ROM: u16 = 0x0008;
const DVD_ROM: u16 = 0x0010;

/// One feature: code, version, whether it is there without a medium, whether it is in force, its data.
struct Feature {
    code: u16,
    version: u8,
    persistent: bool,
    current: bool,
    data: Vec<u8>,
}

impl Feature {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.code.to_be_bytes().to_vec();
        let flags = self.version << 2 | u8::from(self.persistent) << 1 | u8::from(self.current);
        bytes.extend([flags, u8::try_from(self.data.len()).unwrap_or(0)]);
        bytes.extend(&self.data);
        bytes
    }
}

/// Physical interface standards (MMC-6, 5.3.2).
const SCSI: u8 = 1;
const ATAPI: u8 = 2;

fn features(profile: u16, interface: u8) -> [Feature; 7] {
    let (cd, dvd) = (profile == CD_ROM, profile == DVD_ROM);
    let always =
        |code, version, data: &[u8]| Feature { code, version, persistent: true, current: true, data: data.to_vec() };
    let with_medium = |code, version, current, data: &[u8]| Feature {
        code,
        version,
        persistent: false,
        current,
        data: data.to_vec(),
    };
    [
        always(0x0000, 0, &[0x00, 0x10, u8::from(dvd), 0, 0x00, 0x08, u8::from(cd), 0]),
        // Core: device busy events are not told.
        always(0x0001, 2, &[0, 0, 0, interface, 0, 0, 0, 0]),
        // Morphing: events are polled.
        always(0x0002, 1, &[0, 0, 0, 0]),
        // Removable medium: a tray that can be locked, opened and closed.
        always(0x0003, 1, &[0x39, 0, 0, 0]),
        // Random readable: sectors of 2048 bytes, one at a time.
        with_medium(0x0010, 0, cd || dvd, &[0, 0, 0x08, 0, 0, 1, 0, 0]),
        with_medium(0x001e, 2, cd, &[0, 0, 0, 0]),
        with_medium(0x001f, 0, dvd, &[]),
    ]
}

pub(super) fn configuration(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let profile = match sectors(run) {
        Ok(sectors) if run.unit.ready(run.state).is_ok() => {
            if is_dvd(sectors) {
                DVD_ROM
            } else {
                CD_ROM
            }
        }
        _ => 0,
    };
    let first = u16::try_from(cdb.be(2, 2)).unwrap_or(u16::MAX);
    let wanted: fn(&Feature, u16) -> bool = match cdb.byte(1) & 3 {
        0 => |feature, first| feature.code >= first,
        1 => |feature, first| feature.code >= first && feature.current,
        2 => |feature, first| feature.code == first,
        _ => return Err(sense::INVALID_FIELD),
    };
    let features = features(profile, if run.unit.config.atapi { ATAPI } else { SCSI });
    let list: Vec<u8> = features.iter().filter(|feature| wanted(feature, first)).flat_map(Feature::bytes).collect();
    let mut data = u32::try_from(list.len() + 4).unwrap_or(0).to_be_bytes().to_vec();
    data.extend([0, 0]);
    data.extend(profile.to_be_bytes());
    data.extend(list);
    Ok(Reply::data(data, cdb.length(7, 2)).into())
}
