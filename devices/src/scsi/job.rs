//! A command's work on the medium, one image request after the other.

use rhea_block::{Buffers, Op, Request};

use super::bounce::Bounce;
use super::claims::Claim;
use super::plan::{Media, Reply};
use super::sense::{self, Sense};

/// Bytes read or written at once through memory of our own.
pub(super) const CHUNK: u64 = 1 << 20;
/// Bytes zeroed or discarded at once.
const SPAN: u64 = 1 << 30;

/// What a job wants next.
pub enum Step {
    /// Send this to the image; then call [`Job::completed`].
    Submit(Request),
    /// Nothing: the command is over.
    Done(Reply),
}

/// A command that works on the medium. At most one of its requests is in flight.
pub struct Job {
    media: Media,
    tag: u64,
    /// Bytes of the medium (or ranges of an unmap) that are done.
    done: u64,
    bounce: Option<Bounce>,
    /// What was there has been looked at: what is in flight is the write.
    looked: bool,
    /// What it changes is its own until it is over.
    _claim: Option<Claim>,
}

impl Job {
    /// Begins `media`. `buffers` are the initiator's, as long as a read or write says; other work needs none. `claim` is
    /// the unit's, for this work.
    #[must_use]
    pub fn start(media: Media, tag: u64, buffers: Buffers, claim: Option<Claim>) -> (Self, Step) {
        let request = |op, offset, len| Step::Submit(Request { tag, op, offset, len, buffers });
        let first = match media {
            Media::Read { offset, len } => Some(request(Op::Read, offset, len)),
            Media::Write { offset, len, fua } => Some(request(Op::Write { fua }, offset, len)),
            _ => None,
        };
        let mut job = Self { media, tag, done: 0, bounce: None, looked: false, _claim: claim };
        let step = first.unwrap_or_else(|| job.prepare());
        (job, step)
    }

    /// What it works on.
    #[must_use]
    pub fn media(&self) -> &Media {
        &self.media
    }

    /// The last request succeeded (or its failure is ignored).
    #[must_use]
    pub fn completed(&mut self) -> Step {
        match self.after() {
            Ok(None) => self.next(),
            Ok(Some(reply)) => Step::Done(reply),
            Err(sense) => Step::Done(Reply::check(sense)),
        }
    }

    /// The last request failed: the command is over.
    #[must_use]
    pub fn failed(&self, errno: i32) -> Reply {
        Reply::check(Sense::of_errno(errno))
    }

    /// Takes memory where the work needs some.
    fn prepare(&mut self) -> Step {
        let wanted = self.media.bounced();
        if wanted == 0 {
            return self.next();
        }
        let Some(mut bounce) = Bounce::new(wanted) else {
            return Step::Done(Reply::check(sense::TARGET_FAILURE));
        };
        if let Media::WriteSame { block, .. } = &self.media {
            for at in (0..bounce.len()).step_by(block.len().max(1)) {
                bounce.put(at, block);
            }
        }
        self.bounce = Some(bounce);
        self.next()
    }

    /// The next request, or the end.
    fn next(&mut self) -> Step {
        let tag = self.tag;
        let none = |op, offset, len| Request { tag, op, offset, len, buffers: Buffers::none() };
        let lend = |op, offset, len: u64| {
            let len = usize::try_from(len).unwrap_or(0);
            let buffers = self.bounce.as_ref().map_or_else(Buffers::none, |bounce| bounce.lend(0, len));
            Request { tag, op, offset, len: buffers.len(), buffers }
        };
        let request = match &self.media {
            Media::Read { .. } | Media::Write { .. } => None,
            Media::Flush => (self.done == 0).then(|| none(Op::Flush, 0, 0)),
            Media::Verify { offset, len, .. } => {
                let step = (len - self.done).min(CHUNK);
                (step > 0).then(|| lend(Op::Read, offset + self.done, step))
            }
            Media::CompareAndWrite { offset, data, fua, .. } | Media::OrWrite { offset, data, fua } => {
                let op = if self.looked { Op::Write { fua: *fua } } else { Op::Read };
                (self.done == 0).then(|| lend(op, *offset, data.len() as u64))
            }
            Media::WriteSame { offset, len, block, unmap, fua } => {
                let most = if block.is_empty() { SPAN } else { CHUNK };
                let (at, step) = (offset + self.done, (len - self.done).min(most));
                let zeroes = Op::WriteZeroes { unmap: *unmap, fua: *fua };
                let make =
                    || if block.is_empty() { none(zeroes, at, step) } else { lend(Op::Write { fua: *fua }, at, step) };
                (step > 0).then(make)
            }
            Media::Unmap(ranges) => {
                let range = usize::try_from(self.done).ok().and_then(|at| ranges.get(at));
                range.map(|(offset, len)| none(Op::Discard, *offset, *len))
            }
            Media::RawSectors { lba, count } => {
                (self.done == 0).then(|| lend(Op::Read, u64::from(*lba) * 2048, u64::from(*count) * 2048))
            }
        };
        request.map_or_else(|| Step::Done(Reply::good()), Step::Submit)
    }

    /// Looks at what the last request brought; a reply ends the command.
    fn after(&mut self) -> Result<Option<Reply>, Sense> {
        match &self.media {
            Media::Read { .. } | Media::Write { .. } | Media::Flush => self.done = 1,
            Media::Verify { len, expected, .. } => {
                let step = (len - self.done).min(CHUNK);
                if let (Some(expected), Some(bounce)) = (expected, &self.bounce) {
                    compare(bounce, step, expected, self.done)?;
                }
                self.done += step;
            }
            Media::CompareAndWrite { .. } | Media::OrWrite { .. } if self.looked => self.done = 1,
            Media::CompareAndWrite { expected, data, .. } => {
                let bounce = self.bounce.as_mut().ok_or(sense::TARGET_FAILURE)?;
                compare(bounce, data.len() as u64, expected, 0)?;
                bounce.put(0, data);
                self.looked = true;
            }
            Media::OrWrite { data, .. } => {
                let bounce = self.bounce.as_mut().ok_or(sense::TARGET_FAILURE)?;
                let there = bounce.to_vec(0, data.len());
                let both: Vec<u8> = there.iter().zip(data).map(|(old, new)| old | new).collect();
                bounce.put(0, &both);
                self.looked = true;
            }
            Media::WriteSame { len, block, .. } => {
                self.done += (len - self.done).min(if block.is_empty() { SPAN } else { CHUNK });
            }
            Media::Unmap(_) => self.done += 1,
            Media::RawSectors { lba, count } => {
                let bounce = self.bounce.as_ref().ok_or(sense::TARGET_FAILURE)?;
                return Ok(Some(Reply { data: super::cd::raw_sectors(*lba, *count, bounce), ..Reply::good() }));
            }
        }
        Ok(None)
    }
}

/// Compares `len` bytes with `expected`, repeated, from its byte `from`. The INFORMATION field says where the first
/// difference is (SBC-4, 5.3.2).
fn compare(bounce: &Bounce, len: u64, expected: &[u8], from: u64) -> Result<(), Sense> {
    let there = bounce.to_vec(0, usize::try_from(len).unwrap_or(0));
    let skip = usize::try_from(from).unwrap_or(0) % expected.len().max(1);
    let mut wanted = expected.iter().cycle().skip(skip);
    match there.iter().position(|byte| wanted.next() != Some(byte)) {
        None => Ok(()),
        Some(at) => Err(sense::MISCOMPARE.at(from + at as u64)),
    }
}
