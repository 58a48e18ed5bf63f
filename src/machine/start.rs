//! From a command line to a running machine, in the order that matters: everything that can fail fails before the
//! first client is served and before the guest runs, and leaves nothing behind.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rhea_arch::kvm::{HostError, HostKind, KickError, Vm, VmError, install_kick_signal};
use rhea_arch::x86_64::cpu::HostCpu;
use rhea_block::graph::Graph;
use rhea_block::thread::ThreadKind;
use rhea_devices::chardev::CharBackend;
use rhea_devices::clock::{Clock, HostClock, ManualClock};
use rhea_devices::memory::GuestRam;
use thiserror::Error;

use super::drives::{self, DriveError};
use super::event::{EventSender, MachineEvent, event_channel};
use super::facts::{Facts, MemoryBackend};
use super::host::Host;
use super::objects::{self, ObjectError};
use super::{Actions, Ending, Guest, KvmGuest, Machine, MachineError, Parts, SOFTWARE_KVM};
use crate::board::accel::{Accelerator, Kvm};
use crate::board::memory::{self, RamError};
use crate::board::plan::{self, Plan, PlanError, Planner, Processors};
use crate::board::{Board, BoardError};
use crate::chardev::config::Config;
use crate::chardev::{ChardevError, Chardevs, Escape, FdTable};
use crate::cpu::{CpuError, Cpus};
use crate::logging::{self, Settings};
use crate::process::{self, PidFile, ProcessError, Readiness};
use crate::qmp::{EventBus, Mode, Monitors, QmpError, Services, request_channel};
use crate::qtest::{self, Harness, QtestError, Wires};
use crate::seccomp::{self, SeccompError};
use crate::sentence::to_stderr;
use crate::spec::machine::{Accel, Board as BoardKind};
use crate::spec::process::MonitorMode;
use crate::spec::{LostTicks, ObjectSpec, SpecError, VmSpec};
use crate::vcpu::{Platform, VcpuError, VcpuHandle};

/// Bits of a physical address of a machine without processors: what most have.
const TEST_PHYS_BITS: u8 = 40;

/// Where KVM is.
const KVM: &str = "/dev/kvm";

/// Why the machine does not start, or had to end.
#[derive(Debug, Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is the error of the step it is named after")]
pub enum StartError {
    #[error("cannot open the log file {path}")]
    Log {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    #[error("cannot set up the process")]
    Host(#[source] io::Error),
    #[error("-add-fd fd={fd}: {why}")]
    AddFd { fd: i32, why: String },
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("character device \"{label}\"")]
    Chardev {
        label: String,
        #[source]
        source: ChardevError,
    },
    #[error("-mon chardev={label}")]
    Monitor {
        label: String,
        #[source]
        source: ChardevError,
    },
    #[error("-object {what}")]
    Object {
        what: String,
        #[source]
        source: ObjectError,
    },
    #[error("-gdb chardev:{label}")]
    Debugger {
        label: String,
        #[source]
        source: ChardevError,
    },
    #[error(transparent)]
    Drive(#[from] DriveError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Ram(#[from] RamError),
    #[error("cannot use KVM")]
    Kvm(#[from] HostError),
    #[error("cannot use KVM")]
    Vm(#[from] VmError),
    #[error("cannot use KVM")]
    Kick(#[from] KickError),
    #[error(transparent)]
    Cpu(#[from] CpuError),
    #[error(transparent)]
    Board(#[from] BoardError),
    #[error(transparent)]
    Qtest(#[from] QtestError),
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// Runs a machine to its end; the number is the exit status.
///
/// # Errors
/// Why it does not start, or why it could not go on.
pub fn run(program: &str, spec: &VmSpec) -> Result<u8, StartError> {
    start_log(program, spec)?;
    let readiness = if spec.process.daemonize { process::daemonize()? } else { Readiness::foreground() };
    process::set_name(spec.name.process.as_deref());
    super::block_signals().map_err(StartError::Host)?;
    install_kick_signal()?;
    let sandboxed = spec.process.sandbox.enable;
    if sandboxed {
        seccomp::enable()?;
    }
    let (events, news) = event_channel().map_err(StartError::Host)?;
    let chardevs = open_chardevs(spec, &events)?;
    if sandboxed {
        seccomp::announce_violations()?;
    }
    let outcome = Session { spec, events, chardevs: Arc::clone(&chardevs) }.run(news, readiness, sandboxed);
    chardevs.shut_down();
    outcome
}

fn start_log(program: &str, spec: &VmSpec) -> Result<(), StartError> {
    let process = &spec.process;
    let settings = Settings {
        program: program.to_owned(),
        timestamp: process.msg.timestamp,
        guest: process.msg.guest_name.then(|| spec.name.guest.clone()).flatten(),
        verbose: process.verbose,
    };
    let path = process.logfile.as_deref();
    let refused = |source| StartError::Log { path: path.map(PathBuf::from).unwrap_or_default(), source };
    logging::start(settings, path).map_err(refused)?;
    spec.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    Ok(())
}

/// Makes the character devices; a server with `wait=on` waits for its client here.
fn open_chardevs(spec: &VmSpec, events: &EventSender) -> Result<Arc<Chardevs>, StartError> {
    let fds = Arc::new(FdTable::new());
    for given in &spec.process.add_fds {
        let told = |e: QmpError| StartError::AddFd { fd: given.fd, why: e.to_string() };
        let fd = fds.claim(given.fd).map_err(told)?;
        fds.add(Some(given.set), fd, given.opaque.clone()).map_err(told)?;
    }
    let told = events.clone();
    let hook = Arc::new(move |escape| {
        told.send(match escape {
            Escape::Quit => MachineEvent::Quit,
            Escape::Commit => MachineEvent::Commit,
        });
    });
    let chardevs = Chardevs::new(fds, hook).map_err(StartError::Host)?;
    for asked in &spec.chardevs {
        let refused = |source| StartError::Chardev { label: asked.common().id.clone(), source };
        let config = Config::from_spec(asked).map_err(refused)?;
        if let Some(pty) = chardevs.add(&config).map_err(refused)? {
            to_stderr(Chardevs::announcement(&config.label, &pty));
        }
    }
    Ok(Arc::new(chardevs))
}

/// A machine on its way up.
struct Session<'a> {
    spec: &'a VmSpec,
    events: EventSender,
    chardevs: Arc<Chardevs>,
}

impl Session<'_> {
    fn run(self, news: super::event::EventQueue, readiness: Readiness, sandboxed: bool) -> Result<u8, StartError> {
        let spec = self.spec;
        let graph = Arc::new(Graph::new().locking_by_use());
        let events = self.events.clone();
        graph.on_corruption(move |node, corruption| {
            events.send(MachineEvent::ImageCorrupted { node: node.to_owned(), corruption: corruption.clone() });
        });
        let mut iothreads = BTreeMap::new();
        for object in &spec.objects {
            let what = || format!("{},id={}", object.type_name(), object.id());
            let made = objects::make(&graph, object).map_err(|source| StartError::Object { what: what(), source })?;
            iothreads.extend(made.map(|thread| (object.id().to_owned(), thread)));
        }
        drives::open_blockdevs(&graph, &spec.blockdevs)?;
        let disks = drives::open_drives(&graph, &spec.drives, spec.snapshot)?;
        let (requests, queue) = request_channel().map_err(StartError::Host)?;
        let bus = EventBus::new();
        let clock = Arc::new(HostClock::stopped());
        let host = Host::new(Arc::clone(&self.chardevs), Arc::clone(&graph), iothreads, self.events.clone());
        let mut facts = facts(spec);
        let harness;
        let mut planner = Planner::default();
        let guest = match spec.machine.kind.board {
            BoardKind::None => {
                look_for_kvm(&mut facts);
                let (platform, ram) = (Arc::new(qtest::Nothing), Arc::new(GuestRam::new()));
                let vacant = qtest::Vacant { wires: Wires::new(Arc::clone(&ram)), clock: Arc::default() };
                harness = self.prepare_test(platform, ram, Some(vacant))?;
                None
            }
            BoardKind::I440fx => match spec.accel {
                Accel::Kvm => {
                    let guest = self.build(&disks, &host, &clock, &mut facts, &mut planner)?;
                    harness = self.prepare_test(guest.board.platform(), Arc::clone(guest.board.ram()), None)?;
                    Some(guest)
                }
                Accel::Qtest => {
                    let (guest, client) = self.build_for_test(&disks, &host, &mut facts, &mut planner)?;
                    harness = client;
                    Some(guest)
                }
            },
        };
        for drive in &disks {
            let waits = facts.disks.iter().all(|disk| disk.drive != drive.id);
            let wrong = |source| DriveError::Drive { typed: format!("-drive id={}", drive.id), source };
            if waits {
                facts.add_waiting(drive, &host).map_err(wrong)?;
            }
        }
        facts.order_disks(&disks);
        clock.start().map_err(StartError::Host)?;
        let parts = Parts {
            facts,
            planner,
            guest,
            host,
            clock,
            actions: actions(spec),
            requests: queue,
            events: news,
            bus: bus.clone(),
        };
        let mut machine = Machine::new(parts)?;
        let services = Services::new(super::execute::offer(), package(), Arc::clone(&self.chardevs));
        let services = Arc::new(services.with_cpu_types(crate::cpu::types));
        let monitors = Monitors::start(requests, services, &bus).map_err(StartError::Host)?;
        let _pid_file = spec.process.pidfile.as_deref().map(PidFile::create).transpose()?;
        self.chardevs.fds().close_inheritance();
        process::give_up_privileges(spec.process.chroot.as_deref(), spec.process.runas.as_ref())?;
        // Nobody is served by a process that still is who started it.
        self.add_monitors(&monitors)?;
        self.add_debugger(&mut machine)?;
        // Who waits for the end of the start hears of a bad kernel; a debugger and a test look at the guest at once.
        if !spec.start_paused || spec.process.daemonize || spec.gdb.is_some() || harness.is_some() {
            machine.power_on()?;
        }
        harness.map(Harness::start).transpose()?;
        readiness.ready()?;
        if sandboxed {
            seccomp::confine(ThreadKind::Main)?;
        }
        let ending = machine.run(spec.start_paused);
        drives::bound_waiting(&graph);
        graph.let_all_go();
        // The guest's last writes reach the disk before anyone is told that it is over.
        drop(machine);
        if let Err(error) = graph.close_all() {
            log::error!("{error}");
        }
        monitors.stop();
        Ok(match ending? {
            Ending::Normal => 0,
            Ending::Status(status) => status,
        })
    }

    /// The guest's memory, devices and vCPUs.
    fn build(
        &self,
        disks: &[plan::DrivePlan],
        host: &Host,
        clock: &Arc<HostClock>,
        facts: &mut Facts,
        planner: &mut Planner,
    ) -> Result<Guest, StartError> {
        let kvm = rhea_arch::kvm::Host::open(KVM.as_ref())?;
        let host_cpu = HostCpu::read(&kvm)?;
        let cpus = Cpus::new(self.spec, &kvm, &host_cpu)?;
        facts.kvm = true;
        facts.software_kvm = kvm.kind() == HostKind::Software;
        if facts.software_kvm && self.spec.boot.kernel.is_some() {
            log::warn!("{SOFTWARE_KVM}");
        }
        facts.host_cpu = Some(host_cpu);
        facts.cpu_type = cpus.type_name();
        facts.cpus = cpus.places();
        facts.cpu_model = cpus.model_properties();
        let plan = plan::check(self.spec, Processors { all: cpus.processors(), phys_bits: cpus.phys_bits() }, disks)?;
        let ram = Arc::new(memory::map(&plan.ram)?);
        let vm = Arc::new(Vm::create(&kvm)?);
        if self.spec.lost_ticks == LostTicks::Discard {
            vm.set_pit_reinjection(false)?;
        }
        let irqchip = vm.irqchip()?;
        let accel: Arc<dyn Accelerator> = Arc::new(Kvm(Arc::clone(&vm)));
        let board = Board::build(&plan, &accel, ram, Arc::clone(clock) as _, host)?;
        let mut vcpus = Vec::new();
        for (index, vcpu) in (0..).zip(cpus.create(&vm)?) {
            vcpus.push(VcpuHandle::start(index, vcpu, board.platform(), self.events.clone())?);
        }
        add_devices(facts, &plan, host);
        *planner = Planner::new(self.spec.clone(), disks.to_vec(), &plan);
        Ok(Guest { board, kvm: Some(KvmGuest { vm, irqchip }), vcpus })
    }

    /// The same without vCPUs, on a clock that the client moves.
    fn build_for_test(
        &self,
        disks: &[plan::DrivePlan],
        host: &Host,
        facts: &mut Facts,
        planner: &mut Planner,
    ) -> Result<(Guest, Option<Harness>), StartError> {
        let smp = &self.spec.smp;
        let all = (0..smp.maxcpus).map(|index| (index, index < smp.cpus)).collect();
        let plan = plan::check(self.spec, Processors { all, phys_bits: TEST_PHYS_BITS }, disks)?;
        let ram = Arc::new(memory::map(&plan.ram)?);
        let wires = Wires::new(Arc::clone(&ram));
        let clock = Arc::new(ManualClock::new(HostClock::stopped().wall()));
        let accel: Arc<dyn Accelerator> = Arc::clone(&wires) as _;
        let board = Board::build(&plan, &accel, ram, Arc::clone(&clock) as _, host)?;
        add_devices(facts, &plan, host);
        *planner = Planner::new(self.spec.clone(), disks.to_vec(), &plan);
        let harness =
            self.prepare_test(board.platform(), Arc::clone(board.ram()), Some(qtest::Vacant { wires, clock }))?;
        Ok((Guest { board, kvm: None, vcpus: Vec::new() }, harness))
    }

    fn add_debugger(&self, machine: &mut Machine) -> Result<(), StartError> {
        let Some(label) = &self.spec.gdb else { return Ok(()) };
        let refused = |source| StartError::Debugger { label: label.clone(), source };
        let device: Arc<dyn CharBackend> = self.chardevs.frontend(label).map_err(refused)?;
        let attached = machine.expect_debugger(&device, self.events.clone());
        if attached { Ok(()) } else { Err(refused(ChardevError::Busy(label.clone()))) }
    }

    /// The client that drives the devices, if there is one.
    fn prepare_test(
        &self,
        platform: Arc<dyn Platform>,
        ram: Arc<GuestRam>,
        vacant: Option<qtest::Vacant>,
    ) -> Result<Option<Harness>, StartError> {
        let Some(label) = &self.spec.qtest else { return Ok(None) };
        let refused = |source| StartError::Monitor { label: label.clone(), source };
        let client: Arc<dyn CharBackend> = self.chardevs.frontend(label).map_err(refused)?;
        let log = qtest::Log::open(self.spec.qtest_log.as_deref())?;
        Ok(Some(qtest::prepare(client, log, (platform, ram), vacant, self.events.clone())))
    }

    fn add_monitors(&self, monitors: &Monitors) -> Result<(), StartError> {
        for monitor in &self.spec.monitors {
            let label = &monitor.chardev;
            let refused = |source| StartError::Monitor { label: label.clone(), source };
            let device = self.chardevs.frontend(label).map_err(refused)?;
            let mode = match monitor.mode {
                MonitorMode::Readline => Mode::Readline,
                MonitorMode::Control => Mode::Control { pretty: monitor.pretty },
            };
            if !monitors.add(device, mode) {
                return Err(refused(ChardevError::Busy(label.clone())));
            }
        }
        Ok(())
    }
}

fn actions(spec: &VmSpec) -> Actions {
    let asked = &spec.actions;
    Actions { reboot: asked.reboot, shutdown: asked.shutdown, panic: asked.panic, watchdog: asked.watchdog }
}

/// What `query-version` says this program is.
fn package() -> String {
    concat!("Rhea ", env!("CARGO_PKG_VERSION")).to_owned()
}

fn facts(spec: &VmSpec) -> Facts {
    let backends = spec.objects.iter().filter_map(|object| {
        let (common, share) = match object {
            ObjectSpec::MemoryRam(ram) => (&ram.common, ram.share),
            ObjectSpec::MemoryMemfd(memfd) => (&memfd.common, memfd.share),
            ObjectSpec::MemoryFile(file) => (&file.common, file.share),
            _ => return None,
        };
        Some(MemoryBackend {
            id: common.id.clone(),
            size: common.size.0,
            merge: common.merge,
            dump: common.dump,
            prealloc: common.prealloc,
            share,
        })
    });
    Facts {
        name: spec.name.guest.clone(),
        uuid: spec.uuid.unwrap_or_default().to_string(),
        machine: spec.machine.kind.name.to_owned(),
        memory: if spec.machine.kind.board == BoardKind::None { 0 } else { spec.memory.size.0 },
        memory_backends: backends.collect(),
        numa_nodes: spec.numa.nodes.iter().map(|node| node.memory).collect(),
        cpu_type: "qemu64-x86_64-cpu".to_owned(),
        ..Facts::default()
    }
}

/// A process for probing tells what a guest could have.
fn look_for_kvm(facts: &mut Facts) {
    match rhea_arch::kvm::Host::open(KVM.as_ref()).and_then(|kvm| HostCpu::read(&kvm)) {
        Ok(cpu) => {
            facts.kvm = true;
            facts.host_cpu = Some(cpu);
        }
        Err(error) => log::info!("{error}"),
    }
}

/// The devices as `query-block`, `qom-list` and others tell of them.
fn add_devices(facts: &mut Facts, plan: &Plan, host: &Host) {
    facts.add_disks(plan.disks(), host);
    facts.add_memory(&plan.ram);
}
