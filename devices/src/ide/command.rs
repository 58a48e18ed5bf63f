//! The command table of each kind of drive: what is not in it is aborted.

use super::channel::Channel;

/// DEVICE RESET, which is taken even while a packet drive is busy.
pub(super) const DEVICE_RESET: u8 = 0x08;

/// Carries a command out, or says why not in bits of the error register.
pub(super) type Handler = fn(&mut Channel, u8) -> Result<(), u8>;

/// Commands of ATA disks (ATA8-ACS, 7). SET MAX is not among them: there is no host protected area to make.
static DISK: [(u8, Handler); 57] = [
    (0xc8, Channel::read_write),
    (0xc9, Channel::read_write),
    (0x25, Channel::read_write),
    (0xca, Channel::read_write),
    (0xcb, Channel::read_write),
    (0x35, Channel::read_write),
    (0xe7, Channel::flush),
    (0xea, Channel::flush),
    (0x20, Channel::read_write),
    (0x21, Channel::read_write),
    (0x24, Channel::read_write),
    (0x29, Channel::read_write),
    (0xc4, Channel::read_write),
    (0x30, Channel::read_write),
    (0x31, Channel::read_write),
    (0x34, Channel::read_write),
    (0x39, Channel::read_write),
    (0xc5, Channel::read_write),
    (0x40, Channel::read_write),
    (0x41, Channel::read_write),
    (0x42, Channel::read_write),
    (0x06, Channel::data_set_management),
    (0x27, Channel::read_native_max),
    (0xf8, Channel::read_native_max),
    (0x00, Channel::abort),
    (0x10, Channel::recalibrate),
    (0x11, Channel::recalibrate),
    (0x70, Channel::seek),
    (0x90, Channel::diagnostic),
    (0x91, Channel::device_parameters),
    (0xb0, Channel::smart),
    (0xc6, Channel::set_multiple),
    (0xec, Channel::identify),
    (0xef, Channel::set_features),
    (0x94, Channel::power),
    (0x95, Channel::power),
    (0x96, Channel::power),
    (0x97, Channel::power),
    (0x98, Channel::power),
    (0x99, Channel::power),
    (0xe0, Channel::power),
    (0xe1, Channel::power),
    (0xe2, Channel::power),
    (0xe3, Channel::power),
    (0xe5, Channel::power),
    (0xe6, Channel::power),
    // RECALIBRATE of the first drives came with a step rate in its low bits.
    (0x12, Channel::recalibrate),
    (0x13, Channel::recalibrate),
    (0x14, Channel::recalibrate),
    (0x15, Channel::recalibrate),
    (0x16, Channel::recalibrate),
    (0x17, Channel::recalibrate),
    (0x18, Channel::recalibrate),
    (0x19, Channel::recalibrate),
    (0x1a, Channel::recalibrate),
    (0x1b, Channel::recalibrate),
    (0x1c, Channel::recalibrate),
];

/// Commands of packet drives (ATA/ATAPI-7, table 17).
static CD: [(u8, Handler); 20] = [
    (0xa0, Channel::packet_command),
    (0xa1, Channel::identify_packet),
    (0x00, Channel::abort),
    (DEVICE_RESET, Channel::device_reset),
    // These abort, and show that it is a packet drive.
    (0x20, Channel::not_here),
    (0xec, Channel::not_here),
    (0x90, Channel::diagnostic),
    (0xef, Channel::set_features),
    (0x94, Channel::power),
    (0x95, Channel::power),
    (0x96, Channel::power),
    (0x97, Channel::power),
    (0x98, Channel::power),
    (0x99, Channel::power),
    (0xe0, Channel::power),
    (0xe1, Channel::power),
    (0xe2, Channel::power),
    (0xe3, Channel::power),
    (0xe5, Channel::power),
    (0xe6, Channel::power),
];

/// The handler of command `code` of a disk or a packet drive.
pub(super) fn find(cd: bool, code: u8) -> Option<Handler> {
    let table: &[(u8, Handler)] = if cd { &CD } else { &DISK };
    table.iter().find(|(own, _)| *own == code).map(|(_, handler)| *handler)
}
