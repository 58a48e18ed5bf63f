//! Jobs: long work on images, each on a thread of its own, from `created` to `null` as clients see it.
//!
//! ```text
//!   created -> running (-> ready) -> waiting -> pending -> concluded -> null
//!                 \_______________________________/
//!                         aborting (cancelled, or failed)
//! ```
//!
//! The work itself is [`rhea_block::job`]'s. When it is done its thread tells the main thread, which does what is left:
//! the change of who stands on whom, while the disk is held still.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use rhea_block::graph::Held;
use rhea_block::job::{Control, End, Halt};
use rhea_block::thread::{self, ThreadKind};

use super::Machine;
use super::event::MachineEvent;
use crate::qmp::channel::{Answer, answer, done};
use crate::qmp::event::{BlockJobData, BlockJobPendingData, BlockJobReadyData, JobStatus, JobStatusData};
use crate::qmp::reply::block::{BlockDeviceIoStatus, BlockJobInfo, JobInfo};
use crate::qmp::{Event, QmpError};
use crate::spec::check_id;

/// How the work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    Done,
    /// It was cancelled, or failed.
    Undone,
}

/// What is left to do on the main thread when the work has ended.
pub(super) type Finish = Box<dyn FnOnce(&mut Machine, Closing) -> Result<(), QmpError> + Send>;

/// For jobs that leave nothing to do.
pub(super) fn nothing_left(_: &mut Machine, _: Closing) -> Result<(), QmpError> {
    Ok(())
}

/// How a job is to be run, as its client asked.
pub(super) struct Order {
    pub(super) id: String,
    /// `stream`, `create`, …
    pub(super) kind: &'static str,
    /// Bytes a second; 0 is as fast as it goes.
    pub(super) speed: u64,
    /// Finalizes by itself.
    pub(super) auto_finalize: bool,
    /// Is forgotten by itself.
    pub(super) auto_dismiss: bool,
    /// The nodes that nobody else may change meanwhile.
    pub(super) held: Option<Held>,
    /// The jobs with this number end well together, or not at all.
    pub(super) group: Option<u64>,
}

impl Order {
    /// For a job of the kind `kind` called `id`, with `held` in hand: as fast as it goes, with nobody's help to its end.
    pub(super) fn on_nodes(kind: &'static str, id: &str, held: impl Into<Option<Held>>) -> Self {
        Self {
            id: id.to_owned(),
            kind,
            speed: 0,
            auto_finalize: true,
            auto_dismiss: true,
            held: held.into(),
            group: None,
        }
    }

    /// With what a command says of its job's speed and end, QEMU's defaults where it says nothing.
    pub(super) fn with(self, speed: Option<u64>, auto_finalize: Option<bool>, auto_dismiss: Option<bool>) -> Self {
        let (finalize, dismiss) = (auto_finalize.unwrap_or(true), auto_dismiss.unwrap_or(true));
        Self { speed: speed.unwrap_or(0), auto_finalize: finalize, auto_dismiss: dismiss, ..self }
    }
}

/// One job.
struct Job {
    order: Order,
    control: Arc<Control>,
    status: JobStatus,
    error: Option<String>,
    finish: Option<Finish>,
    thread: Option<JoinHandle<()>>,
}

impl Job {
    /// The job is one of those that are called by the name of a device, and have events of their own.
    fn of_block(&self) -> bool {
        self.order.kind != "create"
    }

    fn data(&self) -> BlockJobData {
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
pub(super) struct Jobs {
    all: BTreeMap<String, Job>,
    /// The number of the last group.
    groups: u64,
}

impl Jobs {
    /// The number of a new group.
    pub(super) fn new_group(&mut self) -> u64 {
        self.groups += 1;
        self.groups
    }

    /// The job `id` and those that end with it, by id.
    fn group_of(&self, id: &str) -> Vec<String> {
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

fn join(job: &mut Job) {
    if let Some(thread) = job.thread.take()
        && thread.join().is_err()
    {
        log::error!("job '{}' panicked", job.order.id);
    }
}

/// What a client wants of a job that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
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
    fn name(self) -> &'static str {
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
    fn fits(self, status: JobStatus) -> bool {
        match self {
            Self::Cancel | Self::Leave => status.is_active(),
            Self::Complete => status == JobStatus::Ready,
            Self::Pause | Self::Resume => matches!(status, JobStatus::Running | JobStatus::Paused),
            Self::SetSpeed(_) => matches!(status, JobStatus::Running | JobStatus::Paused | JobStatus::Ready),
            Self::Finalize => status == JobStatus::Pending,
            Self::Dismiss => status == JobStatus::Concluded,
        }
    }
}

impl Machine {
    /// Starts a job: `work` on a thread of its own, then `finish` here.
    ///
    /// # Errors
    /// When its id is taken or empty, or there is no thread for it.
    pub(super) fn start_job(
        &mut self,
        order: Order,
        work: impl FnOnce(&Control) -> Result<(), Halt> + Send + 'static,
        finish: Finish,
    ) -> Result<(), QmpError> {
        let id = order.id.clone();
        self.check_job_id(&id)?;
        let control = Arc::new(Control::new(order.speed));
        let job = Job {
            order,
            control: control.clone(),
            status: JobStatus::Undefined,
            error: None,
            finish: Some(finish),
            thread: None,
        };
        self.jobs.all.insert(id.clone(), job);
        self.job_is(&id, JobStatus::Created);
        self.job_is(&id, JobStatus::Running);
        let (events, told) = (self.host.events.clone(), id.clone());
        let run = move || {
            let result = work(&control);
            events.send(MachineEvent::JobEnded { id: told, result });
        };
        match thread::spawn(ThreadKind::Disk, "job", run) {
            Ok(thread) => {
                if let Some(job) = self.jobs.all.get_mut(&id) {
                    job.thread = Some(thread);
                }
                Ok(())
            }
            Err(error) => {
                self.jobs.all.remove(&id);
                Err(QmpError::generic(format!("cannot start a thread for job '{id}': {error}")))
            }
        }
    }

    /// Refuses an id that a new job cannot have.
    ///
    /// # Errors
    /// It is taken, or not an identifier.
    pub(super) fn check_job_id(&self, id: &str) -> Result<(), QmpError> {
        if self.jobs.all.contains_key(id) {
            return Err(QmpError::generic(format!("Job ID '{id}' already in use")));
        }
        check_id(id).map_err(|_| QmpError::generic(format!("Invalid job ID '{id}'")))
    }

    fn job_is(&mut self, id: &str, status: JobStatus) {
        if let Some(job) = self.jobs.all.get_mut(id) {
            job.status = status;
            self.bus.emit(&Event::JobStatusChange(JobStatusData { id: id.to_owned(), status }));
        }
    }

    /// A job has done its work and follows what is written since.
    pub(super) fn job_ready(&mut self, id: &str) {
        // It may have ended since.
        if self.jobs.all.get(id).is_none_or(|job| job.thread.is_none()) {
            return;
        }
        self.job_is(id, JobStatus::Ready);
        if let Some(job) = self.jobs.all.get(id) {
            let BlockJobData { r#type, device, len, offset, speed, .. } = job.data();
            self.bus.emit(&Event::BlockJobReady(BlockJobReadyData { r#type, device, len, offset, speed }));
        }
    }

    /// The work of a job has ended.
    pub(super) fn job_ended(&mut self, id: &str, result: Result<(), Halt>) {
        let Some(job) = self.jobs.all.get_mut(id) else { return };
        join(job);
        match result {
            Ok(()) => {
                self.job_is(id, JobStatus::Waiting);
                self.group_may_be_done(id);
            }
            Err(Halt::Cancelled) => self.abort(id),
            Err(Halt::Failed(error)) => {
                job.error = Some(QmpError::from_error(&error).desc);
                self.abort(id);
            }
        }
    }

    /// The jobs of a group wait for each other, and for whoever wants to finalize one of them.
    fn group_may_be_done(&mut self, id: &str) {
        let group = self.jobs.group_of(id);
        let all = |jobs: &Jobs, is: fn(&Job) -> bool| group.iter().filter_map(|id| jobs.all.get(id)).all(is);
        if !all(&self.jobs, |job| job.status == JobStatus::Waiting) {
            return;
        }
        group.iter().for_each(|id| self.job_is(id, JobStatus::Pending));
        for job in group.iter().filter_map(|id| self.jobs.all.get(id)).filter(|job| !job.order.auto_finalize) {
            if job.of_block() {
                let data = BlockJobPendingData { r#type: job.order.kind.to_owned(), id: job.order.id.clone() };
                self.bus.emit(&Event::BlockJobPending(data));
            }
        }
        if all(&self.jobs, |job| job.order.auto_finalize) {
            self.finalize_group(id);
        }
    }

    fn finalize_group(&mut self, id: &str) {
        self.jobs.group_of(id).iter().for_each(|id| self.finalize(id));
    }

    /// Has a job end without its result: now if its work is done, otherwise when its thread comes to it.
    fn cancel(&mut self, id: &str) {
        match self.jobs.all.get(id) {
            Some(job) if matches!(job.status, JobStatus::Waiting | JobStatus::Pending) => self.abort(id),
            Some(job) if job.status.is_active() => job.control.cancel(),
            _ => {}
        }
    }

    /// Does what is left on the main thread.
    fn finalize(&mut self, id: &str) {
        let Some(finish) = self.jobs.all.get_mut(id).and_then(|job| job.finish.take()) else { return };
        let result = finish(self, Closing::Done);
        let Some(job) = self.jobs.all.get_mut(id) else { return };
        match result {
            Ok(()) => {
                if job.of_block() {
                    let data = job.data();
                    self.bus.emit(&Event::BlockJobCompleted(data));
                }
                self.conclude(id);
            }
            Err(error) => {
                job.error = Some(error.desc);
                self.abort(id);
            }
        }
    }

    /// It was cancelled, or failed: so will be the others of its group.
    fn abort(&mut self, id: &str) {
        let group = self.jobs.group_of(id);
        self.job_is(id, JobStatus::Aborting);
        if let Some(finish) = self.jobs.all.get_mut(id).and_then(|job| job.finish.take())
            && let Err(error) = finish(self, Closing::Undone)
        {
            log::warn!("job '{id}': {error}");
        }
        let Some(job) = self.jobs.all.get_mut(id) else { return };
        if job.of_block() {
            let data = job.data();
            let event =
                if job.error.is_some() { Event::BlockJobCompleted(data) } else { Event::BlockJobCancelled(data) };
            self.bus.emit(&event);
        }
        if let Some(job) = self.jobs.all.get_mut(id).filter(|job| job.error.is_none()) {
            job.error = Some("Operation canceled".to_owned());
        }
        self.conclude(id);
        group.iter().for_each(|id| self.cancel(id));
    }

    fn conclude(&mut self, id: &str) {
        let Some(job) = self.jobs.all.get_mut(id) else { return };
        (job.order.held, job.finish) = (None, None);
        let by_itself = job.order.auto_dismiss;
        self.job_is(id, JobStatus::Concluded);
        if by_itself {
            self.dismiss(id);
        }
    }

    fn dismiss(&mut self, id: &str) {
        self.job_is(id, JobStatus::Null);
        self.jobs.all.remove(id);
    }

    /// `job-cancel` and its like.
    ///
    /// # Errors
    /// When there is no such job, or it is in another state.
    pub(super) fn order_job(&mut self, id: &str, verb: Verb) -> Answer {
        let job = self.jobs.all.get_mut(id).ok_or_else(|| QmpError::generic("Job not found"))?;
        if !verb.fits(job.status) {
            let (status, verb) = (job.status, verb.name());
            let text = format!("Job '{id}' in state '{status}' cannot accept command verb '{verb}'");
            return Err(QmpError::generic(text));
        }
        match verb {
            Verb::Leave if job.status == JobStatus::Ready => job.control.end(End::Leave),
            Verb::Cancel | Verb::Leave => self.cancel(id),
            Verb::Complete => job.control.end(End::Pivot),
            Verb::Pause if job.control.is_paused() => return Err(QmpError::generic("Job is already paused")),
            Verb::Pause => {
                job.control.set_paused(true);
                self.job_is(id, JobStatus::Paused);
            }
            Verb::Resume if !job.control.is_paused() => return Err(QmpError::generic("Job is not paused")),
            Verb::Resume => {
                job.control.set_paused(false);
                self.job_is(id, JobStatus::Running);
            }
            Verb::SetSpeed(speed) => job.control.set_speed(speed),
            Verb::Finalize => self.finalize_group(id),
            Verb::Dismiss => self.dismiss(id),
        }
        done()
    }

    /// `block-job-cancel` and its like: only jobs on nodes, in another class of error.
    ///
    /// # Errors
    /// As [`Machine::order_job`].
    pub(super) fn order_block_job(&mut self, id: &str, verb: Verb) -> Answer {
        if self.jobs.all.get(id).is_none_or(|job| !job.of_block()) {
            return Err(QmpError::no_block_job(id));
        }
        self.order_job(id, verb)
    }

    /// `query-jobs`.
    pub(super) fn all_jobs(&self) -> Answer {
        let jobs: Vec<JobInfo> = self.jobs.all.values().map(job_info).collect();
        answer(&jobs)
    }

    /// `query-block-jobs`.
    pub(super) fn block_jobs(&self) -> Answer {
        let jobs = self.jobs.all.values().filter(|job| job.of_block());
        let jobs: Vec<BlockJobInfo> = jobs.map(block_job_info).collect();
        answer(&jobs)
    }
}

fn job_info(job: &Job) -> JobInfo {
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

fn block_job_info(job: &Job) -> BlockJobInfo {
    let (offset, len) = job.control.progress();
    BlockJobInfo {
        r#type: job.order.kind.to_owned(),
        device: job.order.id.clone(),
        len: to_signed(len),
        offset: to_signed(offset),
        busy: job.status == JobStatus::Running,
        paused: job.control.is_paused(),
        speed: to_signed(job.control.speed()),
        io_status: BlockDeviceIoStatus::Ok,
        ready: job.status == JobStatus::Ready,
        status: job.status,
        auto_finalize: job.order.auto_finalize,
        auto_dismiss: job.order.auto_dismiss,
        error: job.error.clone(),
    }
}
