use proptest::prelude::*;

use super::*;
use crate::lifecycle::Lifecycle;

#[test]
fn configuration_is_as_other_monitors_have_it() {
    let host = Host::new(3, 0);
    let field = |at: u64, len| host.guest.read(0x2000 + at, len);
    assert_eq!([field(0, 4), field(4, 4), field(8, 4), field(12, 4)], [3, 254, 0xffff, 128]);
    assert_eq!([field(16, 4), field(20, 4), field(24, 4)], [16, 96, 32]);
    assert_eq!([field(28, 2), field(30, 2), field(32, 4)], [0, 255, 16383]);
}

#[test]
fn inquiry_read_and_write_through_the_ring() {
    let (mut host, image) = Host::with_disk();
    let (answer, data) = host.command(at(0, 0), &[0x12, 0, 0, 0, 96, 0], &[], 96);
    assert_eq!((answer.response, answer.status, answer.residual, answer.used), (0, 0, 22, 108 + 74));
    assert_eq!(&data[8..36], b"QEMU    QEMU HARDDISK   2.5+");
    let (answer, data) = host.command(at(0, 0), &read10(7, 4), &[], 2048);
    assert_eq!((answer.status, answer.residual, answer.used), (0, 0, 108 + 2048));
    assert_eq!(data, image.bytes(7 * 512, 2048));
    let (answer, _) = host.command(at(0, 0), &write10(7, 2), &[0xcd; 1024], 0);
    assert_eq!((answer.response, answer.status, answer.residual, answer.used), (0, 0, 0, 108));
    assert_eq!(image.bytes(7 * 512, 1024), [0xcd; 1024]);
    assert_eq!(host.stats.totals(crate::block_stats::Counted::Write).bytes, 1024);
}

#[test]
fn sense_data_comes_with_the_response() {
    let (mut host, _) = Host::with_disk();
    let (answer, _) = host.command(at(0, 0), &read10(4000, 1), &[], 512);
    assert_eq!((answer.response, answer.status, answer.sense.len()), (0, 2, 18));
    assert_eq!((answer.key(), answer.residual), ((5, 0x21, 0), 512));
}

#[test]
fn parameters_come_from_the_readable_part() {
    let (mut host, image) = Host::with_disk();
    let cdb = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0];
    let data: Vec<u8> = [5; 512].into_iter().chain([9; 512]).collect();
    assert_eq!(host.command(at(0, 0), &cdb, &data, 0).0.status, 0);
    assert_eq!(image.bytes(5 * 512, 512), [9; 512]);
    assert_eq!(host.command(at(0, 0), &cdb, &data, 0).0.key(), (0xe, 0x1d, 0));
}

#[test]
fn buffers_too_small_are_an_overrun_and_larger_ones_leave_a_residual() {
    let (mut host, image) = Host::with_disk();
    let _ = image.take_seen();
    assert_eq!(host.command(at(0, 0), &read10(0, 2), &[], 1023).0.response, response::OVERRUN);
    assert_eq!(host.command(at(0, 0), &write10(0, 2), &[0; 1023], 0).0.response, response::OVERRUN);
    assert_eq!(host.command(at(0, 0), &[0x12, 0, 0, 0, 36, 0], &[], 20).0.response, response::OVERRUN);
    assert_eq!(image.take_seen(), []);
    let (answer, data) = host.command(at(0, 0), &read10(1, 1), &[], 2048);
    assert_eq!((answer.response, answer.residual, data), (0, 1536, image.bytes(512, 512)));
}

#[test]
fn addresses_lead_to_targets_and_units() {
    let (mut host, _) = Host::with_disk();
    for (target, lun) in [(0, 7), (255, 0), (255, 16383)] {
        host.bus.attach(at(target, lun), unit_of(disk(&MemImage::new(4096)), &host, OnError::Report)).unwrap();
    }
    assert_eq!(host.command(at(1, 0), &[0; 6], &[], 0).0.response, response::BAD_TARGET);
    let (answer, _) = host.command(at(0, 3), &[0; 6], &[], 0);
    assert_eq!((answer.response, answer.key()), (0, (5, 0x25, 0)));
    let (answer, _) = host.command(at(0, 3), &[0xd8; 16], &[], 0);
    assert_eq!((answer.response, answer.key()), (0, (5, 0x20, 0)));
    assert_eq!(host.command(at(0, 3), &[0x12, 0, 0, 0, 36, 0], &[], 36).1[0], 0x7f);
    assert_eq!(host.command(at(255, 16383), &[0x12, 0, 0, 0, 36, 0], &[], 36).1[0], 0);
    let report = [0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    let (_, list) = host.command(at(255, 0), &report, &[], 256);
    assert_eq!(list, [0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 0xff, 0, 0, 0, 0, 0, 0]);
    let (_, list) = host.command(at(0, 3), &report, &[], 256);
    assert_eq!((list.len(), list[17]), (24, 7));
}

#[test]
fn two_way_data_and_foreign_addresses_fail() {
    let (mut host, _) = Host::with_disk();
    assert_eq!(host.command(at(0, 0), &[0; 6], &[1; 8], 8).0.response, response::FAILURE);
    let field = |bytes: [u8; 8]| wire::address(bytes);
    assert_eq!(field([1, 5, 0x40, 7, 0, 0, 0, 0]), Some(at(5, 7)));
    assert_eq!(field([1, 5, 0, 7, 0, 0, 0, 0]), Some(at(5, 7)));
    assert_eq!(field([1, 5, 0x7f, 0xff, 0, 0, 0, 0]), Some(at(5, 16383)));
    assert_eq!(field([1, 5, 0x80, 7, 0, 0, 0, 0]), None);
    assert_eq!(field([0xc1, 1, 0, 0, 0, 0, 0, 0]), None);
}

#[test]
fn chains_without_room_for_a_request_go_back_unused() {
    let (mut host, _) = Host::with_disk();
    for bufs in [
        vec![Buf::readable(REQUEST, 50), Buf::writable(RESPONSE, 108)],
        vec![Buf::readable(REQUEST, 51), Buf::writable(RESPONSE, 107)],
        vec![Buf::readable(1 << 40, 51), Buf::writable(RESPONSE, 108)],
    ] {
        host.requests[0].post(&bufs);
        host.guest.kick(2);
        assert_eq!(host.guest.wait_used(&mut host.requests[0]).1, 0);
    }
    assert_eq!(host.command(at(0, 0), &[0; 6], &[], 0).0.status, 0);
}

#[test]
fn sizes_that_the_driver_sets_are_honoured_until_a_reset() {
    let (mut host, _) = Host::with_disk();
    host.guest.write(0x2000 + 24, 4, 16);
    host.guest.write(0x2000 + 20, 4, 10);
    let mut request = vec![1, 0, 0x40, 0, 0, 0, 0, 0];
    request.extend([0; 11]);
    request.extend(read10(9999, 1));
    host.guest.ram.write_slice(&request, GuestAddress(REQUEST)).unwrap();
    host.requests[0].post(&[Buf::readable(REQUEST, 19 + 16), Buf::writable(RESPONSE, 12 + 10)]);
    host.guest.kick(2);
    let answer = host.answer(0, 0);
    assert_eq!((answer.status, answer.sense.len(), answer.sense[2]), (2, 10, 5));
    host.guest.write(0x2000 + 24, 4, 256);
    assert_eq!(host.guest.read(0x2000 + 24, 4), 16, "too long");
    host.guest.reset();
    assert_eq!((host.guest.read(0x2000 + 24, 4), host.guest.read(0x2000 + 20, 4)), (32, 96));
}

#[test]
fn error_that_stops_the_machine_holds_the_command_until_it_goes_on() {
    let mut host = Host::new(1, 0);
    let image = MemImage::new(MIB);
    host.bus.attach(at(0, 0), unit_of(disk(&image), &host, OnError::Stop)).unwrap();
    host.command(at(0, 0), &[0; 6], &[], 0);
    image.fail(Some(libc::ENOSPC));
    host.post(0, 0, at(0, 0), &write10(3, 1), &[0x42; 512], 0);
    host.guest.sink.wait_until_polling("a failure", || !host.failures.lock().unwrap().is_empty());
    host.guest.pause();
    image.fail(None);
    host.guest.function.resume();
    assert_eq!(host.answer(0, 0).status, 0);
    assert_eq!(image.bytes(3 * 512, 512), [0x42; 512]);
}

/// UNMAP of 255 ranges: a request for each.
pub(super) fn many_ranges() -> (Vec<u8>, Vec<u8>) {
    let mut list = (16 * 255 + 6u16).to_be_bytes().to_vec();
    list.extend((16 * 255u16).to_be_bytes());
    list.extend([0; 4]);
    for n in 0..255u64 {
        list.extend((n * 8).to_be_bytes());
        list.extend(8u32.to_be_bytes());
        list.extend([0; 4]);
    }
    let [high, low] = (list.len() as u16).to_be_bytes();
    (vec![0x42, 0, 0, 0, 0, 0, 0, high, low, 0], list)
}

#[test]
fn stop_does_not_wait_for_all_steps_of_a_command() {
    let (mut host, image) = Host::with_disk();
    let _ = image.take_seen();
    image.hold();
    let (cdb, list) = many_ranges();
    host.post(0, 0, at(0, 0), &cdb, &list, 0);
    host.guest.sink.wait_until_polling("a request", || !image.take_seen().is_empty());
    host.guest.function.pause();
    std::thread::sleep(std::time::Duration::from_millis(50));
    image.release();
    host.guest.function.drain();
    assert!(image.take_seen().len() < 254, "a step more or two, not all");
    host.guest.function.resume();
    assert_eq!(host.answer(0, 0).status, 0);
    assert_eq!(image.take_seen().len(), 255);
}

#[test]
fn commands_take_no_more_memory_than_an_adapter_has_for_them() {
    let (mut host, _) = Host::with_disk();
    let mut most = host.memory.share();
    assert!(most.grow(32 << 20));
    let (cdb, list) = many_ranges();
    assert_eq!(host.command(at(0, 0), &cdb, &list, 0).0.status, 8, "busy");
    most.give_back();
    assert_eq!(host.command(at(0, 0), &cdb, &list, 0).0.status, 0);
    assert!(most.grow(32 << 20), "all is given back");
}

#[test]
fn queues_serve_the_same_units_at_once() {
    let mut host = Host::new(2, 0);
    let images = [MemImage::new(MIB), MemImage::new(MIB)];
    for (target, image) in (0..).zip(&images) {
        host.bus.attach(at(target, 0), unit_of(disk(image), &host, OnError::Report)).unwrap();
        host.command(at(target, 0), &[0; 6], &[], 0);
    }
    for slot in 0..8 {
        let fill = [slot as u8 + 1; 512];
        host.post((slot % 2) as usize, slot, at((slot / 4) as u8, 0), &write10(slot as u32, 1), &fill, 0);
    }
    for slot in 0..8 {
        assert_eq!(host.answer((slot % 2) as usize, slot).response, 0);
    }
    for slot in 0..8usize {
        assert_eq!(images[slot / 4].bytes(slot * 512, 512), [slot as u8 + 1; 512]);
    }
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let refused = |change: fn(&mut ScsiConfig)| {
        let mut config = ScsiConfig::new("s", 1);
        change(&mut config);
        VirtioScsi::new(config, Placement::PerQueue).err()
    };
    assert!(matches!(refused(|config| config.queues = 0), Some(ScsiConfigError::Queues { .. })));
    assert!(matches!(refused(|config| config.queue_size = 3), Some(ScsiConfigError::QueueSize(3))));
    assert!(matches!(refused(|config| config.max_sectors = 0), Some(ScsiConfigError::Zero)));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(12) })]

    #[test]
    fn random_transfers_keep_the_data(ops in prop::collection::vec((0u32..120, 1u16..16, any::<u8>(), any::<bool>()), 1..40)) {
        let (mut host, image) = Host::with_disk();
        let mut model = image.bytes(0, 128 * 512);
        for (lba, blocks, fill, write) in ops {
            let blocks = blocks.min((128 - lba) as u16);
            let (from, len) = (lba as usize * 512, usize::from(blocks) * 512);
            if write {
                let data: Vec<u8> = (0..len).map(|n| fill.wrapping_add((n / 99) as u8)).collect();
                prop_assert_eq!(host.command(at(0, 0), &write10(lba, blocks), &data, 0).0.status, 0);
                model[from..from + len].copy_from_slice(&data);
            } else {
                let (answer, data) = host.command(at(0, 0), &read10(lba, blocks), &[], len as u32);
                prop_assert_eq!(answer.status, 0);
                prop_assert!(data == model[from..from + len]);
            }
        }
        prop_assert!(image.bytes(0, model.len()) == model);
    }

    #[test]
    fn no_request_breaks_the_queue(requests in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..80), 0u32..400, 0u32..400), 1..30)) {
        let (mut host, _) = Host::with_disk();
        for (bytes, readable, writable) in requests {
            let mut request = bytes;
            if request.len() > 4 && request[0] % 2 == 0 {
                request[..4].copy_from_slice(&[1, 0, 0x40, 0]);
            }
            host.guest.ram.write_slice(&request, GuestAddress(REQUEST)).unwrap();
            host.requests[0].post(&[Buf::readable(REQUEST, readable), Buf::writable(RESPONSE, writable)]);
            host.guest.kick(2);
            let (_, used) = host.guest.wait_used(&mut host.requests[0]);
            prop_assert!(used <= writable);
        }
        host.command(at(0, 0), &[0x03, 0, 0, 0, 18, 0], &[], 18);
        prop_assert_eq!(host.command(at(0, 0), &[0x12, 0, 0, 0, 36, 0], &[], 36).0.status, 0);
    }
}
