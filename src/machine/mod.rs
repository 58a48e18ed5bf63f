//! The machine: its board, its vCPUs and its run state, owned by the main thread.
//!
//! ```text
//!   monitors ──Request──▶ RequestQueue ─┐
//!   vCPUs, disks ─Event─▶ EventQueue   ─┼─▶ main thread: Machine::run
//!   SIGTERM, SIGINT, SIGHUP ─▶ signalfd ┘
//! ```
//!
//! Nobody else changes the machine; so no lock guards it.

mod backup;
mod bitmaps;
mod clock_news;
mod commit;
pub mod debug;
mod disk_io;
pub mod drives;
pub mod event;
mod execute;
mod exports;
pub mod facts;
pub mod host;
mod hotplug;
mod image_jobs;
mod internal;
mod jobs;
mod life;
mod media;
mod objects;
mod query;
mod signals;
mod snapshot;
pub mod start;
mod still;
mod throttle;
mod transaction;

pub use signals::{block as block_signals, outlive_file_limit, wait as wait_for_signal};

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use rhea_arch::kvm::{IrqchipSnapshot, MsrValue, Vm, VmError};
use rhea_block::layer::Layer;
use rhea_devices::clock::HostClock;
use rhea_devices::lifecycle::Lifecycle;
use thiserror::Error;

use crate::board::plan::Planner;
use crate::board::{Board, BoardError, PCI_INTERRUPTS};
use crate::process;
use crate::qmp::command::args::{PanicAction, RebootAction, ShutdownAction, WatchdogAction};
use crate::qmp::reply::migration::MigrationParameters;
use crate::qmp::{EventBus, RequestQueue, RunState};
use crate::vcpu::{VcpuError, VcpuHandle};
use clock_news::ClockNews;
use debug::Debugger;
use event::EventQueue;
use exports::Exports;
use facts::Facts;
use host::Host;
use jobs::Jobs;
use signals::Signals;

/// What the machine does when the guest reboots, turns itself off, panics, or its watchdog fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actions {
    /// On reboot (`-no-reboot`, `-action reboot=`).
    pub reboot: RebootAction,
    /// On power-off (`-no-shutdown`, `-action shutdown=`).
    pub shutdown: ShutdownAction,
    /// On a panic that the guest reports.
    pub panic: PanicAction,
    /// On a watchdog.
    pub watchdog: WatchdogAction,
}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The guest turned itself off, or someone told the process to end: status 0.
    Normal,
    /// `isa-debug-exit`: this status.
    Status(u8),
}

/// Why the machine cannot go on.
#[derive(Debug, Error)]
pub enum MachineError {
    /// The host gives no descriptors.
    #[error("cannot wait for events")]
    Events(#[source] io::Error),
    /// The event loop refused something.
    #[error("cannot wait for events")]
    Loop(#[source] event_manager::Error),
    /// A vCPU.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// The board.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// KVM refuses a vCPU's state.
    #[error("cannot set up a vCPU")]
    Registers(#[source] rhea_arch::kvm::VcpuError),
    /// KVM refuses the state of the interrupt controllers.
    #[error("cannot reset the interrupt controllers")]
    Interrupts(#[source] VmError),
    /// KVM refuses the clock.
    #[error("cannot set the guest's clock")]
    Clock(#[source] VmError),
}

/// What runs a guest; a process started for probing (`-machine none`) has none.
pub struct Guest {
    /// The devices, wired.
    pub board: Board,
    /// What runs it; nothing where a test drives the devices.
    pub kvm: Option<KvmGuest>,
    /// The vCPUs, parked.
    pub vcpus: Vec<VcpuHandle>,
}

/// What KVM keeps of a guest.
pub struct KvmGuest {
    /// The virtual machine.
    pub vm: Arc<Vm>,
    /// Its interrupt controllers and timer after power-on.
    pub irqchip: IrqchipSnapshot,
}

/// A guest with everything it has.
pub struct Machine {
    facts: Facts,
    planner: Planner,
    guest: Option<Guest>,
    host: Host,
    clock: Arc<HostClock>,
    actions: Actions,

    requests: RequestQueue,
    events: EventQueue,
    signals: Signals,
    bus: EventBus,

    state: RunState,
    ending: Option<Ending>,
    /// The guest's paravirtual clock when it was stopped, in nanoseconds.
    stopped_at: Option<u64>,
    /// Disks whose errors stopped the machine, with the error.
    failed_disks: BTreeMap<String, i32>,
    /// Devices that the guest was asked to let go of, and when.
    leaving: BTreeMap<String, Instant>,
    jobs: Jobs,
    exports: Exports,
    /// What disks were when backups began, by the nodes that keep what has changed since.
    snapshots: BTreeMap<String, Arc<dyn Layer>>,
    migration_events: bool,
    migration_parameters: MigrationParameters,
    debugger: Option<Debugger>,
    clock_news: ClockNews,
    /// When the guest is powered on if nothing asks for it before; nothing once it is.
    power_on_at: Option<Instant>,
    /// The guest has run: what only the start needed was given back.
    settled: bool,
}

/// What to know of a KVM without the processor's help.
const SOFTWARE_KVM: &str = "this host's KVM interprets instructions (its processor offers neither VT-x nor SVM): stock \
                            operating systems do not boot on it; use a host with hardware virtualization";

/// A machine that starts paused is powered on after this much time without a command that needs it: whoever started
/// the process has found it on its socket by then, and a kernel that cannot be loaded is still told of at once.
const LATEST_POWER_ON: Duration = Duration::from_millis(100);

/// So much news is followed before clients are heard again: a guest that makes news all the time does not keep them
/// waiting.
const NEWS_AT_ONCE: usize = 64;

/// Firmware leaves the memory type range registers on, write-back by default (Intel SDM volume 3, 12.11.2.1); without
/// them Linux does without the page attribute table.
const MTRRS: MsrValue = MsrValue { index: 0x2ff, value: 1 << 11 | 6 };

/// What a machine is put together from.
pub struct Parts {
    /// What those who ask are told.
    pub facts: Facts,
    /// What plans devices that come later.
    pub planner: Planner,
    /// Devices and vCPUs.
    pub guest: Option<Guest>,
    /// Disks and character devices.
    pub host: Host,
    /// The devices' clock, at rest.
    pub clock: Arc<HostClock>,
    /// What the user asked for.
    pub actions: Actions,
    /// Where commands come from.
    pub requests: RequestQueue,
    /// Where news comes from.
    pub events: EventQueue,
    /// Where clients hear of events.
    pub bus: EventBus,
}

impl Machine {
    /// Puts the machine together, in prelaunch. Nothing is loaded yet: [`Machine::power_on`] does that.
    ///
    /// # Errors
    /// When a device cannot start.
    pub fn new(parts: Parts) -> Result<Self, MachineError> {
        let signals = Signals::new().map_err(MachineError::Events)?;
        let Parts { facts, planner, guest, host, clock, actions, requests, events, bus } = parts;
        if let Some(guest) = &guest {
            guest.board.start()?;
        }
        Ok(Self {
            facts,
            planner,
            guest,
            host,
            clock,
            actions,
            requests,
            events,
            signals,
            bus,
            state: RunState::Prelaunch,
            ending: None,
            stopped_at: None,
            failed_disks: BTreeMap::new(),
            leaving: BTreeMap::new(),
            jobs: Jobs::default(),
            exports: Exports::default(),
            snapshots: BTreeMap::new(),
            migration_events: false,
            migration_parameters: MigrationParameters::default(),
            debugger: None,
            clock_news: ClockNews::default(),
            power_on_at: Some(Instant::now() + LATEST_POWER_ON),
            settled: false,
        })
    }

    /// Loads the guest's kernel, for the first time; does nothing when it is there. Before the guest runs and before
    /// anybody looks at its memory, and as late as possible: unpacking a kernel takes several times as long as all
    /// else between the start of the process and the first answer to a client.
    ///
    /// # Errors
    /// When the kernel cannot be loaded.
    pub fn power_on(&mut self) -> Result<(), MachineError> {
        if self.power_on_at.take().is_some() {
            self.load()?;
        }
        Ok(())
    }

    /// Gives back what only the start needed, once: when the guest runs for the first time, all of that is done.
    fn settle(&mut self) {
        if self.state.is_running() && !std::mem::replace(&mut self.settled, true) {
            process::release_startup_pages();
        }
    }

    fn devices(&self) -> &[Arc<dyn Lifecycle>] {
        self.guest.as_ref().map_or(&[], |guest| guest.board.devices())
    }

    fn vcpus(&self) -> &[VcpuHandle] {
        self.guest.as_ref().map_or(&[], |guest| &guest.vcpus)
    }

    /// Serves commands and news until the process has to end; `paused` is `-S`.
    ///
    /// # Errors
    /// When the machine cannot go on. The caller drops the machine, which flushes the disks, in either case.
    pub fn run(&mut self, paused: bool) -> Result<Ending, MachineError> {
        let mut waker = EventManager::new().map_err(MachineError::Loop)?;
        waker.add_subscriber(Wakers {
            fds: [self.requests.as_fd().as_raw_fd(), self.events.as_raw_fd(), self.signals.as_raw_fd()],
        });
        if !paused {
            self.cont()?;
        }
        crate::footprint::let_go_of_code();
        loop {
            self.serve()?;
            self.report_to_debugger()?;
            if let Some(ending) = self.ending {
                drives::bound_waiting(&self.host.graph);
                self.halt(RunState::Shutdown)?;
                self.end_jobs();
                return Ok(ending);
            }
            self.settle();
            let next = self.power_on_in()?.into_iter().chain(self.tell_clock()).min();
            // A part of a millisecond is one: time that is left is not waited for in a loop.
            let wait = next.map_or(-1, |time| i32::try_from(time.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
            match waker.run_with_timeout(wait) {
                Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EINTR => {}
                waited => drop(waited.map_err(MachineError::Loop)?),
            }
        }
    }

    /// How long until the guest is powered on; `None` when it has been. Does it when the time has come.
    fn power_on_in(&mut self) -> Result<Option<Duration>, MachineError> {
        let Some(due) = self.power_on_at else { return Ok(None) };
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.power_on()?;
            return Ok(None);
        }
        Ok(Some(left))
    }

    /// Takes what waits: commands and signals all, of the other news as much as keeps nobody waiting.
    fn serve(&mut self) -> Result<(), MachineError> {
        while let Some(signal) = self.signals.take() {
            signal.announce();
            self.follow(event::MachineEvent::Signal(signal.number))?;
        }
        for _ in 0..NEWS_AT_ONCE {
            let Some(event) = self.events.take() else { break };
            self.follow(event)?;
        }
        while self.ending.is_none()
            && let Some(request) = self.requests.take()
        {
            if request.command.needs_power() {
                self.power_on()?;
            }
            request.serve(self);
        }
        Ok(())
    }

    /// Loads the guest's kernel and puts the vCPUs where they start.
    fn load(&mut self) -> Result<(), MachineError> {
        let Some(guest) = &self.guest else { return Ok(()) };
        for vcpu in guest.vcpus.iter().rev() {
            vcpu.call(|v| v.reset())?.map_err(MachineError::Registers)?;
        }
        let Some(first) = guest.vcpus.first() else {
            // Nothing is loaded for nobody.
            guest.board.remap_all();
            return Ok(());
        };
        let sregs = first.call(|v| v.sregs())?.map_err(MachineError::Registers)?;
        if let Some((regs, sregs)) = guest.board.load(sregs)? {
            first.call(move |v| v.set_entry(&regs, &sregs))?.map_err(MachineError::Registers)?;
            for vcpu in &guest.vcpus {
                vcpu.call(|v| v.set_msrs(&[MTRRS]))?.map_err(MachineError::Registers)?;
            }
            if let Some(kvm) = &guest.kvm {
                let irqchip = kvm.irqchip.with_level_triggered(&PCI_INTERRUPTS);
                kvm.vm.set_irqchip(&irqchip).map_err(MachineError::Interrupts)?;
            }
        }
        guest.board.remap_all();
        Ok(())
    }

    /// The guest's paravirtual clock stands still while the machine is stopped.
    fn stop_guest_clock(&mut self) -> Result<(), MachineError> {
        let Some(kvm) = self.guest.as_ref().and_then(|guest| guest.kvm.as_ref()) else { return Ok(()) };
        if self.stopped_at.is_none() {
            self.stopped_at = Some(kvm.vm.clock().map_err(MachineError::Clock)?);
        }
        Ok(())
    }

    /// It goes on from where it stood; the guest's watchdogs are told that it was not at fault.
    fn start_guest_clock(&mut self) -> Result<(), MachineError> {
        let (Some(guest), Some(then)) = (&self.guest, self.stopped_at.take()) else { return Ok(()) };
        let Some(kvm) = &guest.kvm else { return Ok(()) };
        kvm.vm.set_clock(then).map_err(MachineError::Clock)?;
        for vcpu in &guest.vcpus {
            vcpu.call(|v| v.tell_stopped())?.map_err(MachineError::Registers)?;
        }
        Ok(())
    }
}

/// Wakes the loop; what woke it is looked at afterwards, all of it, so nothing is kept here.
struct Wakers {
    fds: [i32; 3],
}

impl MutEventSubscriber for Wakers {
    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {}

    fn init(&mut self, ops: &mut EventOps<'_>) {
        for fd in self.fds {
            if let Err(error) = ops.add(Events::new_raw(fd, EventSet::IN)) {
                log::error!("the main thread cannot wait for descriptor {fd}: {error}");
            }
        }
    }
}
