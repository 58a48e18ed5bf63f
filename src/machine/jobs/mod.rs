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

mod table;

use std::sync::Arc;

use rhea_block::filter::throttle::Lifted;
use rhea_block::job::{Action, Control, End, Fault, Halt};
use rhea_block::thread::{self, ThreadKind};
use rhea_block::{BlockError, ErrorKind};

use super::Machine;
use super::event::MachineEvent;
use crate::qmp::channel::{Answer, answer, done};
use crate::qmp::event::{
    BlockErrorAction, BlockJobData, BlockJobErrorData, BlockJobPendingData, BlockJobReadyData, IoOperationType,
    JobStatus, JobStatusData,
};
use crate::qmp::reply::block::{BlockDeviceIoStatus, BlockJobInfo, JobInfo};
use crate::qmp::{Event, QmpError};
use crate::sentence::plain;
use crate::spec::check_id;
pub(super) use table::{Closing, Finish, Jobs, Order, Verb};
use table::{Job, block_job_info, job_info, join};

impl Machine {
    /// Starts a job: `work` on a thread of its own, then `finish` here.
    ///
    /// # Errors
    /// When its id is taken or empty, or there is no thread for it.
    pub(in crate::machine) fn start_job(
        &mut self,
        order: Order,
        work: impl FnOnce(&Control) -> Result<(), Halt> + Send + 'static,
        finish: Finish,
    ) -> Result<(), QmpError> {
        let id = order.id.clone();
        self.create_job(order, work, finish)?;
        self.begin_job(&id).inspect_err(|_| drop(self.jobs.all.remove(&id)))
    }

    /// Makes a job that does nothing until [`Machine::begin_job`].
    ///
    /// # Errors
    /// When its id is taken or empty.
    pub(in crate::machine) fn create_job(
        &mut self,
        order: Order,
        work: impl FnOnce(&Control) -> Result<(), Halt> + Send + 'static,
        finish: Finish,
    ) -> Result<(), QmpError> {
        let id = order.id.clone();
        self.check_job_id(&id)?;
        let (events, told) = (self.host.events.clone(), id.clone());
        let tell = move |fault| events.send(MachineEvent::JobFault { id: told.clone(), fault });
        let control = Arc::new(Control::new(order.speed).with(order.policy, Box::new(tell)));
        let (events, told, orders) = (self.host.events.clone(), id.clone(), control.clone());
        let run = move || {
            let result = work(&orders);
            events.send(MachineEvent::JobEnded { id: told, result });
        };
        let job = Job {
            order,
            control,
            status: JobStatus::Undefined,
            io_status: BlockDeviceIoStatus::Ok,
            error: None,
            finish: Some(finish),
            work: Some(Box::new(run)),
            thread: None,
            unawaited: Vec::new(),
        };
        self.jobs.all.insert(id.clone(), job);
        self.job_is(&id, JobStatus::Created);
        Ok(())
    }

    /// Has a job begin that was made; one that is gone again does not.
    ///
    /// # Errors
    /// When there is no thread for it.
    fn begin_job(&mut self, id: &str) -> Result<(), QmpError> {
        let Some(run) = self.jobs.all.get_mut(id).and_then(|job| job.work.take()) else { return Ok(()) };
        self.job_is(id, JobStatus::Running);
        let thread = thread::spawn(ThreadKind::Disk, "job", run);
        let thread =
            thread.map_err(|error| QmpError::generic(format!("cannot start a thread for job '{id}': {error}")))?;
        if let Some(job) = self.jobs.all.get_mut(id) {
            job.thread = Some(thread);
        }
        Ok(())
    }

    /// The same for one of a transaction, which has ended well: the job fails without a thread.
    pub(in crate::machine) fn begin_made_job(&mut self, id: &str) {
        if let Err(error) = self.begin_job(id) {
            if let Some(job) = self.jobs.all.get_mut(id) {
                job.error = Some(error.desc);
            }
            self.abort(id);
        }
    }

    /// Refuses an id that a new job cannot have.
    ///
    /// # Errors
    /// It is taken, or not an identifier.
    pub(in crate::machine) fn check_job_id(&self, id: &str) -> Result<(), QmpError> {
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
    pub(in crate::machine) fn job_ready(&mut self, id: &str) {
        // It may have ended since.
        if self.jobs.all.get(id).is_none_or(|job| job.thread.is_none()) {
            return;
        }
        self.job_is(id, JobStatus::Ready);
        if let Some(job) = self.jobs.all.get(id) {
            let BlockJobData { r#type, device, len, offset, speed, .. } = job.data();
            self.bus.emit(&Event::BlockJobReady(BlockJobReadyData { r#type, device, len, offset, speed }));
            // It was told to pause when it had no step left at which to do so.
            if job.control.is_paused() {
                self.job_is(id, JobStatus::Standby);
            }
        }
    }

    /// The work of a job has ended.
    pub(in crate::machine) fn job_ended(&mut self, id: &str, result: Result<(), Halt>) {
        let Some(job) = self.jobs.all.get_mut(id) else { return };
        join(job);
        match result {
            // It did not hear of it any more, or what it waited for was broken off for it.
            _ if job.control.is_cancelled() => self.abort(id),
            Ok(()) => {
                self.job_is(id, JobStatus::Waiting);
                self.group_may_be_done(id);
            }
            Err(Halt::Cancelled) => self.abort(id),
            Err(Halt::Failed(error)) => {
                log::warn!("job '{id}': {}", error.sentence());
                job.error = Some(why(&error));
                self.abort(id);
            }
        }
    }

    /// A job met an error, and may hold itself because of it.
    pub(in crate::machine) fn job_fault(&mut self, id: &str, fault: Fault) {
        let Some(job) = self.jobs.all.get_mut(id).filter(|job| job.of_block()) else { return };
        self.bus.emit(&Event::BlockJobError(BlockJobErrorData {
            device: id.to_owned(),
            operation: if fault.reading { IoOperationType::Read } else { IoOperationType::Write },
            action: match fault.action {
                Action::Report => BlockErrorAction::Report,
                Action::Ignore => BlockErrorAction::Ignore,
                Action::Stop => BlockErrorAction::Stop,
            },
        }));
        // Someone may have let it go on, or ended it, since.
        if job.control.is_stopped() && job.status.is_active() {
            job.io_status = if fault.no_space { BlockDeviceIoStatus::NoSpace } else { BlockDeviceIoStatus::Failed };
            if !job.control.is_paused() {
                self.hold_job(id);
            }
        }
    }

    fn hold_job(&mut self, id: &str) {
        let Some(job) = self.jobs.all.get_mut(id) else { return };
        job.control.set_paused(true);
        let ready = job.status == JobStatus::Ready;
        self.job_is(id, if ready { JobStatus::Standby } else { JobStatus::Paused });
    }

    /// Lets a job that is held go on, and forgets the error.
    fn let_job_go(&mut self, id: &str) {
        let Some(job) = self.jobs.all.get_mut(id).filter(|job| job.control.is_paused()) else { return };
        job.control.set_paused(false);
        job.io_status = BlockDeviceIoStatus::Ok;
        let ready = job.status == JobStatus::Standby;
        self.job_is(id, if ready { JobStatus::Ready } else { JobStatus::Running });
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

    /// Has a job end without its result: now if its work is done or has not begun, otherwise when its thread comes to it.
    pub(in crate::machine) fn cancel(&mut self, id: &str) {
        match self.jobs.all.get_mut(id) {
            Some(job) if job.work.is_some() => self.abort(id),
            Some(job) if matches!(job.status, JobStatus::Waiting | JobStatus::Pending) => self.abort(id),
            Some(job) if job.status.is_active() => {
                job.give_up();
                self.let_job_go(id);
            }
            _ => {}
        }
    }

    /// Does what is left on the main thread.
    fn finalize(&mut self, id: &str) {
        let Some(finish) = self.jobs.all.get_mut(id).and_then(Job::take_finish) else { return };
        let lifted = Lifted::everywhere();
        let result = finish(self, Closing::Done);
        drop(lifted);
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
        let _lifted = Lifted::everywhere();
        self.job_is(id, JobStatus::Aborting);
        if let Some(job) = self.jobs.all.get_mut(id).filter(|job| job.work.is_none()) {
            job.give_up();
        }
        if let Some(finish) = self.jobs.all.get_mut(id).and_then(Job::take_finish)
            && let Err(error) = finish(self, Closing::Undone)
        {
            log::warn!("job '{id}': {error}");
        }
        let Some(job) = self.jobs.all.get_mut(id) else { return };
        if job.of_block() && job.work.is_none() {
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

    /// Cancels all that are not over, as the process ends, and tells so.
    pub(super) fn end_jobs(&mut self) {
        let open = self.jobs.all.iter().filter(|(_, job)| job.status != JobStatus::Concluded);
        let open: Vec<_> = open.map(|(id, _)| id.clone()).collect();
        if open.is_empty() {
            return;
        }
        // Their last requests must not wait for limits.
        self.host.graph.let_all_go();
        // All at once: each may take a while to hear of it.
        self.jobs.all.values_mut().filter(|job| job.status != JobStatus::Concluded).for_each(Job::give_up);
        for id in &open {
            // One that ended with another of its group is over by now.
            if let Some(job) = self.jobs.all.get_mut(id).filter(|job| job.status != JobStatus::Concluded) {
                join(job);
                self.abort(id);
            }
        }
    }

    fn conclude(&mut self, id: &str) {
        let Some(job) = self.jobs.all.get_mut(id) else { return };
        // Nobody waits for one that never began.
        let by_itself = job.work.take().is_some() || job.order.auto_dismiss;
        (job.order.held, job.finish) = (None, None);
        job.unawaited.clear();
        (job.order.copy, job.order.target) = (None, None);
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
    pub(in crate::machine) fn order_job(&mut self, id: &str, verb: Verb) -> Answer {
        let job = self.jobs.all.get_mut(id).ok_or_else(|| QmpError::generic("Job not found"))?;
        if verb == Verb::Resume && !job.control.is_paused() {
            return Err(QmpError::generic("Can't resume a job that was not paused"));
        }
        if !verb.fits(job.status) {
            let (status, verb) = (job.status, verb.name());
            let text = format!("Job '{id}' in state '{status}' cannot accept command verb '{verb}'");
            return Err(QmpError::generic(text));
        }
        match verb {
            Verb::Leave if job.control.is_paused() => {
                return Err(QmpError::generic(format!("The block job for device '{id}' is currently paused")));
            }
            Verb::Leave if job.status == JobStatus::Ready => job.control.end(End::Leave),
            Verb::Cancel | Verb::Leave => self.cancel(id),
            Verb::Complete => job.control.end(End::Pivot),
            Verb::Pause if job.control.is_paused() => return Err(QmpError::generic("Job is already paused")),
            Verb::Pause => self.hold_job(id),
            Verb::Resume => self.let_job_go(id),
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
    pub(in crate::machine) fn order_block_job(&mut self, id: &str, verb: Verb) -> Answer {
        if self.jobs.all.get(id).is_none_or(|job| !job.of_block()) {
            return Err(QmpError::no_block_job(id));
        }
        self.order_job(id, verb)
    }

    /// `query-jobs`.
    pub(in crate::machine) fn all_jobs(&self) -> Answer {
        let jobs: Vec<JobInfo> = self.jobs.all.values().map(job_info).collect();
        answer(&jobs)
    }

    /// `query-block-jobs`.
    pub(in crate::machine) fn block_jobs(&self) -> Answer {
        let jobs = self.jobs.all.values().filter(|job| job.of_block());
        let jobs: Vec<BlockJobInfo> = jobs.map(block_job_info).collect();
        answer(&jobs)
    }
}

/// Why a job failed: where input or output did, in the few words that clients know from QEMU.
fn why(error: &BlockError) -> String {
    match error.kind() {
        ErrorKind::Io | ErrorKind::NoSpace => plain(&std::io::Error::from_raw_os_error(error.errno()).to_string()),
        _ => QmpError::from_error(error).desc,
    }
}
