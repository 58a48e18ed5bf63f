//! The arguments of the commands, by what they are about.

mod backup;
mod bitmaps;
mod disks;
mod exports;
mod jobs;
mod life;
mod media;
mod memory;
mod mirror;
mod objects;
mod session;
mod snapshots;
mod transaction;

pub use super::spec_args::{BlockdevAdd, BlockdevRef, ChardevAdd, DeviceAdd, ObjectAdd};
pub use backup::{
    Backup, BackupArgs, BackupPerf, BackupSyncMode, BitmapSyncMode, BlockdevBackup, DriveBackup, FileBackup,
};
pub use bitmaps::{DirtyBitmap, DirtyBitmapAdd, DirtyBitmapMerge, DirtyBitmapOrStr};
pub use disks::{
    BlockResize, BlockSetIoThrottle, BlockSetWriteThreshold, BlockdevCreate, BlockdevReopen, ChangeBackingFile,
    IoThrottle, NodeName, QueryBlockstats, QueryNamedBlockNodes,
};
pub use exports::{
    BlockExportAdd, BlockExportDel, BlockExportRemoveMode, BlockExportType, ExportAdd, InetAddress, NbdAdd,
    NbdServerAdd, NbdServerRemove, NbdServerStart, SocketAddressLegacy, UnixAddress,
};
pub use jobs::{
    BlockCommit, BlockJobCancel, BlockJobSetSpeed, BlockStream, Commit, JobArgs, JobDevice, JobOnError, Stream,
};
pub use life::{PanicAction, RebootAction, SetAction, ShutdownAction, WatchdogAction};
pub use media::{BlockdevChangeReadOnlyMode, ChangeMedium, CloseTray, Eject, InsertMedium};
pub use memory::{Memsave, Pmemsave};
pub use mirror::{BlockdevMirror, DriveMirror, FileMirror, Mirror, MirrorArgs, MirrorCopyMode, MirrorSyncMode};
pub use objects::{
    CpuModelExpansion, CpuModelExpansionType, DataFormat, Id, MigrateSetCapabilities, MigrateSetParameters, QomGet,
    QomList, QomListTypes, QomSet, RingbufRead, RingbufWrite, TypeName,
};
pub use session::{
    AddFd, FdName, HumanMonitorCommand, QmpCapabilities, QmpCapability, QueryCommandLineOptions, RemoveFd,
};
pub use snapshots::{
    BlockdevSnapshot, BlockdevSnapshotDeleteInternalSync, BlockdevSnapshotInternal, BlockdevSnapshotSync, NewImageMode,
};
pub use transaction::{
    ActionCompletionMode, NoData, Transaction, TransactionAction, TransactionActionKind, TransactionProperties,
};
