//! Reservations (SPC-5, 5.14; the old kind: SPC-2, 5.5.1), within one process: between the units that show one image, each
//! of which is one nexus to it.

mod persistent;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::abort::{Abort, Victims};
use super::cdb::Cdb;
use super::claims::{Busy, Claim, Claims};
use super::commands::Run;
use super::plan::{Media, Plan, Reply};
use super::sense::{self, Sense, status};
use super::state::{SavedSense, check_attentions};

pub(super) use persistent::{persistent_in, persistent_out, persistent_out_parameters};

/// What a command means to a reservation of someone else (SPC-5, table 66; SBC-4, table 13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing.
    Free,
    /// It reads.
    Read,
    /// It writes, or changes what others rely on.
    Write,
    /// It wants a reservation of the old kind.
    Reserve,
}

/// Types of persistent reservation (SPC-5, table 67).
mod kind {
    pub(super) const WRITE_EXCLUSIVE: u8 = 1;
    pub(super) const EXCLUSIVE: u8 = 3;
    pub(super) const WRITE_EXCLUSIVE_REGISTRANTS: u8 = 5;
    pub(super) const EXCLUSIVE_REGISTRANTS: u8 = 6;
    pub(super) const WRITE_EXCLUSIVE_ALL: u8 = 7;
    pub(super) const EXCLUSIVE_ALL: u8 = 8;

    pub(super) fn is_known(kind: u8) -> bool {
        matches!(
            kind,
            WRITE_EXCLUSIVE
                | EXCLUSIVE
                | WRITE_EXCLUSIVE_REGISTRANTS
                | EXCLUSIVE_REGISTRANTS
                | WRITE_EXCLUSIVE_ALL
                | EXCLUSIVE_ALL
        )
    }

    /// Others may not even read.
    pub(super) fn bars_reads(kind: u8) -> bool {
        matches!(kind, EXCLUSIVE | EXCLUSIVE_REGISTRANTS | EXCLUSIVE_ALL)
    }

    /// Whoever is registered may do as the holder does.
    pub(super) fn for_registrants(kind: u8) -> bool {
        kind >= WRITE_EXCLUSIVE_REGISTRANTS
    }

    /// Whoever is registered holds it.
    pub(super) fn for_all(kind: u8) -> bool {
        matches!(kind, WRITE_EXCLUSIVE_ALL | EXCLUSIVE_ALL)
    }
}

/// One nexus as the others see it.
#[derive(Default)]
struct Member {
    /// Its key; 0 when it is not registered.
    key: u64,
    /// What was done to it.
    attention: Vec<Sense>,
    /// Ends its commands, where its front end has more than one at a time.
    abort: Option<Arc<Abort>>,
    /// How often others had its commands ended.
    aborts: Arc<AtomicUsize>,
}

impl Member {
    /// Its commands are to end, those too that were looked at and are not yet known to the front end.
    fn end_commands(&self) -> Option<Arc<Abort>> {
        self.aborts.fetch_add(1, Ordering::AcqRel);
        self.abort.clone()
    }
}

/// A persistent reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    holder: u32,
    kind: u8,
}

#[derive(Default)]
struct Table {
    generation: u32,
    next: u32,
    members: BTreeMap<u32, Member>,
    held: Option<Held>,
    /// Holder of a reservation of the old kind.
    old: Option<u32>,
}

impl Table {
    fn key(&self, id: u32) -> u64 {
        self.members.get(&id).map_or(0, |member| member.key)
    }

    fn holds(&self, id: u32, held: Held) -> bool {
        held.holder == id || (kind::for_all(held.kind) && self.key(id) != 0)
    }

    fn allows(&self, id: u32, access: Access) -> bool {
        if self.old.is_some_and(|holder| holder != id) {
            return false;
        }
        if access == Access::Reserve && self.members.values().any(|member| member.key != 0) {
            return false;
        }
        let Some(held) = self.held else { return true };
        let mine = self.holds(id, held) || (kind::for_registrants(held.kind) && self.key(id) != 0);
        mine || (access == Access::Read && !kind::bars_reads(held.kind))
    }

    fn tell(&mut self, id: u32, sense: Sense) {
        if let Some(member) = self.members.get_mut(&id)
            && !member.attention.contains(&sense)
        {
            member.attention.push(sense);
        }
    }

    /// A reset takes the place of what a nexus was not told yet.
    fn forget_attentions(&mut self, id: u32) {
        if let Some(member) = self.members.get_mut(&id) {
            member.attention.clear();
        }
    }

    /// Every registered member but `id`.
    fn others(&self, id: u32) -> Vec<u32> {
        self.members
            .iter()
            .filter(|(other, member)| **other != id && member.key != 0)
            .map(|(other, _)| *other)
            .collect()
    }

    /// Forgets a registration, and the reservation that goes with it (SPC-5, 5.14.11.2.3).
    fn unregister(&mut self, id: u32) {
        if let Some(member) = self.members.get_mut(&id) {
            member.key = 0;
        }
        let Some(held) = self.held.filter(|held| held.holder == id) else { return };
        let others = self.others(id);
        match others.first() {
            Some(&heir) if kind::for_all(held.kind) => self.held = Some(Held { holder: heir, ..held }),
            _ => {
                self.held = None;
                if kind::for_registrants(held.kind) {
                    others.into_iter().for_each(|other| self.tell(other, sense::ATTENTION_RESERVATIONS_RELEASED));
                }
            }
        }
    }
}

/// Who reserved what of one image. Shared by the units that show it.
#[derive(Default)]
pub struct Reservations {
    table: Mutex<Table>,
    /// There is some registration, reservation or attention: without, no command has to look.
    busy: AtomicBool,
    claims: Arc<Claims>,
}

impl Reservations {
    /// Nobody reserved anything.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn join(self: &Arc<Self>) -> Nexus {
        let mut table = self.lock();
        let id = table.next;
        table.next = table.next.wrapping_add(1);
        let member = Member::default();
        let aborts = Arc::clone(&member.aborts);
        table.members.insert(id, member);
        Nexus { shared: Arc::clone(self), id, aborts }
    }
}

/// One unit's part in the reservations.
pub(super) struct Nexus {
    shared: Arc<Reservations>,
    id: u32,
    aborts: Arc<AtomicUsize>,
}

impl Nexus {
    /// Looks at or changes the table, and notes whether there is anything in it.
    fn with<T>(&self, f: impl FnOnce(&mut Table, u32) -> T) -> T {
        let mut table = self.shared.lock();
        let result = f(&mut table, self.id);
        let members = table.members.values().any(|member| member.key != 0 || !member.attention.is_empty());
        self.shared.busy.store(members || table.held.is_some() || table.old.is_some(), Ordering::Release);
        result
    }

    fn busy(&self) -> bool {
        self.shared.busy.load(Ordering::Acquire)
    }

    pub(super) fn allows(&self, access: Access) -> bool {
        access == Access::Free || !self.busy() || self.with(|table, id| table.allows(id, access))
    }

    pub(super) fn claim(&self, media: &Media) -> Result<Option<Claim>, Busy> {
        self.shared.claims.claim(media)
    }

    pub(super) fn take_attention(&self) -> Option<Sense> {
        let take = |table: &mut Table, id| {
            let attention = &mut table.members.get_mut(&id)?.attention;
            (!attention.is_empty()).then(|| attention.remove(0))
        };
        if self.busy() { self.with(take) } else { None }
    }

    pub(super) fn on_abort(&self, abort: Arc<Abort>) {
        self.with(|table, id| {
            if let Some(member) = table.members.get_mut(&id) {
                member.abort = Some(abort);
            }
        });
    }

    pub(super) fn aborts(&self) -> usize {
        self.aborts.load(Ordering::Acquire)
    }

    /// The logical unit was reset: nobody has a reservation of the old kind, and the other nexuses hear of it (SAM-6,
    /// 6.3.3). Their commands are to end.
    pub(super) fn reset_others(&self) -> Victims {
        self.with(|table, id| {
            table.old = None;
            let others: Vec<u32> = table.members.keys().copied().filter(|other| *other != id).collect();
            for &other in &others {
                table.forget_attentions(other);
                table.tell(other, sense::ATTENTION_RESET);
            }
            others.iter().filter_map(|other| table.members.get(other)?.end_commands()).collect()
        })
    }

    /// Lets go of a reservation of the old kind.
    pub(super) fn release_old(&self) {
        self.with(|table, id| {
            if table.old == Some(id) {
                table.old = None;
            }
        });
    }

    /// The nexus was reset: it is registered as before, and holds no reservation of the old kind.
    pub(super) fn reset(&self) {
        self.release_old();
        self.with(Table::forget_attentions);
    }

    /// Power was lost: nothing persists through that (APTPL is refused).
    pub(super) fn power_off(&self) {
        self.reset();
        self.with(Table::unregister);
    }

    pub(super) fn save(&self) -> SavedReservation {
        self.with(|table, id| SavedReservation {
            key: table.key(id),
            held: table.held.filter(|held| held.holder == id).map(|held| held.kind),
            old: table.old == Some(id),
            generation: table.generation,
            attention: table.members.get(&id).iter().flat_map(|member| &member.attention).map(Into::into).collect(),
        })
    }

    /// Is as it was saved. Another nexus that holds what this one held then is yet to be restored, or does not any more.
    pub(super) fn restore(&self, saved: &SavedReservation) {
        self.with(|table, id| {
            table.held = table.held.filter(|held| held.holder != id);
            table.old = table.old.filter(|holder| *holder != id);
            if let Some(member) = table.members.get_mut(&id) {
                member.key = saved.key;
                member.attention = saved.attention.iter().map(Into::into).collect();
            }
            if let Some(kind) = saved.held {
                table.held = Some(Held { holder: id, kind });
            }
            if saved.old {
                table.old = Some(id);
            }
            table.generation = saved.generation;
        });
    }
}

impl Drop for Nexus {
    fn drop(&mut self) {
        self.power_off();
        self.with(|table, id| table.members.remove(&id));
    }
}

/// A nexus's part, saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedReservation {
    key: u64,
    held: Option<u8>,
    old: bool,
    generation: u32,
    /// What others did to it.
    #[serde(default)]
    attention: Vec<SavedSense>,
}

impl SavedReservation {
    pub(super) fn check(&self) -> Result<(), String> {
        check_attentions(&self.attention)?;
        match self.held {
            Some(kind) if !kind::is_known(kind) => Err(format!("a persistent reservation of type {kind}")),
            Some(_) if self.key == 0 => Err("a persistent reservation without a key".to_owned()),
            _ => Ok(()),
        }
    }
}

/// Third parties, by a long name or not, and extents are not offered (SPC-2, 7.21 and 7.22).
fn whole(cdb: &Cdb) -> Result<(), Sense> {
    let more = if cdb.len() == 6 { 0x11 } else { 0x13 };
    if cdb.has(1, more) { Err(sense::INVALID_FIELD) } else { Ok(()) }
}

/// RESERVE (6) and (10) (SPC-2, 7.21 and 7.22): the whole unit, for whoever asks. Conflicts were found before.
pub(super) fn reserve(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    whole(cdb)?;
    run.unit.nexus.with(|table, id| table.old = Some(id));
    Ok(Reply::good().into())
}

/// RELEASE (6) and (10) (SPC-2, 7.16 and 7.17): nothing happens where nothing is held.
pub(super) fn release(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    whole(cdb)?;
    run.unit.nexus.release_old();
    Ok(Reply::good().into())
}

fn conflict() -> Plan {
    Reply::bare(status::RESERVATION_CONFLICT).into()
}
