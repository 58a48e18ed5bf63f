use super::*;
use crate::scsi::sense;

const TEST_UNIT_READY: [u8; 6] = [0; 6];
const EVENTS: [u8; 10] = [0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8, 0];
const EJECT: [u8; 6] = [0x1b, 0, 0, 0, 2, 0];
const LOAD: [u8; 6] = [0x1b, 0, 0, 0, 3, 0];
const LOCK: [u8; 6] = [0x1e, 0, 0, 0, 1, 0];

fn loaded() -> (Arc<LogicalUnit>, Arc<MemImage>) {
    let image = MemImage::new(MIB);
    (cd(Some(Arc::clone(&image))), image)
}

/// An empty drive answers its first command with "no medium", not with the power-on attention twice.
fn empty() -> Arc<LogicalUnit> {
    cd(None)
}

#[test]
fn inquiry_says_cd_rom_and_removable() {
    let (unit, _) = loaded();
    let data = good(&unit, &[0x12, 0, 0, 0, 36, 0], &[]);
    assert_eq!(data[..2], [5, 0x80]);
    assert_eq!(&data[8..32], b"QEMU    QEMU CD-ROM     ");
    assert_eq!(good(&unit, &[0x12, 1, 0, 0, 36, 0], &[]), [5, 0, 0, 2, 0, 0x83]);
    assert_eq!(bad(&unit, &[0x12, 1, 0xb0, 0, 36, 0], &[]), sense::INVALID_FIELD);
}

#[test]
fn reads_sectors_of_2048_bytes() {
    let (unit, image) = loaded();
    assert_eq!(good(&unit, &read10(3, 2), &[]), image.bytes(3 * 2048, 4096));
    assert_eq!(good(&unit, &[0xa8, 0, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0], &[]), image.bytes(3 * 2048, 4096));
    assert_eq!(good(&unit, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]), [0, 0, 1, 0xff, 0, 0, 8, 0]);
    assert_eq!(bad(&unit, &[0x25, 0, 0, 0, 0, 9, 0, 0, 0, 0], &[]), sense::INVALID_FIELD);
    assert_eq!(bad(&unit, &read10(511, 2), &[]), sense::LBA_OUT_OF_RANGE.at(511));
}

#[test]
fn disk_commands_do_not_exist_and_writes_are_told_why_not() {
    let (unit, _) = loaded();
    assert_eq!(bad(&unit, &write10(0, 1), &[0; 2048]), sense::WRITE_PROTECTED);
    assert_eq!(bad(&unit, &[0x42; 10], &[]), sense::INVALID_OPCODE);
    assert_eq!(bad(&unit, &[0x41; 10], &[]), sense::INVALID_OPCODE);
}

#[test]
fn read_cd_gives_data_or_whole_sectors() {
    let (unit, image) = loaded();
    let data = good(&unit, &[0xbe, 0, 0, 0, 0, 75, 0, 0, 1, 0x10, 0, 0], &[]);
    assert_eq!(data, image.bytes(75 * 2048, 2048));
    let raw = good(&unit, &[0xbe, 0, 0, 0, 0, 75, 0, 0, 2, 0xf8, 0, 0], &[]);
    assert_eq!(raw.len(), 2 * 2352);
    assert_eq!(raw[..16], [0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0x03, 0, 1]);
    assert_eq!(raw[16..16 + 2048], data);
    assert_eq!(raw[2352 + 12..2352 + 16], [0, 0x03, 1, 1]);
    assert_eq!(bad(&unit, &[0xbe, 4, 0, 0, 0, 0, 0, 0, 1, 0x10, 0, 0], &[]), sense::WRONG_MODE);
}

#[test]
fn table_of_contents_in_its_formats() {
    let (unit, _) = loaded();
    let tracks = good(&unit, &[0x43, 0, 0, 0, 0, 0, 0, 0, 96, 0], &[]);
    assert_eq!(tracks, [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xaa, 0, 0, 0, 2, 0]);
    let msf = good(&unit, &[0x43, 2, 0, 0, 0, 0, 0xaa, 0, 96, 0], &[]);
    assert_eq!(msf, [0, 10, 1, 1, 0, 0x14, 0xaa, 0, 0, 0, 8, 62]);
    assert_eq!(good(&unit, &[0x43, 0, 1, 0, 0, 0, 0, 0, 96, 0], &[]), [0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0]);
    assert_eq!(good(&unit, &[0x43, 0, 0, 0, 0, 0, 0, 0, 96, 0x40], &[]).len(), 12);
    assert_eq!(bad(&unit, &[0x43, 0, 0, 0, 0, 0, 2, 0, 96, 0], &[]), sense::INVALID_FIELD);
    assert_eq!(bad(&unit, &[0x43, 0, 5, 0, 0, 0, 0, 0, 96, 0], &[]), sense::INVALID_FIELD);
}

#[test]
fn configuration_names_the_profile_of_the_medium() {
    let (unit, _) = loaded();
    let all = good(&unit, &[0x46, 0, 0, 0, 0, 0, 0, 1, 0, 0], &[]);
    assert_eq!(u32::from_be_bytes([all[0], all[1], all[2], all[3]]) as usize + 4, all.len());
    assert_eq!(all[6..8], [0, 8]);
    assert_eq!(all[8..20], [0, 0, 3, 8, 0, 0x10, 0, 0, 0, 8, 1, 0]);
    let one = good(&unit, &[0x46, 2, 0, 3, 0, 0, 0, 1, 0, 0], &[]);
    assert_eq!(one[8..], [0, 3, 7, 4, 0x39, 0, 0, 0]);
    let core = good(&unit, &[0x46, 2, 0, 1, 0, 0, 0, 1, 0, 0], &[]);
    assert_eq!(core[8..], [0, 1, 0xb, 8, 0, 0, 0, 1, 0, 0, 0, 0]);
    let none = good(&empty(), &[0x46, 2, 0, 0, 0, 0, 0, 1, 0, 0], &[]);
    assert_eq!(none[6..8], [0, 0]);
}

#[test]
fn what_players_and_burners_ask_is_answered() {
    let (unit, _) = loaded();
    good(&unit, &[0xbb, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0], &[]);
    good(&unit, &[0x2b, 0, 0, 0, 1, 0xff, 0, 0, 0, 0], &[]);
    assert_eq!(bad(&unit, &[0x2b, 0, 0, 0, 2, 0, 0, 0, 0, 0], &[]), sense::LBA_OUT_OF_RANGE.at(512));
    good(&unit, &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
    good(&unit, &[0x2f, 0, 0, 0, 0, 1, 0, 0, 2, 0], &[]);
    assert_eq!(good(&unit, &[0x44, 0, 0, 0, 0, 5, 0, 0, 8, 0], &[]), [1, 0, 0, 0, 0, 0, 0, 5]);
}

#[test]
fn structure_of_a_dvd_tells_where_it_ends_and_a_cd_has_none() {
    let dvd = cd(Some(MemImage::new(1 << 30)));
    let physical = [0xad, 0, 0, 0, 0, 0, 0, 0, 8, 4, 0, 0];
    let data = good(&dvd, &physical, &[]);
    assert_eq!(u32::from_be_bytes([0, data[13], data[14], data[15]]), 0x3_0000 + (1 << 30) / 2048 - 1);
    bad(&loaded().0, &physical, &[]);
}

#[test]
fn empty_drive_answers_what_needs_no_medium() {
    let image = MemImage::new(MIB);
    let unit = LogicalUnit::new(UnitConfig::cd("cd0"), None, &Reservations::new()).unwrap();
    assert_eq!(bad(&unit, &TEST_UNIT_READY, &[]), sense::ATTENTION_RESET);
    for cdb in [&TEST_UNIT_READY[..], &read10(0, 1), &[0x25; 10], &[0x43; 10], &[0x51, 0, 0, 0, 0, 0, 0, 0, 8, 0]] {
        assert_eq!(bad(&unit, cdb, &[]), sense::NO_MEDIUM);
    }
    assert_eq!(good(&unit, &EVENTS, &[]), [0, 6, 4, 0x10, 0, 0, 0, 0]);
    assert_eq!(good(&unit, &[0x1a, 0, 0x2a, 0, 255, 0], &[])[4..6], [0x2a, 20]);
    unit.open_tray(false).unwrap();
    assert_eq!(bad(&unit, &TEST_UNIT_READY, &[]), sense::NO_MEDIUM_TRAY_OPEN);
    unit.insert(&(image as Arc<dyn Image>)).unwrap();
    unit.close_tray().unwrap();
    assert_eq!(bad(&unit, &TEST_UNIT_READY, &[]), sense::ATTENTION_NO_MEDIUM);
    assert_eq!(bad(&unit, &TEST_UNIT_READY, &[]), sense::ATTENTION_MEDIUM_CHANGED);
    good(&unit, &read10(0, 1), &[]);
}

#[test]
fn guest_ejects_and_loads_and_the_host_hears_of_it() {
    let (unit, _) = loaded();
    let moves = Arc::new(std::sync::Mutex::new(Vec::new()));
    let keep = Arc::clone(&moves);
    unit.on_tray_moved(move |moved| keep.lock().unwrap().push(moved.open));
    good(&unit, &EJECT, &[]);
    good(&unit, &EJECT, &[]);
    assert_eq!(unit.tray(), Tray { open: true, locked: false, loaded: true });
    assert_eq!(bad(&unit, &read10(0, 1), &[]), sense::NO_MEDIUM_TRAY_OPEN);
    assert_eq!(good(&unit, &EVENTS, &[]), [0, 6, 4, 0x10, 3, 1, 0, 0]);
    good(&unit, &LOAD, &[]);
    assert_eq!(good(&unit, &EVENTS, &[]), [0, 6, 4, 0x10, 2, 2, 0, 0]);
    assert_eq!(good(&unit, &EVENTS, &[]), [0, 6, 4, 0x10, 0, 2, 0, 0]);
    assert_eq!(*moves.lock().unwrap(), [true, false]);
}

#[test]
fn locked_tray_holds_against_guest_and_host_but_not_force() {
    let (unit, _) = loaded();
    good(&unit, &LOCK, &[]);
    assert_eq!(bad(&unit, &EJECT, &[]), sense::REMOVAL_PREVENTED);
    assert!(matches!(unit.open_tray(false), Err(EjectRefused::Locked(_))));
    assert_eq!(good(&unit, &EVENTS, &[]), [0, 6, 4, 0x10, 1, 2, 0, 0], "eject request");
    assert_eq!(good(&unit, &EVENTS, &[])[4], 0);
    assert!(unit.open_tray(true).unwrap());
    assert_eq!(unit.tray(), Tray { open: true, locked: false, loaded: true });
}

#[test]
fn media_change_through_the_host_needs_an_open_tray() {
    let (unit, _) = loaded();
    let other: Arc<dyn Image> = MemImage::new(2 * MIB);
    assert!(matches!(unit.insert(&other), Err(EjectRefused::Closed(_))));
    assert!(matches!(unit.remove(), Err(EjectRefused::Closed(_))));
    assert!(unit.open_tray(false).unwrap());
    assert!(!unit.open_tray(false).unwrap());
    assert!(matches!(unit.insert(&other), Err(EjectRefused::Loaded(_))));
    let before = unit.medium().unwrap().generation();
    assert!(unit.remove().unwrap().is_some());
    unit.insert(&other).unwrap();
    assert!(unit.close_tray().unwrap());
    assert_ne!(unit.medium().unwrap().generation(), before);
    assert_eq!(bad(&unit, &TEST_UNIT_READY, &[]), sense::ATTENTION_NO_MEDIUM);
    assert_eq!(bad(&unit, &TEST_UNIT_READY, &[]), sense::ATTENTION_MEDIUM_CHANGED);
    assert_eq!(good(&unit, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[])[..4], [0, 0, 3, 0xff]);
    let (disk, _) = disk();
    assert!(matches!(disk.open_tray(true), Err(EjectRefused::NotRemovable(_))));
}

#[test]
fn disc_track_and_mechanism_information() {
    let (unit, _) = loaded();
    let disc = good(&unit, &[0x51, 0, 0, 0, 0, 0, 0, 0, 64, 0], &[]);
    assert_eq!((disc.len(), disc[2]), (34, 0x0e));
    let track = good(&unit, &[0x52, 1, 0, 0, 0, 1, 0, 0, 64, 0], &[]);
    assert_eq!((track.len(), &track[24..28]), (36, &[0, 0, 2, 0][..]));
    assert_eq!(bad(&unit, &[0x52, 1, 0, 0, 0, 2, 0, 0, 64, 0], &[]), sense::INVALID_FIELD);
    assert_eq!(good(&unit, &[0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0], &[]), [0, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(bad(&unit, &[0xad, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0], &[]).asc, 0x30, "a CD has no DVD structure");
}
