//! What ends and restarts a guest, and what is done then.

qapi_enum! {
    /// What the guest's reboot does.
    pub enum RebootAction {
        /// Resets the machine.
        Reset = "reset",
        /// Turns it off.
        Shutdown = "shutdown",
    }
}

qapi_enum! {
    /// What the guest's power-off does.
    pub enum ShutdownAction {
        /// Ends the process.
        Poweroff = "poweroff",
        /// Pauses the machine.
        Pause = "pause",
    }
}

qapi_enum! {
    /// What a panic of the guest's kernel does.
    pub enum PanicAction {
        /// Pauses the machine.
        Pause = "pause",
        /// Turns it off.
        Shutdown = "shutdown",
        /// Ends the process with an exit code that says failure.
        ExitFailure = "exit-failure",
        /// Nothing.
        None = "none",
    }
}

qapi_enum! {
    /// What a watchdog that fires does.
    pub enum WatchdogAction {
        /// Resets the machine.
        Reset = "reset",
        /// Presses the power button.
        Shutdown = "shutdown",
        /// Turns it off.
        Poweroff = "poweroff",
        /// Pauses it.
        Pause = "pause",
        /// Says so.
        Debug = "debug",
        /// Nothing.
        None = "none",
        /// Sends a non-maskable interrupt.
        InjectNmi = "inject-nmi",
    }
}

qapi_struct! {
    /// `set-action`; what is left out stays.
    pub struct SetAction {
        /// On reboot.
        pub reboot: Option<RebootAction>,
        /// On power-off.
        pub shutdown: Option<ShutdownAction>,
        /// On panic.
        pub panic: Option<PanicAction>,
        /// On a watchdog.
        pub watchdog: Option<WatchdogAction>,
    }
}
