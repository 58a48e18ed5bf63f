//! What a job does about an error of its disk, or of what it copies to.

use super::{Control, Halt};
use crate::error::BlockError;

/// What is to be done about errors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnError {
    /// The job ends.
    #[default]
    Report,
    /// The job goes on, and comes back to what failed where it can.
    Ignore,
    /// The job is held until someone lets it try again.
    Stop,
    /// It is held where space ran out, and ends otherwise.
    Enospc,
}

/// What is done about one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The job ends.
    Report,
    /// It goes on.
    Ignore,
    /// It is held.
    Stop,
}

impl OnError {
    fn action(self, error: &BlockError) -> Action {
        match self {
            Self::Ignore => Action::Ignore,
            Self::Stop => Action::Stop,
            Self::Enospc if is_full(error) => Action::Stop,
            Self::Report | Self::Enospc => Action::Report,
        }
    }
}

/// Whether the disk is full. As in QEMU a quota, or the limit of a file's size, is another matter.
fn is_full(error: &BlockError) -> bool {
    error.errno() == libc::ENOSPC
}

/// What a job does about errors of either side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// Of what it reads.
    pub source: OnError,
    /// Of what it writes.
    pub target: OnError,
}

/// An error of a job, as others are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Something could not be read; otherwise it could not be written.
    pub reading: bool,
    /// The disk was full.
    pub no_space: bool,
    /// What is done about it.
    pub action: Action,
}

/// Tells others of an error.
pub type Tell = Box<dyn Fn(Fault) + Send + Sync>;

/// An error with which a job goes on.
#[derive(Debug)]
pub enum Forgiven {
    /// It is to go on as if nothing had happened.
    Ignored(BlockError),
    /// It was held, and is to try again.
    Held,
}

impl Control {
    /// Something failed: tells of it, and does what the policy says. An ignored error takes a moment, so that what
    /// always fails keeps no processor busy; a job that is to stop waits for [`Control::set_paused`] with `false`.
    ///
    /// # Errors
    /// The error itself if the job has to end by it, or [`Halt::Cancelled`].
    pub fn failed(&self, error: BlockError) -> Result<Forgiven, Halt> {
        // What a cancelled job waits for is broken off.
        if self.is_cancelled() {
            return Err(Halt::Cancelled);
        }
        let policy = if error.is_of_reading() { self.policy.source } else { self.policy.target };
        let action = policy.action(&error);
        if action == Action::Stop {
            self.order(|orders| orders.stopped = true);
        }
        self.tell(&error, action);
        match action {
            Action::Report => Err(Halt::Failed(error)),
            Action::Ignore => self.rest().map(|()| Forgiven::Ignored(error)),
            Action::Stop => self.wait_to_go_on().map(|()| Forgiven::Held),
        }
    }

    /// Something failed that cannot be tried again, whatever the policy says.
    pub(super) fn lost(&self, error: BlockError) -> Halt {
        if self.is_cancelled() {
            return Halt::Cancelled;
        }
        self.tell(&error, Action::Report);
        Halt::Failed(error)
    }

    fn tell(&self, error: &BlockError, action: Action) {
        if let Some(tell) = &self.tell {
            tell(Fault { reading: error.is_of_reading(), no_space: is_full(error), action });
        }
    }

    /// Does something again and again until it works.
    ///
    /// # Errors
    /// As [`Control::failed`].
    pub fn insist<T>(&self, work: impl Fn() -> Result<T, BlockError>) -> Result<T, Halt> {
        loop {
            match work() {
                Ok(done) => return Ok(done),
                Err(error) => drop(self.failed(error)?),
            }
        }
    }
}
