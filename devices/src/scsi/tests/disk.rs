use rhea_block::{ImageInfo, Op};

use super::*;
use crate::block_sizes::{BlockSizeError, BlockSizes};
use crate::scsi::{Sense, sense};
use crate::virtio::testing::Seen;

#[test]
fn inquiry_says_who_it_is() {
    let (unit, _) = disk();
    let data = good(&unit, &[0x12, 0, 0, 0, 96, 0], &[]);
    assert_eq!(data.len(), 74);
    assert_eq!(data[..8], [0, 0, 5, 0x12, 69, 0, 0, 0x12]);
    assert_eq!(&data[8..36], b"QEMU    QEMU HARDDISK   2.5+");
    // SAM-4, SPC-3 and SBC-3.
    assert_eq!(data[36..58], [0; 22]);
    assert_eq!(data[58..66], [0, 0x80, 3, 0, 4, 0xc0, 0, 0]);
}

#[test]
fn replies_are_cut_to_the_allocation_length() {
    let (unit, _) = disk();
    for len in [0u8, 1, 5, 35] {
        assert_eq!(good(&unit, &[0x12, 0, 0, 0, len, 0], &[]).len(), usize::from(len));
        assert_eq!(good(&unit, &[0x1a, 0, 0x3f, 0, len, 0], &[]).len(), usize::from(len));
    }
}

#[test]
fn vital_product_data_names_the_unit() {
    let unit = disk_with(&MemImage::new(MIB), |config| {
        config.serial = "abc".into();
        config.wwn = 0x5000_c500_1122_3344;
    });
    assert_eq!(good(&unit, &[0x12, 1, 0, 0, 96, 0], &[]), [0, 0, 0, 6, 0, 0x80, 0x83, 0xb0, 0xb1, 0xb2]);
    assert_eq!(good(&unit, &[0x12, 1, 0x80, 0, 96, 0], &[]), *b"\0\x80\0\x03abc");
    let id = good(&unit, &[0x12, 1, 0x83, 0, 96, 0], &[]);
    assert_eq!(&id[..11], b"\0\x83\0\x13\x02\0\0\x03abc");
    assert_eq!(id[11..], [1, 3, 0, 8, 0x50, 0, 0xc5, 0, 0x11, 0x22, 0x33, 0x44]);
    assert_eq!(bad(&unit, &[0x12, 1, 0x84, 0, 96, 0], &[]), sense::INVALID_FIELD);
    assert_eq!(bad(&unit, &[0x12, 0, 0x80, 0, 96, 0], &[]), sense::INVALID_FIELD);
}

#[test]
fn without_a_serial_number_there_is_no_page_for_it() {
    let (unit, _) = disk();
    assert_eq!(good(&unit, &[0x12, 1, 0, 0, 96, 0], &[]), [0, 0, 0, 5, 0, 0x83, 0xb0, 0xb1, 0xb2]);
    assert_eq!(bad(&unit, &[0x12, 1, 0x80, 0, 96, 0], &[]), sense::INVALID_FIELD);
}

#[test]
fn block_limits_and_provisioning() {
    let unit = disk_with(&MemImage::new(MIB), |config| {
        config.rotation_rate = 1;
        config.sizes.opt_io = 8192;
    });
    let limits = good(&unit, &[0x12, 1, 0xb0, 0, 96, 0], &[]);
    assert_eq!((limits.len(), limits[3], limits[4], limits[5]), (64, 0x3c, 1, 255));
    assert_eq!(limits[12..16], [0, 0, 0, 16]);
    assert_eq!(limits[20..24], (1u32 << 21).to_be_bytes());
    assert_eq!(limits[28..32], [0, 0, 0, 8]);
    assert_eq!(good(&unit, &[0x12, 1, 0xb1, 0, 96, 0], &[])[4..6], [0, 1]);
    assert_eq!(good(&unit, &[0x12, 1, 0xb2, 0, 96, 0], &[]), [0, 0xb2, 0, 4, 0, 0xe0, 2, 0]);
}

#[test]
fn capacity_in_both_forms() {
    let unit = disk_with(&MemImage::new(MIB), |config| config.sizes.physical = 4096);
    assert_eq!(good(&unit, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]), [0, 0, 7, 0xff, 0, 0, 2, 0]);
    let long = good(&unit, &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], &[]);
    assert_eq!(long[..16], [0, 0, 0, 0, 0, 0, 7, 0xff, 0, 0, 2, 0, 0, 3, 0x80, 0]);
    assert_eq!(long.len(), 32);
}

#[test]
fn capacity_has_an_address_only_with_pmi() {
    let unit = disk_with(&MemImage::new(MIB), |_| {});
    let short = [0x25, 0, 0, 0, 0, 9, 0, 0, 0, 0];
    let long = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 32, 0, 0];
    assert_eq!(bad(&unit, &short, &[]), sense::INVALID_FIELD);
    assert_eq!(bad(&unit, &long, &[]), sense::INVALID_FIELD);
    let with =
        |cdb: &[u8], at: usize| cdb.iter().enumerate().map(|(n, byte)| byte | u8::from(n == at)).collect::<Vec<_>>();
    assert_eq!(good(&unit, &with(&short, 8), &[])[..4], [0, 0, 7, 0xff]);
    assert_eq!(good(&unit, &with(&long, 14), &[])[..8], [0, 0, 0, 0, 0, 0, 7, 0xff]);
}

#[test]
fn capacity_beyond_32_bits_reads_as_all_ones_in_the_short_form() {
    let image = MemImage::new(512);
    let info = ImageInfo { size: 1 << 42, ..image.info() };
    struct Huge(ImageInfo);
    impl Image for Huge {
        fn info(&self) -> ImageInfo {
            self.0
        }
        fn open_queue(&self, _: u32) -> Result<Box<dyn rhea_block::ImageQueue>, rhea_block::BlockError> {
            MemImage::new(512).open_queue(1)
        }
        fn on_change(&self, _: Box<dyn Fn(ImageInfo) + Send + Sync>) {}
    }
    let unit = LogicalUnit::new(UnitConfig::disk("d"), Some(Arc::new(Huge(info))), &Reservations::new()).unwrap();
    ready(&unit);
    assert_eq!(good(&unit, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[])[..4], [0xff; 4]);
}

#[test]
fn every_read_and_write_form_moves_the_same_blocks() {
    let (unit, image) = disk();
    let data: Vec<u8> = (0..1024).map(|at| (at % 251) as u8).collect();
    let forms: [(&[u8], &[u8]); 4] = [
        (&[0x0a, 0, 0, 8, 2, 0], &[0x08, 0, 0, 8, 2, 0]),
        (&[0x2a, 0, 0, 0, 0, 16, 0, 0, 2, 0], &[0x28, 0, 0, 0, 0, 16, 0, 0, 2, 0]),
        (&[0xaa, 0, 0, 0, 0, 32, 0, 0, 0, 2, 0, 0], &[0xa8, 0, 0, 0, 0, 32, 0, 0, 0, 2, 0, 0]),
        (&[0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 2, 0, 0], &[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 2, 0, 0]),
    ];
    for ((write, read), lba) in forms.into_iter().zip([8, 16, 32, 64]) {
        good(&unit, write, &data);
        assert_eq!(image.bytes(lba * 512, 1024), data);
        assert_eq!(good(&unit, read, &[]), data);
    }
}

#[test]
fn six_byte_read_of_zero_blocks_reads_256() {
    let (unit, _) = disk();
    assert_eq!(good(&unit, &[0x08, 0, 0, 0, 0, 0], &[]).len(), 256 * 512);
    assert_eq!(good(&unit, &read10(0, 0), &[]).len(), 0);
}

#[test]
fn past_the_end_is_out_of_range_and_nothing_is_done() {
    let (unit, image) = disk();
    let _ = image.take_seen();
    assert_eq!(bad(&unit, &read10(2048, 1), &[]), sense::LBA_OUT_OF_RANGE.at(2048));
    assert_eq!(bad(&unit, &read10(2047, 2), &[]), sense::LBA_OUT_OF_RANGE.at(2047));
    let far = [0x88, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0];
    assert_eq!(bad(&unit, &far, &[]), sense::LBA_OUT_OF_RANGE.at(u64::MAX));
    assert_eq!(image.take_seen(), []);
}

#[test]
fn read_only_disk_refuses_every_write() {
    let info = ImageInfo { read_only: true, ..MemImage::new(MIB).info() };
    let unit = disk_with(&MemImage::with_info(info), |_| {});
    assert_eq!(bad(&unit, &write10(0, 1), &[0; 512]), sense::WRITE_PROTECTED);
    assert_eq!(bad(&unit, &[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &[0; 24]), sense::WRITE_PROTECTED);
    assert_eq!(bad(&unit, &[0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 512]), sense::WRITE_PROTECTED);
    assert_eq!(good(&unit, &[0x1a, 8, 0x08, 0, 96, 0], &[])[2] & 0x80, 0x80);
}

#[test]
fn fua_and_a_switched_off_cache_force_writes() {
    let (unit, image) = disk();
    let mut forced = write10(0, 1);
    forced[1] = 8;
    let _ = image.take_seen();
    good(&unit, &write10(0, 1), &[1; 512]);
    good(&unit, &forced, &[1; 512]);
    let ops: Vec<Op> = image.take_seen().into_iter().map(|seen| seen.op).collect();
    assert_eq!(ops, [Op::Write { fua: false }, Op::Write { fua: true }], "also where it is not offered");
    // MODE SELECT of the caching page without WCE: flushes, then forces.
    let mut list = vec![0, 0, 0, 0, 8, 18];
    list.extend([0; 18]);
    let _ = image.take_seen();
    good(&unit, &[0x15, 0x10, 0, 0, 24, 0], &list);
    good(&unit, &write10(0, 1), &[1; 512]);
    let ops: Vec<Op> = image.take_seen().into_iter().map(|seen| seen.op).collect();
    assert_eq!(ops, [Op::Flush, Op::Write { fua: true }]);
    assert_eq!(good(&unit, &[0x1a, 8, 0x08, 0, 96, 0], &[])[4..7], [8, 18, 0]);
    assert_eq!(good(&unit, &[0x1a, 8, 0x88, 0, 96, 0], &[])[6], 4, "default");
    assert_eq!(good(&unit, &[0x1a, 8, 0x48, 0, 96, 0], &[])[6], 4, "changeable");
}

#[test]
fn fua_is_offered_when_asked_for() {
    let image = MemImage::new(MIB);
    for (dpofua, told) in [(false, 0), (true, 0x10)] {
        let unit = disk_with(&image, |config| config.dpofua = dpofua);
        assert_eq!(good(&unit, &[0x1a, 8, 0x08, 0, 96, 0], &[])[2], told);
        assert_eq!(good(&unit, &[0x5a, 8, 0x08, 0, 0, 0, 0, 0, 96, 0], &[])[3], told);
    }
    assert!(!UnitConfig::disk("d").dpofua, "as QEMU's");
}

#[test]
fn mode_select_of_what_cannot_change_is_refused_whole() {
    let (unit, _) = disk();
    let caching: Vec<u8> = [8, 18].into_iter().chain([0; 18]).collect();
    let control = [0x0a, 10, 0xff, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
    let mut list = vec![0; 4];
    list.extend(&caching);
    list.extend(control);
    let len = u8::try_from(list.len()).unwrap();
    assert_eq!(bad(&unit, &[0x15, 0x10, 0, 0, len, 0], &list), sense::INVALID_PARAMETER_VALUE);
    assert_eq!(good(&unit, &[0x1a, 8, 0x08, 0, 96, 0], &[])[6], 4, "the caching page was not taken either");
    assert_eq!(bad(&unit, &[0x15, 0x11, 0, 0, len, 0], &list), sense::INVALID_FIELD);
    assert_eq!(bad(&unit, &[0x15, 0x10, 0, 0, 8, 0], &list[..8]), sense::PARAMETER_LENGTH);
}

#[test]
fn mode_sense_has_headers_and_a_block_descriptor() {
    let (unit, _) = disk();
    let six = good(&unit, &[0x1a, 0, 0x3f, 0, 255, 0], &[]);
    assert_eq!(usize::from(six[0]) + 1, six.len());
    assert_eq!(six[2..12], [0, 8, 0, 0, 8, 0, 0, 0, 2, 0]);
    let ten = good(&unit, &[0x5a, 0x10, 0x04, 0, 0, 0, 0, 1, 0, 0], &[]);
    assert_eq!(ten[..8], [0, 46, 0, 0, 1, 0, 0, 16]);
    assert_eq!(ten[24..30], [4, 22, 0, 0, 2, 16]);
    assert_eq!(bad(&unit, &[0x1a, 0, 0xc8, 0, 255, 0], &[]), sense::NO_SAVING);
    assert_eq!(bad(&unit, &[0x1a, 0, 0x2a, 0, 255, 0], &[]), sense::INVALID_FIELD);
    assert_eq!(bad(&unit, &[0x1a, 0, 0x08, 1, 255, 0], &[]), sense::INVALID_FIELD);
}

#[test]
fn verify_compares_and_says_where_it_differs() {
    let (unit, image) = disk();
    let mut data = image.bytes(512, 1024);
    good(&unit, &[0x2f, 0, 0, 0, 0, 1, 0, 0, 2, 0], &[]);
    good(&unit, &[0x2f, 2, 0, 0, 0, 1, 0, 0, 2, 0], &data);
    data[700] ^= 1;
    assert_eq!(bad(&unit, &[0x2f, 2, 0, 0, 0, 1, 0, 0, 2, 0], &data), sense::MISCOMPARE.at(700));
    good(&unit, &[0x2f, 6, 0, 0, 0, 1, 0, 0, 1, 0], &data[..512]);
    assert_eq!(bad(&unit, &[0x2f, 6, 0, 0, 0, 1, 0, 0, 2, 0], &[1; 512]), sense::MISCOMPARE.at(512));
}

#[test]
fn verify_and_write_and_verify_in_every_length() {
    let (unit, image) = disk();
    let forms = |code: u8| match code {
        0x2e | 0x2f => vec![code, 2, 0, 0, 0, 9, 0, 0, 1, 0],
        0xae | 0xaf => vec![code, 2, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0],
        _ => vec![code, 2, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0],
    };
    for (write, verify, byte) in [(0x2e, 0x2f, 1), (0xae, 0xaf, 2), (0x8e, 0x8f, 3)] {
        let _ = image.take_seen();
        good(&unit, &forms(write), &[byte; 512]);
        assert!(
            image.take_seen().iter().any(|seen| seen.op == Op::Write { fua: true }),
            "durable before it is verified"
        );
        assert_eq!(image.bytes(9 * 512, 512), [byte; 512]);
        good(&unit, &forms(verify), &[byte; 512]);
        assert_eq!(bad(&unit, &forms(verify), &[byte + 1; 512]), sense::MISCOMPARE.at(0));
    }
}

#[test]
fn synchronize_cache_flushes_in_both_lengths_and_checks_its_range() {
    let (unit, image) = disk();
    let (short, mut long) = ([0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0; 16]);
    long[0] = 0x91;
    let _ = image.take_seen();
    good(&unit, &short, &[]);
    good(&unit, &long, &[]);
    let ops: Vec<Op> = image.take_seen().into_iter().map(|seen| seen.op).collect();
    assert_eq!(ops, [Op::Flush, Op::Flush]);
    assert_eq!(bad(&unit, &[0x35, 0, 0, 0, 8, 1, 0, 0, 0, 0], &[]), sense::LBA_OUT_OF_RANGE.at(2049));
}

#[test]
fn commands_that_only_look_at_an_address_find_what_is_there_and_no_more() {
    let (unit, image) = disk();
    let _ = image.take_seen();
    for code in [0x34u8, 0x2b] {
        good(&unit, &[code, 0, 0, 0, 7, 0xff, 0, 0, 0, 0], &[]);
        assert_eq!(bad(&unit, &[code, 0, 0, 0, 8, 1, 0, 0, 1, 0], &[]), sense::LBA_OUT_OF_RANGE.at(2049), "{code:#x}");
    }
    good(&unit, &[0x90, 0, 0, 0, 0, 0, 0, 0, 7, 0xff, 0, 0, 0, 1, 0, 0], &[]);
    good(&unit, &[0x01, 0, 0, 0, 0, 0], &[]);
    assert_eq!(image.take_seen(), []);
}

#[test]
fn longer_mode_select_switches_the_cache_too() {
    let (unit, _) = disk();
    let mut list = vec![0, 0, 0, 0, 0, 0, 0, 0, 8, 18];
    list.extend([0; 18]);
    good(&unit, &[0x55, 0x10, 0, 0, 0, 0, 0, 0, 28, 0], &list);
    assert_eq!(good(&unit, &[0x5a, 8, 0x08, 0, 0, 0, 0, 0, 96, 0], &[])[8..11], [8, 18, 0]);
}

#[test]
fn self_test_finds_nothing_and_the_log_has_no_pages_but_its_list() {
    let (unit, _) = disk();
    good(&unit, &[0x1d, 4, 0, 0, 0, 0], &[]);
    assert_eq!(bad(&unit, &[0x1d, 0, 0, 0, 8, 0], &[]), sense::INVALID_FIELD);
    assert_eq!(good(&unit, &[0x4d, 0, 0, 0, 0, 0, 0, 0, 64, 0], &[]), [0, 0, 0, 1, 0]);
    assert_eq!(bad(&unit, &[0x4d, 0, 0x0d, 0, 0, 0, 0, 0, 64, 0], &[]), sense::INVALID_FIELD);
}

#[test]
fn compare_and_write_writes_only_what_matches() {
    let (unit, image) = disk();
    let cdb = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0];
    let right: Vec<u8> = [5; 512].into_iter().chain([0xaa; 512]).collect();
    good(&unit, &cdb, &right);
    assert_eq!(image.bytes(5 * 512, 512), [0xaa; 512]);
    assert_eq!(bad(&unit, &cdb, &right), sense::MISCOMPARE.at(0));
    assert_eq!(image.bytes(5 * 512, 512), [0xaa; 512]);
}

#[test]
fn or_write_sets_bits_and_clears_none() {
    let (unit, image) = disk();
    let cdb = [0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0];
    let there = image.bytes(5 * 512, 1024);
    good(&unit, &cdb, &[0x50; 1024]);
    assert_eq!(image.bytes(5 * 512, 1024), there.iter().map(|byte| byte | 0x50).collect::<Vec<_>>());
    let forced = [0x8b, 8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0];
    let _ = image.take_seen();
    good(&unit, &forced, &[0; 512]);
    let ops: Vec<Op> = image.take_seen().into_iter().map(|seen| seen.op).collect();
    assert_eq!(ops, [Op::Read, Op::Write { fua: true }]);
    assert_eq!(
        bad(&unit, &[0x8b, 0x20, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0], &[0; 512]),
        sense::INVALID_FIELD.in_byte(1)
    );
    assert_eq!(
        bad(&unit, &[0x8b, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0, 0], &[0; 512]),
        sense::LBA_OUT_OF_RANGE.at(2048)
    );
}

#[test]
fn sense_points_at_the_byte_that_is_at_fault() {
    let (unit, _) = disk();
    let fault = bad(&unit, &[0xa3, 0x0c, 2, 0x28, 0, 0, 0, 0, 0, 64, 0, 0], &[]);
    assert_eq!(fault.fixed()[12..], [0x24, 0, 0, 0xc0, 0, 2]);
    assert_eq!(fault.descriptor(), [0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xc0, 0, 2, 0]);
    unit.keep_sense(Some(fault));
    let other = disk().0;
    other.restore(&unit.save()).unwrap();
    assert_eq!(good(&other, &[0x03, 0, 0, 0, 18, 0], &[])[12..], [0x24, 0, 0, 0xc0, 0, 2]);
}

#[test]
fn defect_lists_are_empty_in_every_format() {
    let (unit, _) = disk();
    for flags in [0x18, 0x0d, 0x10] {
        assert_eq!(good(&unit, &[0x37, 0, flags, 0, 0, 0, 0, 0, 8, 0], &[]), [0, flags, 0, 0]);
        assert_eq!(good(&unit, &[0xb7, flags, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], &[]), [0, flags, 0, 0, 0, 0, 0, 0]);
    }
    assert_eq!(bad(&unit, &[0xb7, 0x18, 0, 0, 0, 1, 0, 0, 0, 16, 0, 0], &[]), sense::INVALID_FIELD);
}

#[test]
fn write_same_repeats_the_block_and_zeroes_without_one() {
    let (unit, image) = disk();
    good(&unit, &[0x41, 0, 0, 0, 0, 8, 0, 0, 4, 0], &[7; 512]);
    assert_eq!(image.bytes(8 * 512, 2048), [7; 2048]);
    let _ = image.take_seen();
    good(&unit, &[0x93, 0x09, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0], &[]);
    good(&unit, &[0x41, 0x01, 0, 0, 0, 8, 0, 0, 2, 0], &[]);
    let seen = |unmap| Seen { op: Op::WriteZeroes { unmap, fua: false }, offset: 4096, len: 1024 };
    assert_eq!(image.take_seen(), [seen(true), seen(false)]);
    assert_eq!(bad(&unit, &[0x41, 0, 0, 0, 0, 8, 0, 0, 0, 0], &[7; 512]), sense::INVALID_FIELD);
}

#[test]
fn unmap_discards_its_ranges() {
    let (unit, image) = disk();
    let mut list = vec![0, 38, 0, 32, 0, 0, 0, 0];
    for (lba, blocks) in [(8u64, 8u32), (64, 1)] {
        list.extend(lba.to_be_bytes());
        list.extend(blocks.to_be_bytes());
        list.extend([0; 4]);
    }
    let _ = image.take_seen();
    good(&unit, &[0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0], &list);
    let seen = |offset, len| Seen { op: Op::Discard, offset, len };
    assert_eq!(image.take_seen(), [seen(4096, 4096), seen(32768, 512)]);
    list[3] = 24;
    assert_eq!(bad(&unit, &[0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0], &list), sense::PARAMETER_LENGTH);
}

#[test]
fn supported_opcodes_are_told_all_and_one_by_one() {
    let (unit, _) = disk();
    let all = good(&unit, &[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0], &[]);
    let len = u32::from_be_bytes([all[0], all[1], all[2], all[3]]) as usize;
    assert_eq!(len + 4, all.len());
    assert!(all[4..].chunks(8).any(|entry| entry == [0x89, 0, 0, 0, 0, 0, 0, 16]));
    assert!(all[4..].chunks(8).any(|entry| entry == [0x9e, 0, 0, 0x10, 0, 1, 0, 16]));
    let one = good(&unit, &[0xa3, 0x0c, 1, 0x2a, 0, 0, 0, 0, 0, 64, 0, 0], &[]);
    assert_eq!(one, [0, 3, 0, 10, 0x2a, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]);
    assert_eq!(good(&unit, &[0xa3, 0x0c, 1, 0x04, 0, 0, 0, 0, 0, 64, 0, 0], &[]), [0, 1, 0, 0]);
    assert_eq!(bad(&unit, &[0xa3, 0x0c, 1, 0x9e, 0, 0, 0, 0, 0, 64, 0, 0], &[]), sense::INVALID_FIELD.in_byte(2));
    assert_eq!(good(&unit, &[0xa3, 0x0c, 2, 0x9e, 0, 0x10, 0, 0, 0, 64, 0, 0], &[])[..4], [0, 3, 0, 16]);
}

#[test]
fn every_usage_mask_is_as_long_as_its_command() {
    for unit in [disk().0, cd(None)] {
        for command in unit.commands() {
            let field = [command.usage[0]; 16];
            assert_eq!(Cdb::parse(&field).unwrap().len(), command.usage.len(), "{:#x}", command.usage[0]);
        }
    }
}

#[test]
fn unknown_and_format_commands_are_refused() {
    let (unit, _) = disk();
    assert_eq!(bad(&unit, &[0x04, 0, 0, 0, 0, 0], &[]), sense::INVALID_OPCODE);
    assert_eq!(bad(&unit, &[0x7f; 32], &[]), sense::INVALID_OPCODE);
    assert_eq!(bad(&unit, &[0xc1; 16], &[]), sense::INVALID_OPCODE);
    assert_eq!(
        bad(&unit, &[0x9e, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]),
        sense::INVALID_FIELD.in_byte(1)
    );
    assert_eq!(bad(&unit, &[0x28, 0, 0], &[]), sense::INVALID_FIELD);
}

#[test]
fn stopped_disk_is_not_ready_until_started() {
    let (unit, image) = disk();
    let flushes = || image.take_seen().iter().filter(|seen| seen.op == Op::Flush).count();
    good(&unit, &[0x1b, 0, 0, 0, 0, 0], &[]);
    assert_eq!(flushes(), 1);
    good(&unit, &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
    good(&unit, &[0x1b, 0, 0, 0, 4, 0], &[]);
    assert_eq!(flushes(), 1, "that of SYNCHRONIZE CACHE");
    assert_eq!(bad(&unit, &[0, 0, 0, 0, 0, 0], &[]), sense::NOT_STARTED);
    assert_eq!(bad(&unit, &read10(0, 1), &[]), sense::NOT_STARTED);
    good(&unit, &[0x1b, 0, 0, 0, 1, 0], &[]);
    good(&unit, &read10(0, 1), &[]);
}

#[test]
fn resize_is_a_unit_attention_once() {
    let (unit, image) = disk();
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let keep = Arc::clone(&told);
    unit.on_change(move |change| keep.lock().unwrap().push(change));
    image.resize(2 * MIB);
    assert_eq!(*told.lock().unwrap(), [UnitChange::Capacity]);
    assert_eq!(bad(&unit, &read10(0, 1), &[]), sense::ATTENTION_CAPACITY_CHANGED);
    good(&unit, &read10(4095, 1), &[]);
}

#[test]
fn attention_waits_behind_inquiry_and_goes_with_request_sense() {
    let (unit, _) = disk();
    unit.reset();
    good(&unit, &[0x12, 0, 0, 0, 36, 0], &[]);
    let data = good(&unit, &[0x03, 0, 0, 0, 18, 0], &[]);
    assert_eq!((data[0], data[2], data[7], data[12]), (0x70, 6, 10, 0x29));
    let data = good(&unit, &[0x03, 1, 0, 0, 18, 0], &[]);
    assert_eq!(data, [0x72, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn host_errors_become_sense_data() {
    let (unit, image) = disk();
    let cases: [(i32, Sense); 3] =
        [(libc::EIO, sense::IO_ERROR), (libc::ENOSPC, sense::SPACE_ALLOCATION), (libc::EROFS, sense::WRITE_PROTECTED)];
    for (errno, expected) in cases {
        image.fail(Some(errno));
        assert_eq!(bad(&unit, &write10(0, 1), &[0; 512]), expected);
    }
}

#[test]
fn state_survives_a_save_and_garbage_does_not() {
    let (unit, _) = disk();
    good(&unit, &[0x1b, 0, 0, 0, 0, 0], &[]);
    unit.luns_changed();
    let saved = unit.save();
    let (other, _) = disk();
    other.restore(&saved).unwrap();
    assert_eq!(other.save(), saved);
    let mut value = serde_json::to_value(&saved).unwrap();
    value["attention"] = serde_json::json!(vec![value["attention"][0].clone(); 9]);
    assert!(other.restore(&serde_json::from_value(value).unwrap()).is_err());
    assert_eq!(other.save(), saved);
}

#[test]
fn a_disk_needs_an_image_and_sane_blocks() {
    let none = LogicalUnit::new(UnitConfig::disk("d"), None, &Reservations::new());
    assert!(matches!(none, Err(UnitConfigError::NoImage(_))));
    let config = UnitConfig { sizes: BlockSizes::of(1000), ..UnitConfig::disk("d") };
    let odd = LogicalUnit::new(config, Some(MemImage::new(MIB)), &Reservations::new());
    assert!(matches!(odd, Err(UnitConfigError::Sizes(BlockSizeError::Size { value: 1000, .. }))));
}
