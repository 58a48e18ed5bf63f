use super::*;

const ACTIVE: u8 = 1;
const ERROR: u8 = 2;
const INTERRUPT: u8 = 4;

#[test]
fn read_goes_where_the_table_says() {
    let guest = guest();
    guest.set_table(&[(0x2_0000, 1024, false), (0x3_0002, 510, false), (0x4_0000, 512 + 2, true)]);
    guest.command28(0xc8, 3, 4);
    assert_eq!(guest.alternate(), READY | DRQ);
    guest.start_dma(true);
    assert_eq!(guest.interrupt(), READY);
    assert_eq!(guest.bus_master(2) & 7, INTERRUPT);
    let there = [guest.peek_ram(0x2_0000, 1024), guest.peek_ram(0x3_0002, 510), guest.peek_ram(0x4_0000, 514)].concat();
    assert!(there == guest.image.bytes(3 * 512, 2048));
    guest.stop_dma();
}

#[test]
fn write_comes_from_where_the_table_says_even_if_started_first() {
    let guest = guest();
    let data: Vec<u8> = (0..8192).map(|at| (at % 253) as u8).collect();
    guest.poke_ram(0x2_0000, &data);
    guest.set_table(&[(0x2_0000, 8192, true)]);
    guest.start_dma(false);
    guest.command48(0x35, 100, 16);
    assert_eq!(guest.interrupt(), READY);
    assert!(guest.image.bytes(100 * 512, 8192) == data);
    assert_eq!(guest.bus_master(2) & 7, INTERRUPT);
}

#[test]
fn count_of_zero_means_64_kib_and_long_transfers_go_in_chunks() {
    let guest = Setup { size: 4 * MIB, ..Setup::default() }.build();
    let regions: Vec<_> = (0..24u32).map(|n| (0x10_0000 + (n << 16), 0, n == 23)).collect();
    guest.set_table(&regions);
    guest.command48(0x25, 0, 24 * 128);
    guest.start_dma(true);
    assert_eq!(guest.interrupt(), READY);
    assert!(guest.peek_ram(0x10_0000, 24 << 16) == guest.image.bytes(0, 24 << 16));
    assert_eq!(guest.image.take_seen().len(), 2);
}

#[test]
fn table_longer_than_the_transfer_leaves_the_bus_master_active() {
    let guest = guest();
    guest.set_table(&[(0x2_0000, 4096, true)]);
    guest.command28(0xc8, 0, 1);
    guest.start_dma(true);
    guest.interrupt();
    assert_eq!(guest.bus_master(2) & 7, ACTIVE | INTERRUPT);
    guest.stop_dma();
    assert_eq!(guest.bus_master(2) & 7, INTERRUPT);
}

#[test]
fn bus_master_sees_no_interrupt_that_is_kept_off_the_wire() {
    let guest = guest();
    guest.set_table(&[(0x2_0000, 512, true)]);
    guest.control(0x0a);
    guest.command28(0xc8, 0, 1);
    guest.start_dma(true);
    assert_eq!(guest.settle(), READY);
    let kept_off = guest.bus_master(2) & 7;
    guest.control(0x08);

    assert_eq!(kept_off, 0);
    assert_eq!(guest.bus_master(2) & 7, INTERRUPT);
    assert_eq!(guest.interrupt(), READY);
}

#[test]
fn table_shorter_than_the_transfer_stops_without_an_interrupt() {
    let guest = guest();
    for count in [256, 512] {
        guest.set_table(&[(0x2_0000, count, true)]);
        guest.command28(0xc8, 0, 2);
        guest.start_dma(true);
        let began = Instant::now();
        while guest.bus_master(2) & ACTIVE != 0 {
            assert!(began.elapsed() < PATIENCE);
            std::thread::yield_now();
        }
        assert_eq!((guest.settle(), guest.bus_master(2) & 7), (READY, 0));
        guest.stop_dma();
    }
}

#[test]
fn stop_in_the_middle_of_a_command_takes_effect_at_its_end() {
    let guest = guest();
    guest.set_table(&[(0x2_0000, 4096, true)]);
    guest.image.hold();
    guest.command28(0xc8, 0, 2);
    guest.start_dma(true);
    guest.stop_dma();
    assert_eq!(guest.bus_master(2) & 7, ACTIVE);
    guest.image.release();
    assert_eq!(guest.interrupt(), READY);
    assert_eq!(guest.bus_master(2) & 7, INTERRUPT);
    assert!(guest.peek_ram(0x2_0000, 1024) == guest.image.bytes(0, 1024));
}

#[test]
fn memory_that_is_not_there_is_a_bus_master_error() {
    let guest = guest();
    for (address, table) in [(0x8000_0000, TABLE), (0xffff_fffe, TABLE), (0x2_0000, 0x7fff_fff8)] {
        guest.set_table(&[(address, 512, true)]);
        poke(&*guest.at(BUS_MASTER), 4, 4, table);
        guest.command28(0xc8, 0, 1);
        guest.start_dma(true);
        assert_eq!((guest.interrupt(), guest.inb(1)), (0x41, 4));
        assert_eq!(guest.bus_master(2) & 7, INTERRUPT | ERROR);
        guest.stop_dma();
    }
    assert_eq!(guest.image.take_seen(), []);
}

#[test]
fn endless_table_ends_after_64_kib() {
    let guest = guest();
    // Zeroes: regions of 64 KiB at 0, none of them the last.
    guest.poke_ram(0x10_0000, &vec![0; 72 << 10]);
    poke(&*guest.at(BUS_MASTER), 4, 4, 0x10_0000);
    guest.command28(0xc8, 0, 0);
    guest.start_dma(true);
    assert_eq!(guest.interrupt(), READY);
}

#[test]
fn without_bus_mastering_memory_is_left_alone() {
    let guest = guest();
    guest.poke_ram(0x2_0000, &[0x55; 512]);
    guest.set_table(&[(0x2_0000, 512, true)]);
    let _effect = guest.function.config_write(0x04, &1u16.to_le_bytes());
    guest.command28(0xc8, 1, 1);
    guest.start_dma(true);
    assert_eq!(guest.interrupt(), READY);
    assert_eq!(guest.bus_master(2) & 7, ACTIVE | INTERRUPT);
    assert_eq!(guest.peek_ram(0x2_0000, 512), [0x55; 512]);
    guest.command28(0xca, 1, 1);
    guest.start_dma(false);
    assert_eq!((guest.interrupt(), guest.inb(1)), (0x41, 4), "nothing is written that was not read");
    assert_eq!(guest.image.take_seen(), []);
}

#[test]
fn trim_discards_its_ranges() {
    let guest = guest();
    let mut list = vec![0; 512];
    for (n, (lba, count)) in [(8u64, 8u64), (0, 0), (100, 1)].into_iter().enumerate() {
        list[8 * n..8 * n + 8].copy_from_slice(&(lba | count << 48).to_le_bytes());
    }
    guest.poke_ram(0x2_0000, &list);
    guest.set_table(&[(0x2_0000, 512, true)]);
    guest.out(1, 1);
    guest.image.hold();
    guest.command28(0x06, 0, 1);
    guest.start_dma(false);
    assert_eq!(guest.bus_master(2) & 7, ACTIVE, "the ranges are here, and not discarded yet");
    guest.image.release();
    assert_eq!(guest.interrupt(), READY);
    assert_eq!(guest.bus_master(2) & 7, INTERRUPT);
    let seen: Vec<_> = guest.image.take_seen().iter().map(|seen| (seen.op, seen.offset, seen.len)).collect();
    assert_eq!(seen, [(rhea_block::Op::Discard, 4096, 4096), (rhea_block::Op::Discard, 51200, 512)]);
    guest.stop_dma();
    list[..8].copy_from_slice(&(2048u64 | 1 << 48).to_le_bytes());
    guest.poke_ram(0x2_0000, &list);
    guest.command48(0x06, 0, 1);
    guest.start_dma(false);
    assert_eq!(guest.interrupt() & ERR, ERR);
    assert_eq!(guest.image.take_seen(), []);
}
