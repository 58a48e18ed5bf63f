//! Commands run to their end against an image in memory, as a front end would.

mod cd;
mod disk;
mod hostile;
mod reserve;

use std::sync::Arc;

use rhea_block::{Buffers, Image};

use super::bounce::Bounce;
use super::*;
use crate::virtio::testing::MemImage;

const MIB: u64 = 1 << 20;

fn disk_with(image: &Arc<MemImage>, change: impl FnOnce(&mut UnitConfig)) -> Arc<LogicalUnit> {
    let mut config = UnitConfig::disk("disk0");
    change(&mut config);
    let unit = LogicalUnit::new(config, Some(Arc::clone(image) as _), &Reservations::new()).unwrap();
    ready(&unit);
    unit
}

fn disk() -> (Arc<LogicalUnit>, Arc<MemImage>) {
    let image = MemImage::new(MIB);
    (disk_with(&image, |_| {}), image)
}

fn cd(image: Option<Arc<MemImage>>) -> Arc<LogicalUnit> {
    let image = image.map(|image| image as Arc<dyn Image>);
    let unit = LogicalUnit::new(UnitConfig::cd("cd0"), image, &Reservations::new()).unwrap();
    ready(&unit);
    unit
}

/// Opens queues and takes the power-on attention.
fn ready(unit: &LogicalUnit) {
    unit.attach(1, 16).unwrap();
    assert_eq!(run(unit, &[0, 0, 0, 0, 0, 0], &[]).sense, Some(sense::ATTENTION_RESET));
}

/// A command to its end: `out` is what the initiator sends.
fn run(unit: &LogicalUnit, cdb: &[u8], out: &[u8]) -> Reply {
    let cdb = match Cdb::parse(cdb) {
        Ok(cdb) => cdb,
        Err(sense) => return Reply::check(sense),
    };
    let plan = match unit.begin(&cdb) {
        Plan::Parameters(len) => unit.parameters(&cdb, &out[..len.min(out.len())]),
        plan => plan,
    };
    match plan {
        Plan::Done(reply) => reply,
        Plan::Parameters(_) => panic!("asks twice"),
        Plan::Preempt(_) => Reply::good(),
        Plan::Media(media) => work(unit, media, out),
    }
}

fn work(unit: &LogicalUnit, media: Media, out: &[u8]) -> Reply {
    let medium = unit.medium().unwrap();
    let mut queue = medium.image().open_queue(1).unwrap();
    let len = match media {
        Media::Read { len, .. } | Media::Write { len, .. } => usize::try_from(len).unwrap(),
        _ => 0,
    };
    let mut bounce = Bounce::new(len).unwrap();
    bounce.put(0, out);
    let buffers = if len > 0 { bounce.lend(0, len) } else { Buffers::none() };
    let claim = unit.claim(&media).unwrap();
    let reads = matches!(media, Media::Read { .. });
    let (mut job, mut step) = Job::start(media, 7, buffers, claim);
    loop {
        match step {
            Step::Done(mut reply) => {
                if reads && reply.status == status::GOOD {
                    reply.data = bounce.to_vec(0, len);
                }
                return reply;
            }
            Step::Submit(request) => {
                queue.submit(request);
                queue.kick();
                let done = queue.reap().unwrap();
                step = match done.result {
                    Ok(()) => job.completed(),
                    Err(errno) => return job.failed(errno),
                };
            }
        }
    }
}

fn good(unit: &LogicalUnit, cdb: &[u8], out: &[u8]) -> Vec<u8> {
    let reply = run(unit, cdb, out);
    assert_eq!((reply.status, reply.sense), (status::GOOD, None), "{cdb:02x?}");
    reply.data
}

fn bad(unit: &LogicalUnit, cdb: &[u8], out: &[u8]) -> Sense {
    let reply = run(unit, cdb, out);
    assert_eq!(reply.status, status::CHECK_CONDITION, "{cdb:02x?}");
    assert!(reply.data.is_empty());
    reply.sense.unwrap()
}

fn read10(lba: u32, blocks: u16) -> [u8; 10] {
    let ([a, b, c, d], [e, f]) = (lba.to_be_bytes(), blocks.to_be_bytes());
    [0x28, 0, a, b, c, d, 0, e, f, 0]
}

fn write10(lba: u32, blocks: u16) -> [u8; 10] {
    let mut cdb = read10(lba, blocks);
    cdb[0] = 0x2a;
    cdb
}
