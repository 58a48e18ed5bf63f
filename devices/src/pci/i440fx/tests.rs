use std::sync::Arc;

use super::*;
use crate::testing::assert_device_battery;

const REMAP: Effect = Effect::Remap(Bdf::new(0, 0, 0));

fn read32(bridge: &I440fx, offset: u8) -> u32 {
    let mut bytes = [0; 4];
    bridge.config_read(offset, &mut bytes);
    u32::from_le_bytes(bytes)
}

#[test]
fn guest_sees_an_82441fx() {
    let bridge = I440fx::new();

    assert_eq!(read32(&bridge, 0), 0x1237_8086);
    assert_eq!(read32(&bridge, 4), 0x0280_0006);
    assert_eq!(read32(&bridge, 8), 0x0600_0002);
    assert_eq!(read32(&bridge, 0x2c), 0x1100_1af4);
}

#[test]
fn segments_cover_the_rom_area_without_gaps() {
    let mut next = 0xc_0000;

    for segment in I440fx::new().pam() {
        assert_eq!(segment.base, next);
        assert!(!segment.read_ram && !segment.write_ram);
        next += segment.len;
    }

    assert_eq!(next, 0x10_0000);
}

#[test]
fn pam_registers_move_their_segments() {
    let bridge = I440fx::new();

    assert_eq!(bridge.config_write(0x59, &[0x30]), REMAP);
    assert_eq!(bridge.config_write(0x5a, &[0x21]), REMAP);
    assert_eq!(bridge.config_write(0x5f, &[0x30]), REMAP);

    let ram: Vec<_> = bridge.pam().iter().map(|s| (s.base, s.read_ram, s.write_ram)).filter(|s| s.1 || s.2).collect();
    let expected = [(0xc_0000, true, false), (0xc_4000, false, true), (0xe_c000, true, true), (0xf_0000, true, true)];
    assert_eq!(ram, expected);
}

#[test]
fn rewriting_the_same_value_remaps_nothing() {
    let bridge = I440fx::new();
    let _ = bridge.config_write(0x59, &[0x30]);

    assert_eq!(bridge.config_write(0x59, &[0x3f]), Effect::None);
    assert_eq!(bridge.config_write(0x04, &[0xff, 0xff]), Effect::None);
}

#[test]
fn locked_smram_stays_closed() {
    let bridge = I440fx::new();
    let _ = bridge.config_write(SMRAM, &[0x4a]);
    assert_eq!(bridge.smram(), 0x4a);

    let _ = bridge.config_write(SMRAM, &[0x1a]);
    let _ = bridge.config_write(SMRAM, &[0x4a]);

    assert_eq!(bridge.smram(), 0x1a);
}

#[test]
fn passes_the_battery() {
    assert_device_battery(
        || Arc::new(I440fx::new()),
        |bridge| {
            let _ = bridge.config_write(0x58, &[0x12, 0x34, 0x56, 0x78]);
        },
    );
}
