//! A bare machine for a few instructions of real-mode code: 64 KiB of RAM at 0, code at 0x1000, stack below it.

#![allow(dead_code, reason = "each test program uses its part of the harness")]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rhea_arch::kvm::{Access, CpuidTable, Exit, Host, HostRange, RunState, Vcpu, Vm, install_kick_signal};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Where the code lies and starts.
pub(crate) const CODE: u64 = 0x1000;
/// Bytes of RAM.
pub(crate) const RAM: usize = 0x1_0000;

/// An exit, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    In { port: u16, width: usize, items: usize },
    Out { port: u16, width: usize, data: Vec<u8> },
    Read { address: u64, length: usize },
    Write { address: u64, data: Vec<u8> },
    Shutdown,
    Interrupted,
    Other(String),
}

pub(crate) struct Guest {
    pub(crate) vm: Arc<Vm>,
    pub(crate) vcpu: Vcpu,
    pub(crate) ram: Arc<GuestMemoryMmap<()>>,
    /// What the guest reads, from ports and from memory, byte after byte.
    pub(crate) input: VecDeque<u8>,
    /// Dropped with the guest: its watchdog then goes to sleep.
    _alive: Sender<()>,
}

/// A guest that runs longer hangs. Software KVM is slow, and test machines are busy.
const LONGEST_RUN: Duration = Duration::from_secs(60);

/// The host's KVM. A machine without one cannot run these tests, and says so.
pub(crate) fn host() -> Host {
    Host::open(Path::new("/dev/kvm")).unwrap_or_else(|e| panic!("these tests run guest code and need KVM: {e}"))
}

impl Guest {
    /// A machine whose vCPU 0 is about to execute `code` in real mode.
    pub(crate) fn new(code: &[u8]) -> Self {
        install_kick_signal().expect("signal handler");
        let host = host();
        let vm = Arc::new(Vm::create(&host).expect("machine"));
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).expect("memory");
        let ram = Arc::new(ram);
        let range = HostRange::of_ram(&ram, GuestAddress(0), RAM as u64).expect("range");
        vm.add_memory(0, range, Access::ReadWrite, false).expect("slot");
        let mut vcpu = vm.create_vcpu(0).expect("vCPU");
        vcpu.configure(&cpuid(&host), &[]).expect("CPUID");
        let (alive, ended) = channel();
        let kicker = vcpu.bind_to_this_thread();
        std::thread::spawn(move || {
            // A timeout, and not the end of the guest.
            if ended.recv_timeout(LONGEST_RUN) == Err(RecvTimeoutError::Timeout) {
                kicker.kick();
            }
        });
        let mut guest = Self { vm, vcpu, ram, input: VecDeque::new(), _alive: alive };
        guest.load(CODE, code);
        guest.start_with(0);
        guest
    }

    pub(crate) fn load(&mut self, at: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(at)).expect("code fits");
    }

    pub(crate) fn peek(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.ram.read_slice(&mut bytes, GuestAddress(at)).expect("in RAM");
        bytes
    }

    /// Real mode, all segments at 0 but ES, which is at `extra`, at the first instruction of the code.
    pub(crate) fn start_with(&mut self, extra: u64) {
        let mut sregs = self.vcpu.sregs().expect("registers");
        for segment in [&mut sregs.cs, &mut sregs.ds, &mut sregs.es, &mut sregs.ss, &mut sregs.fs, &mut sregs.gs] {
            segment.base = 0;
            segment.selector = 0;
        }
        sregs.es.base = extra;
        let mut regs = self.vcpu.regs().expect("registers");
        regs.rip = CODE;
        regs.rsp = CODE;
        regs.rflags = 2;
        self.vcpu.set_entry(&regs, &sregs).expect("entry state");
        self.vcpu.set_run_state(RunState::Running).expect("run state");
    }

    /// Enters the guest until something other than a bare re-entry happens; serves reads from `input`.
    pub(crate) fn step(&mut self) -> Seen {
        loop {
            let seen = match self.vcpu.run().expect("KVM runs the guest") {
                Exit::Nothing => continue,
                exit => serve(&mut self.input, exit),
            };
            return seen;
        }
    }

    fn place(&self) -> String {
        let regs = self.vcpu.regs().expect("registers");
        let sregs = self.vcpu.sregs().expect("registers");
        let state = self.vcpu.run_state().expect("run state");
        format!("{state:?} at {:#x}, segment at {:#x}, CR0 {:#x}", regs.rip, sregs.cs.base, sregs.cr0)
    }

    /// Steps until the guest writes to the debug port 0xff or shuts down; returns what came before.
    pub(crate) fn run_to_end(&mut self) -> Vec<Seen> {
        let mut all = Vec::new();
        loop {
            match self.step() {
                Seen::Out { port: 0xff, .. } => return all,
                Seen::Interrupted => panic!("the guest hangs after {all:?}: {}", self.place()),
                Seen::Other(why) => panic!("unexpected exit {why} after {all:?}"),
                Seen::Shutdown => {
                    all.push(Seen::Shutdown);
                    return all;
                }
                seen => all.push(seen),
            }
            assert!(all.len() < 10_000, "the guest does not end");
        }
    }
}

/// Answers an exit from `input`.
pub(crate) fn serve(input: &mut VecDeque<u8>, exit: Exit<'_>) -> Seen {
    let mut fill = |data: &mut [u8]| data.iter_mut().for_each(|b| *b = input.pop_front().unwrap_or(0xff));
    match exit {
        Exit::PortIn { port, width, data } => {
            fill(data);
            Seen::In { port, width, items: data.len() / width }
        }
        Exit::PortOut { port, width, data } => Seen::Out { port, width, data: data.to_vec() },
        Exit::MemoryRead { address, data } => {
            fill(data);
            Seen::Read { address, length: data.len() }
        }
        Exit::MemoryWrite { address, data } => Seen::Write { address, data: data.to_vec() },
        Exit::Shutdown => Seen::Shutdown,
        Exit::Interrupted => Seen::Interrupted,
        other => Seen::Other(format!("{other:?}")),
    }
}

/// What the host can give, unchanged: enough for a few instructions.
pub(crate) fn cpuid(host: &Host) -> CpuidTable {
    host.supported_cpuid().expect("CPUID")
}
