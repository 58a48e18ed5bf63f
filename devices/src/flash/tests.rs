use std::sync::Arc;

use rhea_block::{ImageInfo, Op};

use super::*;
use crate::testing::{assert_device_battery, hammer, peek, poke};
use crate::virtio::testing::MemImage;

const SIZE: u64 = 16 * BLOCK;
const READY: u64 = 0x80;

fn chip_on(image: &Arc<MemImage>) -> Flash {
    let flash = Flash::new("system.flash0", Arc::clone(image) as _, Arc::default()).unwrap();
    flash.start().unwrap();
    flash
}

fn chip() -> (Arc<MemImage>, Flash) {
    let image = MemImage::new(SIZE);
    let flash = chip_on(&image);
    let _ = image.take_seen();
    (image, flash)
}

fn read_only_chip() -> Flash {
    chip_on(&MemImage::with_info(ImageInfo { read_only: true, ..MemImage::new(SIZE).info() }))
}

/// Writes one command byte after another at `offset`.
fn command(flash: &Flash, offset: u64, bytes: &[u8]) -> Effect {
    bytes.iter().map(|byte| poke(flash, offset, 1, u64::from(*byte)).unwrap()).last().unwrap()
}

fn status(flash: &Flash) -> u64 {
    command(flash, 0, &[0x70]);
    peek(flash, 0, 1).unwrap()
}

#[test]
fn array_shows_the_image() {
    let (_, flash) = chip();

    assert!(flash.shows_array());
    assert_eq!(peek(&flash, 5 * 512, 2), Some(0x0505));
}

#[test]
fn programmed_byte_is_in_the_image_when_the_array_shows_again() {
    let (image, flash) = chip();

    let leaves = command(&flash, 0x1234, &[0x10]);
    command(&flash, 0x1234, &[0xa5]);
    let returns = command(&flash, 0x1234, &[0xff]);

    assert_eq!((leaves, returns), (Effect::RemapMemory, Effect::RemapMemory));
    assert_eq!(peek(&flash, 0x1234, 1), Some(0xa5));
    assert_eq!(image.bytes(0x1234, 1), [0xa5]);
}

#[test]
fn programmed_byte_is_in_the_image_when_the_status_says_ready() {
    let (image, flash) = chip();

    command(&flash, 0x10, &[0x40, 0x5a]);
    let status = peek(&flash, 0, 1);

    assert_eq!((status, image.bytes(0x10, 1)), (Some(READY), vec![0x5a]));
}

#[test]
fn bytes_of_one_sector_go_to_the_image_in_one_write() {
    let (image, flash) = chip();

    for (offset, byte) in (0x200..0x210).zip(0u8..) {
        command(&flash, offset, &[0x10, byte]);
    }
    command(&flash, 0, &[0xff]);

    let seen = image.take_seen();
    assert_eq!(
        seen.iter().map(|s| (s.op, s.offset, s.len)).collect::<Vec<_>>(),
        [(Op::Write { fua: false }, 0x200, 512)]
    );
}

#[test]
fn erase_sets_one_block_and_only_when_confirmed() {
    let (image, flash) = chip();

    command(&flash, BLOCK + 0x123, &[0x20, 0xd0]);
    let done = status(&flash);
    command(&flash, 4 * BLOCK, &[0x20, 0x00]);
    let refused = status(&flash);
    command(&flash, 0, &[0xff]);

    assert_eq!((done, refused), (READY, 0xb0));
    assert!(image.bytes(BLOCK as usize, BLOCK as usize).iter().all(|byte| *byte == 0xff));
    assert_eq!((peek(&flash, BLOCK - 1, 1), peek(&flash, 2 * BLOCK, 1)), (Some(7), Some(16)));
    assert_eq!(peek(&flash, 4 * BLOCK, 1), Some(32));
}

#[test]
fn buffered_write_is_programmed_when_confirmed() {
    let (image, flash) = chip();

    command(&flash, 0x300, &[0xe8]);
    poke(&flash, 0x300, 1, 5).unwrap();
    poke(&flash, 0x300, 4, 0x4433_2211).unwrap();
    poke(&flash, 0x304, 2, 0x6655).unwrap();
    let before = image.bytes(0x300, 1);
    command(&flash, 0x300, &[0xd0]);
    let status = peek(&flash, 0, 1);

    assert_eq!((before, status), (vec![1], Some(READY)));
    assert_eq!(image.bytes(0x300, 7), [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 1]);
}

#[test]
fn buffered_write_across_blocks_or_with_a_gap_is_an_error() {
    let (image, flash) = chip();

    command(&flash, BLOCK - 1, &[0xe8, 3]);
    poke(&flash, BLOCK - 1, 2, 0).unwrap();
    let across = status(&flash);
    command(&flash, 0, &[0x50, 0xe8, 3, 0]);
    poke(&flash, 2, 1, 0).unwrap();
    let gap = status(&flash);
    command(&flash, 0, &[0xff]);

    assert_eq!((across, gap), (0xb0, 0xb0));
    assert!(image.take_seen().is_empty());
}

#[test]
fn cleared_status_shows_the_array() {
    let (_, flash) = chip();

    command(&flash, 0, &[0x70]);
    let effect = command(&flash, 0, &[0x50]);

    // What OVMF looks for, to know the chip from memory and from ROM.
    assert_eq!((effect, flash.shows_array()), (Effect::RemapMemory, true));
    assert_eq!(status(&flash), 0);
}

#[test]
fn query_names_intels_commands_and_the_blocks() {
    let (_, flash) = chip();

    command(&flash, 0x55, &[0x98]);

    let table: Vec<u8> = (0x10..0x17).map(|at| peek(&flash, at, 1).unwrap() as u8).collect();
    assert_eq!(table, [b'Q', b'R', b'Y', 1, 0, 0x31, 0]);
    assert_eq!((peek(&flash, 0x27, 1), peek(&flash, 0x2c, 1)), (Some(16), Some(1)));
    assert_eq!((peek(&flash, 0x2d, 2), peek(&flash, 0x2f, 2)), (Some(15), Some(0x10)));
}

#[test]
fn locked_block_refuses_until_it_is_unlocked() {
    let (_, flash) = chip();

    command(&flash, BLOCK, &[0x60, 0x01, 0x90]);
    let identity = peek(&flash, BLOCK + 2, 1);
    command(&flash, BLOCK + 8, &[0x10, 0x00]);
    let refused = status(&flash);
    command(&flash, BLOCK, &[0x50, 0x60, 0xd0, 0x10, 0x00]);
    let taken = status(&flash);

    assert_eq!((identity, refused, taken), (Some(1), 0x92, READY));
}

#[test]
fn read_only_image_makes_programming_and_erasing_fail() {
    let flash = read_only_chip();

    command(&flash, 0, &[0x10, 0xaa]);
    let programmed = status(&flash);
    command(&flash, 0, &[0x50, 0x20, 0xd0]);
    let erased = status(&flash);
    command(&flash, 0, &[0xff]);

    assert_eq!((programmed, erased, peek(&flash, 0, 1)), (0x90, 0xa0, Some(0)));
}

#[test]
fn failed_write_of_the_image_is_told_and_tried_again() {
    let (image, flash) = chip();

    image.fail(Some(libc::EIO));
    command(&flash, 0x400, &[0x10, 0x77]);
    let failed = peek(&flash, 0, 1);
    image.fail(None);
    command(&flash, 0, &[0xff]);

    assert_eq!((failed, image.bytes(0x400, 1)), (Some(0x90), vec![0x77]));
}

#[test]
fn image_that_is_no_chip_is_refused() {
    let refused = |size| Flash::new("f", MemImage::new(size), Arc::default()).err().unwrap();

    assert!(matches!(refused(0), FlashError::Size(0)));
    assert!(matches!(refused(5000), FlashError::Size(5000)));
    assert!(matches!(refused(LARGEST + BLOCK), FlashError::Size(_)));
}

#[test]
fn image_that_cannot_be_read_does_not_start() {
    let image = MemImage::new(SIZE);
    image.fail(Some(libc::EIO));
    let flash = Flash::new("f", image, Arc::default()).unwrap();

    assert!(flash.start().unwrap_err().to_string().contains("\"f\""));
}

#[test]
fn state_outside_of_the_chip_is_refused() {
    let (_, flash) = chip();
    let state = |locked, fill| {
        serde_json::json!({"version": "1", "mode": {"fill": fill}, "status": 128, "buffer_start": 0, "buffer": [1],
                           "locked": [locked]})
    };
    let Saver::Saves(saver) = flash.saver() else { panic!("it saves") };

    assert!(saver.restore(state(16, 1)).is_err());
    assert!(saver.restore(state(0, 300)).is_err());
    assert!(saver.restore(state(15, 3)).is_ok());
}

#[test]
fn flash_passes_the_battery() {
    let fresh = || Arc::new(Flash::new("f", MemImage::new(SIZE), Arc::default()).unwrap());

    assert_device_battery(fresh, |flash| {
        command(flash, BLOCK, &[0x60, 0x01, 0xe8, 2, 9]);
    });
}

#[test]
fn random_accesses_do_no_harm() {
    hammer(|| Arc::new(chip().1), SIZE);
}
