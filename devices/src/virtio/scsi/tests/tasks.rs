use super::*;
use crate::virtio::scsi::control::function as control_function;

/// Two reads of unit 0 and one of unit 1 that wait for their image.
fn busy() -> (Host, Arc<MemImage>) {
    let (mut host, image) = Host::with_disk();
    host.bus.attach(at(0, 1), unit_of(disk(&image), &host, OnError::Report)).unwrap();
    host.command(at(0, 1), &[0; 6], &[], 0);
    let _ = image.take_seen();
    image.hold();
    host.post(0, 1, at(0, 0), &read10(1, 1), &[], 512);
    host.post(0, 2, at(0, 0), &read10(2, 1), &[], 512);
    host.post(0, 3, at(0, 1), &read10(3, 1), &[], 512);
    let mut seen = 0;
    host.guest.sink.wait_until_polling("requests", || {
        seen += image.take_seen().len();
        seen == 3
    });
    (host, image)
}

fn responses(host: &mut Host) -> [u8; 3] {
    for slot in 1..=3 {
        let _any = host.answer(0, slot);
    }
    [1u64, 2, 3].map(|slot| host.guest.ram.read_obj::<u8>(GuestAddress(RESPONSE + slot * 0x100 + 11)).unwrap())
}

#[test]
fn aborted_task_ends_before_the_answer_and_others_are_left_alone() {
    let (mut host, image) = busy();
    let query = host.manage(control_function::QUERY_TASK, at(0, 0), 12);
    assert_eq!(host.managed(query), response::FUNCTION_SUCCEEDED);
    let abort = host.manage(control_function::ABORT_TASK, at(0, 0), 12);
    let query = host.manage(control_function::QUERY_TASK, at(0, 0), 99);
    assert_eq!(host.managed(query), response::OK, "there is no task 99; the abort still waits");
    image.release();
    assert_eq!(responses(&mut host), [response::OK, response::ABORTED, response::OK]);
    assert_eq!(host.managed(abort), response::OK);
}

#[test]
fn reset_of_a_unit_ends_its_tasks_and_is_a_unit_attention() {
    let (mut host, image) = busy();
    let reset = host.manage(control_function::UNIT_RESET, at(0, 0), 0);
    let query = host.manage(control_function::QUERY_TASK, at(0, 0), 99);
    assert_eq!(host.managed(query), response::OK, "the reset was seen before");
    image.release();
    assert_eq!(responses(&mut host), [response::RESET, response::RESET, response::OK]);
    assert_eq!(host.managed(reset), response::OK);
    assert_eq!(host.command(at(0, 0), &[0; 6], &[], 0).0.key(), (6, 0x29, 0));
    assert_eq!(host.command(at(0, 1), &[0; 6], &[], 0).0.status, 0);
}

#[test]
fn reset_of_the_nexus_ends_all_of_the_target() {
    let (mut host, image) = busy();
    let reset = host.manage(control_function::NEXUS_RESET, at(0, 5), 0);
    let query = host.manage(control_function::QUERY_TASK, at(0, 0), 99);
    assert_eq!(host.managed(query), response::OK, "the reset was seen before");
    image.release();
    assert_eq!(responses(&mut host), [response::RESET; 3]);
    assert_eq!(host.managed(reset), response::OK);
}

#[test]
fn functions_without_tasks_are_answered_at_once() {
    let (mut host, _) = Host::with_disk();
    let cases = [
        (control_function::ABORT_TASK_SET, at(0, 0), response::OK),
        (control_function::CLEAR_TASK_SET, at(0, 0), response::OK),
        (control_function::QUERY_TASK_SET, at(0, 0), response::OK),
        (2, at(0, 0), response::FUNCTION_REJECTED),
        (77, at(0, 0), response::FUNCTION_REJECTED),
        (control_function::UNIT_RESET, at(0, 1), response::INCORRECT_LUN),
        (control_function::ABORT_TASK, at(9, 0), response::BAD_TARGET),
    ];
    for (function, address, expected) in cases {
        let n = host.manage(function, address, 1);
        assert_eq!(host.managed(n), expected, "{function}");
    }
}

#[test]
fn notification_is_never_promised() {
    let (mut host, _) = Host::with_disk();
    let mut request = 1u32.to_le_bytes().to_vec();
    request.extend([1, 0, 0x40, 0, 0, 0, 0, 0]);
    request.extend(0xffu32.to_le_bytes());
    host.guest.ram.write_slice(&request, GuestAddress(0x4000)).unwrap();
    host.guest.ram.write_slice(&[0xff; 5], GuestAddress(0x5000)).unwrap();
    host.control.post(&[Buf::readable(0x4000, 16), Buf::writable(0x5000, 5)]);
    host.guest.kick(0);
    assert_eq!(host.guest.wait_used(&mut host.control).1, 5);
    assert_eq!(host.guest.ram.read_obj::<[u8; 5]>(GuestAddress(0x5000)).unwrap(), [0; 5]);
}

#[test]
fn control_requests_that_are_cut_short_go_back_unused() {
    let (mut host, _) = Host::with_disk();
    for bufs in [vec![Buf::readable(0x4000, 3)], vec![Buf::readable(0x4000, 20), Buf::writable(0x5000, 1)]] {
        host.guest.ram.write_slice(&[0; 24], GuestAddress(0x4000)).unwrap();
        host.control.post(&bufs);
        host.guest.kick(0);
        assert_eq!(host.guest.wait_used(&mut host.control).1, 0);
    }
}

#[test]
fn compare_and_write_and_a_write_of_its_blocks_do_not_mix() {
    let (mut host, image) = Host::with_disk();
    let _ = image.take_seen();
    image.hold();
    let cdb = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0];
    host.post(0, 1, at(0, 0), &cdb, &[[5; 512], [9; 512]].concat(), 0);
    host.guest.sink.wait_until_polling("a request", || !image.take_seen().is_empty());
    host.post(0, 2, at(0, 0), &write10(5, 1), &[1; 512], 0);
    assert_eq!(host.answer(0, 2).status, crate::scsi::status::BUSY);
    image.release();
    assert_eq!(host.answer(0, 1).status, 0);
    assert_eq!(image.bytes(5 * 512, 512), [9; 512]);
}
