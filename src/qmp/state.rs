//! Which command may run in which state of the machine.
//!
//! ```text
//!   prelaunch ──cont──> running <──cont/stop──> paused
//!   inmigrate ──done──>    │ ├──disk error──> io-error ──cont──> running
//!                          │ ├──guest off with -no-shutdown──> shutdown ──system_reset, cont──> running
//!                          │ └──guest panic, pause asked──> guest-panicked
//!                          └──KVM cannot go on──> internal-error ──system_reset──> paused
//! ```

use super::command::Command;

qapi_enum! {
    /// The state of the machine as `query-status` says it.
    pub enum RunState {
        /// A debugger stopped it.
        Debug = "debug",
        /// Waits for, or receives, an incoming migration.
        InMigrate = "inmigrate",
        /// The vCPUs cannot go on: KVM reported a state it cannot handle.
        InternalError = "internal-error",
        /// A disk request failed and the disk is set to stop the machine then.
        IoError = "io-error",
        /// Stopped by a command.
        Paused = "paused",
        /// Sent elsewhere; not to be run here without thought.
        PostMigrate = "postmigrate",
        /// Started with `-S` and not yet told to go on.
        Prelaunch = "prelaunch",
        /// In the last part of an outgoing migration.
        FinishMigrate = "finish-migrate",
        /// A snapshot is being loaded.
        RestoreVm = "restore-vm",
        /// The guest runs.
        Running = "running",
        /// A snapshot is being saved.
        SaveVm = "save-vm",
        /// The guest turned itself off and `-no-shutdown` keeps the process.
        Shutdown = "shutdown",
        /// The guest sleeps (ACPI S3).
        Suspended = "suspended",
        /// A watchdog fired and is set to pause.
        Watchdog = "watchdog",
        /// The guest's kernel reported a panic and `-action panic=pause` holds it.
        GuestPanicked = "guest-panicked",
    }
}

impl RunState {
    /// The vCPUs run.
    pub fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::Suspended)
    }

    /// Only a reset leads out of this state.
    pub fn needs_reset(self) -> bool {
        matches!(self, Self::InternalError | Self::Shutdown)
    }
}

/// What [`accept`] decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The command may run.
    Accept,
    /// It may not; the sentence goes to the client with class `GenericError`.
    Refuse(&'static str),
}

/// Decides from the state alone whether a command may run.
pub fn accept(state: RunState, command: &Command) -> Decision {
    match command {
        Command::Cont if state.needs_reset() => Decision::Refuse("Resetting the Virtual Machine is required"),
        Command::Cont if matches!(state, RunState::FinishMigrate) => Decision::Refuse("Migration is not finalized yet"),
        Command::Cont | Command::Stop if matches!(state, RunState::SaveVm | RunState::RestoreVm) => {
            Decision::Refuse("A snapshot is being saved or loaded")
        }
        Command::SystemWakeup if state != RunState::Suspended => {
            Decision::Refuse("Unable to wake up: guest is not in suspended state")
        }
        command if command.changes_devices() && moves_away(state) => {
            Decision::Refuse("The machine is being migrated or saved; its devices cannot change now")
        }
        _ => Decision::Accept,
    }
}

impl Command {
    /// Whether it may only run once the guest's kernel lies in memory. Questions need not wait for it, but for what a
    /// direct boot sets up with it: the addresses of PCI functions.
    pub fn needs_power(&self) -> bool {
        let asks = self.name().starts_with("query-") && *self != Self::QueryPci;
        !(asks || *self == Self::Quit)
    }
}

/// States in which the list of devices and their sizes has to hold still.
fn moves_away(state: RunState) -> bool {
    matches!(state, RunState::InMigrate | RunState::FinishMigrate | RunState::SaveVm | RunState::RestoreVm)
}

#[cfg(test)]
mod tests;
