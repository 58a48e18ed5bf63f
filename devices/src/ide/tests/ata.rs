use super::*;

#[test]
fn function_is_the_piix3s() {
    let guest = guest();
    let mut bytes = [0; 16];
    for (at, byte) in bytes.iter_mut().enumerate() {
        guest.function.config_read(at as u8, std::slice::from_mut(byte));
    }
    assert_eq!(bytes[..4], [0x86, 0x80, 0x10, 0x70]);
    assert_eq!(bytes[8..12], [0, 0x80, 0x01, 0x01]);
    let bases: Vec<u64> = guest.function.regions().iter().map(|region| region.base).collect();
    assert_eq!(bases, [0x1f0, 0x3f6, 0x170, 0x376, BUS_MASTER]);
}

#[test]
fn channel_that_is_not_decoded_has_no_ports() {
    let guest = guest();
    assert_ne!(guest.function.config_write(0x41, &[0]), crate::bus::Effect::None);
    let bases: Vec<u64> = guest.function.regions().iter().map(|region| region.base).collect();
    assert_eq!(bases, [0x170, 0x376, BUS_MASTER]);
}

#[test]
fn identify_tells_what_the_disk_is() {
    let guest = guest();
    guest.command28(0xec, 0, 0);
    assert_eq!(guest.interrupt(), READY | DRQ);
    let data = guest.read_data(512);
    assert_eq!(guest.alternate(), READY);
    assert_eq!((word(&data, 0), word(&data, 1), word(&data, 3), word(&data, 6)), (0x40, 2, 16, 63));
    assert_eq!(text(&data, 10, 10), "QM00001             ");
    assert_eq!(text(&data, 23, 4), "2.5+    ");
    assert_eq!(text(&data, 27, 20), format!("{:40}", "QEMU HARDDISK"));
    assert_eq!((word(&data, 47), word(&data, 49), word(&data, 59)), (0x8010, 0x0b00, 0x0110));
    assert_eq!((word(&data, 60), word(&data, 61), word(&data, 100)), (2048, 0, 2048));
    assert_eq!((word(&data, 63), word(&data, 88)), (7, 0x203f));
    assert_eq!((word(&data, 83), word(&data, 85), word(&data, 169)), (0x7400, 0x4069, 1));
    assert_eq!((word(&data, 69), word(&data, 105)), (0x4000, 8));
}

#[test]
fn identify_tells_wwn_and_physical_sectors() {
    let mut disk = IdeDisk::new("disk0", 7);
    disk.wwn = 0x5000_1234_5678_9abc;
    disk.sizes.physical = 4096;
    disk.rotation_rate = 1;
    let guest = Setup { disk, ..Setup::default() }.build();
    guest.command28(0xec, 0, 0);
    guest.interrupt();
    let data = guest.read_data(512);
    assert_eq!((word(&data, 108), word(&data, 111), word(&data, 106), word(&data, 217)), (0x5000, 0x9abc, 0x6003, 1));
    assert_eq!(text(&data, 10, 4), "QM00007 ");
}

#[test]
fn current_shape_is_the_disks_own_until_another_is_set() {
    let mut disk = IdeDisk::new("disk0", 1);
    disk.geometry = Some(crate::geometry::Geometry { cylinders: 8, heads: 4, sectors: 32 });
    let guest = Setup { disk, ..Setup::default() }.build();
    let shape = || {
        guest.command28(0xec, 0, 0);
        guest.interrupt();
        let data = guest.read_data(512);
        [1, 3, 6, 54, 55, 56, 57].map(|at| word(&data, at))
    };
    assert_eq!(shape(), [8, 4, 32, 8, 4, 32, 1024]);
    guest.out(2, 64);
    guest.out(6, 0xa0 | 1);
    guest.out(7, 0x91);
    guest.interrupt();
    assert_eq!(shape(), [8, 4, 32, 16, 2, 64, 2048]);
}

#[test]
fn disk_whose_discards_have_no_granularity_offers_no_trim() {
    let mut disk = IdeDisk::new("disk0", 1);
    disk.sizes.discard_granularity = Some(0);
    let guest = Setup { disk, ..Setup::default() }.build();
    guest.command28(0xec, 0, 0);
    guest.interrupt();
    let data = guest.read_data(512);
    guest.out(1, 1);
    guest.command28(0x06, 0, 1);

    assert_eq!((word(&data, 69), word(&data, 105), word(&data, 169)), (0, 0, 0));
    assert_eq!((guest.interrupt(), guest.inb(1)), (0x41, 4));
}

#[test]
fn programmed_read_interrupts_before_each_sector() {
    let guest = guest();
    guest.command28(0x20, 5, 3);
    for n in 0..3 {
        assert_eq!(guest.interrupt(), READY | DRQ);
        assert_eq!(guest.read_data(512), guest.image.bytes((5 + n) * 512, 512));
    }
    assert_eq!(guest.alternate(), READY);
    assert!(!guest.irq.high(), "none after the last sector");
    assert_eq!(guest.inb(2), 0);
}

#[test]
fn programmed_write_interrupts_after_each_sector() {
    let guest = guest();
    guest.command28(0x30, 5, 2);
    assert_eq!(guest.settle(), READY | DRQ);
    assert!(!guest.irq.high(), "none before the first sector");
    guest.write_data(&[0xaa; 512]);
    assert_eq!(guest.interrupt(), READY | DRQ);
    guest.write_data(&[0xbb; 512]);
    assert_eq!(guest.interrupt(), READY);
    assert_eq!(guest.image.bytes(5 * 512, 1024), [[0xaa; 512], [0xbb; 512]].concat());
}

#[test]
fn multiple_sectors_come_in_blocks() {
    let guest = guest();
    guest.command28(0xc6, 0, 4);
    assert_eq!(guest.interrupt(), READY);
    guest.command28(0xc4, 0, 6);
    guest.interrupt();
    let mut data = guest.read_data(4 * 512);
    assert_eq!(guest.interrupt(), READY | DRQ);
    data.extend(guest.read_data(2 * 512));
    assert_eq!(data, guest.image.bytes(0, 6 * 512));
    guest.command28(0xc5, 8, 6);
    guest.settle();
    guest.write_data(&[1; 4 * 512]);
    assert_eq!(guest.interrupt(), READY | DRQ);
    guest.write_data(&[2; 2 * 512]);
    assert_eq!(guest.interrupt(), READY);
    assert_eq!(guest.image.bytes(8 * 512, 6 * 512), [vec![1; 2048], vec![2; 1024]].concat());
    guest.command28(0xc6, 0, 3);
    assert_eq!((guest.interrupt() & ERR, guest.inb(1)), (ERR, 4));
    guest.command28(0xc6, 0, 0);
    guest.interrupt();
    guest.command28(0xc4, 0, 6);
    assert_eq!((guest.interrupt() & ERR, guest.inb(1)), (ERR, 4), "off");
}

#[test]
fn long_reads_by_48_bit_address_are_whole() {
    let guest = guest();
    guest.command48(0x29, 16, 600);
    let mut data = Vec::new();
    while data.len() < 600 * 512 {
        assert_eq!(guest.interrupt(), READY | DRQ);
        data.extend(guest.read_data((600 * 512 - data.len()).min(16 * 512)));
    }
    assert!(data == guest.image.bytes(16 * 512, 600 * 512));
    assert_eq!(guest.alternate(), READY);
}

#[test]
fn cylinder_head_sector_follows_the_set_geometry() {
    let guest = guest();
    guest.out(2, 32);
    guest.out(6, 0xa0 | 7);
    guest.out(7, 0x91);
    assert_eq!(guest.interrupt(), READY);
    // Cylinder 1, head 2, sector 3 of 8 heads and 32 sectors.
    for (port, value) in [(2, 1), (3, 3), (4, 1), (5, 0), (6, 0xa2), (7, 0x20)] {
        guest.out(port, value);
    }
    guest.interrupt();
    let lba = (8 + 2) * 32 + 2;
    assert_eq!(guest.read_data(512), guest.image.bytes(lba * 512, 512));
    for (port, value) in [(2, 1), (3, 0), (6, 0xa0), (7, 0x20)] {
        guest.out(port, value);
    }
    assert_eq!((guest.interrupt() & ERR, guest.inb(1)), (ERR, 0x10), "there is no sector 0");
}

#[test]
fn sector_beyond_the_track_is_not_found_and_nothing_is_written() {
    let guest = guest();
    guest.set_table(&[(0x2_0000, 0, true)]);
    // The disk has 63 sectors a track and 16 heads: sector 128 is not the first one of the third track.
    for (sector, head) in [(128, 0), (64, 15), (0, 0)] {
        for (port, value) in [(6, 0xa0 | head), (2, 3), (3, sector), (4, 0), (5, 0), (7, 0xca)] {
            guest.out(port, value);
        }
        guest.start_dma(false);
        assert_eq!((guest.interrupt(), guest.inb(1)), (0x41, 0x10), "sector {sector}");
        guest.stop_dma();
    }
    assert_eq!(guest.image.take_seen(), []);
}

#[test]
fn past_the_end_is_not_found() {
    let guest = guest();
    for (code, lba, count) in [(0x20, 2048, 1), (0x30, 2047, 2), (0xc8, 0x0fff_ffff, 0), (0x40, 2000, 0)] {
        guest.command28(code, lba, count);
        assert_eq!((guest.interrupt(), guest.inb(1)), (0x41, 0x10), "{code:#x}");
    }
    guest.command48(0x25, u64::MAX >> 16, 1);
    assert_eq!((guest.interrupt(), guest.inb(1)), (0x41, 0x10));
    assert_eq!(guest.image.take_seen(), []);
    assert_eq!(guest.stats.totals(crate::block_stats::Counted::Write).invalid, 1);
}

#[test]
fn unknown_and_max_address_commands_are_aborted() {
    let guest = guest();
    for code in [0x00, 0x37, 0xf9, 0xa0, 0xa1, 0xff, 0xb1] {
        guest.command28(code, 0, 1);
        assert_eq!((guest.interrupt(), guest.inb(1)), (0x41, 4), "{code:#x}");
    }
}

/// Codes that a disk and a packet drive know, as ATA8-ACS and ATA/ATAPI-7 have them; NOP is one that is aborted.
const DISK_KNOWS: [&[u8]; 6] = [
    &[0x06, 0x20, 0x21, 0x24, 0x25, 0x27, 0x29, 0x30, 0x31, 0x34, 0x35, 0x39, 0x40, 0x41, 0x42, 0x70],
    &[0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c],
    &[0x90, 0x91, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0xb0, 0xc4, 0xc5, 0xc6, 0xc8, 0xc9, 0xca, 0xcb],
    &[0xe0, 0xe1, 0xe2, 0xe3, 0xe5, 0xe6],
    &[0xe7, 0xea, 0xec, 0xef],
    &[0xf8],
];
const CD_KNOWS: [&[u8]; 2] =
    [&[0x08, 0x90, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0xa0, 0xa1], &[0xe0, 0xe1, 0xe2, 0xe3, 0xe5, 0xe6, 0xef]];

#[test]
fn commands_that_a_drive_does_not_know_are_aborted() {
    let guest = guest();
    for (second, knows) in [(false, &DISK_KNOWS[..]), (true, &CD_KNOWS)] {
        for code in (0..=0xff).filter(|code| !knows.iter().any(|some| some.contains(code))) {
            guest.choose(second);
            guest.out(7, code);
            assert_eq!((guest.interrupt(), guest.inb(1)), (0x41, 4), "{code:#x}");
        }
    }
    assert_eq!(guest.image.take_seen(), []);
}

#[test]
fn recalibrate_and_seek_only_look() {
    let guest = guest();
    for (code, lba, status) in [(0x10, 0, READY), (0x1c, 0, READY), (0x70, 2047, READY), (0x70, 2048, 0x41)] {
        guest.command28(code, lba, 0);
        assert_eq!(guest.interrupt(), status, "{code:#x}");
    }
    assert_eq!(guest.inb(1), 0x10);
    assert_eq!(guest.image.take_seen(), []);
}

#[test]
fn native_max_address_in_both_forms() {
    let guest = guest();
    guest.command28(0xf8, 0, 0);
    assert_eq!(guest.interrupt(), READY);
    assert_eq!([guest.inb(3), guest.inb(4), guest.inb(5), guest.inb(6) & 15], [0xff, 7, 0, 0]);
    guest.command48(0x27, 0, 0);
    guest.interrupt();
    assert_eq!([guest.inb(3), guest.inb(4), guest.inb(5)], [0xff, 7, 0]);
    guest.control(0x80);
    assert_eq!([guest.inb(3), guest.inb(4), guest.inb(5)], [0, 0, 0]);
}

#[test]
fn flush_and_verify_reach_the_image() {
    let guest = guest();
    for code in [0xe7, 0xea] {
        guest.command28(code, 0, 0);
        assert_eq!(guest.interrupt(), READY);
    }
    guest.command28(0x40, 0, 0);
    assert_eq!(guest.interrupt(), READY);
    let seen: Vec<_> = guest.image.take_seen().into_iter().map(|seen| (seen.op, seen.len)).collect();
    assert_eq!(seen, [(rhea_block::Op::Flush, 0), (rhea_block::Op::Flush, 0), (rhea_block::Op::Read, 128 << 10)]);
    assert_eq!(guest.stats.totals(crate::block_stats::Counted::Flush).operations, 2);
}

#[test]
fn write_cache_off_forces_writes() {
    let guest = guest();
    guest.out(1, 0x82);
    guest.command28(0xef, 0, 0);
    assert_eq!(guest.interrupt(), READY);
    guest.command28(0x30, 0, 1);
    guest.settle();
    guest.write_data(&[0; 512]);
    guest.interrupt();
    let ops: Vec<_> = guest.image.take_seen().into_iter().map(|seen| seen.op).collect();
    assert_eq!(ops, [rhea_block::Op::Flush, rhea_block::Op::Write { fua: true }]);
    guest.command28(0xec, 0, 0);
    guest.interrupt();
    assert_eq!(word(&guest.read_data(512), 85) & 0x20, 0);
}

#[test]
fn features_and_transfer_modes() {
    let guest = guest();
    for (feature, count, good) in [
        (0x03, 0x44, true),
        (0x03, 0x46, false),
        (0x03, 0x12, false),
        (0x03, 0x0c, true),
        (0xaa, 0, true),
        (0x99, 0, false),
    ] {
        guest.out(1, feature);
        guest.command28(0xef, 0, count);
        assert_eq!(guest.interrupt() & ERR == 0, good, "{feature:#x} {count:#x}");
    }
    guest.command28(0xec, 0, 0);
    guest.interrupt();
    assert_eq!(word(&guest.read_data(512), 88), 0x103f);
}

#[test]
fn smart_needs_its_key_and_says_all_is_well() {
    let guest = guest();
    let smart = |feature: u8, count: u8, low: u8, key: u32| {
        guest.out(1, feature);
        guest.command28(0xb0, key << 8 | u32::from(low), count);
        guest.interrupt()
    };
    assert_eq!(smart(0xda, 0, 0, 0xc24f), READY);
    assert_eq!((guest.inb(4), guest.inb(5)), (0x4f, 0xc2));
    for (feature, low) in [(0xd0, 0), (0xd1, 0), (0xd5, 1), (0xd5, 6)] {
        assert_eq!(smart(feature, 1, low, 0xc24f), READY | DRQ);
        let data = guest.read_data(512);
        assert_eq!(data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0, "{feature:#x}");
    }
    assert_eq!(smart(0xda, 0, 0, 0), 0x41);
    assert_eq!(smart(0xd9, 0, 0, 0xc24f), READY);
    assert_eq!(smart(0xd0, 0, 0, 0xc24f), 0x41, "disabled");
    assert_eq!(smart(0xd8, 0, 0, 0xc24f), READY);
}

#[test]
fn self_tests_are_in_their_log_and_outlive_a_reset() {
    let guest = guest();
    let smart = |feature: u8, low: u8| {
        guest.out(1, feature);
        guest.command28(0xb0, 0xc2_4f00 | u32::from(low), 1);
        guest.interrupt()
    };
    let log = || {
        assert_eq!(smart(0xd5, 6), READY | DRQ);
        let log = guest.read_data(512);
        assert_eq!(log.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        log
    };
    // Collection of data is no test, and there is none to abort.
    for kind in [0, 1, 0x7f, 0x82] {
        assert_eq!(smart(0xd4, kind), READY, "{kind:#x}");
    }
    assert_eq!(smart(0xd4, 3), 0x41);
    let two = log();
    assert_eq!((two[2], &two[3..26], two[26], two[50], two[508]), (1, &[0; 23][..], 0x82, 0, 2));
    guest.function.reset();
    assert_eq!(log(), two);
    for _ in 0..20 {
        smart(0xd4, 2);
    }
    let full = log();
    assert_eq!((full[2], full[26], full[50], full[2 + 20 * 24], full[508]), (2, 0x82, 2, 2, 1));
}

#[test]
fn power_commands_leave_it_awake() {
    let guest = guest();
    for code in [0xe0, 0xe1, 0xe2, 0xe3, 0xe6, 0x94] {
        guest.command28(code, 0, 0);
        assert_eq!(guest.interrupt(), READY, "{code:#x}");
    }
    guest.command28(0xe5, 0, 0);
    guest.interrupt();
    assert_eq!(guest.inb(2), 0xff);
}

#[test]
fn signatures_tell_the_kinds_apart_after_reset_and_diagnostic() {
    let guest = guest();
    let signature = |second| {
        guest.choose(second);
        [guest.inb(1), guest.inb(2), guest.inb(3), guest.inb(4), guest.inb(5)]
    };
    for reset in [true, false] {
        if reset {
            guest.control(4);
            assert_eq!(guest.alternate(), BSY);
            guest.control(0);
        } else {
            guest.command28(0x90, 0, 0);
            assert_eq!(guest.interrupt(), READY);
        }
        assert_eq!(signature(false), [1, 1, 1, 0, 0]);
        assert_eq!(guest.inb(7), READY);
        assert_eq!(signature(true), [1, 1, 1, 0x14, 0xeb]);
        assert_eq!(guest.inb(7), 0);
    }
}

#[test]
fn reset_and_diagnostic_choose_the_first_drive() {
    let guest = guest();
    guest.choose(true);
    guest.control(4);
    guest.control(0);
    assert_eq!((guest.inb(4), guest.inb(6), guest.inb(7)), (0, 0xa0, READY));
    guest.choose(true);
    guest.out(7, 0x90);
    assert_eq!(guest.interrupt(), READY);
    assert_eq!((guest.inb(4), guest.inb(6)), (0, 0xa0));
}

#[test]
fn drives_that_are_not_there_read_as_zero() {
    let guest = guest();
    let second = guest.at(0x170);
    for port in 1..8 {
        assert_eq!(peek(&*second, port, 1), Some(0));
    }
    poke(&*second, 7, 1, 0xec);
    assert_eq!(peek(&*second, 7, 1), Some(0));
}

#[test]
fn command_to_one_drive_ends_what_the_other_has_not_handed_over() {
    let guest = guest();
    guest.command28(0xec, 0, 0);
    assert_eq!(guest.interrupt(), READY | DRQ);
    guest.choose(true);
    guest.out(7, 0xa1);
    assert_eq!(guest.interrupt() & DRQ, DRQ);
    assert_eq!(word(&guest.read_data(512), 0) >> 14, 2, "a packet drive");
    guest.choose(false);
    assert_eq!(guest.inb(7), READY);
    guest.command28(0x20, 3, 1);
    assert_eq!(guest.interrupt(), READY | DRQ);
    assert_eq!(guest.read_data(512), guest.image.bytes(3 * 512, 512));
}

#[test]
fn interrupts_can_be_held_back() {
    let guest = guest();
    guest.control(2);
    guest.command28(0xe7, 0, 0);
    guest.settle();
    assert!(!guest.irq.high());
    guest.control(0);
    assert!(guest.irq.high());
    guest.inb(7);
    assert!(!guest.irq.high());
}

#[test]
fn read_only_disk_aborts_writes() {
    let info = rhea_block::ImageInfo { read_only: true, ..rhea_block::Image::info(&*MemImage::new(MIB)) };
    let disk = IdeDrive::Disk {
        config: IdeDisk::new("d", 1),
        image: MemImage::with_info(info),
        stats: Arc::default(),
        errors: ErrorPolicy::new(Arc::new(|_| {})),
    };
    let irq = RecordingLine::new();
    let irqs = [Arc::clone(&irq) as Arc<dyn IrqLine>, RecordingLine::new()];
    let to = IdeConnections { memory: ram(1 << 20), irqs, placement: Placement::PerQueue };
    let function = Piix3Ide::new(Bdf::new(0, 1, 1), [[Some(disk), None], [None, None]], to).unwrap();
    function.start().unwrap();
    let block = function.regions().remove(0).device;
    for (port, value) in [(6, 0xe0), (2, 1), (7, 0x30)] {
        poke(&*block, port, 1, value);
    }
    assert_eq!((peek(&*block, 7, 1), peek(&*block, 1, 1)), (Some(0x41), Some(4)));
}

#[test]
fn a_geometry_that_cannot_be_is_refused() {
    let mut config = IdeDisk::new("d", 1);
    config.geometry = Some(crate::geometry::Geometry { cylinders: 1, heads: 17, sectors: 63 });
    let errors = ErrorPolicy::new(Arc::new(|_| {}));
    let disk = IdeDrive::Disk { config, image: MemImage::new(MIB), stats: Arc::default(), errors };
    let irqs = [RecordingLine::new() as Arc<dyn IrqLine>, RecordingLine::new()];
    let to = IdeConnections { memory: ram(1 << 20), irqs, placement: Placement::PerQueue };
    let built = Piix3Ide::new(Bdf::new(0, 1, 1), [[Some(disk), None], [None, None]], to);
    assert!(matches!(built, Err(IdeError::Geometry { .. })));
}
