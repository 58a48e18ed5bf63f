use super::*;

impl Guest {
    /// PACKET up to the point where the drive answers.
    fn packet(&self, cdb: &[u8], limit: u16, dma: bool) -> u8 {
        let [low, high] = limit.to_le_bytes();
        self.choose(true);
        for (port, value) in [(1, u8::from(dma)), (4, low), (5, high), (7, 0xa0)] {
            self.out(port, value);
        }
        assert_eq!(self.settle(), READY | DRQ);
        assert_eq!(self.inb(2) & 7, 1, "asks for a command");
        let mut packet = cdb.to_vec();
        packet.resize(12, 0);
        self.write_data(&packet);
        if dma { self.settle() } else { self.interrupt() }
    }

    /// A packet command by programmed I/O: its data, and the sizes of its blocks.
    fn read_packet(&self, cdb: &[u8], limit: u16) -> (Vec<u8>, Vec<usize>) {
        let mut status = self.packet(cdb, limit, false);
        let (mut data, mut blocks) = (Vec::new(), Vec::new());
        while status & DRQ != 0 {
            assert_eq!(self.inb(2) & 7, 2, "towards the host");
            let len = usize::from(self.inb(4)) | usize::from(self.inb(5)) << 8;
            blocks.push(len);
            data.extend(self.read_data(len));
            status = self.interrupt();
        }
        assert_eq!((status, self.inb(2) & 7), (READY, 3), "{cdb:02x?}: error {:#x}", self.inb(1));
        (data, blocks)
    }

    /// The sense key of a packet command that fails.
    fn failing_packet(&self, cdb: &[u8]) -> u8 {
        assert_eq!(self.packet(cdb, 0xfffe, false), 0x41, "{cdb:02x?}");
        assert_eq!(self.inb(2) & 7, 3);
        self.inb(1) >> 4
    }

    fn sense(&self) -> (u8, u8, u8) {
        let (data, _) = self.read_packet(&[3, 0, 0, 0, 18], 0xfffe);
        (data[2], data[12], data[13])
    }
}

const READ: u8 = 0x28;

#[test]
fn identify_packet_tells_what_the_drive_is() {
    let guest = guest();
    guest.choose(true);
    guest.out(7, 0xa1);
    assert_eq!(guest.interrupt(), READY | DRQ);
    let data = guest.read_data(512);
    assert_eq!((word(&data, 0), word(&data, 49), word(&data, 88)), (0x85c0, 0x0300, 0x203f));
    assert_eq!(text(&data, 10, 4), "QM00003 ");
    assert_eq!(text(&data, 27, 6), "QEMU DVD-ROM");
}

#[test]
fn disk_commands_on_a_packet_drive_abort_and_show_the_signature() {
    let guest = guest();
    for code in [0xec, 0x20] {
        guest.choose(true);
        guest.out(4, 0);
        guest.out(5, 0);
        guest.out(7, code);
        assert_eq!(guest.interrupt() & ERR, ERR);
        assert_eq!((guest.inb(4), guest.inb(5)), (0x14, 0xeb));
    }
    for code in [0xc8, 0x30, 0x25, 0xe7, 0x91, 0xb0] {
        guest.choose(true);
        guest.out(7, code);
        assert_eq!((guest.interrupt(), guest.inb(1)), (0x41, 4), "{code:#x}");
    }
}

#[test]
fn inquiry_comes_in_blocks_no_larger_than_asked() {
    let guest = guest();
    let (data, blocks) = guest.read_packet(&[0x12, 0, 0, 0, 36], 10);
    assert_eq!(blocks, [10, 10, 10, 6]);
    assert_eq!((data[0], data[1], &data[8..32]), (5, 0x80, &b"QEMU    QEMU DVD-ROM    "[..]));
    assert_eq!(data[7], 0, "one command at a time");
    assert_eq!(guest.read_packet(&[0x12, 0, 0, 0, 5], 0xffff), (data[..5].to_vec(), vec![5]));
}

#[test]
fn configuration_names_the_interface() {
    let (data, _) = guest().read_packet(&[0x46, 2, 0, 1, 0, 0, 0, 0, 20], 20);
    assert_eq!(data[8..16], [0, 1, 0xb, 8, 0, 0, 0, 2]);
}

#[test]
fn sectors_by_programmed_io_are_whole() {
    let guest = guest();
    for (limit, count) in [(2048, 3u8), (0xfffe, 100), (0x1000, 200)] {
        let (data, blocks) = guest.read_packet(&[READ, 0, 0, 0, 0, 7, 0, 0, count], limit);
        assert!(data == guest.disc.bytes(7 * 2048, usize::from(count) * 2048));
        assert!(blocks.iter().all(|len| *len <= usize::from(limit)));
    }
}

#[test]
fn blocks_are_as_long_as_asked_across_the_buffers_end() {
    let guest = guest();
    let (data, blocks) = guest.read_packet(&[READ, 0, 0, 0, 0, 0, 0, 0, 100], 5120);
    assert!(data == guest.disc.bytes(0, 100 * 2048));
    assert_eq!(blocks, [5120; 40]);
}

#[test]
fn first_command_meets_no_unit_attention() {
    let guest = guest();
    assert!(guest.read_packet(&[0], 0xfffe).0.is_empty());
    assert_eq!(guest.sense(), (0, 0, 0));
}

#[test]
fn sectors_by_dma_are_whole() {
    let guest = guest();
    for first in [false, true] {
        guest.set_table(&[
            (0x2_0000, 2000, false),
            (0x4_0000, 0, false),
            (0x6_0000, 0, false),
            (0x8_0000, 0x9000, true),
        ]);
        if first {
            guest.start_dma(true);
        }
        guest.packet(&[READ, 0, 0, 0, 0, 7, 0, 0, 80], 0, true);
        if !first {
            guest.start_dma(true);
        }
        assert_eq!(guest.interrupt(), READY);
        assert_eq!(guest.inb(2) & 7, 3);
        let there = [
            guest.peek_ram(0x2_0000, 2000),
            guest.peek_ram(0x4_0000, 0x1_0000),
            guest.peek_ram(0x6_0000, 0x1_0000),
            guest.peek_ram(0x8_0000, 80 * 2048 - 2000 - 0x2_0000),
        ];
        assert!(there.concat() == guest.disc.bytes(7 * 2048, 80 * 2048));
        guest.stop_dma();
    }
}

#[test]
fn whole_sectors_longer_than_the_buffer() {
    let guest = guest();
    let (data, _) = guest.read_packet(&[0xbe, 0, 0, 0, 0, 0, 0, 0, 200, 0xf8], 0xfffe);
    assert_eq!(data.len(), 200 * 2352);
    assert_eq!(data[199 * 2352 + 16..][..2048], guest.disc.bytes(199 * 2048, 2048));
}

#[test]
fn sense_is_kept_for_request_sense_and_no_longer() {
    let guest = guest();
    assert_eq!(guest.failing_packet(&[READ, 0, 0xff, 0, 0, 0, 0, 0, 1]), 5);
    assert_eq!(guest.sense(), (5, 0x21, 0));
    assert_eq!(guest.sense(), (0, 0, 0));
    assert_eq!(guest.failing_packet(&[0xff]), 5);
    guest.read_packet(&[0x12, 0, 0, 0, 36], 0xfffe);
    assert_eq!(guest.sense(), (0, 0, 0));
}

#[test]
fn data_without_room_is_aborted() {
    let guest = guest();
    assert_eq!(guest.packet(&[0x12, 0, 0, 0, 36], 0, false), 0x41);
    assert_eq!(guest.inb(1), 4);
}

#[test]
fn parameters_are_taken_through_the_data_register() {
    let guest = guest();
    let (page, _) = guest.read_packet(&[0x5a, 0, 0x0e, 0, 0, 0, 0, 0, 255], 0xfffe);
    let len = page.len();
    let status = guest.packet(&[0x55, 0x10, 0, 0, 0, 0, 0, 0, len as u8], 16, false);
    assert_eq!((status, guest.inb(2) & 7, guest.inb(4)), (READY | DRQ, 0, 16));
    let mut list = page.clone();
    list[0] = 0;
    list[1] = 0;
    guest.write_data(&list[..16]);
    assert_eq!(guest.interrupt(), READY | DRQ);
    guest.write_data(&list[16..]);
    assert_eq!((guest.interrupt(), guest.inb(2) & 7), (READY, 3));
}

#[test]
fn empty_drive_is_not_ready() {
    let guest = Setup { loaded: false, ..Setup::default() }.build();
    for cdb in [&[0u8][..], &[READ, 0, 0, 0, 0, 0, 0, 0, 1], &[0x25], &[0x43, 0, 0, 0, 0, 0, 0, 0, 12], &[0xbe; 12]] {
        assert_eq!(guest.failing_packet(cdb), 2);
        assert_eq!(guest.sense(), (2, 0x3a, 1));
    }
}

#[test]
fn medium_changes_under_the_guest() {
    let guest = guest();
    guest.read_packet(&[READ, 0, 0, 0, 0, 0, 0, 0, 1], 0xfffe);
    guest.unit.open_tray(false).unwrap();
    guest.unit.remove().unwrap();
    let other = MemImage::new(2 * MIB);
    let known = other.bytes(600 * 2048, 2048);
    guest.unit.insert(&(other as _)).unwrap();
    guest.unit.close_tray().unwrap();
    assert_eq!(guest.failing_packet(&[0]), 6);
    assert_eq!(guest.sense(), (6, 0x3a, 0));
    assert_eq!(guest.failing_packet(&[0]), 6);
    assert_eq!(guest.sense(), (6, 0x28, 0));
    assert_eq!(guest.read_packet(&[READ, 0, 0, 0, 2, 88, 0, 0, 1], 0xfffe).0, known);
}

#[test]
fn read_does_not_go_on_with_another_disc() {
    let guest = guest();
    let mut status = guest.packet(&[READ, 0, 0, 0, 0, 0, 0, 0, 200], 0x8000, false);
    guest.unit.open_tray(false).unwrap();
    guest.unit.remove().unwrap();
    guest.unit.insert(&(MemImage::new(2 * MIB) as _)).unwrap();
    guest.unit.close_tray().unwrap();
    let mut read = 0;
    while status & DRQ != 0 {
        let len = usize::from(guest.inb(4)) | usize::from(guest.inb(5)) << 8;
        read += guest.read_data(len).len();
        status = guest.interrupt();
    }
    assert_eq!((status, guest.inb(1) >> 4), (0x41, 2));
    assert!(read < 200 * 2048);
}

#[test]
fn read_that_was_held_is_not_of_the_disc_that_came_meanwhile() {
    let guest = guest();
    guest.choose(true);
    for (port, value) in [(1, 0), (4, 0), (5, 8), (7, 0xa0)] {
        guest.out(port, value);
    }
    guest.settle();
    guest.function.pause();
    guest.write_data(&[READ, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    guest.unit.open_tray(false).unwrap();
    guest.unit.remove().unwrap();
    guest.unit.insert(&(MemImage::new(2 * MIB) as _)).unwrap();
    guest.unit.close_tray().unwrap();
    assert_eq!(guest.alternate() & BSY, BSY, "held");
    guest.function.resume();
    assert_eq!((guest.interrupt(), guest.inb(1) >> 4), (0x41, 2));
}

#[test]
fn device_reset_shows_the_signature_without_an_interrupt() {
    let guest = guest();
    guest.choose(true);
    guest.out(7, 0x08);
    assert!(!guest.irq.high());
    assert_eq!([guest.inb(1), guest.inb(2), guest.inb(4), guest.inb(5)], [1, 1, 0x14, 0xeb]);
}

#[test]
fn device_reset_calls_off_a_busy_drive() {
    let guest = guest();
    guest.disc.hold();
    guest.choose(true);
    for (port, value) in [(1, 0), (4, 0), (5, 8), (7, 0xa0)] {
        guest.out(port, value);
    }
    guest.settle();
    guest.write_data(&[READ, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(guest.alternate() & BSY, BSY);
    guest.out(7, 0x08);
    assert_eq!(guest.alternate(), BSY, "until the image is done");
    guest.disc.release();
    assert_eq!(guest.settle(), 0);
    assert_eq!(guest.read_packet(&[READ, 0, 0, 0, 0, 1, 0, 0, 1], 0xfffe).0, guest.disc.bytes(2048, 2048));
}
