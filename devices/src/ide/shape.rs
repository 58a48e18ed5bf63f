//! The shape of a disk at the start of the machine.

use std::os::fd::AsRawFd;

use rhea_block::{Image, Op, Request};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::drive::{IdeDisk, SECTOR};
use crate::geometry::Shape;
use crate::scsi::bounce::Bounce;

/// The shape that the user gave the disk, or one guessed from its size and its partition table. Waits for the image.
#[must_use]
pub fn shape(config: &IdeDisk, image: &dyn Image) -> Shape {
    let shape = match config.geometry {
        Some(geometry) => Shape::of(geometry),
        None => Shape::guess(image.info().size, first_sector(image).as_ref()),
    };
    config.translation.map_or(shape, |translation| Shape { translation, ..shape })
}

/// Nothing when it cannot be read: the guest will see why.
fn first_sector(image: &dyn Image) -> Option<[u8; SECTOR as usize]> {
    let mut sector = [0; SECTOR as usize];
    let buffer = Bounce::new(sector.len())?;
    let mut queue = image.open_queue(1).ok()?;
    let epoll = Epoll::new().ok()?;
    let notifier = queue.notifier().as_raw_fd();
    epoll.ctl(ControlOperation::Add, notifier, EpollEvent::new(EventSet::IN, 0)).ok()?;
    queue.submit(Request { tag: 0, op: Op::Read, offset: 0, len: SECTOR, buffers: buffer.lend(0, sector.len()) });
    queue.kick();
    let done = loop {
        match queue.reap() {
            Some(done) => break done,
            None => epoll.wait(-1, &mut [EpollEvent::default()]).ok()?,
        };
    };
    done.result.ok()?;
    buffer.get(0, &mut sector);
    Some(sector)
}
