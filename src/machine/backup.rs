//! `blockdev-backup`: a disk as it is at one moment, copied into another node while the guest goes on.

use std::sync::Arc;

use rhea_block::format::qcow2::Bits;
use rhea_block::graph::Node;
use rhea_block::job::{Backup, Control, Part};

use super::Machine;
use super::bitmaps::keeper;
use super::jobs::{Closing, Order};
use crate::qmp::QmpError;
use crate::qmp::command::args::{self, BackupSyncMode, BitmapSyncMode};

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
    /// Starts the backup that `args` ask for, of a disk that is held still, as one of a `group` of jobs; gives the job's id.
    pub(super) fn backup(&mut self, args: &args::Backup, group: Option<u64>) -> Result<String, QmpError> {
        let (source, target) = (self.node_of(&args.device)?, self.node_of(&args.target)?);
        if Arc::ptr_eq(&source, &target) {
            return Err(QmpError::generic("Source and target cannot be the same"));
        }
        self.host.graph.check_unused(&target).map_err(|error| QmpError::from_error(&error))?;
        let id = args.job_id.as_ref().unwrap_or(&args.device);
        self.check_job_id(id)?;
        let nodes = vec![source.clone(), target.clone()];
        let held = self.host.graph.hold_for_job(nodes, "backup").map_err(|error| QmpError::from_error(&error))?;
        let order = Order::on_nodes("backup", id, held).with(args.speed, args.auto_finalize, args.auto_dismiss);
        let order = Order { group, ..order.on_errors(args.on_source_error, args.on_target_error) };
        let marks = take_marks(&source, args)?;
        let part = match (args.sync, &marks) {
            (BackupSyncMode::Top, _) => Part::Top,
            (BackupSyncMode::None, _) => Part::Changed,
            (_, Some(marks)) => Part::Marked(marks.bits.clone()),
            (_, None) => Part::Whole,
        };
        let backup = match Backup::new(source.clone(), target.clone(), part) {
            Ok(backup) => Arc::new(backup),
            Err(error) => {
                marks.inspect(|marks| marks.give_back(Some(&marks.bits)));
                return Err(QmpError::from_error(&error));
            }
        };
        self.start_backup(order, &backup, &source, &target, marks)?;
        Ok(id.clone())
    }

    fn start_backup(
        &mut self,
        order: Order,
        backup: &Arc<Backup>,
        source: &Arc<Node>,
        target: &Arc<Node>,
        marks: Option<Marks>,
    ) -> Result<(), QmpError> {
        let disk = self.disk_of(source);
        // Before anything is copied: what changes after that is kept first.
        if let Some(disk) = &disk {
            disk.swap(backup.filter());
        }
        if let Some(snapshot) = backup.snapshot() {
            self.snapshots.insert(target.name().to_owned(), snapshot);
        }
        let (working, ended, marks) = (backup.clone(), backup.clone(), Arc::new(marks));
        let (beneath, name, marked) = (source.clone(), target.name().to_owned(), marks.clone());
        let work = move |control: &Control| working.run(control);
        let finish = move |machine: &mut Self, closing| {
            machine.leave_backup(&beneath, &name);
            if let Some(marks) = marked.as_ref() {
                marks.end(&ended, closing);
            }
            Ok(())
        };
        self.start_job(order, work, Box::new(finish)).inspect_err(|_| {
            self.leave_backup(source, target.name());
            if let Some(marks) = marks.as_ref() {
                marks.give_back(Some(&marks.bits));
            }
        })
    }

    /// The device that has `source` writes to it and to nothing else again.
    fn leave_backup(&mut self, source: &Arc<Node>, target: &str) {
        self.snapshots.remove(target);
        if let Some(disk) = self.disk_of(source) {
            disk.swap(source.layer().clone());
        }
    }
}

/// Takes the bitmap that `args` name into the backup's hands.
fn take_marks(source: &Arc<Node>, args: &args::Backup) -> Result<Option<Marks>, QmpError> {
    let refuse = |text: String| Err(QmpError::generic(text));
    let sync = args.sync;
    let mode = match (sync, &args.bitmap, args.bitmap_mode) {
        (BackupSyncMode::Incremental | BackupSyncMode::Bitmap, None, _) => {
            return refuse(format!("must provide a valid bitmap name for '{sync}' sync mode"));
        }
        (BackupSyncMode::Incremental, _, Some(BitmapSyncMode::Never | BitmapSyncMode::Always)) => {
            return refuse("Bitmap sync mode must be 'on-success' when using sync mode 'incremental'".into());
        }
        (BackupSyncMode::Incremental, ..) => BitmapSyncMode::OnSuccess,
        (BackupSyncMode::Bitmap, _, None) => {
            return refuse("Bitmap sync mode must be given when providing a bitmap".into());
        }
        (BackupSyncMode::Bitmap, _, Some(mode)) => mode,
        (_, None, None) => return Ok(None),
        (_, None, Some(_)) => return refuse("Cannot specify bitmap sync mode without a bitmap".into()),
        (_, Some(_), _) => {
            return refuse(format!("sync mode '{sync}' takes no bitmap here: give 'bitmap' or 'incremental'"));
        }
    };
    let name = args.bitmap.clone().unwrap_or_default();
    let taken = keeper(source)?.take_bitmap(&name, mode != BitmapSyncMode::Never);
    let bits = taken.map_err(|error| QmpError::from_error(&error))?;
    Ok(Some(Marks { source: source.clone(), name, bits, mode }))
}
