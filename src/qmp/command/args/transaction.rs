//! Of `transaction`: a list of actions, each a type and its data, of which all happen or none.

use super::backup::BlockdevBackup;
use super::backup::DriveBackup;
use super::bitmaps::DirtyBitmap;
use super::bitmaps::DirtyBitmapAdd;
use super::bitmaps::DirtyBitmapMerge;
use super::snapshots::BlockdevSnapshot;
use super::snapshots::BlockdevSnapshotInternal;
use super::snapshots::BlockdevSnapshotSync;

qapi_struct! {
    /// The data of an action that needs none.
    pub struct NoData {}
}

qapi_wrapped! {
    /// One action.
    pub enum TransactionAction of TransactionActionKind {
        /// Fails, so that all others are undone.
        Abort(NoData) = "abort",
        /// The command of this name.
        BlockDirtyBitmapAdd(DirtyBitmapAdd) = "block-dirty-bitmap-add",
        /// The command of this name.
        BlockDirtyBitmapRemove(DirtyBitmap) = "block-dirty-bitmap-remove",
        /// The command of this name.
        BlockDirtyBitmapClear(DirtyBitmap) = "block-dirty-bitmap-clear",
        /// The command of this name.
        BlockDirtyBitmapEnable(DirtyBitmap) = "block-dirty-bitmap-enable",
        /// The command of this name.
        BlockDirtyBitmapDisable(DirtyBitmap) = "block-dirty-bitmap-disable",
        /// The command of this name.
        BlockDirtyBitmapMerge(DirtyBitmapMerge) = "block-dirty-bitmap-merge",
        /// The command of this name.
        BlockdevBackup(BlockdevBackup) = "blockdev-backup",
        /// The command of this name.
        DriveBackup(DriveBackup) = "drive-backup",
        /// The command of this name.
        BlockdevSnapshot(BlockdevSnapshot) = "blockdev-snapshot",
        /// The command of this name.
        BlockdevSnapshotInternalSync(BlockdevSnapshotInternal) = "blockdev-snapshot-internal-sync",
        /// The command of this name.
        BlockdevSnapshotSync(BlockdevSnapshotSync) = "blockdev-snapshot-sync",
    }
}

qapi_enum! {
    /// What happens to the other jobs of a transaction when one fails.
    pub enum ActionCompletionMode {
        /// They go on.
        Individual = "individual",
        /// They are cancelled.
        Grouped = "grouped",
    }
}

qapi_struct! {
    /// What holds for all actions.
    pub struct TransactionProperties {
        /// What happens to the other jobs when one fails.
        pub completion_mode: Option<ActionCompletionMode>,
    }
}

qapi_struct! {
    /// `transaction`.
    pub struct Transaction {
        /// What to do.
        pub actions: Vec<TransactionAction>,
        /// What holds for all of them.
        pub properties: Option<TransactionProperties>,
    }
}
