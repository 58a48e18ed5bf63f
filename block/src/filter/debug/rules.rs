//! Events, and what is to happen at them.

use std::collections::BTreeSet;
use std::io;
use std::str::FromStr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{BlockError, ErrorKind};
use crate::spec::{InjectError, SetState};

/// Bytes of the unit that `sector` counts.
const SECTOR: u64 = 512;
/// State in which a node starts. Rules of state 0 hold in every state.
const FIRST_STATE: u32 = 1;

/// What can happen at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Event {
    /// It is made.
    None,
    ReadAio,
    WriteAio,
    Pwritev,
    PwritevZero,
    PwritevDone,
    FlushToOs,
    FlushToDisk,
}

/// Names of events.
const EVENTS: [(&str, Event); 8] = [
    ("none", Event::None),
    ("read_aio", Event::ReadAio),
    ("write_aio", Event::WriteAio),
    ("pwritev", Event::Pwritev),
    ("pwritev_zero", Event::PwritevZero),
    ("pwritev_done", Event::PwritevDone),
    ("flush_to_os", Event::FlushToOs),
    ("flush_to_disk", Event::FlushToDisk),
];

impl FromStr for Event {
    type Err = BlockError;

    fn from_str(name: &str) -> Result<Self, BlockError> {
        EVENTS.iter().find(|(known, _)| *known == name).map(|(_, event)| *event).ok_or_else(|| {
            let known = EVENTS.map(|(known, _)| known).join(", ");
            BlockError::new(ErrorKind::Unsupported, format!("event '{name}' is not told to blkdebug here; use {known}"))
        })
    }
}

/// Kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IoType {
    Read,
    Write,
    WriteZeroes,
    Discard,
    Flush,
    BlockStatus,
}

impl FromStr for IoType {
    type Err = BlockError;

    fn from_str(name: &str) -> Result<Self, BlockError> {
        Ok(match name {
            "read" => Self::Read,
            "write" => Self::Write,
            "write-zeroes" => Self::WriteZeroes,
            "discard" => Self::Discard,
            "flush" => Self::Flush,
            "block-status" => Self::BlockStatus,
            _ => {
                let text = "'iotype' is read, write, write-zeroes, discard, flush or block-status";
                return Err(BlockError::new(ErrorKind::Invalid, text));
            }
        })
    }
}

/// A request that is to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fault {
    errno: i32,
    /// Any but `block-status`, if none is said.
    only: Option<IoType>,
    /// Any, if none is said.
    byte: Option<u64>,
    once: bool,
}

impl Fault {
    fn hits(&self, io: IoType, offset: u64, len: u64) -> bool {
        let kind = self.only.map_or(io != IoType::BlockStatus, |only| only == io);
        kind && self.byte.is_none_or(|byte| (offset..offset.saturating_add(len)).contains(&byte))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Fail(Fault),
    Enter(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    event: Event,
    state: u32,
    action: Action,
}

#[derive(Debug)]
struct Inner {
    rules: Vec<Rule>,
    state: u32,
    /// Those that the last event with a fault has armed.
    armed: Vec<Fault>,
    /// Who is to be held, by tag; one tag may wait for several events.
    to_hold: Vec<(String, Event)>,
    held: BTreeSet<String>,
}

/// All rules of a node.
pub(super) struct Rules {
    inner: Mutex<Inner>,
    released: Condvar,
}

impl Default for Rules {
    fn default() -> Self {
        let (rules, armed) = (Vec::new(), Vec::new());
        let inner = Inner { rules, state: FIRST_STATE, armed, to_hold: Vec::new(), held: BTreeSet::new() };
        Self { inner: Mutex::new(inner), released: Condvar::new() }
    }
}

impl Rules {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule that makes requests fail.
    pub(super) fn inject(&mut self, spec: &InjectError) -> Result<(), BlockError> {
        let fault = Fault {
            errno: spec.errno.map_or(Ok(libc::EIO), |errno| number("errno", errno))?,
            only: spec.iotype.as_deref().map(str::parse).transpose()?,
            byte: spec.sector.map(|sector| sector.saturating_mul(SECTOR)),
            once: spec.once.unwrap_or(false),
        };
        self.add(&spec.event, spec.state, Action::Fail(fault))
    }

    /// Adds a rule that changes the state.
    pub(super) fn set_state(&mut self, spec: &SetState) -> Result<(), BlockError> {
        let next = number("new_state", spec.new_state.unwrap_or(0))?;
        self.add(&spec.event, spec.state, Action::Enter(next))
    }

    fn add(&mut self, event: &str, state: Option<u64>, action: Action) -> Result<(), BlockError> {
        let rule = Rule { event: event.parse()?, state: number("state", state.unwrap_or(0))?, action };
        self.lock().rules.push(rule);
        Ok(())
    }

    /// Does what the rules say about `event`; returns when the request may go on.
    pub(super) fn happens(&self, event: Event) {
        let mut inner = self.lock();
        let state = inner.state;
        let matching = inner.rules.iter().filter(|rule| rule.event == event && [0, state].contains(&rule.state));
        let actions: Vec<Action> = matching.map(|rule| rule.action).collect();
        let faults = |action: &Action| if let Action::Fail(fault) = action { Some(*fault) } else { None };
        if actions.iter().any(|action| faults(action).is_some()) {
            inner.armed = actions.iter().filter_map(faults).collect();
        }
        for action in &actions {
            if let Action::Enter(next) = action {
                inner.state = *next;
            }
        }
        let Some(at) = inner.to_hold.iter().position(|(_, at)| *at == event) else { return };
        let (tag, _) = inner.to_hold.remove(at);
        inner.held.insert(tag.clone());
        while inner.held.contains(&tag) {
            inner = self.released.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Fails if an armed fault is meant for this request.
    pub(super) fn check(&self, io: IoType, offset: u64, len: u64) -> Result<(), BlockError> {
        let mut inner = self.lock();
        let Some(at) = inner.armed.iter().position(|fault| fault.hits(io, offset, len)) else { return Ok(()) };
        let Some(fault) = inner.armed.get(at).copied() else { return Ok(()) };
        if fault.once {
            inner.armed.remove(at);
            let gone = inner.rules.iter().position(|rule| rule.action == Action::Fail(fault));
            gone.map(|at| inner.rules.remove(at));
        }
        Err(BlockError::io("blkdebug was told to fail here", io::Error::from_raw_os_error(fault.errno)))
    }

    pub(super) fn hold(&self, event: Event, tag: &str) {
        let mut inner = self.lock();
        if !inner.to_hold.iter().any(|(known, at)| known == tag && *at == event) {
            inner.to_hold.push((tag.to_owned(), event));
        }
    }

    pub(super) fn release(&self, tag: &str) -> bool {
        let released = self.lock().held.remove(tag);
        self.released.notify_all();
        released
    }

    pub(super) fn release_all(&self) {
        let mut state = self.lock();
        (state.to_hold, state.held) = Default::default();
        self.released.notify_all();
    }

    pub(super) fn forget(&self, tag: &str) -> bool {
        let planned = self.lock().to_hold.extract_if(.., |(known, _)| known == tag).count() > 0;
        self.release(tag) || planned
    }
}

fn number<T: TryFrom<u64>>(name: &str, value: u64) -> Result<T, BlockError> {
    T::try_from(value).map_err(|_| BlockError::new(ErrorKind::Invalid, format!("'{name}' of blkdebug is too large")))
}
