//! What the machine keeps of its jobs, and what clients are told of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use rhea_block::graph::{Held, Node, OwnTarget, TopNode};
use rhea_block::job::{Control, OnError, Policy};
use rhea_block::nbd::Unawaited;

use crate::machine::Machine;
use crate::qmp::QmpError;
use crate::qmp::command::args::{JobArgs, JobOnError};
use crate::qmp::event::{BlockJobData, JobStatus};
use crate::qmp::reply::block::{BlockDeviceIoStatus, BlockJobInfo, JobInfo};

/// How the work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::machine) enum Closing {
    Done,
    /// It was cancelled, or failed.
    Undone,
}

/// What is left to do on the main thread when the work has ended.
pub(in crate::machine) type Finish = Box<dyn FnOnce(&mut Machine, Closing) -> Result<(), QmpError> + Send>;

/// How a job is to be run, as its client asked.
pub(in crate::machine) struct Order {
    pub(in crate::machine) id: String,
    /// `stream`, `create`, …
    pub(in crate::machine) kind: &'static str,
    /// Bytes a second; 0 is as fast as it goes.
    pub(in crate::machine) speed: u64,
    /// What it does about errors.
    pub(in crate::machine) policy: Policy,
    /// Finalizes by itself.
    pub(in crate::machine) auto_finalize: bool,
    /// Is forgotten by itself.
    pub(in crate::machine) auto_dismiss: bool,
    /// The nodes that nobody else may change meanwhile.
    pub(in crate::machine) held: Option<Held>,
    /// The node that it shows itself as; gone before the job's end changes who stands on whom.
    pub(in crate::machine) top: Option<TopNode>,
    /// The image that it made or opened for itself, let go of behind `held`.
    pub(in crate::machine) target: Option<OwnTarget>,
    /// What it copies to, for whose servers nothing waits when nobody wants the copy any more.
    pub(in crate::machine) copy: Option<Arc<Node>>,
    /// The jobs with this number end well together, or not at all.
    pub(in crate::machine) group: Option<u64>,
}

impl Order {
    /// For a job of the kind `kind` called `id`, with `held` in hand: as fast as it goes, with nobody's help to its end.
    pub(in crate::machine) fn on_nodes(kind: &'static str, id: &str, held: impl Into<Option<Held>>) -> Self {
        Self {
            id: id.to_owned(),
            kind,
            speed: 0,
            policy: Policy::default(),
            auto_finalize: true,
            auto_dismiss: true,
            held: held.into(),
            top: None,
            target: None,
            copy: None,
            group: None,
        }
    }

    /// With what a command says of its job's speed and end, QEMU's defaults where it says nothing.
    pub(in crate::machine) fn with(self, args: &JobArgs) -> Self {
        let (finalize, dismiss) = (args.auto_finalize.unwrap_or(true), args.auto_dismiss.unwrap_or(true));
        Self { speed: args.speed.unwrap_or(0), auto_finalize: finalize, auto_dismiss: dismiss, ..self }
    }

    /// Of a copy of `source` in `target`; where the source reads from there, its servers are waited for to the end.
    pub(in crate::machine) fn copying(self, source: &Arc<Node>, target: &Arc<Node>) -> Self {
        Self { copy: (!source.is_overlay_of(target)).then(|| target.clone()), ..self }
    }

    /// With what a command says about errors of what the job reads and of what it writes.
    pub(in crate::machine) fn on_errors(self, source: Option<JobOnError>, target: Option<JobOnError>) -> Self {
        let [source, target] = [source, target].map(|on_error| match on_error {
            None | Some(JobOnError::Report) => OnError::Report,
            Some(JobOnError::Ignore) => OnError::Ignore,
            Some(JobOnError::Enospc | JobOnError::Auto) => OnError::Enospc,
            Some(JobOnError::Stop) => OnError::Stop,
        });
        Self { policy: Policy { source, target }, ..self }
    }
}

/// One job.
pub(super) struct Job {
    pub(super) order: Order,
    pub(super) control: Arc<Control>,
    pub(super) status: JobStatus,
    /// Why it is held, if that is because of an error.
    pub(super) io_status: BlockDeviceIoStatus,
    pub(super) error: Option<String>,
    pub(super) finish: Option<Finish>,
    /// What its thread is to do, until it begins.
    pub(super) work: Option<Box<dyn FnOnce() + Send>>,
    pub(super) thread: Option<JoinHandle<()>>,
    /// The servers of its copy, when nobody wants that any more.
    pub(super) unawaited: Vec<Unawaited>,
}

impl Job {
    /// Nobody wants what it makes: its work ends at its next step, and neither that nor what the guest writes waits for
    /// servers of the copy until the job has ended.
    pub(super) fn give_up(&mut self) {
        // First, so that it does not try again.
        self.control.cancel();
        if self.unawaited.is_empty() {
            self.unawaited = self.order.copy.as_ref().map(|copy| copy.unawaited()).unwrap_or_default();
        }
    }

    /// What is left to do, to be done now.
    pub(super) fn take_finish(&mut self) -> Option<Finish> {
        self.order.top = None;
        self.finish.take()
    }

    /// The job is one of those that are called by the name of a device, and have events of their own.
    pub(super) fn of_block(&self) -> bool {
        self.order.kind != "create"
    }

    pub(super) fn data(&self) -> BlockJobData {
        let (offset, len) = self.control.progress();
        BlockJobData {
            r#type: self.order.kind.to_owned(),
            device: self.order.id.clone(),
            len: to_signed(len),
            offset: to_signed(offset),
            speed: to_signed(self.control.speed()),
            error: self.error.clone(),
        }
    }
}

fn to_signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// All jobs of a machine, by id. Dropped, it ends them and waits for them.
#[derive(Default)]
pub(in crate::machine) struct Jobs {
    pub(super) all: BTreeMap<String, Job>,
    /// The number of the last group.
    groups: u64,
}

impl Jobs {
    /// The number of a new group.
    pub(in crate::machine) fn new_group(&mut self) -> u64 {
        self.groups += 1;
        self.groups
    }

    /// The job `id` and those that end with it, by id.
    pub(super) fn group_of(&self, id: &str) -> Vec<String> {
        let group = self.all.get(id).and_then(|job| job.order.group);
        let belongs = |job: &&Job| job.order.id == id || (group.is_some() && job.order.group == group);
        self.all.values().filter(belongs).map(|job| job.order.id.clone()).collect()
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.all.values().for_each(|job| job.control.cancel());
        for job in self.all.values_mut() {
            join(job);
        }
    }
}

pub(super) fn join(job: &mut Job) {
    if let Some(thread) = job.thread.take()
        && thread.join().is_err()
    {
        log::error!("job '{}' panicked", job.order.id);
    }
}

/// What a client wants of a job that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::machine) enum Verb {
    Cancel,
    /// Leaves what a ready job has made; otherwise as [`Verb::Cancel`].
    Leave,
    Complete,
    Pause,
    Resume,
    SetSpeed(u64),
    Finalize,
    Dismiss,
}

impl Verb {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cancel | Self::Leave => "cancel",
            Self::Complete => "complete",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::SetSpeed(_) => "set-speed",
            Self::Finalize => "finalize",
            Self::Dismiss => "dismiss",
        }
    }

    /// Whether a job in this state takes it.
    pub(super) fn fits(self, status: JobStatus) -> bool {
        use JobStatus::{Concluded, Paused, Pending, Ready, Running, Standby};
        match self {
            Self::Cancel | Self::Leave => status.is_active(),
            Self::Complete => matches!(status, Ready | Standby),
            Self::Pause | Self::Resume | Self::SetSpeed(_) => matches!(status, Running | Paused | Ready | Standby),
            Self::Finalize => status == Pending,
            Self::Dismiss => status == Concluded,
        }
    }
}

pub(super) fn job_info(job: &Job) -> JobInfo {
    let (done, total) = job.control.progress();
    JobInfo {
        id: job.order.id.clone(),
        r#type: job.order.kind.to_owned(),
        status: job.status,
        current_progress: to_signed(done),
        total_progress: to_signed(total),
        error: job.error.clone(),
    }
}

pub(super) fn block_job_info(job: &Job) -> BlockJobInfo {
    let BlockJobData { r#type, device, len, offset, speed, error } = job.data();
    BlockJobInfo {
        r#type,
        device,
        len,
        offset,
        busy: match job.status {
            JobStatus::Running => true,
            // Until its work comes to its next step it moves on.
            JobStatus::Paused => !job.control.is_resting(),
            _ => false,
        },
        paused: job.control.is_paused(),
        speed,
        io_status: job.io_status,
        ready: matches!(job.status, JobStatus::Ready | JobStatus::Standby),
        status: job.status,
        auto_finalize: job.order.auto_finalize,
        auto_dismiss: job.order.auto_dismiss,
        error,
    }
}
