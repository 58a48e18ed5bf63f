//! What the protocol asks of the machine.

use std::collections::BTreeMap;
use std::io::Write as _;

use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints as Breakpointing, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps,
    SwBreakpoint, SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use gdbstub_arch::x86::X86_64_SSE;
use gdbstub_arch::x86::reg::X86_64CoreRegs;
use rhea_arch::kvm::{Watch, WatchFor};
use vm_memory::{Bytes, GuestAddress};

use super::breakpoints::{INT3, Planted};
use super::registers::Registers;
use super::thread_of;
use crate::machine::query::inspect::pages;
use crate::machine::{Machine, MachineError};
use crate::vcpu::VcpuHandle;

/// How the vCPUs are to go on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Plan {
    /// Whether a vCPU makes one step.
    steps: BTreeMap<u32, bool>,
    /// Those that are not in `steps` stand still.
    others_stand: bool,
}

impl Plan {
    fn act(&mut self, tid: Tid, steps: bool) {
        self.steps.insert(index_of(tid), steps);
    }

    fn steps(&self, index: u32) -> bool {
        self.steps.get(&index).copied().unwrap_or(false)
    }

    fn runs(&self, index: u32) -> bool {
        !self.others_stand || self.steps.contains_key(&index)
    }
}

fn index_of(tid: Tid) -> u32 {
    u32::try_from(tid.get() - 1).unwrap_or(u32::MAX)
}

fn refused(error: crate::vcpu::VcpuError) -> TargetError<MachineError> {
    TargetError::Fatal(MachineError::Vcpu(error))
}

impl Machine {
    fn debugged(&self, tid: Tid) -> Result<&VcpuHandle, TargetError<MachineError>> {
        self.vcpus().iter().find(|vcpu| vcpu.index() == index_of(tid)).ok_or(TargetError::NonFatal)
    }

    fn registers(&self, tid: Tid) -> Result<Registers, TargetError<MachineError>> {
        let read =
            self.debugged(tid)?.call(|v| Ok(Registers { general: v.regs()?, system: v.sregs()?, fpu: v.fpu()? }));
        read.map_err(refused)?.map_err(|e| TargetError::Fatal(MachineError::Registers(e)))
    }

    fn watch(&mut self, address: u64, length: u64, what: WatchFor) -> Option<(&mut super::Debugger, Watch)> {
        let length = u8::try_from(length).ok()?;
        Some((self.debugger.as_mut()?, Watch { address, length, what }))
    }

    fn add_watch(&mut self, address: u64, length: u64, what: WatchFor) -> bool {
        self.watch(address, length, what).is_some_and(|(debugger, watch)| debugger.breakpoints.add_watch(watch))
    }

    fn remove_watch(&mut self, address: u64, length: u64, what: WatchFor) -> bool {
        self.watch(address, length, what).is_some_and(|(debugger, watch)| debugger.breakpoints.remove_watch(watch))
    }

    /// Puts back what a breakpoint instruction stands for, unless the guest has overwritten it.
    pub(super) fn pull(&self, planted: &Planted) {
        let Some(guest) = &self.guest else { return };
        let at = GuestAddress(planted.physical);
        if guest.board.ram().read_obj::<u8>(at).is_ok_and(|byte| byte == INT3) {
            let _ = guest.board.ram().write_obj(planted.byte, at);
        }
    }

    fn plant(&mut self, linear: u64) -> Option<()> {
        let first = self.vcpus().first()?.index();
        let physical = self.physical(first, linear).ok()??;
        let ram = std::sync::Arc::clone(self.guest.as_ref()?.board.ram());
        let byte = ram.read_obj(GuestAddress(physical)).ok()?;
        let debugger = self.debugger.as_mut()?;
        if !debugger.breakpoints.plant(linear, Planted { physical, byte }) {
            return None;
        }
        ram.write_obj(INT3, GuestAddress(physical)).ok()
    }
}

impl Target for Machine {
    type Arch = X86_64_SSE;
    type Error = MachineError;

    fn base_ops(&mut self) -> BaseOps<'_, Self::Arch, Self::Error> {
        BaseOps::MultiThread(self)
    }

    /// Without breakpoint instructions of ours the debugger plants its own, which is harmless.
    fn guard_rail_implicit_sw_breakpoints(&self) -> bool {
        true
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Machine {
    fn read_registers(&mut self, regs: &mut X86_64CoreRegs, tid: Tid) -> TargetResult<(), Self> {
        self.registers(tid)?.to_gdb(regs);
        Ok(())
    }

    fn write_registers(&mut self, regs: &X86_64CoreRegs, tid: Tid) -> TargetResult<(), Self> {
        let mut registers = self.registers(tid)?;
        if !registers.take_from_gdb(regs) {
            return Err(TargetError::NonFatal);
        }
        let Registers { general, fpu, .. } = registers;
        let write = move |v: &mut rhea_arch::kvm::Vcpu| v.set_regs(&general).and_then(|()| v.set_fpu(&fpu));
        // A value that the processor does not take is the debugger's mistake and no reason to end.
        self.debugged(tid)?.call(write).map_err(refused)?.map_err(|_| TargetError::NonFatal)
    }

    /// As far as memory is mapped.
    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let mut done = 0;
        let asked = data.len();
        for (address, part) in pages(data, start) {
            if self.memory_in_page(Some(index_of(tid)), address, part).is_err() {
                break;
            }
            done += part.len();
        }
        if done == 0 && asked > 0 { Err(TargetError::Errno(EFAULT)) } else { Ok(done) }
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let bad = || TargetError::Errno(EFAULT);
        let ram = self.guest.as_ref().map(|guest| guest.board.ram()).ok_or_else(bad)?;
        let mut bytes = data.to_vec();
        for (address, part) in pages(&mut bytes, start) {
            let physical = self.physical(index_of(tid), address).ok().flatten().ok_or_else(bad)?;
            ram.write_slice(part, GuestAddress(physical)).map_err(|_| bad())?;
        }
        Ok(())
    }

    fn list_active_threads(&mut self, tell: &mut dyn FnMut(Tid)) -> Result<(), MachineError> {
        self.vcpus().iter().for_each(|vcpu| tell(thread_of(vcpu.index())));
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

/// The debugger's number for a bad address, as its own headers have it.
const EFAULT: u8 = 14;

impl ThreadExtraInfo for Machine {
    fn thread_extra_info(&self, tid: Tid, mut buf: &mut [u8]) -> Result<usize, MachineError> {
        let room = buf.len();
        // What does not fit is cut off.
        let _ = write!(buf, "CPU#{}", index_of(tid));
        Ok(room - buf.len())
    }
}

impl MultiThreadResume for Machine {
    fn resume(&mut self) -> Result<(), MachineError> {
        let Some(debugger) = &self.debugger else { return Ok(()) };
        let plan = debugger.plan.clone();
        for vcpu in self.vcpus() {
            let control = debugger.breakpoints.control(plan.steps(vcpu.index()));
            vcpu.call(move |v| v.set_debug(&control))?.map_err(MachineError::Registers)?;
        }
        self.cont_some(|index| plan.runs(index))
    }

    fn clear_resume_actions(&mut self) -> Result<(), MachineError> {
        self.change_plan(|plan| *plan = Plan::default());
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), MachineError> {
        self.change_plan(|plan| plan.act(tid, false));
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl Machine {
    fn change_plan(&mut self, change: impl FnOnce(&mut Plan)) {
        if let Some(debugger) = &mut self.debugger {
            change(&mut debugger.plan);
        }
    }
}

impl MultiThreadSingleStep for Machine {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), MachineError> {
        self.change_plan(|plan| plan.act(tid, true));
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Machine {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), MachineError> {
        self.change_plan(|plan| plan.others_stand = true);
        Ok(())
    }
}

impl Breakpointing for Machine {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        // A KVM that interprets instructions hands `int3` to the guest without asking: breakpoints that never stop
        // anyone are worse than none. Debug registers work there.
        if self.facts.software_kvm { None } else { Some(self) }
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Machine {
    fn add_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.plant(address).is_some())
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        let planted = self.debugger.as_mut().and_then(|debugger| debugger.breakpoints.uproot(address));
        planted.iter().for_each(|planted| self.pull(planted));
        Ok(planted.is_some())
    }
}

impl HwBreakpoint for Machine {
    fn add_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.add_watch(address, 1, WatchFor::Execution))
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.remove_watch(address, 1, WatchFor::Execution))
    }
}

/// The processor cannot watch reads alone: a watch for them is one for any access (SDM volume 3, 18.2.4).
fn watched(kind: WatchKind) -> WatchFor {
    match kind {
        WatchKind::Write => WatchFor::Write,
        WatchKind::Read | WatchKind::ReadWrite => WatchFor::Access,
    }
}

impl HwWatchpoint for Machine {
    fn add_hw_watchpoint(&mut self, address: u64, length: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(self.add_watch(address, length, watched(kind)))
    }

    fn remove_hw_watchpoint(&mut self, address: u64, length: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(self.remove_watch(address, length, watched(kind)))
    }
}
