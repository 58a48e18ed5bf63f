use super::*;

const BLOCK: Identity = Identity {
    vendor: 0x1af4,
    device: 0x1042,
    revision: 1,
    class: 0x01_80_00,
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
};

fn space() -> ConfigSpace {
    ConfigSpace::type0(&BLOCK)
        .with_interrupt_pin(1)
        .with_bar(0, Bar { kind: BarKind::Io, size: 0x40 })
        .and_then(|s| s.with_bar(1, Bar { kind: BarKind::Memory32, size: 0x1000 }))
        .and_then(|s| s.with_bar(4, Bar { kind: BarKind::Prefetchable64, size: 0x4000 }))
        .unwrap()
}

#[test]
fn header_holds_identity() {
    let s = space();

    assert_eq!(s.get32(0), 0x1042_1af4);
    assert_eq!(s.get32(8), 0x0180_0001);
    assert_eq!(s.get32(0x2c), 0x1100_1af4);
    assert_eq!(s.get8(reg::INTERRUPT_PIN), 1);
}

#[test]
fn sizing_with_all_ones_shows_size_and_type() {
    let mut s = space();

    for at in [0x10, 0x14, 0x18, 0x20, 0x24] {
        let _ = s.write(at, &[0xff; 4]);
    }

    assert_eq!(s.get32(0x10), 0xffff_ffc1);
    assert_eq!(s.get32(0x14), 0xffff_f000);
    assert_eq!(s.get32(0x18), 0);
    assert_eq!(s.get32(0x20), 0xffff_c00c);
    assert_eq!(s.get32(0x24), 0xffff_ffff);
}

#[test]
fn sizing_while_decoding_decodes_nothing() {
    let mut s = space();
    let _ = s.write(reg::COMMAND, &[3, 0]);

    for at in [0x10, 0x14, 0x20, 0x24] {
        let _ = s.write(at, &[0xff; 4]);
    }

    assert_eq!([s.bar(0), s.bar(1), s.bar(4)], [None; 3]);
}

#[test]
fn command_register_gates_each_space() {
    let mut s = space();
    s.assign_bar(0, 0xc000);
    s.assign_bar(1, 0xfebf_1000);
    s.assign_bar(4, 0x40_0000_4000);
    assert_eq!([s.bar(0), s.bar(1), s.bar(4)], [None; 3]);

    let io = s.write(reg::COMMAND, &[1, 0]);
    assert_eq!(io, Changed { decode: true, command: true });
    assert_eq!([s.bar(0), s.bar(1), s.bar(4)], [Some(0xc000), None, None]);

    let memory = s.write(reg::COMMAND, &[2, 0]);
    assert!(memory.decode);
    assert_eq!([s.bar(0), s.bar(1), s.bar(4)], [None, Some(0xfebf_1000), Some(0x40_0000_4000)]);
}

#[test]
fn moving_a_decoding_bar_says_so_and_rewriting_it_does_not() {
    let mut s = space();
    s.assign_bar(1, 0xfebf_1000);
    let _ = s.write(reg::COMMAND, &[2, 0]);

    assert!(s.write(0x14, &0xfebf_2000u32.to_le_bytes()).decode);
    assert!(!s.write(0x14, &0xfebf_2000u32.to_le_bytes()).decode);
    assert_eq!(s.bar(1), Some(0xfebf_2000));
}

#[test]
fn byte_writes_build_a_bar() {
    let mut s = space();
    let _ = s.write(reg::COMMAND, &[2]);

    for (at, byte) in [(0x14, 0x00), (0x15, 0x10), (0x16, 0xbf), (0x17, 0xfe)] {
        let _ = s.write(at, &[byte]);
    }

    assert_eq!(s.bar(1), Some(0xfebf_1000));
}

#[test]
fn read_only_header_ignores_writes() {
    let mut s = space();

    for at in [0x00, 0x08, 0x2c, 0x34] {
        let _ = s.write(at, &[0xa5; 4]);
    }

    assert_eq!(s.get32(0), 0x1042_1af4);
    assert_eq!(s.get32(8), 0x0180_0001);
    assert_eq!(s.get32(0x2c), 0x1100_1af4);
    assert_eq!(s.get32(0x34), 0);
}

#[test]
fn status_error_bits_clear_by_ones_only() {
    let mut s = space();
    s.set(reg::STATUS, &0xf900u16.to_le_bytes());

    let _ = s.write(reg::STATUS, &0x8000u16.to_le_bytes());

    assert_eq!(s.get16(reg::STATUS), 0x7900);
}

#[test]
fn interrupt_pin_is_driven_while_pending_and_not_disabled() {
    let mut s = space();
    assert!(!s.intx_level());

    s.set_interrupt_status(true);
    assert!(s.intx_level());

    let changed = s.write(reg::COMMAND, &command::INTX_DISABLE.to_le_bytes());
    assert_eq!(changed, Changed { decode: false, command: true });
    assert!(!s.intx_level());
    assert_eq!(s.get16(reg::STATUS) & status::INTERRUPT, status::INTERRUPT);
}

#[test]
fn capabilities_are_linked_and_masked() {
    let mut s = space();
    let first = s.add_capability(0x09, &[16, 1, 4], &[0, 0, 0]).unwrap();
    let second = s.add_capability(0x11, &[0x02, 0x00], &[0x00, 0xc0]).unwrap();

    let _ = s.write(second, &[0xff; 4]);

    assert_eq!((first, second), (0x40, 0x48));
    assert_eq!(s.get8(reg::CAPABILITIES), 0x40);
    assert_eq!(s.get16(first), 0x4809);
    assert_eq!(s.get32(second), 0xc002_0011);
    assert_eq!(s.get16(reg::STATUS) & status::CAPABILITIES, status::CAPABILITIES);
}

#[test]
fn capability_list_fills_up_with_an_error() {
    let mut s = space();

    let added = (0..100).take_while(|_| s.add_capability(9, &[0; 14], &[]).is_ok()).count();

    assert_eq!(added, 11);
    assert_eq!(s.add_capability(9, &[0; 14], &[]), Err(ConfigError::CapabilityRoom(16)));
}

#[test]
fn impossible_bars_are_refused() {
    let bar = |index, kind, size| space().with_bar(index, Bar { kind, size }).err();

    assert_eq!(bar(1, BarKind::Memory32, 0x1000), Some(ConfigError::BarTaken(1)));
    assert_eq!(bar(5, BarKind::Memory32, 0x1000), Some(ConfigError::BarTaken(5)));
    assert_eq!(bar(3, BarKind::Memory64, 0x1000), Some(ConfigError::BarTaken(3)));
    assert_eq!(bar(6, BarKind::Memory32, 0x1000), Some(ConfigError::BarTaken(6)));
    assert_eq!(bar(2, BarKind::Memory32, 0x1001), Some(ConfigError::BarSize { index: 2, size: 0x1001 }));
    assert_eq!(bar(2, BarKind::Io, 512), Some(ConfigError::BarSize { index: 2, size: 512 }));
}

#[test]
fn reset_returns_to_power_on_and_reports_lost_decoding() {
    let mut s = space();
    let new = s.save();
    s.assign_bar(1, 0xfebf_1000);
    let _ = s.write(reg::COMMAND, &[2, 0]);

    let changed = s.reset();

    assert!(changed.decode);
    assert_eq!(s.save(), new);
}

#[test]
fn saved_contents_come_back() {
    let mut s = space();
    s.assign_bar(1, 0xfebf_1000);
    let _ = s.write(reg::COMMAND, &[6, 4]);
    s.set_interrupt_status(true);

    let mut other = space();
    other.restore(&s.save()).unwrap();

    assert_eq!(other.save(), s.save());
    assert_eq!(other.bar(1), Some(0xfebf_1000));
}

#[test]
fn another_devices_contents_are_refused() {
    let stranger = ConfigSpace::type0(&Identity { device: 0x1041, ..BLOCK });
    let mut s = space();
    let before = s.save();

    assert!(s.restore(&stranger.save()).unwrap_err().contains("0x02"));
    assert!(s.restore(&ConfigState { bytes: vec![0; 255] }).is_err());
    assert_eq!(s.save(), before);
}

#[test]
fn accesses_past_the_end_read_ones_and_write_nothing() {
    let mut s = space();
    let mut data = [0; 4];

    let _ = s.write(0xfe, &[0x12; 4]);
    s.read(0xfe, &mut data);

    assert_eq!(data, [0, 0, 0xff, 0xff]);
}
