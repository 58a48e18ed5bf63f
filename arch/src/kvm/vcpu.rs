//! One virtual processor.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED, kvm_enable_cap, kvm_mp_state, kvm_regs, kvm_sregs,
};
use kvm_ioctls::{Cap, VcpuExit, VcpuFd};
use thiserror::Error;

use super::cpuid::CpuidTable;
use super::debug::DebugExit;
use super::exit::{Exit, Failure, answer_hyperv, failure, system_event};
use super::kept::{Kept, WriteSink};
use super::kick::{KickError, Kicker, RunPage, current_thread};
use super::msrs::{self, MsrValue};
use super::snapshot::VcpuSnapshot;

/// A virtual processor cannot be made, set or run.
#[derive(Debug, Error)]
pub enum VcpuError {
    /// An ioctl failed.
    #[error("vCPU {id}: {what} failed")]
    Ioctl {
        /// Which.
        id: u32,
        /// The ioctl.
        what: &'static str,
        /// Why.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// More CPUID leaves than the kernel takes.
    #[error("vCPU {id}: {count} CPUID entries are more than KVM takes ({})", CpuidTable::MAX_ENTRIES)]
    TooManyLeaves {
        /// Which.
        id: u32,
        /// How many there are.
        count: usize,
    },
    /// The kernel refused a register's value.
    #[error("vCPU {id}: KVM refused {value:#x} for MSR {index:#x}")]
    Msr {
        /// Which vCPU.
        id: u32,
        /// The register.
        index: u32,
        /// The value.
        value: u64,
    },
    /// A saved state does not fit this vCPU.
    #[error("vCPU {id}: the saved state does not fit: {why}")]
    Mismatch {
        /// Which.
        id: u32,
        /// What differs.
        why: &'static str,
    },
    /// The host cannot present that frequency.
    #[error("vCPU {id}: the host cannot present a TSC of {wanted} kHz; its own runs at {host} kHz")]
    TscFrequency {
        /// Which vCPU.
        id: u32,
        /// What was asked for.
        wanted: u32,
        /// What the vCPU has now; 0 where the kernel does not say.
        host: u32,
        /// Why.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// It could not be made stoppable.
    #[error("vCPU {id} cannot be made stoppable")]
    Kick {
        /// Which.
        id: u32,
        /// Why.
        #[source]
        source: KickError,
    },
}

/// Whether a processor runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Executing instructions.
    Running,
    /// In `hlt`, until an interrupt.
    Halted,
    /// A secondary processor that has not been started, or has been sent INIT (SDM volume 3, 9.4).
    WaitingForStart,
}

/// A virtual processor. It belongs to one thread, see [`Vcpu::bind_to_this_thread`].
#[derive(Debug)]
pub struct Vcpu {
    id: u32,
    pub(super) fd: VcpuFd,
    kept: Kept,
    page: Arc<RunPage>,
    pub(super) msr_indices: Arc<[u32]>,
    pub(super) xsave_size: usize,
    clock_control: bool,
    /// The state at power-on, which a reset brings back.
    initial: Option<Box<VcpuSnapshot>>,
}

impl Vcpu {
    pub(super) fn new(
        id: u32,
        fd: VcpuFd,
        kept: Kept,
        msr_indices: Arc<[u32]>,
        xsave_size: usize,
        clock_control: bool,
    ) -> Result<Self, KickError> {
        // SAFETY: the descriptor is open for as long as `fd`, which outlives this borrow.
        #[expect(unsafe_code, reason = "kvm-ioctls gives the descriptor only as a number")]
        let descriptor = unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) };
        let page = Arc::new(RunPage::map(descriptor)?);
        Ok(Self { id, fd, kept, page, msr_indices, xsave_size, clock_control, initial: None })
    }

    /// The vCPU's id, which is its APIC id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn failed(&self, what: &'static str) -> impl Fn(kvm_ioctls::Error) -> VcpuError + use<> {
        let id = self.id;
        move |source| VcpuError::Ioctl { what, id, source }
    }

    /// Says that the calling thread runs this vCPU from now on, and gives the handle that stops it there.
    #[must_use]
    pub fn bind_to_this_thread(&self) -> Kicker {
        Kicker::new(Arc::clone(&self.page), current_thread())
    }

    /// Where writes go that KVM kept ([`super::Vm::keep_port_writes`]), of this vCPU and of others. They are handed on,
    /// in order, by [`Vcpu::run`] and [`Vcpu::finish_access`] before these return. Every vCPU needs a sink before any
    /// runs: one without leaves its writes to the others.
    pub fn on_kept_write(&mut self, sink: WriteSink) {
        self.kept.set_sink(sink);
    }

    /// Takes back the kicks so far. Call it *before* looking at orders.
    pub fn clear_kick(&self) {
        self.page.set_immediate_exit(false);
    }

    /// Sets what CPUID answers and the MSRs that differ from KVM's own, once, before the first entry, and EDX to the version
    /// that CPUID answers, as processors have it at power-on (SDM volume 3, table 10-1); then records the state at power-on for [`Vcpu::reset`]. MSRs that the kernel refuses are logged: older kernels know fewer.
    ///
    /// # Errors
    /// When the kernel refuses the table, or does not hand out the vCPU's state.
    pub fn configure(&mut self, cpuid: &CpuidTable, msrs: &[MsrValue]) -> Result<(), VcpuError> {
        let count = cpuid.entries().len();
        let leaves = cpuid.to_kvm().ok_or(VcpuError::TooManyLeaves { id: self.id, count })?;
        self.fd.set_cpuid2(&leaves).map_err(self.failed("KVM_SET_CPUID2"))?;
        for MsrValue { index, value } in msrs::write_all(msrs, |msrs| self.fd.set_msrs(msrs)) {
            log::warn!("vCPU {}: KVM refused {value:#x} for MSR {index:#x}", self.id);
        }
        let version = cpuid.entries().iter().find(|entry| entry.function == 1).map_or(0, |entry| entry.eax);
        let mut regs = self.regs()?;
        regs.rdx = version.into();
        self.set_regs(&regs)?;
        self.initial = Some(Box::new(self.snapshot()?));
        Ok(())
    }

    /// What CPUID answers now.
    ///
    /// # Errors
    /// When the ioctl fails.
    pub fn cpuid(&self) -> Result<CpuidTable, VcpuError> {
        let leaves = self.fd.get_cpuid2(CpuidTable::MAX_ENTRIES).map_err(self.failed("KVM_GET_CPUID2"))?;
        Ok(CpuidTable::from(&leaves))
    }

    /// Enters the guest until something needs attention. On [`Exit::Interrupted`] the guest has not moved past the
    /// access that it was at; every other exit is completed by the next call.
    ///
    /// # Errors
    /// When the kernel cannot run the vCPU.
    pub fn run(&mut self) -> Result<Exit<'_>, VcpuError> {
        let seen = match self.enter() {
            Ok(seen) => seen,
            Err(e) => match e.errno() {
                libc::EINTR => return Ok(Exit::Interrupted),
                // A secondary processor was started or sent INIT while it waited: enter again.
                libc::EAGAIN => return Ok(Exit::Nothing),
                _ => return Err(self.failed("KVM_RUN")(e)),
            },
        };
        Ok(self.exit(seen))
    }

    /// Completes the access that the last exit was for, without running the guest further. `Some` is another part of
    /// the same instruction, to be served like an exit of [`Vcpu::run`]: call again until `None`. Needed before the
    /// state is read or the vCPU parks. An earlier kick is taken back.
    ///
    /// # Errors
    /// As [`Vcpu::run`].
    pub fn finish_access(&mut self) -> Result<Option<Exit<'_>>, VcpuError> {
        self.page.set_immediate_exit(true);
        let result = self.enter();
        self.page.set_immediate_exit(false);
        match result {
            Ok(seen) => Ok(Some(self.exit(seen))),
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => Ok(None),
            Err(e) => Err(self.failed("KVM_RUN")(e)),
        }
    }

    /// Enters the guest; what KVM kept is done when this returns.
    fn enter(&mut self) -> Result<Seen, kvm_ioctls::Error> {
        let result = self.fd.run().map(Seen::from);
        self.kept.hand_on(&mut self.fd);
        result
    }

    #[expect(unsafe_code, reason = "exit data lies in memory shared with the kernel")]
    fn exit(&mut self, seen: Seen) -> Exit<'_> {
        let run = self.fd.get_kvm_run();
        // SAFETY: for the port exits below the kernel has written this member, plain numbers; else it is not looked at.
        let width = usize::from(unsafe { run.__bindgen_anon_1.io.size }).max(1);
        match seen {
            Seen::Nothing => Exit::Nothing,
            Seen::Hyperv => {
                answer_hyperv(run);
                Exit::Nothing
            }
            Seen::Interrupted => Exit::Interrupted,
            Seen::Halted => Exit::Halted,
            Seen::Shutdown => Exit::Shutdown,
            Seen::System(kind) => system_event(kind),
            Seen::Debug(exit) => Exit::Debug(exit),
            Seen::Memory { address, size } => Exit::Failed(Failure::Memory { address, size }),
            Seen::Other => Exit::Failed(failure(run)),
            // SAFETY: the slice was made by kvm-ioctls from the vCPU's mapping, which lives as long as
            // `fd`; the borrow of self keeps `fd`, and keeps anyone else from entering the guest or from making another
            // such slice, while the exit is in use. This holds for the next three as well.
            Seen::In(port, data) => Exit::PortIn { port, width, data: unsafe { &mut *data } },
            // SAFETY: see above.
            Seen::Out(port, data) => Exit::PortOut { port, width, data: unsafe { &*data } },
            // SAFETY: see above.
            Seen::Read(address, data) => Exit::MemoryRead { address, data: unsafe { &mut *data } },
            // SAFETY: see above.
            Seen::Write(address, data) => Exit::MemoryWrite { address, data: unsafe { &*data } },
        }
    }

    /// Sets the general registers and the system registers, as a boot protocol asks for them.
    ///
    /// # Errors
    /// When the kernel refuses them.
    pub fn set_entry(&self, regs: &kvm_regs, sregs: &kvm_sregs) -> Result<(), VcpuError> {
        self.set_sregs(sregs)?;
        self.set_regs(regs)
    }

    /// The general registers.
    ///
    /// # Errors
    /// When the ioctl fails.
    pub fn regs(&self) -> Result<kvm_regs, VcpuError> {
        self.fd.get_regs().map_err(self.failed("KVM_GET_REGS"))
    }

    /// Sets the general registers.
    ///
    /// # Errors
    /// When the ioctl fails.
    pub fn set_regs(&self, regs: &kvm_regs) -> Result<(), VcpuError> {
        self.fd.set_regs(regs).map_err(self.failed("KVM_SET_REGS"))
    }

    /// The guest-physical address behind a linear one, by the vCPU's page tables; `None` where nothing is mapped.
    ///
    /// # Errors
    /// When the ioctl fails.
    pub fn translate(&self, linear: u64) -> Result<Option<u64>, VcpuError> {
        let found = self.fd.translate_gva(linear).map_err(self.failed("KVM_TRANSLATE"))?;
        Ok((found.valid != 0).then_some(found.physical_address))
    }

    /// The segment, control and descriptor table registers.
    ///
    /// # Errors
    /// When the ioctl fails.
    pub fn sregs(&self) -> Result<kvm_sregs, VcpuError> {
        self.fd.get_sregs().map_err(self.failed("KVM_GET_SREGS"))
    }

    /// Sets the segment, control and descriptor table registers.
    ///
    /// # Errors
    /// When the kernel refuses a combination that a processor would refuse.
    pub fn set_sregs(&self, sregs: &kvm_sregs) -> Result<(), VcpuError> {
        self.fd.set_sregs(sregs).map_err(self.failed("KVM_SET_SREGS"))
    }

    /// Those of the MSRs `wanted` that exist.
    #[must_use]
    pub fn msrs(&self, wanted: &[u32]) -> Vec<MsrValue> {
        msrs::read_some(wanted, |msrs| self.fd.get_msrs(msrs))
    }

    /// Sets MSRs in order.
    ///
    /// # Errors
    /// [`VcpuError::Msr`] for the first that the kernel refuses; all others are set nevertheless.
    pub fn set_msrs(&self, values: &[MsrValue]) -> Result<(), VcpuError> {
        match msrs::write_all(values, |msrs| self.fd.set_msrs(msrs)).first() {
            Some(&MsrValue { index, value }) => Err(VcpuError::Msr { id: self.id, index, value }),
            None => Ok(()),
        }
    }

    /// Whether the vCPU executes, waits, or has not been started.
    ///
    /// # Errors
    /// When the ioctl fails.
    pub fn run_state(&self) -> Result<RunState, VcpuError> {
        let state = self.fd.get_mp_state().map_err(self.failed("KVM_GET_MP_STATE"))?;
        Ok(match state.mp_state {
            KVM_MP_STATE_HALTED => RunState::Halted,
            KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED | KVM_MP_STATE_SIPI_RECEIVED => {
                RunState::WaitingForStart
            }
            _ => RunState::Running,
        })
    }

    /// Sets whether the vCPU executes, waits, or waits to be started.
    ///
    /// # Errors
    /// When the ioctl fails.
    pub fn set_run_state(&self, state: RunState) -> Result<(), VcpuError> {
        let mp_state = match state {
            RunState::Running => KVM_MP_STATE_RUNNABLE,
            RunState::Halted => KVM_MP_STATE_HALTED,
            RunState::WaitingForStart => KVM_MP_STATE_UNINITIALIZED,
        };
        self.fd.set_mp_state(kvm_mp_state { mp_state }).map_err(self.failed("KVM_SET_MP_STATE"))
    }

    /// Injects a non-maskable interrupt. Taken at the next entry.
    ///
    /// # Errors
    /// When the ioctl fails.
    pub fn inject_nmi(&self) -> Result<(), VcpuError> {
        self.fd.nmi().map_err(self.failed("KVM_NMI"))
    }

    /// The guest's TSC frequency in kHz; `None` where the kernel does not say.
    #[must_use]
    pub fn tsc_khz(&self) -> Option<u32> {
        self.fd.get_tsc_khz().ok().filter(|khz| *khz != 0)
    }

    /// Sets the guest's TSC frequency. Before [`Vcpu::configure`]. A frequency that the guest's clocks cannot tell from
    /// the host's (250 parts in a million) needs no scaling and is taken for the host's.
    ///
    /// # Errors
    /// [`VcpuError::TscFrequency`] when the host's processor cannot scale the TSC.
    pub fn set_tsc_khz(&self, khz: u32) -> Result<(), VcpuError> {
        let host = self.tsc_khz().unwrap_or(0);
        if u64::from(host.abs_diff(khz)) * 4000 <= u64::from(host) {
            return Ok(());
        }
        let refused = |source| VcpuError::TscFrequency { id: self.id, wanted: khz, host, source };
        self.fd.set_tsc_khz(khz).map_err(refused)
    }

    /// Turns the Hyper-V synthetic interrupt controller on (`KVM_CAP_HYPERV_SYNIC2`). Before [`Vcpu::configure`].
    ///
    /// # Errors
    /// When the kernel does not offer it.
    pub fn enable_hyperv_synic(&self) -> Result<(), VcpuError> {
        let cap = kvm_enable_cap { cap: Cap::HypervSynic2 as u32, ..Default::default() };
        self.fd.enable_cap(&cap).map_err(self.failed("KVM_ENABLE_CAP(KVM_CAP_HYPERV_SYNIC2)"))
    }

    /// Tells the guest, by its paravirtual clock, that it was stopped by the host, so that its watchdogs do not take
    /// the stop for a hang. Nothing happens when it does not use that clock.
    ///
    /// # Errors
    /// When the ioctl fails otherwise.
    pub fn tell_stopped(&self) -> Result<(), VcpuError> {
        if !self.clock_control {
            return Ok(());
        }
        match self.fd.kvmclock_ctrl() {
            // The guest has no such clock switched on.
            Err(e) if e.errno() == libc::EINVAL => Ok(()),
            other => other.map_err(self.failed("KVM_KVMCLOCK_CTRL")),
        }
    }

    /// Brings back the state at power-on: all registers, MSRs, APIC, pending events and FPU as they were when
    /// [`Vcpu::configure`] returned; id 0 executes at the reset vector `0xffff_fff0` (SDM volume 3, table 10-1), the
    /// others wait to be started. The TSC starts from zero, together on all vCPUs that are reset within a second.
    ///
    /// # Errors
    /// When [`Vcpu::configure`] was not called before, or an ioctl fails.
    pub fn reset(&self) -> Result<(), VcpuError> {
        let why = "it has not been configured";
        let initial = self.initial.as_ref().ok_or(VcpuError::Mismatch { id: self.id, why })?;
        // After a triple fault without paging, Linux' KVM on AMD forgets its own page tables for the guest until a control
        // register changes, and the guest then faults for ever. CR3 means nothing without paging, and KVM does not know.
        let mut sregs = initial.sregs;
        sregs.cr3 ^= PAGE;
        self.set_sregs(&sregs)?;
        self.put(initial, Tsc::Restart)
    }

    /// Sets the whole state to one that [`Vcpu::snapshot`] took of a vCPU with the same CPUID. The TSC goes on from
    /// where it was.
    ///
    /// # Errors
    /// When it does not fit, or an ioctl fails.
    pub fn restore(&self, snapshot: &VcpuSnapshot) -> Result<(), VcpuError> {
        self.put(snapshot, Tsc::Continue)
    }
}

/// An address in CR3 that is not the one at power-on.
const PAGE: u64 = 1 << 12;

/// What becomes of the time stamp counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tsc {
    Restart,
    Continue,
}

/// An exit without a borrow: `kvm-ioctls` lends the whole vCPU for it, details of others must be read beside it.
#[derive(Clone, Copy)]
enum Seen {
    In(u16, *mut [u8]),
    Out(u16, *const [u8]),
    Read(u64, *mut [u8]),
    Write(u64, *const [u8]),
    Memory { address: u64, size: u64 },
    System(u32),
    Debug(DebugExit),
    Interrupted,
    Nothing,
    Hyperv,
    Halted,
    Shutdown,
    Other,
}

impl From<VcpuExit<'_>> for Seen {
    fn from(exit: VcpuExit<'_>) -> Self {
        match exit {
            VcpuExit::IoIn(port, data) => Self::In(port, data),
            VcpuExit::IoOut(port, data) => Self::Out(port, data),
            VcpuExit::MmioRead(address, data) => Self::Read(address, data),
            VcpuExit::MmioWrite(address, data) => Self::Write(address, data),
            VcpuExit::Hlt => Self::Halted,
            VcpuExit::Shutdown => Self::Shutdown,
            VcpuExit::Intr => Self::Interrupted,
            VcpuExit::SystemEvent(kind, _) => Self::System(kind),
            VcpuExit::Debug(exit) => Self::Debug(DebugExit::new(exit.exception, exit.pc, exit.dr6)),
            VcpuExit::Hyperv => Self::Hyperv,
            VcpuExit::IoapicEoi(_) | VcpuExit::IrqWindowOpen => Self::Nothing,
            VcpuExit::MemoryFault { gpa, size, .. } => Self::Memory { address: gpa, size },
            _ => Self::Other,
        }
    }
}
