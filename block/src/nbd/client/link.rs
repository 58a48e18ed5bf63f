//! The connections of one node: as many as the server lets us have and there is work for, brought up again when they
//! break.
//!
//! ```text
//!   open ─> up ─ breaks ─> down ─ a thread of the connection tries again, 1 s, 2 s, ... 16 s ─> up
//!                            └─ requests wait for reconnect-delay, then fail at once until it is up
//! ```

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::handshake::{Agreed, negotiate};
use super::live::{Answer, Call, Live, NoAnswer};
use crate::error::{BlockError, ErrorKind};
use crate::mem::Source;
use crate::nbd::proto::{EINVAL, ENOSPC, ENOTSUP, EPERM, flag};
use crate::nbd::socket::Timed;
use crate::nbd::{Address, NbdName};
use crate::thread::{self, ThreadKind};

/// Most connections to one server.
const CONNECTIONS: usize = 4;
/// How long a server may take for the whole handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long an attempt to connect again waits: first, and at most.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(16);
/// How long a server may take for what it has been asked before it is known that nobody waits for it.
const GRACE: Duration = Duration::from_millis(100);
/// How many attempts a second and further connection is worth while the first one serves.
const EXTRA_ATTEMPTS: u32 = 3;

struct State {
    /// By number of the connection; `None` is down.
    live: Vec<Option<Arc<Live>>>,
    /// How many are worth having, the first included: one more each time that all have something to do.
    wanted: usize,
    /// Since when none is up, and why.
    down: Option<(Instant, String)>,
    /// How many want no request to wait.
    refusing: usize,
    /// The node is gone, or gives up.
    ended: bool,
}

/// What the threads of the connections share.
pub(super) struct Link {
    name: NbdName,
    /// The context that is asked for in place of `base:allocation`.
    bitmap: Option<String>,
    agreed: Agreed,
    reconnect_delay: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

fn connect(name: &NbdName, bitmap: Option<&str>) -> Result<Live, BlockError> {
    let socket = name
        .address
        .connect()
        .map_err(|e| BlockError::io(format!("Failed to connect to NBD server at '{}'", name.address), e))?;
    let agreed = negotiate(&mut Timed::within(HANDSHAKE, &socket), &name.export, bitmap)?;
    socket.set_patience(None).map_err(|e| BlockError::io("could not set a socket's timeouts", e))?;
    Ok(Live::new(socket, agreed))
}

impl Link {
    /// Connects; tries again for `open_timeout` while the server is not there.
    pub(super) fn open(
        name: NbdName,
        bitmap: Option<String>,
        open_timeout: Duration,
        reconnect_delay: Duration,
    ) -> Result<Arc<Self>, BlockError> {
        let end = Instant::now() + open_timeout;
        let first = loop {
            match connect(&name, bitmap.as_deref()) {
                Err(error) if worth_another(&error) && Instant::now() < end => {
                    std::thread::sleep(FIRST_WAIT.min(end.saturating_duration_since(Instant::now())));
                }
                other => break other?,
            }
        };
        let agreed = first.agreed.clone();
        let count = if agreed.can(flag::CAN_MULTI_CONN) { CONNECTIONS } else { 1 };
        let mut live = vec![None; count];
        live[0] = Some(Arc::new(first));
        let state = Mutex::new(State { live, wanted: 1, down: None, refusing: 0, ended: false });
        let link = Arc::new(Self { name, bitmap, agreed, reconnect_delay, state, changed: Condvar::new() });
        for number in 0..count {
            let mine = link.clone();
            let started = thread::spawn(ThreadKind::Nbd, "nbd-client", move || mine.keep_up(number));
            if let Err(error) = started.map(drop)
                && number == 0
            {
                link.end();
                return Err(BlockError::io("could not start a thread for an NBD connection", error));
            }
        }
        Ok(link)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    pub(super) fn address(&self) -> &Address {
        &self.name.address
    }

    /// Ends all connections for good: what waits for an answer fails.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        let all: Vec<Arc<Live>> = state.live.iter_mut().filter_map(Option::take).collect();
        drop(state);
        all.iter().for_each(|live| live.leave());
        self.changed.notify_all();
    }

    /// Has what comes fail at once, and what waits for an answer after a moment, until [`Link::serve_again`]. Connections on
    /// which nothing waits stay.
    pub(super) fn refuse(&self) {
        let mut state = self.lock();
        state.refusing += 1;
        self.changed.notify_all();
        let end = Instant::now() + GRACE;
        let waits = |live: &Arc<Live>| live.load.load(Ordering::Relaxed) > 0;
        while state.live.iter().flatten().any(waits) && Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let stuck: Vec<_> = state.live.iter_mut().filter_map(|live| live.take_if(|live| waits(live))).collect();
        drop(state);
        stuck.iter().for_each(|live| live.end());
    }

    /// Takes one [`Link::refuse`] back.
    pub(super) fn serve_again(&self) {
        self.lock().refusing -= 1;
    }

    /// Asks the server, on the connection with the least to do; again if that connection breaks.
    pub(super) fn call(&self, call: Call, payload: Option<Source<'_>>) -> Result<Answer, BlockError> {
        loop {
            let live = self.best()?;
            let answer = live.call(call, payload);
            live.load.fetch_sub(1, Ordering::Relaxed);
            if self.lock().refusing > 0 {
                self.changed.notify_all();
            }
            match answer {
                Ok(answer) => return Ok(answer),
                Err(NoAnswer::Refused(number)) => return Err(self.refused(number)),
                Err(NoAnswer::Lost) => {
                    self.forget(&live, "the connection broke");
                    if self.reconnect_delay.is_zero() {
                        return Err(self.gone("the connection broke"));
                    }
                }
            }
        }
    }

    /// The connection that is up with the least to do, which has one request more now; waits for one as long as that was
    /// asked for.
    fn best(&self) -> Result<Arc<Live>, BlockError> {
        let mut state = self.lock();
        loop {
            if state.refusing > 0 {
                return Err(self.gone("it is not waited for"));
            }
            let up = state.live.iter().flatten().min_by_key(|live| live.load.load(Ordering::Relaxed));
            if let Some(live) = up.cloned() {
                // With the lock: who refuses sees what has begun.
                if live.load.fetch_add(1, Ordering::Relaxed) > 0 && state.wanted < state.live.len() {
                    state.wanted += 1;
                    self.changed.notify_all();
                }
                return Ok(live);
            }
            if state.ended {
                return Err(self.gone("it was given up"));
            }
            let now = Instant::now();
            let (since, why) = state.down.get_or_insert_with(|| (now, "it is not connected".to_owned()));
            let left = (*since + self.reconnect_delay).saturating_duration_since(now);
            if left.is_zero() {
                return Err(self.gone(why));
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn gone(&self, why: &str) -> BlockError {
        BlockError::new(ErrorKind::Io, format!("the NBD server at '{}' is gone: {why}", self.name.address))
    }

    fn refused(&self, number: u32) -> BlockError {
        let kind = match number {
            EPERM => ErrorKind::Permission,
            ENOSPC => ErrorKind::NoSpace,
            EINVAL => ErrorKind::Invalid,
            ENOTSUP => ErrorKind::Unsupported,
            _ => ErrorKind::Io,
        };
        BlockError::new(kind, format!("the NBD server at '{}' answers with error {number}", self.name.address))
    }

    /// A connection broke: nobody is sent there any more.
    fn forget(&self, broken: &Arc<Live>, why: &str) {
        let mut state = self.lock();
        for place in &mut state.live {
            if place.as_ref().is_some_and(|live| Arc::ptr_eq(live, broken)) {
                *place = None;
            }
        }
        if state.live.iter().all(Option::is_none) && state.down.is_none() {
            state.down = Some((Instant::now(), why.to_owned()));
        }
    }

    /// What the thread of connection `number` does for its whole life.
    fn keep_up(&self, number: usize) {
        let mut live = self.lock().live[number].clone();
        let mut wait = Duration::ZERO;
        while let Some(serving) = live.take().or_else(|| self.bring_up(number, &mut wait)) {
            let up = Instant::now();
            let (error, served) = serving.serve();
            // From a server that hangs up again and again no more is asked than from one that is not there.
            if served || up.elapsed() > LONGEST_WAIT {
                wait = Duration::ZERO;
            }
            self.forget(&serving, &error.to_string());
            if self.lock().ended {
                return;
            }
            log::warn!("NBD server at '{}': {error}", self.name.address);
        }
    }

    /// Waits until the connection is wanted, and connects until that succeeds; `None` when there is no use any more. The
    /// first attempt is after `wait`, which then says when the next one would be.
    fn bring_up(&self, number: usize, wait: &mut Duration) -> Option<Arc<Live>> {
        let mut attempts = 0;
        loop {
            let mut state = self.lock();
            while !state.ended && number >= state.wanted {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let due = Instant::now() + *wait;
            while !state.ended && Instant::now() < due {
                let left = due.saturating_duration_since(Instant::now());
                state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            let useless = state.ended || (number > 0 && attempts >= EXTRA_ATTEMPTS && state.live[0].is_some());
            drop(state);
            if useless {
                return None;
            }
            attempts += 1;
            *wait = (*wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
            match connect(&self.name, self.bitmap.as_deref()) {
                Ok(live) if live.agreed.is_same(&self.agreed) => {
                    let live = Arc::new(live);
                    let mut state = self.lock();
                    if state.ended {
                        drop(state);
                        live.leave();
                        return None;
                    }
                    state.live[number] = Some(live.clone());
                    state.down = None;
                    self.changed.notify_all();
                    return Some(live);
                }
                Ok(live) => {
                    live.leave();
                    log::warn!("NBD server at '{}': the export is not what it was", self.name.address);
                }
                Err(error) => log::debug!("NBD server at '{}': {error}", self.name.address),
            }
        }
    }
}

/// The server may yet come.
fn worth_another(error: &BlockError) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            let never = [io::ErrorKind::InvalidInput, io::ErrorKind::InvalidData, io::ErrorKind::PermissionDenied];
            return !never.contains(&io.kind());
        }
        source = cause.source();
    }
    false
}
