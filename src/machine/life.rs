//! The machine's life: run, stop, reset, power off; and what the guest's requests lead to.

use rhea_block::format::qcow2::Corruption;
use rhea_devices::bus::{Crash, PowerRequest};

use super::event::{DiskError, MachineEvent};
use super::{Ending, Machine, MachineError, SOFTWARE_KVM};
use crate::qmp::command::args::{PanicAction, RebootAction, ShutdownAction};
use crate::qmp::event::{
    BlockErrorAction, BlockImageCorruptedData, BlockIoErrorData, GuestPanicAction, GuestPanickedData, IoOperationType,
    ShutdownCause,
};
use crate::qmp::{Event, RunState};
use crate::sentence::{plain, sentence};
use crate::vcpu::{Pausing, VcpuHandle};

impl Machine {
    /// Lets the guest run. Does nothing while it does.
    ///
    /// # Errors
    /// When KVM refuses to set its clock.
    pub(super) fn cont(&mut self) -> Result<(), MachineError> {
        self.cont_some(|_| true)
    }

    /// The same for those vCPUs only that `runs` says; the others stand until the next stop and start.
    ///
    /// # Errors
    /// As [`Machine::cont`].
    pub(super) fn cont_some(&mut self, runs: impl Fn(u32) -> bool) -> Result<(), MachineError> {
        if self.state.is_running() {
            return Ok(());
        }
        self.start_guest_clock()?;
        for device in self.devices() {
            device.resume();
        }
        self.failed_disks.clear();
        self.clock.go();
        self.state = RunState::Running;
        self.bus.emit(&Event::Resume);
        self.vcpus().iter().filter(|vcpu| runs(vcpu.index())).for_each(VcpuHandle::run);
        Ok(())
    }

    /// Stops the guest: first the vCPUs, side by side, then the devices in the board's order. `state` is what the
    /// machine is in afterwards.
    ///
    /// # Errors
    /// When a vCPU does not answer; nothing is known of the guest then.
    pub(super) fn stop(&mut self, state: RunState) -> Result<(), MachineError> {
        if self.halt(state)? {
            self.bus.emit(&Event::Stop);
        }
        Ok(())
    }

    /// The same without a word, for the end; says whether the guest ran.
    ///
    /// # Errors
    /// As [`Machine::stop`].
    pub(super) fn halt(&mut self, state: RunState) -> Result<bool, MachineError> {
        if !self.state.is_running() {
            return Ok(false);
        }
        let stopped = self.park().and_then(|()| self.stop_guest_clock());
        self.or_stand(stopped)?;
        self.state = state;
        Ok(true)
    }

    /// What failed half-way leaves a machine that does not run as it should: it stands, and says so, until a reset.
    fn or_stand<T>(&mut self, done: Result<T, MachineError>) -> Result<T, MachineError> {
        if done.is_err() {
            if self.state.is_running() {
                self.bus.emit(&Event::Stop);
            }
            self.state = RunState::InternalError;
        }
        done
    }

    /// Parks the vCPUs and brings the devices to rest. Idempotent.
    fn park(&self) -> Result<(), MachineError> {
        let pausing: Vec<_> = self.vcpus().iter().map(VcpuHandle::pause).collect();
        pausing.iter().try_for_each(Pausing::wait)?;
        for device in self.devices() {
            device.pause();
        }
        self.host.without_limits(|| {
            for device in self.devices() {
                device.drain();
            }
        });
        self.clock.stop();
        Ok(())
    }

    /// Puts the machine into the state after power-on; it runs on if it did.
    ///
    /// # Errors
    /// When a vCPU does not answer or the kernel cannot be loaded again. The machine then stands (`internal-error`).
    pub(super) fn reset(&mut self, cause: ShutdownCause) -> Result<(), MachineError> {
        let ran = self.state.is_running();
        let ready = self.power_cycle();
        self.or_stand(ready)?;
        if !ran {
            // As before it ran for the first time.
            self.state = RunState::Prelaunch;
        }
        self.bus.emit(&Event::Reset(cause.into()));
        if ran {
            self.clock.go();
            for device in self.devices() {
                device.resume();
            }
            self.vcpus().iter().for_each(VcpuHandle::run);
        }
        Ok(())
    }

    /// Everything as after power-on, the vCPUs parked.
    fn power_cycle(&mut self) -> Result<(), MachineError> {
        self.park()?;
        // Another vCPU may have asked for the same before it was parked.
        self.events.forget_resets();
        // Whoever would have let go of these has stopped existing.
        let leaving = self.guest.as_ref().map_or(0, |guest| guest.board.leaving());
        self.slots_ejected(leaving);
        for device in self.devices() {
            device.reset();
        }
        if let Some(guest) = &self.guest {
            guest.board.tell_firmware(&self.planner.boot())?;
            if let Some(kvm) = &guest.kvm {
                kvm.vm.set_irqchip(&kvm.irqchip).map_err(MachineError::Interrupts)?;
            }
        }
        self.load()
    }

    /// A reset that somebody asked for: with `-no-reboot` the machine turns off instead.
    ///
    /// # Errors
    /// As [`Machine::reset`].
    pub(super) fn restart(&mut self, cause: ShutdownCause) -> Result<(), MachineError> {
        match self.actions.reboot {
            RebootAction::Reset => self.reset(cause),
            RebootAction::Shutdown => self.turn_off(cause),
        }
    }

    /// The machine turns off: the process ends, or stays stopped with `-no-shutdown`.
    fn turn_off(&mut self, cause: ShutdownCause) -> Result<(), MachineError> {
        self.bus.emit(&Event::Shutdown(cause.into()));
        match self.actions.shutdown {
            ShutdownAction::Poweroff => {
                self.ending = Some(Ending::Normal);
                Ok(())
            }
            ShutdownAction::Pause => self.stop(RunState::Shutdown),
        }
    }

    /// Ends the process whatever `-no-shutdown` says: a signal, `quit`.
    pub(super) fn quit(&mut self, cause: ShutdownCause) {
        if self.ending.is_none() {
            self.bus.emit(&Event::Shutdown(cause.into()));
            self.ending = Some(Ending::Normal);
        }
    }

    /// Follows news from another thread.
    ///
    /// # Errors
    /// When the machine cannot do what follows from it; the process then ends.
    pub(super) fn follow(&mut self, event: MachineEvent) -> Result<(), MachineError> {
        match event {
            MachineEvent::Power(request) => self.power(request),
            MachineEvent::VcpuFailed { index, why } => {
                log::error!("KVM cannot go on with vCPU {index}: {why}");
                if self.facts.software_kvm {
                    log::error!("{SOFTWARE_KVM}");
                }
                self.stop(RunState::InternalError)
            }
            MachineEvent::DebugExit { index, exit } => self.debug_exit(index, exit),
            MachineEvent::Debugger(input) => self.debugger_says(input),
            MachineEvent::GuestCrashed(Crash::Panicked) => self.guest_panicked(),
            MachineEvent::GuestCrashed(Crash::Loaded) => {
                self.bus.emit(&Event::GuestCrashloaded(GuestPanickedData { action: GuestPanicAction::Run }));
                Ok(())
            }
            MachineEvent::Ejected(slots) => {
                self.slots_ejected(slots);
                Ok(())
            }
            MachineEvent::ClockSet(offset) => {
                self.clock_news.set(offset);
                Ok(())
            }
            MachineEvent::DiskError(error) => self.disk_failed(error),
            MachineEvent::ImageCorrupted { node, corruption } => {
                self.image_corrupted(node, corruption);
                Ok(())
            }
            MachineEvent::TrayMoved { device, open } => {
                self.tray_moved(&device, open);
                Ok(())
            }
            MachineEvent::WriteThreshold(data) => {
                self.bus.emit(&Event::BlockWriteThreshold(data));
                Ok(())
            }
            MachineEvent::JobReady(id) => {
                self.job_ready(&id);
                Ok(())
            }
            MachineEvent::JobFault { id, fault } => {
                self.job_fault(&id, fault);
                Ok(())
            }
            MachineEvent::JobEnded { id, result } => {
                self.job_ended(&id, result);
                Ok(())
            }
            MachineEvent::ExportLeft(leaving) => {
                self.export_left(&leaving);
                Ok(())
            }
            MachineEvent::Signal(_) => {
                self.quit(ShutdownCause::HostSignal);
                Ok(())
            }
            MachineEvent::Commit => {
                if let Err(error) = self.commit_all() {
                    log::error!("{error}");
                }
                Ok(())
            }
            MachineEvent::Quit => {
                self.quit(ShutdownCause::HostUi);
                Ok(())
            }
        }
    }

    fn power(&mut self, request: PowerRequest) -> Result<(), MachineError> {
        match request {
            PowerRequest::Reset => {
                if let Err(error) = self.restart(ShutdownCause::GuestReset) {
                    log::error!("the guest wanted a reset and stands: {}", sentence(&error));
                }
                Ok(())
            }
            PowerRequest::PowerOff => self.turn_off(ShutdownCause::GuestShutdown),
            // Never asked for: the power chip refuses S3, because without firmware nothing would wake the guest.
            PowerRequest::Suspend => Ok(()),
            PowerRequest::Exit(status) => {
                // A guest that failed may go on for a moment: what it did first counts.
                self.ending.get_or_insert(Ending::Status(status));
                Ok(())
            }
        }
    }

    /// The guest's kernel told the hypervisor that it crashed.
    fn guest_panicked(&mut self) -> Result<(), MachineError> {
        let (action, state) = match self.actions.panic {
            PanicAction::Pause => (GuestPanicAction::Pause, Some(RunState::GuestPanicked)),
            PanicAction::Shutdown | PanicAction::ExitFailure => (GuestPanicAction::Poweroff, None),
            PanicAction::None => (GuestPanicAction::Run, None),
        };
        self.bus.emit(&Event::GuestPanicked(GuestPanickedData { action }));
        match self.actions.panic {
            PanicAction::ExitFailure => {
                self.ending = Some(Ending::Status(1));
                Ok(())
            }
            PanicAction::Shutdown => self.turn_off(ShutdownCause::GuestPanic),
            PanicAction::Pause | PanicAction::None => state.map_or(Ok(()), |state| self.stop(state)),
        }
    }

    fn image_corrupted(&self, node: String, corruption: Corruption) {
        let number = |bytes: u64| i64::try_from(bytes).ok();
        self.bus.emit(&Event::BlockImageCorrupted(BlockImageCorruptedData {
            device: self.facts.disk_on(&node).map(|disk| disk.drive.clone()).unwrap_or_default(),
            node_name: Some(node),
            msg: corruption.message,
            offset: number(corruption.offset),
            size: number(corruption.size),
            fatal: true,
        }));
    }

    fn disk_failed(&mut self, error: DiskError) -> Result<(), MachineError> {
        let action = match (error.stop, error.ignore) {
            (true, _) => BlockErrorAction::Stop,
            (false, true) => BlockErrorAction::Ignore,
            (false, false) => BlockErrorAction::Report,
        };
        let disk = self.facts.disk(&error.device);
        self.bus.emit(&Event::BlockIoError(BlockIoErrorData {
            device: disk.map(|disk| disk.drive.clone()).unwrap_or_default(),
            node_name: disk.map(|disk| disk.node.clone()),
            operation: if error.write { IoOperationType::Write } else { IoOperationType::Read },
            action,
            nospace: Some(error.errno == libc::ENOSPC),
            reason: plain(&std::io::Error::from_raw_os_error(error.errno).to_string()),
        }));
        if !error.stop {
            return Ok(());
        }
        self.failed_disks.insert(error.device, error.errno);
        self.stop(RunState::IoError)
    }
}
