//! The entropy queue: fills buffers as far as the source and the rate allow; what must wait is held, never in flight.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::timerfd::TimerFd;

use super::{RngRate, RngSource};
use crate::log_limit::LogLimit;
use crate::virtio::queue::{Chain, QueueError, VirtQueue};
use crate::virtio::worker::QueueHandler;

/// Most bytes for one chain: a device may fill less than it is lent (section 5.4.6.2).
const MAX_FILL: u32 = 64 << 10;
/// Bytes moved at once.
const STEP: usize = 4096;

/// What is left of the period.
struct Quota {
    rate: RngRate,
    left: u64,
    timer: TimerFd,
    running: bool,
}

impl Quota {
    /// How much may be given now.
    fn allows(&self) -> u64 {
        self.left
    }

    fn spend(&mut self, bytes: u64) -> io::Result<()> {
        self.left = self.left.saturating_sub(bytes);
        if !self.running {
            self.timer.reset(self.rate.period, None).map_err(io::Error::from)?;
            self.running = true;
        }
        Ok(())
    }

    /// Begins a new period if the last one is over.
    fn tick(&mut self) {
        let over = self.running && self.timer.wait_ready();
        if over {
            self.running = false;
            self.left = self.rate.max_bytes;
        }
    }
}

/// Whether a timer has fired, without waiting for it.
trait Fired {
    fn wait_ready(&mut self) -> bool;
}

impl Fired for TimerFd {
    fn wait_ready(&mut self) -> bool {
        // A one-shot timer is disarmed once it fired, and only then is a wait for it over at once.
        self.is_armed().is_ok_and(|armed| !armed) && self.wait().is_ok()
    }
}

pub(super) struct RngQueue {
    source: RngSource,
    quota: Option<Quota>,
    /// Wakes for the source and for the timer.
    wake: Epoll,

    waiting: Vec<u16>,
    chain: Chain,
    log: LogLimit,
}

impl RngQueue {
    pub(super) fn new(source: RngSource, rate: Option<RngRate>) -> io::Result<Self> {
        let wake = Epoll::new()?;
        let watch =
            |fd| wake.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 0));
        if let Some(fd) = source.readable() {
            match watch(fd) {
                // What cannot be watched is always ready.
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
                other => other?,
            }
        }
        let quota = match rate {
            Some(rate) => {
                let timer = TimerFd::new().map_err(io::Error::from)?;
                watch(timer.as_raw_fd())?;
                Some(Quota { rate, left: rate.max_bytes, timer, running: false })
            }
            None => None,
        };
        let (waiting, chain, log) = (Vec::new(), Chain::default(), LogLimit::default());
        Ok(Self { source, quota, wake, waiting, chain, log })
    }

    /// Fills the chain at `head`; `false` when it must wait.
    fn fill(&mut self, queue: &mut VirtQueue, head: u16) -> Result<bool, QueueError> {
        if let Err(error) = queue.walk(head, &mut self.chain) {
            return queue.reject(head, &error).map(|()| true);
        }
        let allowed = self.quota.as_ref().map_or(u64::MAX, Quota::allows);
        let want = u64::from(self.chain.writable_len().min(MAX_FILL)).min(allowed);
        let want = u32::try_from(want).unwrap_or(MAX_FILL);
        if want == 0 && self.chain.writable_len() > 0 {
            return Ok(false);
        }
        let filled = match self.copy(queue, want) {
            Ok(filled) => filled,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => {
                self.log.warn(format_args!("no randomness for the guest: {error}"));
                0
            }
        };
        if let Some(quota) = &mut self.quota
            && let Err(error) = quota.spend(filled.into())
        {
            self.log.warn(format_args!("the guest's randomness stops: {error}"));
        }
        queue.push_used(head, filled)?;
        Ok(true)
    }

    /// Moves up to `want` bytes into the chain; an error only if none were moved.
    fn copy(&mut self, queue: &VirtQueue, want: u32) -> io::Result<u32> {
        let mut filled = 0;
        let mut bytes = [0; STEP];
        while filled < want {
            let step = usize::try_from(want - filled).unwrap_or(STEP).min(STEP);
            let Some(into) = bytes.get_mut(..step) else { break };
            let count = match self.source.read(into) {
                Ok(count) => count,
                Err(error) if filled == 0 => return Err(error),
                Err(_) => break,
            };
            let data = bytes.get(..count).unwrap_or_default();
            self.chain.write(queue.ram(), filled, data).map_err(io::Error::other)?;
            filled += u32::try_from(count).unwrap_or(0);
        }
        Ok(filled)
    }
}

impl QueueHandler for RngQueue {
    fn completions(&self) -> Option<RawFd> {
        Some(self.wake.as_raw_fd())
    }

    fn has_work(&mut self) -> bool {
        // Entropy has a thread of its own, which does not poll.
        false
    }

    fn room(&self, size: u16) -> usize {
        // While one waits, those behind it wait in the ring.
        if self.waiting.is_empty() { usize::from(size) } else { 0 }
    }

    fn begin(&mut self, queue: &mut VirtQueue, head: u16) -> Result<(), QueueError> {
        if !self.waiting.is_empty() || !self.fill(queue, head)? {
            self.waiting.push(head);
        }
        Ok(())
    }

    fn flush(&mut self) {}

    fn finish(&mut self, queue: &mut VirtQueue) -> Result<(), QueueError> {
        self.idle();
        if let Some(quota) = &mut self.quota {
            quota.tick();
        }
        let mut done = 0;
        for at in 0..self.waiting.len() {
            let Some(&head) = self.waiting.get(at) else { break };
            if !self.fill(queue, head)? {
                break;
            }
            done += 1;
        }
        self.waiting.drain(..done);
        Ok(())
    }

    fn idle(&mut self) {
        let mut events = [EpollEvent::default(); 2];
        // The descriptor that woke us is edge-triggered inside: taking the events makes it quiet.
        if let Err(error) = self.wake.wait(0, &mut events) {
            log::debug!("cannot take events of an entropy source: {error}");
        }
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn take_held(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.waiting)
    }
}
