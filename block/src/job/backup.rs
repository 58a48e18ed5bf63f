//! `blockdev-backup`: a disk as it is at one moment goes to another image, while the guest goes on writing.

use std::ops::Range;
use std::sync::Arc;

use super::chain::{self, Decides, unit_of};
use super::{Control, Halt};
use crate::error::{BlockError, ErrorKind};
use crate::filter::before_write::{BeforeWrite, Snapshot};
use crate::filter::mirror::copy_range;
use crate::format::qcow2::{Bits, Qcow2};
use crate::graph::Node;
use crate::layer::{Layer, read_vec};
use crate::mem::Source;

/// What of a disk a backup is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All that it shows.
    Whole,
    /// What the image on top holds itself.
    Top,
    /// What a bitmap says has changed.
    Marked(Bits),
    /// Only what the guest changes, until someone ends it: the target shows the moment, standing on the disk itself.
    Changed,
}

/// The work of one backup.
pub struct Backup {
    source: Arc<Node>,
    target: Arc<Node>,
    part: Part,
    filter: Arc<BeforeWrite>,
}

impl Backup {
    /// Of `source`, which a front end may write to through `front`, which shows the same bytes (or is it), into `target`,
    /// which nobody uses. The moment is that in which the front end comes to stand on [`Backup::filter`]. Clusters are
    /// stored compressed if `compress`.
    ///
    /// # Errors
    /// When `target` is of another size, or cannot be written, or holds nothing compressed.
    pub fn new(
        front: &Node,
        source: Arc<Node>,
        target: Arc<Node>,
        part: Part,
        compress: bool,
    ) -> Result<Self, BlockError> {
        if source.layer().size() != target.layer().size() {
            return Err(BlockError::new(ErrorKind::Invalid, "Source and target image have different sizes"));
        }
        if target.layer().limits().read_only {
            return Err(BlockError::new(ErrorKind::Permission, format!("node '{}' is read-only", target.name())));
        }
        if compress && !target.layer().as_any().is::<Qcow2>() {
            let text = format!("Compression is not supported for this drive {}", target.name());
            return Err(BlockError::new(ErrorKind::Unsupported, text));
        }
        let (from, to, what) = (source.clone(), target.clone(), part.clone());
        let keep = move |offset, len| match to.layer().as_any().downcast_ref().filter(|_| compress) {
            Some(image) => keep_packed(&from, (&to, image), &what, offset, len),
            None => keep(&from, &to, &what, offset, len),
        };
        let filter = BeforeWrite::new(front.layer().clone(), Self::unit_of(&source, &target), Box::new(keep));
        let filter = Arc::new(filter);
        Ok(Self { source, target, part, filter })
    }

    /// Bytes of a backup's unit, which is copied in one piece: at least a cluster of the target's, as in QEMU.
    #[must_use]
    pub fn unit_of(source: &Node, target: &Node) -> u64 {
        BeforeWrite::unit_of(source.layer().size(), unit_of(target))
    }

    /// What the front end has to stand on while the work is done.
    #[must_use]
    pub fn filter(&self) -> Arc<dyn Layer> {
        self.filter.clone()
    }

    /// The disk as it was at the moment of the backup, for who reads it from the target while the job goes on; only
    /// where all that changes is kept and the target stands on the source.
    #[must_use]
    pub fn snapshot(&self) -> Option<Arc<dyn Layer>> {
        let stands = self.part == Part::Changed && self.target.is_overlay_of(&self.source);
        stands.then(|| Arc::new(Snapshot::new(self.filter.clone(), self.target.layer().clone())) as Arc<dyn Layer>)
    }

    /// Copies what the guest has not changed.
    ///
    /// # Errors
    /// When it was cancelled, which is how a backup of what changes ends, or something could not be read or written.
    pub fn run(&self, control: &Control) -> Result<(), Halt> {
        if self.part == Part::Changed {
            control.set_total(self.source.layer().size());
            return control.wait_for_end(|| self.check(control)).map(drop);
        }
        let ranges = || (0..self.filter.units()).map(|unit| self.filter.range_of(unit));
        control.set_total(ranges().map(|range| self.asked_of(range)).sum());
        let mut done = 0;
        for (unit, range) in (0..self.filter.units()).zip(ranges()) {
            control.step(done, 0)?;
            let moved = self.copy(unit, control)?;
            done += self.asked_of(range);
            control.step(done, moved)?;
        }
        self.check(control)?;
        control.insist(|| self.target.layer().flush())
    }

    /// Copies a unit, again and again if the policy says so.
    fn copy(&self, unit: u64, control: &Control) -> Result<u64, Halt> {
        loop {
            match self.filter.copy(unit) {
                Ok(moved) => return Ok(moved),
                Err(error) => {
                    self.check(control)?;
                    control.failed(error)?;
                }
            }
        }
    }

    /// What a guest's write could not have kept is lost, whatever the policy says.
    fn check(&self, control: &Control) -> Result<(), Halt> {
        self.filter.check().map_err(|error| control.lost(error))
    }

    /// How many bytes of a range the backup is of.
    fn asked_of(&self, range: Range<u64>) -> u64 {
        match &self.part {
            Part::Marked(bits) => bits.runs(range).map(|run| run.end - run.start).sum(),
            Part::Whole | Part::Top | Part::Changed => range.end - range.start,
        }
    }

    /// What a bitmap said had changed and was not copied.
    #[must_use]
    pub fn left(&self) -> Option<Bits> {
        let Part::Marked(bits) = &self.part else { return None };
        let mut left = Bits { bytes: vec![0; bits.bytes.len()], ..*bits };
        let open = (0..self.filter.units()).filter(|unit| !self.filter.is_done(*unit));
        for range in open.map(|unit| self.filter.range_of(unit)) {
            bits.runs(range).for_each(|run| left.set(run.start, run.end));
        }
        Some(left)
    }
}

/// The runs of a range, which is of whole units, that `part` says: in whole units, too.
fn asked(part: &Part, range: Range<u64>, unit: u64) -> Vec<Range<u64>> {
    let Part::Marked(bits) = part else { return vec![range] };
    let mut runs: Vec<Range<u64>> = Vec::new();
    for run in bits.runs(range.clone()) {
        let whole = run.start & !(unit - 1)..run.end.next_multiple_of(unit).min(range.end);
        match runs.last_mut().filter(|last| whole.start <= last.end) {
            Some(last) => last.end = whole.end,
            None => runs.push(whole),
        }
    }
    runs
}

/// Copies of a run, which is of whole units, what `part` says; gives the bytes that were moved.
fn keep(source: &Arc<Node>, target: &Arc<Node>, part: &Part, offset: u64, len: u64) -> Result<u64, BlockError> {
    let runs = asked(part, offset..offset + len, unit_of(target)).into_iter();
    runs.map(|run| keep_range(source, target, part, run)).sum()
}

/// The same, with clusters that hold data stored compressed, and whole: a run begins where a cluster does.
fn keep_packed(
    source: &Arc<Node>,
    (target, image): (&Arc<Node>, &Qcow2),
    part: &Part,
    offset: u64,
    len: u64,
) -> Result<u64, BlockError> {
    let mut moved = 0;
    let cluster = image.cluster_size();
    for at in (offset..offset + len).step_by(usize::try_from(cluster).unwrap_or(usize::MAX)) {
        let within = at..(at + cluster).min(offset + len);
        if !holds_data(source, part, within.clone(), cluster)? {
            moved += keep(source, target, part, at, within.end - at)?;
            continue;
        }
        let bytes = usize::try_from(within.end - at).unwrap_or(usize::MAX);
        let mut content = read_vec(source.layer().as_ref(), at, bytes).map_err(BlockError::while_reading)?;
        content.resize(usize::try_from(cluster).unwrap_or(usize::MAX), 0);
        match image.pack_cluster(&content)? {
            Some(packed) => image.write_packed(at, &packed)?,
            // It would not become smaller.
            None => target.layer().write(Source::of(&content[..bytes]), at)?,
        }
        moved += within.end - at;
    }
    Ok(moved)
}

/// Whether the backup is of any data within a range of whole units.
fn holds_data(source: &Arc<Node>, part: &Part, range: Range<u64>, unit: u64) -> Result<bool, BlockError> {
    for run in asked(part, range, unit) {
        let mut at = run.start;
        while at < run.end {
            let (len, decides) = decides(source, part, at, run.end - at, unit)?;
            if matches!(decides, Decides::Data) {
                return Ok(true);
            }
            at += len;
        }
    }
    Ok(false)
}

/// What decides a run of whole units of the source, as far as the backup is of it, and how long that run is.
fn decides(source: &Arc<Node>, part: &Part, at: u64, len: u64, unit: u64) -> Result<(u64, Decides), BlockError> {
    let above = (*part == Part::Top).then(|| source.backing()).flatten();
    chain::decides_whole(|| chain::down_to(source.shown_by(), above.as_ref()), at, len, unit)
}

/// Copies a range.
fn keep_range(source: &Arc<Node>, target: &Arc<Node>, part: &Part, range: Range<u64>) -> Result<u64, BlockError> {
    let (mut at, mut moved) = (range.start, 0);
    while at < range.end {
        let (len, bytes) = keep_run(source, target, part, at, range.end - at)?;
        at += len;
        moved += bytes;
    }
    Ok(moved)
}

/// Copies a run that one image decides; gives its length and the bytes that were moved.
fn keep_run(source: &Arc<Node>, target: &Arc<Node>, part: &Part, at: u64, len: u64) -> Result<(u64, u64), BlockError> {
    let (run, decides) = decides(source, part, at, len, unit_of(target))?;
    let above = *part == Part::Top && source.backing().is_some();
    let to = target.layer().as_ref();
    match decides {
        Decides::Nobody if above => Ok((run, 0)),
        Decides::Data => copy_range(source.layer().as_ref(), to, at, run).map(|()| (run, run)),
        // A target on the source shows zeroes now, and something else when the guest has written.
        Decides::Zero | Decides::Nobody if target.is_overlay_of(source) => {
            to.write_zeroes(at, run, true).map(|()| (run, 0))
        }
        Decides::Zero | Decides::Nobody => super::copy::make_zero(target, at, run, true).map(|()| (run, 0)),
    }
}
