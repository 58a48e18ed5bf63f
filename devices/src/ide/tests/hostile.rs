//! What a guest can do to the registers: no panic, no hang, and after a reset the disk is as it was.

use proptest::prelude::*;

use super::*;
use crate::testing::hammer;

/// One access of a guest that knows what it is doing, more or less.
#[derive(Debug, Clone)]
enum Access {
    Register(u64, u8),
    Data(u16),
    ReadData,
    Control(u8),
    BusMaster(u64, u8),
    Table(u32),
    Settle,
}

fn access() -> impl Strategy<Value = Access> {
    let codes = prop::sample::select(vec![
        0x20u8, 0x24, 0x25, 0x29, 0x30, 0x34, 0x35, 0x39, 0xc4, 0xc5, 0xc8, 0xca, 0x06, 0x08, 0xa0, 0xa1, 0xec, 0xef,
        0xb0, 0x90, 0x91, 0xc6, 0xe7, 0x40,
    ]);
    prop_oneof![
        6 => (1u64..7, prop_oneof![Just(0u8), Just(1), any::<u8>()]).prop_map(|(port, value)| Access::Register(port, value)),
        3 => codes.prop_map(|code| Access::Register(7, code)),
        1 => any::<u8>().prop_map(|code| Access::Register(7, code)),
        4 => any::<u16>().prop_map(Access::Data),
        2 => Just(Access::ReadData),
        1 => any::<u8>().prop_map(Access::Control),
        3 => (0u64..16, any::<u8>()).prop_map(|(port, value)| Access::BusMaster(port, value)),
        1 => prop_oneof![Just(0x1000u32), any::<u32>()].prop_map(Access::Table),
        2 => Just(Access::Settle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20) })]

    #[test]
    fn no_sequence_breaks_the_channel(accesses in prop::collection::vec(access(), 1..200), table in prop::collection::vec(any::<u8>(), 256)) {
        let guest = guest();
        guest.poke_ram(TABLE, &table);
        for access in accesses {
            match access {
                Access::Register(port, value) => guest.out(port, value),
                Access::Data(value) => (0..260).for_each(|_| guest.write_data(&value.to_le_bytes())),
                Access::ReadData => drop(guest.read_data(700)),
                Access::Control(value) => guest.control(value & !4),
                Access::BusMaster(port, value) => drop(poke(&*guest.at(BUS_MASTER), port, 1, value.into())),
                Access::Table(at) => drop(poke(&*guest.at(BUS_MASTER), 4, 4, at.into())),
                Access::Settle => drop(guest.settle()),
            }
        }
        guest.function.pause();
        guest.function.drain();
        let state = crate::testing::saved(&*guest.function).unwrap();
        let other = Setup::default().build_stopped();
        match other.function.saver() {
            crate::lifecycle::Saver::Saves(saver) => saver.restore(state).unwrap(),
            _ => unreachable!(),
        }
        guest.function.resume();
        guest.control(4);
        guest.control(0);
        prop_assert_eq!(guest.settle(), READY);
        guest.command28(0x20, 3, 1);
        prop_assert_eq!(guest.interrupt(), READY | DRQ);
        prop_assert!(guest.read_data(512) == guest.image.bytes(3 * 512, 512));
    }

    #[test]
    fn random_transfers_keep_the_data(ops in prop::collection::vec((0u32..400, 1u8..40, any::<u8>(), 0u8..6, 1u32..9), 1..25)) {
        let guest = guest();
        let mut model = guest.image.bytes(0, MIB as usize);
        for (lba, count, fill, what, pieces) in ops {
            let (at, len) = (lba as usize * 512, usize::from(count) * 512);
            let data: Vec<u8> = (0..len).map(|n| fill.wrapping_add((n / 77) as u8)).collect();
            let codes = [0x30, 0x20, 0xca, 0xc8, 0x39, 0x29];
            let code = codes[usize::from(what)];
            let writes = what % 2 == 0;
            let step = if what >= 4 { 16 * 512 } else { 512 };
            if what >= 4 {
                guest.command48(code, lba.into(), count.into());
            } else {
                guest.command28(code, lba, count);
            }
            if matches!(what, 2 | 3) {
                // Pieces that do not end where sectors do.
                let each = (len / pieces as usize) & !1;
                let table: Vec<_> = (0..pieces)
                    .map(|n| {
                        let last = n + 1 == pieces;
                        let len = if last { len - each * n as usize } else { each };
                        (0x2_0000 + n * 0x1_0000, len as u16, last)
                    })
                    .collect();
                let mut from = 0;
                for &(address, len, _) in table.iter().filter(|_| writes) {
                    guest.poke_ram(address.into(), &data[from..from + usize::from(len)]);
                    from += usize::from(len);
                }
                guest.set_table(&table);
                guest.start_dma(!writes);
                prop_assert_eq!(guest.interrupt(), READY);
                guest.stop_dma();
                if !writes {
                    let there: Vec<u8> =
                        table.iter().flat_map(|&(address, len, _)| guest.peek_ram(address.into(), len.into())).collect();
                    prop_assert!(there == model[at..at + len]);
                }
            } else if writes {
                guest.settle();
                for block in data.chunks(step) {
                    guest.write_data(block);
                    guest.interrupt();
                }
            } else {
                let mut there = Vec::new();
                while there.len() < len {
                    guest.interrupt();
                    there.extend(guest.read_data(step.min(len - there.len())));
                }
                prop_assert!(there == model[at..at + len]);
            }
            if writes {
                model[at..at + len].copy_from_slice(&data);
            }
        }
        prop_assert!(guest.image.bytes(0, model.len()) == model);
    }
}

#[test]
fn no_single_access_panics() {
    for base in [0x1f0, 0x3f6, BUS_MASTER] {
        hammer(|| Setup { size: 64 << 10, disc: 64 << 10, ..Setup::default() }.build_stopped().at(base), 16);
    }
}

#[test]
fn reset_of_the_machine_while_a_sequence_runs_is_clean() {
    let guest = guest();
    guest.command28(0x30, 0, 2);
    guest.write_data(&[1; 600]);
    guest.function.pause();
    guest.function.drain();
    guest.function.reset();
    guest.function.resume();
    guest.set_up_pci();
    assert_eq!(guest.alternate(), READY);
    guest.command28(0xec, 0, 0);
    assert_eq!(guest.interrupt(), READY | DRQ);
}
