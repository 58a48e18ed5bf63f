//! Strangers' command blocks: no panic, no reply longer than asked, no request outside of the medium.

use proptest::prelude::*;

use super::*;
use crate::scsi::plan::MAX_PARAMETERS;

/// Operation codes that exist, more often than not.
fn opcode() -> impl Strategy<Value = u8> {
    let known: Vec<u8> = disk().0.commands().chain(cd(None).commands()).map(|command| command.usage[0]).collect();
    prop_oneof![9 => prop::sample::select(known), 1 => any::<u8>()]
}

fn block() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => Just(0u8), 2 => any::<u8>(), 1 => Just(0xff), 1 => 0u8..16];
    (opcode(), prop::collection::vec(byte, 15)).prop_map(|(opcode, rest)| [vec![opcode], rest].concat())
}

fn allocation(cdb: &Cdb) -> usize {
    match (cdb.opcode(), cdb.len()) {
        (0x12, _) => cdb.length(3, 2),
        (_, 6) => cdb.length(4, 1),
        (0x25, _) => 8,
        (0xad | 0xbd, _) => cdb.length(8, 2),
        (0xa0 | 0xa3 | 0xb7, _) => cdb.length(6, 4),
        (_, 10) => cdb.length(7, 2),
        _ => cdb.length(10, 4),
    }
}

fn inside(unit: &LogicalUnit, media: &Media) -> bool {
    let size = unit.medium().map_or(0, |medium| medium.info().size);
    let fits = |offset: u64, len: u64| offset.checked_add(len).is_some_and(|end| end <= size);
    match media {
        Media::Read { offset, len } | Media::Write { offset, len, .. } | Media::Verify { offset, len, .. } => {
            fits(*offset, *len)
        }
        Media::WriteSame { offset, len, .. } => fits(*offset, *len),
        Media::CompareAndWrite { offset, data, .. } | Media::OrWrite { offset, data, .. } => {
            fits(*offset, data.len() as u64)
        }
        Media::Unmap(ranges) => ranges.iter().all(|(offset, len)| fits(*offset, *len)),
        Media::Flush => true,
        Media::RawSectors { lba, count } => fits(u64::from(*lba) * 2048, u64::from(*count) * 2048),
    }
}

fn check(unit: &LogicalUnit, cdb: &[u8], out: &[u8]) {
    let Ok(cdb) = Cdb::parse(cdb) else { return };
    let plan = match unit.begin(&cdb) {
        Plan::Parameters(len) => {
            assert!(len <= MAX_PARAMETERS);
            unit.parameters(&cdb, &out[..len.min(out.len())])
        }
        plan => plan,
    };
    match plan {
        Plan::Done(reply) => assert!(reply.data.len() <= allocation(&cdb), "{cdb:02x?}: {}", reply.data.len()),
        Plan::Parameters(_) => panic!("asks twice"),
        Plan::Preempt(_) => {}
        Plan::Media(media) => {
            assert!(inside(unit, &media), "{cdb:02x?}: {media:?}");
            work(unit, media, out);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn no_command_breaks_a_unit(cdbs in prop::collection::vec(block(), 1..30), out in prop::collection::vec(any::<u8>(), 0..3000)) {
        let image = MemImage::new(MIB / 4);
        let units = [disk_with(&image, |_| {}), cd(Some(image)), cd(None)];
        for cdb in cdbs {
            units.iter().for_each(|unit| check(unit, &cdb, &out));
        }
    }

    #[test]
    fn random_writes_read_back(ops in prop::collection::vec((0u32..500, 1u16..12, any::<u8>(), 0u8..4), 1..60)) {
        let image = MemImage::new(MIB / 4);
        let unit = disk_with(&image, |_| {});
        let mut model = image.bytes(0, (MIB / 4) as usize);
        for (lba, blocks, fill, what) in ops {
            let (at, len) = (lba as usize * 512, usize::from(blocks) * 512);
            let data: Vec<u8> = (0..len).map(|n| fill.wrapping_add((n / 100) as u8)).collect();
            let fits = at + len <= model.len();
            let [a, b, c, d] = lba.to_be_bytes();
            let [e, f] = blocks.to_be_bytes();
            let reply = match what {
                0 => run(&unit, &write10(lba, blocks), &data),
                1 => run(&unit, &read10(lba, blocks), &[]),
                2 => run(&unit, &[0x41, 0, a, b, c, d, 0, e, f, 0], &data[..512]),
                _ => run(&unit, &[0x2e, 0, a, b, c, d, 0, e, f, 0], &data),
            };
            prop_assert_eq!(reply.status == status::GOOD, fits);
            if fits {
                match what {
                    0 | 3 => model[at..at + len].copy_from_slice(&data),
                    1 => prop_assert_eq!(&reply.data, &model[at..at + len]),
                    _ => model[at..at + len].chunks_mut(512).for_each(|block| block.copy_from_slice(&data[..512])),
                }
            }
        }
        prop_assert_eq!(image.bytes(0, model.len()), model);
    }
}
