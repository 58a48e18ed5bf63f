//! The vCPU thread: guest code runs here, and what the guest touches is served here.
//!
//! ```text
//!            Run                       order to pause, power request, failure
//!  parked ─────────▶ running ──────────────────────────────────────────────▶ parked
//!    │  ▲               │
//!    └──┘ Call          └─ Call: between two entries of the guest
//! ```
//!
//! Orders arrive in a mailbox; the thread owns its `Vcpu` and nobody else touches it: registers are read and set, state
//! is saved and reset by closures that run here. An order is followed by a kick, which ends `KVM_RUN` without a race
//! (see [`rhea_arch::kvm::Kicker`]).

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rhea_arch::kvm::{Exit, Kicker, Vcpu};
use rhea_block::thread::{self, ThreadKind};
use rhea_devices::bus::{Crash, Effect, PowerRequest};
use rhea_devices::pci::Bdf;
use thiserror::Error;

use crate::machine::event::{EventSender, MachineEvent};

/// What a vCPU reaches when the guest touches something: the board.
pub trait Platform: Send + Sync {
    /// A read of `data.len()` bytes at a port.
    fn read_port(&self, port: u16, data: &mut [u8]);
    /// A write to a port.
    fn write_port(&self, port: u16, data: &[u8]) -> Effect;
    /// A read of memory that is not RAM.
    fn read_memory(&self, address: u64, data: &mut [u8]);
    /// A write to memory that is not RAM.
    fn write_memory(&self, address: u64, data: &[u8]) -> Effect;
    /// The function at `bdf` decodes other ranges than before.
    fn remap(&self, bdf: Bdf);
    /// The guest has let go of these PCI slots: from now on it finds nothing there.
    fn eject(&self, slots: u32);
    /// A memory that is reached without asking shows something else than before.
    fn remap_memory(&self);
}

/// A vCPU did not do what it was told in time.
#[derive(Debug, Error)]
pub enum VcpuError {
    /// No answer within the deadline.
    #[error("vCPU {0} does not answer")]
    Silent(u32),
    /// The thread has ended.
    #[error("vCPU {0} has ended")]
    Ended(u32),
    /// The host gives no thread.
    #[error("cannot start the thread of vCPU {index}")]
    Thread {
        /// Which.
        index: u32,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// How long a vCPU may take to answer. It only ever serves one access between two looks at its mailbox.
const DEADLINE: Duration = Duration::from_secs(10);

type Work = Box<dyn FnOnce(&mut Vcpu) + Send>;

enum Order {
    Run,
    Pause(Sender<()>),
    Call(Work),
    End,
}

#[derive(Default)]
struct Mailbox {
    orders: Mutex<VecDeque<Order>>,
    arrived: Condvar,
}

impl Mailbox {
    fn put(&self, order: Order) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).push_back(order);
        self.arrived.notify_one();
    }

    fn take(&self) -> Option<Order> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn wait(&self) -> Order {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(order) = orders.pop_front() {
                return order;
            }
            orders = self.arrived.wait(orders).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The main thread's hold on a vCPU. Dropping it ends the thread.
pub struct VcpuHandle {
    index: u32,
    thread_id: i32,
    mailbox: Arc<Mailbox>,
    kicker: Kicker,
    thread: Option<JoinHandle<()>>,
}

impl VcpuHandle {
    /// Starts the thread, parked, named as QEMU names it (`CPU n/KVM`).
    ///
    /// # Errors
    /// When the host gives no thread.
    pub fn start(
        index: u32,
        mut vcpu: Vcpu,
        platform: Arc<dyn Platform>,
        events: EventSender,
    ) -> Result<Self, VcpuError> {
        let mailbox = Arc::new(Mailbox::default());
        let (tell, told) = channel();
        let inbox = Arc::clone(&mailbox);
        let ports = Arc::clone(&platform);
        vcpu.on_kept_write(Box::new(move |port, data| {
            let effect = ports.write_port(port, data);
            if effect != Effect::None {
                log::error!("a write to port {port:#x} that was kept means {effect:?}, which is lost");
            }
        }));
        let work = move || {
            let hello = (current_thread_id(), vcpu.bind_to_this_thread());
            if tell.send(hello).is_ok() {
                VcpuThread { index, vcpu, platform, events, mailbox: inbox }.serve();
            }
        };
        let refused = |source| VcpuError::Thread { index, source };
        let thread = thread::spawn(ThreadKind::Vcpu, &format!("CPU {index}/KVM"), work).map_err(refused)?;
        let (thread_id, kicker) = told.recv().map_err(|_| VcpuError::Ended(index))?;
        Ok(Self { index, thread_id, mailbox, kicker, thread: Some(thread) })
    }

    /// The kernel's id of the thread.
    #[must_use]
    pub fn thread_id(&self) -> i32 {
        self.thread_id
    }

    /// The vCPU's number, from 0.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Lets the guest run.
    pub fn run(&self) {
        self.mailbox.put(Order::Run);
    }

    /// Tells the vCPU to park; [`Pausing::wait`] says when it has. Told to all first, the vCPUs park side by side.
    pub fn pause(&self) -> Pausing {
        let (done, parked) = channel();
        self.mailbox.put(Order::Pause(done));
        self.kicker.kick();
        Pausing { index: self.index, parked }
    }

    /// Runs `work` on the vCPU's thread and hands back what it returns.
    ///
    /// # Errors
    /// When the thread has ended or does not answer in time.
    pub fn call<T: Send + 'static>(&self, work: impl FnOnce(&mut Vcpu) -> T + Send + 'static) -> Result<T, VcpuError> {
        let (done, result) = channel();
        self.mailbox.put(Order::Call(Box::new(move |vcpu| {
            // The caller may have given up waiting.
            let _ = done.send(work(vcpu));
        })));
        self.kicker.kick();
        within_deadline(self.index, &result)
    }
}

impl Drop for VcpuHandle {
    fn drop(&mut self) {
        self.mailbox.put(Order::End);
        self.kicker.kick();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread of vCPU {} panicked", self.index);
        }
    }
}

/// A vCPU on its way to being parked.
#[must_use = "the vCPU may still run until this is waited for"]
pub struct Pausing {
    index: u32,
    parked: Receiver<()>,
}

impl Pausing {
    /// Returns when the vCPU is parked.
    ///
    /// # Errors
    /// When it has ended or does not answer in time.
    pub fn wait(&self) -> Result<(), VcpuError> {
        within_deadline(self.index, &self.parked)
    }
}

fn within_deadline<T>(index: u32, answer: &Receiver<T>) -> Result<T, VcpuError> {
    answer.recv_timeout(DEADLINE).map_err(|e| match e {
        RecvTimeoutError::Timeout => VcpuError::Silent(index),
        RecvTimeoutError::Disconnected => VcpuError::Ended(index),
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Parked,
    Running,
    Ended,
}

struct VcpuThread {
    index: u32,
    vcpu: Vcpu,
    platform: Arc<dyn Platform>,
    events: EventSender,
    mailbox: Arc<Mailbox>,
}

impl VcpuThread {
    fn serve(mut self) {
        let mut state = State::Parked;
        while state != State::Ended {
            state = match state {
                State::Parked => {
                    let order = self.mailbox.wait();
                    self.follow(order, state)
                }
                State::Running => self.running(),
                State::Ended => State::Ended,
            };
        }
    }

    fn follow(&mut self, order: Order, state: State) -> State {
        match order {
            Order::Run => State::Running,
            Order::Pause(done) => {
                // An access that the guest has begun is finished first: its result is part of the vCPU's state.
                self.finish_access();
                // The caller may have given up waiting.
                let _ = done.send(());
                State::Parked
            }
            Order::Call(work) => {
                work(&mut self.vcpu);
                state
            }
            Order::End => State::Ended,
        }
    }

    /// Enters the guest until there is an order or a reason to park.
    fn running(&mut self) -> State {
        self.vcpu.clear_kick();
        while let Some(order) = self.mailbox.take() {
            let next = self.follow(order, State::Running);
            if next != State::Running {
                return next;
            }
        }
        loop {
            match self.enter() {
                Outcome::GoOn => {}
                Outcome::Look => return State::Running,
                Outcome::Park(event) => {
                    self.events.send(event);
                    return State::Parked;
                }
            }
        }
    }

    /// Completes the access that the guest was at, all parts of it.
    fn finish_access(&mut self) {
        loop {
            let outcome = match self.vcpu.finish_access() {
                Ok(None) => return,
                Ok(Some(exit)) => serve(&*self.platform, &self.events, self.index, exit),
                Err(error) => Outcome::Park(failed(self.index, error.to_string())),
            };
            match outcome {
                Outcome::GoOn => {}
                Outcome::Look => return,
                Outcome::Park(event) => return self.events.send(event),
            }
        }
    }

    /// One entry of the guest and the service of what it exited for.
    fn enter(&mut self) -> Outcome {
        match self.vcpu.run() {
            Ok(exit) => serve(&*self.platform, &self.events, self.index, exit),
            Err(error) => Outcome::Park(failed(self.index, error.to_string())),
        }
    }
}

/// Serves one exit.
fn serve(platform: &dyn Platform, events: &EventSender, index: u32, exit: Exit<'_>) -> Outcome {
    let effect = match exit {
        Exit::PortIn { port, width, data } => {
            data.chunks_mut(width).for_each(|item| platform.read_port(port, item));
            Effect::None
        }
        Exit::PortOut { port, width, data } => {
            // What an item means for the machine takes effect before the next one, as with instructions one by one.
            let effects = data.chunks(width).map(|item| platform.write_port(port, item));
            let mut outcomes = effects.map(|effect| act_on(platform, events, effect));
            return outcomes.find(|outcome| !matches!(outcome, Outcome::GoOn)).unwrap_or(Outcome::GoOn);
        }
        Exit::MemoryRead { address, data } => {
            platform.read_memory(address, data);
            Effect::None
        }
        Exit::MemoryWrite { address, data } => platform.write_memory(address, data),
        Exit::Interrupted => return Outcome::Look,
        Exit::Nothing | Exit::Halted => Effect::None,
        Exit::Shutdown | Exit::ResetRequest => Effect::Power(PowerRequest::Reset),
        Exit::PowerOffRequest => Effect::Power(PowerRequest::PowerOff),
        Exit::Debug(exit) => return Outcome::Park(MachineEvent::DebugExit { index, exit }),
        Exit::Crashed => Effect::Crash(Crash::Panicked),
        Exit::Failed(failure) => return Outcome::Park(failed(index, failure.to_string())),
    };
    act_on(platform, events, effect)
}

/// Performs what a device asked for, and tells the main thread of what is left for it.
fn act_on(platform: &dyn Platform, events: &EventSender, effect: Effect) -> Outcome {
    match perform(platform, effect) {
        None => Outcome::GoOn,
        // The guest is not to run on before the machine has followed.
        Some(event @ MachineEvent::Power(_)) => Outcome::Park(event),
        Some(event) => {
            events.send(event);
            Outcome::GoOn
        }
    }
}

/// Performs what a device asked for, now that the device is unlocked; what is left is for the main thread to hear.
pub(crate) fn perform(platform: &dyn Platform, effect: Effect) -> Option<MachineEvent> {
    match effect {
        Effect::None => None,
        Effect::Remap(bdf) => {
            platform.remap(bdf);
            None
        }
        Effect::RemapMemory => {
            platform.remap_memory();
            None
        }
        Effect::Power(request) => Some(MachineEvent::Power(request)),
        Effect::Crash(crash) => Some(MachineEvent::GuestCrashed(crash)),
        Effect::Eject(slots) => {
            platform.eject(slots);
            Some(MachineEvent::Ejected(slots))
        }
        Effect::ClockSet(offset) => Some(MachineEvent::ClockSet(offset)),
    }
}

fn failed(index: u32, why: String) -> MachineEvent {
    MachineEvent::VcpuFailed { index, why }
}

#[derive(Debug)]
enum Outcome {
    GoOn,
    /// Someone kicked: look into the mailbox.
    Look,
    /// Park and tell the main thread why.
    Park(MachineEvent),
}

#[expect(unsafe_code, reason = "libc has no safe gettid")]
fn current_thread_id() -> i32 {
    // SAFETY: gettid cannot fail and touches no memory.
    unsafe { libc::gettid() }
}

#[cfg(test)]
mod tests;
