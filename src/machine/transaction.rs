//! `transaction`: several changes at one moment, or none of them.
//!
//! Every device whose disk is meant is held still from the first action on it until all are done. An action that can be
//! taken back is done at once; a snapshot, which cannot, is prepared, and taken when nothing can fail any more. That is
//! when jobs begin, too: one that is taken back has written nothing.

use std::sync::Arc;

use rhea_block::filter::throttle::Lifted;
use rhea_block::format::qcow2::BitmapChange;

use super::Machine;
use super::bitmaps::Undo;
use super::internal::Inside;
use super::snapshot::Ready;
use super::still::Front;
use crate::qmp::QmpError;
use crate::qmp::channel::{Answer, done};
use crate::qmp::command::args::{ActionCompletionMode, BackupArgs, DirtyBitmap, Transaction};
use crate::qmp::command::args::{TransactionAction as Action, TransactionActionKind as Kind};

/// What was done so far.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) fronts: Vec<Front>,
    pub(super) snapshots: Vec<Ready>,
    bitmaps: Vec<Undo>,
    internal: Vec<Inside>,
    /// Bitmaps that go when nothing can fail any more.
    removals: Vec<DirtyBitmap>,
    jobs: Vec<String>,
    group: Option<u64>,
}

impl Machine {
    /// One action, as a command of its own.
    pub(super) fn act(&mut self, action: Action) -> Answer {
        self.all_or_nothing(&[action], None)
    }

    /// `transaction`.
    pub(super) fn transaction(&mut self, args: &Transaction) -> Answer {
        let mode = args.properties.as_ref().and_then(|properties| properties.completion_mode);
        if mode != Some(ActionCompletionMode::Grouped) {
            return self.all_or_nothing(&args.actions, None);
        }
        // What starts no job cannot wait for others to end.
        let at_once = |kind: &Kind| !matches!(kind, Kind::Abort | Kind::BlockdevBackup | Kind::DriveBackup);
        if let Some(kind) = args.actions.iter().map(Action::kind).find(at_once) {
            let text = format!("Action '{kind}' does not support Transaction property completion-mode = grouped");
            return Err(QmpError::generic(text));
        }
        let group = self.jobs.new_group();
        self.all_or_nothing(&args.actions, Some(group))
    }

    /// Jobs belong to `group`.
    fn all_or_nothing(&mut self, actions: &[Action], group: Option<u64>) -> Answer {
        // Limits hold up neither what is written here nor those for whom that waits.
        let _lifted = Lifted::everywhere();
        let mut progress = Progress { group, ..Progress::default() };
        for action in actions {
            if let Err(error) = self.perform(action, &mut progress) {
                self.take_back(progress);
                return Err(error);
            }
        }
        self.finish(progress);
        done()
    }

    fn perform(&mut self, action: &Action, progress: &mut Progress) -> Result<(), QmpError> {
        if let Some(name) = wanted_still(action) {
            self.hold_still(name, progress);
        }
        let change = |bitmap: &DirtyBitmap, change| {
            self.check_stays(progress, &bitmap.node, &bitmap.name)?;
            self.change_bitmap(&bitmap.node, &bitmap.name, change)
        };
        let undo = match action {
            Action::Abort(_) => return Err(QmpError::generic("Transaction aborted using Abort action")),
            Action::BlockdevSnapshot(args) => return self.prepare_snapshot(args, progress),
            Action::BlockdevSnapshotSync(args) => return self.prepare_overlay(args, progress),
            Action::BlockdevSnapshotInternalSync(args) => {
                progress.internal.push(self.make_internal_snapshot(args)?);
                return Ok(());
            }
            Action::BlockdevBackup(args) => {
                self.check_bitmap_stays(progress, &args.common)?;
                progress.jobs.push(self.backup(args, progress.group)?);
                return Ok(());
            }
            Action::DriveBackup(args) => {
                self.check_bitmap_stays(progress, &args.common)?;
                progress.jobs.push(self.drive_backup(args, progress.group)?);
                return Ok(());
            }
            Action::BlockDirtyBitmapRemove(bitmap) => {
                self.check_stays(progress, &bitmap.node, &bitmap.name)?;
                self.check_bitmap(bitmap)?;
                progress.removals.push(bitmap.clone());
                return Ok(());
            }
            Action::BlockDirtyBitmapAdd(args) => self.add_bitmap(args)?,
            Action::BlockDirtyBitmapClear(bitmap) => change(bitmap, &BitmapChange::Clear)?,
            Action::BlockDirtyBitmapEnable(bitmap) => change(bitmap, &BitmapChange::Enable)?,
            Action::BlockDirtyBitmapDisable(bitmap) => change(bitmap, &BitmapChange::Disable)?,
            Action::BlockDirtyBitmapMerge(args) => {
                self.check_stays(progress, &args.node, &args.target)?;
                for source in &args.bitmaps {
                    let (node, name) = self.place_of(&args.node, source)?;
                    self.check_stays(progress, node.name(), name)?;
                }
                self.merge_bitmaps(args)?
            }
        };
        progress.bitmaps.push(undo);
        Ok(())
    }

    /// Refuses a bitmap that goes at the end of the transaction.
    fn check_stays(&self, progress: &Progress, node: &str, name: &str) -> Result<(), QmpError> {
        let node = self.node_of(node)?;
        let goes = |gone: &DirtyBitmap| {
            gone.name == name && self.node_of(&gone.node).is_ok_and(|other| Arc::ptr_eq(&other, &node))
        };
        if progress.removals.iter().any(goes) {
            let text = format!("Bitmap '{name}' is currently in use by another operation and cannot be used");
            return Err(QmpError::generic(text));
        }
        Ok(())
    }

    /// The same of the bitmap of a backup.
    fn check_bitmap_stays(&self, progress: &Progress, backup: &BackupArgs) -> Result<(), QmpError> {
        backup.bitmap.as_ref().map_or(Ok(()), |name| self.check_stays(progress, &backup.job.device, name))
    }

    /// Holds the disks still that show what `name` means, a device or a node.
    pub(super) fn hold_still(&self, name: &str, progress: &mut Progress) {
        if let Ok(node) = self.node_of(name) {
            self.hold_also(&node, &mut progress.fronts);
        }
    }

    /// Undoes what was done, the last first.
    fn take_back(&mut self, progress: Progress) {
        progress.jobs.iter().rev().for_each(|id| self.cancel(id));
        progress.internal.into_iter().rev().for_each(Inside::take_back);
        progress.bitmaps.into_iter().rev().for_each(Undo::run);
        progress.snapshots.iter().for_each(|ready| self.forget_made(ready));
    }

    /// Does what cannot fail, and lets the devices go on.
    fn finish(&mut self, progress: Progress) {
        for bitmap in &progress.removals {
            if let Err(error) = self.change_bitmap(&bitmap.node, &bitmap.name, &BitmapChange::Remove) {
                log::warn!("bitmap '{}': {error}", bitmap.name);
            }
        }
        for ready in progress.snapshots {
            self.take_snapshot(ready, &progress.fronts);
        }
        for Front { attached, held, .. } in progress.fronts {
            drop(held);
            attached.disk().announce();
        }
        progress.jobs.iter().for_each(|id| self.begin_made_job(id));
    }
}

/// The node or device whose disk must be still before an action begins. A snapshot looks first whether it can be taken,
/// and a bitmap that goes does so at the end.
fn wanted_still(action: &Action) -> Option<&str> {
    match action {
        Action::BlockdevBackup(args) => Some(&args.common.job.device),
        Action::DriveBackup(args) => Some(&args.common.job.device),
        Action::BlockdevSnapshotInternalSync(args) => Some(&args.device),
        Action::BlockDirtyBitmapAdd(args) => Some(&args.node),
        Action::BlockDirtyBitmapMerge(args) => Some(&args.node),
        Action::BlockDirtyBitmapClear(bitmap)
        | Action::BlockDirtyBitmapEnable(bitmap)
        | Action::BlockDirtyBitmapDisable(bitmap) => Some(&bitmap.node),
        Action::Abort(_)
        | Action::BlockDirtyBitmapRemove(_)
        | Action::BlockdevSnapshot(_)
        | Action::BlockdevSnapshotSync(_) => None,
    }
}
