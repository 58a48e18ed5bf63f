//! Two units that show one image.

use super::*;
use crate::scsi::status;
use crate::virtio::scsi::control::function as control_function;

const OUT: u8 = 0x5f;
const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
const WRITE_EXCLUSIVE: u8 = 1;

/// Units 0 and 1 of a target on one image.
fn pair() -> (Host, Arc<MemImage>) {
    let mut host = Host::new(1, 0);
    let (image, shared) = (MemImage::new(MIB), Reservations::new());
    for lun in 0..2 {
        let unit = LogicalUnit::new(UnitConfig::disk("disk"), Some(Arc::clone(&image) as _), &shared).unwrap();
        host.bus.attach(at(0, lun), unit_of(unit, &host, OnError::Report)).unwrap();
    }
    for lun in 0..2 {
        assert_eq!(host.command(at(0, lun), &[0; 6], &[], 0).0.key(), (6, 0x29, 0));
    }
    (host, image)
}

fn out(action: u8, key: u64, about: u64) -> ([u8; 10], Vec<u8>) {
    let mut list = key.to_be_bytes().to_vec();
    list.extend(about.to_be_bytes());
    list.extend([0; 8]);
    ([OUT, action, WRITE_EXCLUSIVE, 0, 0, 0, 0, 0, 24, 0], list)
}

fn persistent(host: &mut Host, lun: u16, action: u8, key: u64, about: u64) -> u8 {
    let (cdb, list) = out(action, key, about);
    host.command(at(0, lun), &cdb, &list, 0).0.status
}

/// Unit 0 holds a reservation under key 1, unit 1 is registered under key 2, and a write of unit 0 waits for the image.
fn writing() -> (Host, Arc<MemImage>) {
    let (mut host, image) = pair();
    assert_eq!(persistent(&mut host, 0, REGISTER, 0, 1), status::GOOD);
    assert_eq!(persistent(&mut host, 0, RESERVE, 1, 0), status::GOOD);
    assert_eq!(persistent(&mut host, 1, REGISTER, 0, 2), status::GOOD);
    let _ = image.take_seen();
    image.hold();
    host.post(0, 1, at(0, 0), &write10(1, 1), &[7; 512], 0);
    let mut seen = 0;
    host.guest.sink.wait_until_polling("the write", || {
        seen += image.take_seen().len();
        seen == 1
    });
    (host, image)
}

fn response_of(host: &Host, slot: u64) -> u8 {
    host.guest.ram.read_obj(GuestAddress(RESPONSE + slot * 0x100 + 11)).unwrap()
}

#[test]
fn preempt_and_abort_is_over_when_the_losers_commands_are() {
    let (mut host, image) = writing();
    let (cdb, list) = out(PREEMPT_AND_ABORT, 2, 1);
    host.guest.ram.write_slice(&[0xee; 108], GuestAddress(RESPONSE + 2 * 0x100)).unwrap();
    host.post(0, 2, at(0, 1), &cdb, &list, 0);
    let query = host.manage(control_function::QUERY_TASK, at(0, 0), 99);
    assert_eq!(host.managed(query), response::OK);
    // A command that came after it on the same queue is answered: it was looked at.
    host.post(0, 3, at(0, 1), &[0; 6], &[], 0);
    assert_eq!(host.answer(0, 3).status, status::GOOD);
    assert_eq!(response_of(&host, 2), 0xee, "the loser's write is under way");

    image.release();

    let _first = host.answer(0, 1);
    let _second = host.answer(0, 2);
    assert_eq!((response_of(&host, 1), response_of(&host, 2)), (response::ABORTED, response::OK));
    assert_eq!(host.guest.ram.read_obj::<u8>(GuestAddress(RESPONSE + 2 * 0x100 + 10)).unwrap(), status::GOOD);
    assert_eq!(host.command(at(0, 0), &write10(1, 1), &[7; 512], 0).0.key(), (6, 0x2a, 5));
    assert_eq!(host.command(at(0, 0), &write10(1, 1), &[7; 512], 0).0.status, status::RESERVATION_CONFLICT);
    assert_eq!(host.command(at(0, 1), &write10(1, 1), &[8; 512], 0).0.status, status::GOOD);
    assert_eq!(host.command(at(0, 0), &read10(1, 1), &[], 512).1[0], 8, "what one wrote the other reads");
}

#[test]
fn preempt_alone_lets_commands_under_way_end() {
    let (mut host, image) = writing();
    let (cdb, list) = out(PREEMPT, 2, 1);
    host.post(0, 2, at(0, 1), &cdb, &list, 0);
    assert_eq!(host.answer(0, 2).status, status::GOOD);

    image.release();

    let write = host.answer(0, 1);
    assert_eq!((write.response, write.status), (response::OK, status::GOOD));
}

#[test]
fn reset_of_the_unit_ends_the_commands_of_all_who_show_its_image() {
    let (mut host, image) = writing();
    let reset = host.manage(control_function::UNIT_RESET, at(0, 1), 0);
    let query = host.manage(control_function::QUERY_TASK, at(0, 0), 99);
    assert_eq!(host.managed(query), response::OK, "the reset was seen before, and waits");

    image.release();

    let _write = host.answer(0, 1);
    assert_eq!(response_of(&host, 1), response::RESET);
    assert_eq!(host.managed(reset), response::OK);
    assert_eq!(host.command(at(0, 0), &[0; 6], &[], 0).0.key(), (6, 0x29, 0));
}

#[test]
fn compare_and_write_of_one_keeps_the_others_writes_out() {
    let (mut host, image) = pair();
    let there = host.command(at(0, 0), &read10(1, 1), &[], 512).1;
    image.hold();
    let cdb = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0];
    host.post(0, 1, at(0, 0), &cdb, &[there, vec![5; 512]].concat(), 0);
    host.post(0, 2, at(0, 1), &write10(1, 1), &[7; 512], 0);
    assert_eq!(host.answer(0, 2).status, status::BUSY);

    image.release();

    assert_eq!(host.answer(0, 1).status, status::GOOD);
    assert_eq!(host.command(at(0, 1), &read10(1, 1), &[], 512).1[0], 5);
}
