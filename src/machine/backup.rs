//! `blockdev-backup` and `drive-backup`: a disk as it is at one moment, copied into another image while the guest goes on.

use std::sync::Arc;

use rhea_block::ErrorKind;
use rhea_block::format::qcow2::Bits;
use rhea_block::graph::{JobNode, NewTarget, Node, OwnTarget};
use rhea_block::job::{Backup, Control, Part};

use super::Machine;
use super::bitmaps::keeper;
use super::image_jobs::{changed_past, could_not_create};
use super::jobs::{Closing, Order};
use crate::qmp::QmpError;
use crate::qmp::command::args::{self, BackupArgs, BackupPerf, BackupSyncMode, BitmapSyncMode};

/// A bitmap that a backup has in its hands.
struct Marks {
    source: Arc<Node>,
    name: String,
    bits: Bits,
    mode: BitmapSyncMode,
}

impl Marks {
    /// Lets go of the bitmap; of its bits those are set again that are `left`.
    fn give_back(&self, left: Option<&Bits>) {
        if let Ok(image) = keeper(&self.source) {
            image.give_bitmap_back(&self.name, left);
        }
    }

    /// Lets go of it when `backup` has ended.
    fn end(&self, backup: &Backup, closing: Closing) {
        match (self.mode, closing) {
            (BitmapSyncMode::Never, _) | (BitmapSyncMode::OnSuccess, Closing::Done) => self.give_back(None),
            (BitmapSyncMode::OnSuccess, Closing::Undone) => self.give_back(Some(&self.bits)),
            (BitmapSyncMode::Always, _) => self.give_back(backup.left().as_ref()),
        }
    }
}

impl Machine {
    /// Makes the job of the backup that `args` ask for, of a disk that is held still, as one of a `group` of jobs; gives
    /// its id.
    pub(super) fn backup(&mut self, args: &args::Backup, group: Option<u64>) -> Result<String, QmpError> {
        let (source, target) = (self.node_of(&args.common.job.device)?, self.node_of(&args.target)?);
        if Arc::ptr_eq(&source, &target) {
            return Err(QmpError::generic("Source and target cannot be the same"));
        }
        self.backup_to(&args.common, group, (source, target), None)
    }

    /// The same, into an image that is made, or opened, for this.
    pub(super) fn drive_backup(&mut self, args: &args::DriveBackup, group: Option<u64>) -> Result<String, QmpError> {
        let failed = |error| QmpError::from_error(&error);
        let common = &args.common;
        let source = self.node_of(&common.job.device)?;
        // Before anything is made.
        mode_of_bitmap(common.sync, common.bitmap.as_ref(), common.bitmap_mode)?;
        self.id_of_job(&common.job, &source)?;
        self.front_of(&source)?;
        self.check_node_name(common.filter_node_name.as_deref()).map_err(|error| could_not_create(&error))?;
        source.check_idle().map_err(failed)?;
        let exists = args.mode == Some(args::NewImageMode::Existing);
        let beneath = match common.sync {
            BackupSyncMode::Top => source.backing().filter(|_| !exists),
            BackupSyncMode::None => Some(source.clone()),
            _ => None,
        };
        let own = NewTarget {
            file: &args.target,
            format: args.format.as_deref().or((!exists).then(|| source.layer().driver())),
            node_name: None,
            exists,
            source: &source,
            beneath: beneath.as_ref(),
        };
        let own = self.host.graph.add_target(&own).map_err(failed)?;
        let target = own.node().clone();
        self.backup_to(&args.common, group, (source, target), Some(own))
    }

    /// Makes the job of a backup of one node in another, which the job may have opened for itself.
    fn backup_to(
        &mut self,
        args: &BackupArgs,
        group: Option<u64>,
        (source, target): (Arc<Node>, Arc<Node>),
        own: Option<OwnTarget>,
    ) -> Result<String, QmpError> {
        mode_of_bitmap(args.sync, args.bitmap.as_ref(), args.bitmap_mode)?;
        let chunk = check_perf(args.x_perf.as_ref())?;
        let id = self.id_of_job(&args.job, &source)?;
        let front = self.front_of(&source)?;
        let held = self.host.graph.hold_with_target(&down_to(&front, &source), &target, "backup");
        let held = held.map_err(|error| QmpError::from_error(&error))?;
        let name = args.filter_node_name.as_deref();
        let top = JobNode { job: "backup", driver: "copy-before-write", role: "file", name };
        let top = self.add_top(top, &source).map_err(|error| could_not_create(&error))?;
        let order = Order::on_nodes("backup", &id, held).with(&args.job).copying(&source, &target);
        let order = order.on_errors(args.on_source_error, args.on_target_error);
        let order = Order { group, top: Some(top), target: own, ..order };
        let unit = Backup::unit_of(&source, &target);
        if chunk > 0 && chunk < unit {
            let text = format!("Required max-chunk ({chunk}) is less than backup cluster size ({unit})");
            return Err(QmpError::generic(text));
        }
        let marks = take_marks(&source, args)?;
        let part = match (args.sync, &marks) {
            (BackupSyncMode::Top, _) => Part::Top,
            (BackupSyncMode::None, _) => Part::Changed,
            (_, Some(marks)) => Part::Marked(marks.bits.clone()),
            (_, None) => Part::Whole,
        };
        let backup = match Backup::new(&front, source, target.clone(), part, args.compress == Some(true)) {
            Ok(backup) => Arc::new(backup),
            Err(error) => {
                marks.inspect(|marks| marks.give_back(Some(&marks.bits)));
                return Err(QmpError::from_error(&error));
            }
        };
        self.create_backup(order, &backup, &front, &target, marks)?;
        Ok(id)
    }

    /// The node whose devices write to `source`: that itself, or one with nothing but filters in between. What changes is
    /// kept there, where all of it comes through.
    fn front_of(&self, source: &Arc<Node>) -> Result<Arc<Node>, QmpError> {
        let writers = self.host.graph.writers_of(source);
        match writers.as_slice() {
            [] => Ok(source.clone()),
            [front] if front.same_from().any(|node| Arc::ptr_eq(&node, source)) => Ok(front.clone()),
            _ => {
                let other = writers.iter().find(|writer| !Arc::ptr_eq(writer, source)).unwrap_or(source);
                Err(changed_past(source, other))
            }
        }
    }

    fn create_backup(
        &mut self,
        order: Order,
        backup: &Arc<Backup>,
        front: &Arc<Node>,
        target: &Arc<Node>,
        marks: Option<Marks>,
    ) -> Result<(), QmpError> {
        // Before anything is copied: what changes after that is kept first.
        self.put_disks_on(front, &backup.filter());
        if let Some(snapshot) = backup.snapshot() {
            self.snapshots.insert(target.name().to_owned(), snapshot);
        }
        let (working, ended, marks) = (backup.clone(), backup.clone(), Arc::new(marks));
        let (beneath, name, marked) = (front.clone(), target.name().to_owned(), marks.clone());
        let work = move |control: &Control| working.run(control);
        let finish = move |machine: &mut Self, closing| {
            machine.leave_backup(&beneath, &name);
            if let Some(marks) = marked.as_ref() {
                marks.end(&ended, closing);
            }
            Ok(())
        };
        self.create_job(order, work, Box::new(finish)).inspect_err(|_| {
            self.leave_backup(front, target.name());
            if let Some(marks) = marks.as_ref() {
                marks.give_back(Some(&marks.bits));
            }
        })
    }

    /// The devices that have `front` write to it and to nothing else again.
    fn leave_backup(&mut self, front: &Arc<Node>, target: &str) {
        self.snapshots.remove(target);
        self.put_disks_on(front, front.layer());
    }
}

/// The nodes from `front` to `source`, which is beneath it, or it.
fn down_to(front: &Arc<Node>, source: &Arc<Node>) -> Vec<Arc<Node>> {
    let between = front.same_from().take_while(|node| !Arc::ptr_eq(node, source));
    between.chain([source.clone()]).collect()
}

/// Refuses bounds that make no sense; gives that of a piece, 0 without.
fn check_perf(perf: Option<&BackupPerf>) -> Result<u64, QmpError> {
    let most = i64::from(i32::MAX);
    if perf.and_then(|perf| perf.max_workers).is_some_and(|workers| !(1..=most).contains(&workers)) {
        return Err(QmpError::generic(format!("max-workers must be between 1 and {most}")));
    }
    let chunk = perf.and_then(|perf| perf.max_chunk).unwrap_or(0);
    u64::try_from(chunk).map_err(|_| QmpError::generic("max-chunk must be zero (which means no limit) or positive"))
}

/// Takes the bitmap that `args` name into the backup's hands.
fn take_marks(source: &Arc<Node>, args: &BackupArgs) -> Result<Option<Marks>, QmpError> {
    let Some(mode) = mode_of_bitmap(args.sync, args.bitmap.as_ref(), args.bitmap_mode)? else { return Ok(None) };
    let name = args.bitmap.clone().unwrap_or_default();
    let taken = keeper(source)?.take_bitmap(&name, mode != BitmapSyncMode::Never);
    let bits = taken.map_err(|error| match error.kind() {
        ErrorKind::NotFound => QmpError::generic(format!("Bitmap '{name}' could not be found")),
        _ => QmpError::from_error(&error),
    })?;
    Ok(Some(Marks { source: source.clone(), name, bits, mode }))
}

/// What a bitmap says after a backup, if that is of one.
fn mode_of_bitmap(
    sync: BackupSyncMode,
    bitmap: Option<&String>,
    mode: Option<BitmapSyncMode>,
) -> Result<Option<BitmapSyncMode>, QmpError> {
    let refuse = |text: String| Err(QmpError::generic(text));
    let mode = match (sync, bitmap, mode) {
        (BackupSyncMode::Incremental | BackupSyncMode::Bitmap, None, _) => {
            return refuse(format!("must provide a valid bitmap name for '{sync}' sync mode"));
        }
        (BackupSyncMode::Incremental, _, Some(BitmapSyncMode::Never | BitmapSyncMode::Always)) => {
            return refuse("Bitmap sync mode must be 'on-success' when using sync mode 'incremental'".into());
        }
        (BackupSyncMode::Incremental, ..) => BitmapSyncMode::OnSuccess,
        (_, None, None) => return Ok(None),
        (_, None, Some(_)) => return refuse("Cannot specify bitmap sync mode without a bitmap".into()),
        (_, Some(_), None) => return refuse("Bitmap sync mode must be given when providing a bitmap".into()),
        (BackupSyncMode::Bitmap, _, Some(mode)) => mode,
        (BackupSyncMode::None, Some(_), _) => {
            return refuse("sync mode 'none' does not produce meaningful bitmap outputs".into());
        }
        (_, Some(_), Some(BitmapSyncMode::Never)) => {
            let text = "Bitmap sync mode 'never' has no meaningful effect when combined with sync mode";
            return refuse(format!("{text} '{sync}'"));
        }
        (_, Some(_), _) => {
            return refuse(format!("sync mode '{sync}' takes no bitmap here: give 'bitmap' or 'incremental'"));
        }
    };
    Ok(Some(mode))
}
