//! What a unit remembers, and what of it is saved.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::cd::tray::TrayState;
use super::medium::Medium;
use super::reserve::SavedReservation;
use super::sense::Sense;

/// Most unit attentions that wait; older ones make room.
const MAX_ATTENTIONS: usize = 8;

/// Volatile state of a unit.
#[derive(Default)]
pub(super) struct State {
    pub(super) medium: Option<Arc<Medium>>,
    /// Paths and depth that a front end asked for; known once it is attached.
    pub(super) paths: Option<(u16, u32)>,
    pub(super) attention: VecDeque<Sense>,
    /// Why the last command failed, for front ends without autosense.
    pub(super) last_sense: Option<Sense>,
    pub(super) stopped: bool,
    /// Writes may stay in a volatile cache.
    pub(super) write_cache: bool,
    pub(super) tray: TrayState,
}

impl State {
    /// Notes a unit attention; one that waits already is not noted again.
    pub(super) fn attend(&mut self, sense: Sense) {
        if self.attention.contains(&sense) {
            return;
        }
        if self.attention.len() >= MAX_ATTENTIONS {
            self.attention.pop_front();
        }
        self.attention.push_back(sense);
    }
}

/// Saved sense data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedSense {
    key: u8,
    asc: u8,
    ascq: u8,
    information: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    field: Option<u8>,
}

impl From<&Sense> for SavedSense {
    fn from(&Sense { key, asc, ascq, information, field }: &Sense) -> Self {
        Self { key, asc, ascq, information, field }
    }
}

impl From<&SavedSense> for Sense {
    fn from(&SavedSense { key, asc, ascq, information, field }: &SavedSense) -> Self {
        Self { key, asc, ascq, information, field }
    }
}

impl SavedSense {
    fn check(&self) -> Result<(), String> {
        if self.key > 0xf { Err("a sense key above 15".to_owned()) } else { Ok(()) }
    }
}

/// Why saved unit attentions cannot be.
pub(super) fn check_attentions(all: &[SavedSense]) -> Result<(), String> {
    if all.len() > MAX_ATTENTIONS {
        return Err(format!("{} unit attentions", all.len()));
    }
    all.iter().try_for_each(SavedSense::check)
}

/// A unit's saved state, for the front end's. The medium is the configuration's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitState {
    attention: Vec<SavedSense>,
    last_sense: Option<SavedSense>,
    stopped: bool,
    write_cache: bool,
    tray_open: bool,
    tray_locked: bool,
    media_event: bool,
    eject_request: bool,
    reservation: SavedReservation,
}

impl UnitState {
    pub(super) fn of(state: &State, reservation: SavedReservation) -> Self {
        Self {
            attention: state.attention.iter().map(SavedSense::from).collect(),
            last_sense: state.last_sense.as_ref().map(SavedSense::from),
            stopped: state.stopped,
            write_cache: state.write_cache,
            tray_open: state.tray.open,
            tray_locked: state.tray.locked,
            media_event: state.tray.media_event,
            eject_request: state.tray.eject_request,
            reservation,
        }
    }

    /// Why a state cannot be taken on.
    pub(super) fn check(&self) -> Result<(), String> {
        check_attentions(&self.attention)?;
        self.last_sense.iter().try_for_each(SavedSense::check)?;
        self.reservation.check()
    }

    pub(super) fn apply(&self, state: &mut State) {
        state.attention = self.attention.iter().map(Sense::from).collect();
        state.last_sense = self.last_sense.as_ref().map(Sense::from);
        state.stopped = self.stopped;
        state.write_cache = self.write_cache;
        state.tray = TrayState {
            open: self.tray_open,
            locked: self.tray_locked,
            media_event: self.media_event,
            eject_request: self.eject_request,
        };
    }

    pub(super) fn reservation(&self) -> &SavedReservation {
        &self.reservation
    }
}
