//! A debugger on the guest: GDB's remote protocol (`-gdb`, `-s`), which the `gdbstub` crate speaks.
//!
//! ```text
//!  gdb ── bytes ──▶ Line (console thread) ──▶ MachineEvent::Debugger ──▶ main thread: stub ──▶ vCPUs, memory
//!      ◀─ replies ───────────────────────────────────────────────────────┘
//!                                   vCPU at a breakpoint ──▶ MachineEvent::DebugExit ──▶ stop, report
//! ```
//!
//! To the debugger each vCPU is a thread. Everything happens on the main thread, which owns the machine, so the guest's
//! state is never looked at while it changes.

mod breakpoints;
mod port;
mod registers;
mod target;

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::Arc;

use gdbstub::common::{Signal, Tid};
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, GdbStubError, MultiThreadStopReason};
use gdbstub::target::ext::breakpoints::WatchKind;
use rhea_arch::kvm::{DebugControl, DebugExit, WatchFor};
use rhea_devices::chardev::CharBackend;

use super::event::EventSender;
use super::{Machine, MachineError};
use crate::qmp::RunState;
use crate::qmp::event::ShutdownCause;
use breakpoints::Breakpoints;
pub use port::DebuggerInput;
use port::{Line, Replies};
use target::Plan;

type Stub = GdbStubStateMachine<'static, Machine, Replies>;
type Step = Result<Stub, GdbStubError<MachineError, Infallible>>;

/// The debugger's side of the machine.
pub(super) struct Debugger {
    line: Arc<Line>,
    breakpoints: Breakpoints,
    /// What the next resumption is to be.
    plan: Plan,
    /// Nobody is connected, or the stub is at work.
    stub: Option<Stub>,
    /// What stopped the machine and was not reported yet.
    hit: Option<(u32, DebugExit)>,
}

/// The debugger's number for a vCPU: threads count from 1.
fn thread_of(index: u32) -> Tid {
    NonZeroUsize::MIN.saturating_add(index as usize)
}

impl Machine {
    /// Waits for a debugger on a character device; false when something else has it.
    pub(super) fn expect_debugger(&mut self, backend: &Arc<dyn CharBackend>, events: EventSender) -> bool {
        self.debugger = Line::attach(backend, events).map(|line| Debugger {
            line,
            breakpoints: Breakpoints::default(),
            plan: Plan::default(),
            stub: None,
            hit: None,
        });
        self.debugger.is_some()
    }

    /// Follows what comes from the debugger. One that connects stops the guest.
    ///
    /// # Errors
    /// When a vCPU does not do what it is told.
    pub(super) fn debugger_says(&mut self, input: DebuggerInput) -> Result<(), MachineError> {
        match input {
            DebuggerInput::Opened => {
                self.stop(RunState::Paused)?;
                self.greet_debugger()
            }
            DebuggerInput::Closed => self.forget_debugger(),
            DebuggerInput::Bytes(bytes) => {
                for &byte in &bytes {
                    let next = match self.take_stub() {
                        Some(Stub::Idle(stub)) => stub.incoming_data(self, byte),
                        Some(Stub::Running(stub)) => stub.incoming_data(self, byte),
                        Some(other) => Ok(other),
                        None => break,
                    };
                    self.settle_debugger(next)?;
                }
                if let Some(debugger) = &self.debugger {
                    debugger.line.taken(bytes.len());
                }
                Ok(())
            }
        }
    }

    /// A debugged vCPU has left the guest and parked itself.
    ///
    /// # Errors
    /// When a vCPU does not do what it is told.
    pub(super) fn debug_exit(&mut self, index: u32, exit: DebugExit) -> Result<(), MachineError> {
        let Some(debugger) = &mut self.debugger else { return Ok(()) };
        if let DebugExit::Breakpoint(at) = exit
            && !debugger.breakpoints.planted_at(at)
        {
            return self.return_breakpoint(index);
        }
        // Of several at once the first is reported; the others are where they were and come back.
        if self.state.is_running() {
            debugger.hit = Some((index, exit));
        }
        self.stop(RunState::Debug)
    }

    /// Tells the debugger that the guest stands, whatever stopped it, if it believes that it runs.
    ///
    /// # Errors
    /// When a vCPU does not do what it is told.
    pub(super) fn report_to_debugger(&mut self) -> Result<(), MachineError> {
        if self.state.is_running() {
            return Ok(());
        }
        match self.take_stub() {
            Some(Stub::Running(stub)) => {
                let reason = self.stop_reason();
                let next = stub.report_stop(self, reason);
                self.settle_debugger(next)
            }
            other => {
                self.put_stub(other);
                Ok(())
            }
        }
    }

    /// The breakpoint instruction was the guest's own: it gets its exception.
    fn return_breakpoint(&self, index: u32) -> Result<(), MachineError> {
        let (Some(debugger), Some(vcpu)) = (&self.debugger, self.vcpus().iter().find(|vcpu| vcpu.index() == index))
        else {
            return Ok(());
        };
        let control = debugger.breakpoints.control(false);
        vcpu.call(move |v| v.return_breakpoint(&control))?.map_err(MachineError::Registers)?;
        if self.state.is_running() {
            vcpu.run();
        }
        Ok(())
    }

    fn stop_reason(&mut self) -> MultiThreadStopReason<u64> {
        let hit = self.debugger.as_mut().and_then(|debugger| debugger.hit.take());
        let Some((index, exit)) = hit else {
            return MultiThreadStopReason::SignalWithThread { tid: thread_of(0), signal: Signal::SIGINT };
        };
        let tid = thread_of(index);
        let watch = |n| self.debugger.as_ref().and_then(|debugger| debugger.breakpoints.watch(n));
        let watched = |kind, addr| MultiThreadStopReason::Watch { tid, kind, addr };
        match exit {
            DebugExit::Breakpoint(_) => MultiThreadStopReason::SwBreak(tid),
            DebugExit::Step => MultiThreadStopReason::SignalWithThread { tid, signal: Signal::SIGTRAP },
            DebugExit::Watch(n) => match watch(n).map(|watch| (watch.what, watch.address)) {
                Some((WatchFor::Write, address)) => watched(WatchKind::Write, address),
                Some((WatchFor::Access, address)) => watched(WatchKind::ReadWrite, address),
                Some((WatchFor::Execution, _)) | None => MultiThreadStopReason::HwBreak(tid),
            },
        }
    }

    fn greet_debugger(&mut self) -> Result<(), MachineError> {
        let Some(debugger) = &mut self.debugger else { return Ok(()) };
        debugger.line.forget();
        debugger.hit = None;
        let stub = GdbStub::new(Replies::new(Arc::clone(&debugger.line))).run_state_machine(self);
        self.settle_debugger(stub)
    }

    /// Brings the stub to rest after a step of its protocol.
    fn settle_debugger(&mut self, next: Step) -> Result<(), MachineError> {
        let next = match next {
            Ok(Stub::CtrlCInterrupt(stub)) => {
                self.stop(RunState::Paused)?;
                let reason = self.stop_reason();
                stub.interrupt_handled(self, Some(reason))
            }
            other => other,
        };
        match next {
            Ok(Stub::Disconnected(stub)) => {
                let reason = stub.get_reason();
                self.put_stub(Some(stub.return_to_idle()));
                self.debugger_leaves(reason)
            }
            Ok(stub) => {
                self.put_stub(Some(stub));
                Ok(())
            }
            Err(error) if error.is_target_error() => error.into_target_error().map_or(Ok(()), Err),
            Err(error) => {
                log::warn!("the debugger sends what is not its protocol: {error}");
                self.greet_debugger()
            }
        }
    }

    fn debugger_leaves(&mut self, reason: DisconnectReason) -> Result<(), MachineError> {
        if matches!(reason, DisconnectReason::Kill) {
            self.quit(ShutdownCause::HostUi);
            return Ok(());
        }
        self.drop_breakpoints()?;
        self.cont()
    }

    /// The line is gone: the guest runs or stands as it did, without breakpoints.
    fn forget_debugger(&mut self) -> Result<(), MachineError> {
        self.take_stub();
        self.drop_breakpoints()
    }

    fn drop_breakpoints(&mut self) -> Result<(), MachineError> {
        if let Some(debugger) = &mut self.debugger {
            debugger.breakpoints.forget_watches();
            let planted = debugger.breakpoints.uproot_all();
            planted.iter().for_each(|planted| self.pull(planted));
        }
        for vcpu in self.vcpus() {
            vcpu.call(|v| v.set_debug(&DebugControl::default()))?.map_err(MachineError::Registers)?;
        }
        Ok(())
    }

    fn take_stub(&mut self) -> Option<Stub> {
        self.debugger.as_mut().and_then(|debugger| debugger.stub.take())
    }

    fn put_stub(&mut self, stub: Option<Stub>) {
        if let Some(debugger) = &mut self.debugger {
            debugger.stub = stub;
        }
    }
}
