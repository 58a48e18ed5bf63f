//! What clients of QMP see of a machine without vCPUs: needs neither KVM nor a guest.

#[path = "qmp/backup.rs"]
mod backup;
#[path = "qmp/chardevs.rs"]
mod chardevs;
#[path = "qmp/disks.rs"]
mod disks;
#[path = "qmp/errors.rs"]
mod errors;
#[path = "qmp/files.rs"]
mod files;
#[path = "qmp/human.rs"]
mod human;
#[path = "qmp/jobs.rs"]
mod jobs;
#[path = "qmp/life.rs"]
mod life;
#[path = "qmp/limits.rs"]
mod limits;
#[path = "qmp/media.rs"]
mod media;
#[path = "qmp/objects.rs"]
mod objects;
#[path = "qmp/permissions.rs"]
mod permissions;
#[path = "qmp/registers.rs"]
mod registers;
#[path = "qmp/reopen.rs"]
mod reopen;
#[path = "qmp/rig.rs"]
mod rig;
#[path = "qmp/sharing.rs"]
mod sharing;
#[path = "qmp/silent.rs"]
mod silent;
#[path = "qmp/snapshots.rs"]
mod snapshots;
#[path = "qmp/waiting.rs"]
mod waiting;
