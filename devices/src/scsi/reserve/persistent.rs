//! PERSISTENT RESERVE IN and OUT (SPC-5, 6.15 and 6.16).

use super::{Held, Table, conflict, kind};
use crate::scsi::abort::Victims;
use crate::scsi::cdb::Cdb;
use crate::scsi::commands::Run;
use crate::scsi::plan::{Plan, Reply};
use crate::scsi::sense::{self, Sense};

/// Length of the parameters of every PERSISTENT RESERVE OUT but REGISTER AND MOVE.
const PARAMETERS: usize = 24;

/// Service actions of PERSISTENT RESERVE IN.
mod inward {
    pub(super) const READ_KEYS: u8 = 0;
    pub(super) const READ_RESERVATION: u8 = 1;
    pub(super) const REPORT_CAPABILITIES: u8 = 2;
    pub(super) const READ_FULL_STATUS: u8 = 3;
}

/// Service actions of PERSISTENT RESERVE OUT.
mod outward {
    pub(super) const REGISTER: u8 = 0;
    pub(super) const RESERVE: u8 = 1;
    pub(super) const RELEASE: u8 = 2;
    pub(super) const CLEAR: u8 = 3;
    pub(super) const PREEMPT: u8 = 4;
    pub(super) const PREEMPT_AND_ABORT: u8 = 5;
    pub(super) const REGISTER_AND_IGNORE: u8 = 6;
}

pub(in crate::scsi) fn persistent_in(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let data = run.unit.nexus.with(|table, _| match cdb.action() {
        inward::READ_KEYS => Some(listed(table, keys(table))),
        inward::READ_RESERVATION => Some(listed(table, reservation(table))),
        // No transport IDs, no persistence through power loss; every type.
        inward::REPORT_CAPABILITIES => Some(vec![0, 8, 0, 0x80, 0xea, 0x01, 0, 0]),
        inward::READ_FULL_STATUS => Some(listed(table, full_status(table))),
        _ => None,
    });
    Ok(Reply::data(data.ok_or(sense::INVALID_FIELD)?, cdb.length(7, 2)).into())
}

/// Generation and length before a list.
fn listed(table: &Table, list: Vec<u8>) -> Vec<u8> {
    let mut data = table.generation.to_be_bytes().to_vec();
    data.extend(u32::try_from(list.len()).unwrap_or(u32::MAX).to_be_bytes());
    data.extend(list);
    data
}

fn keys(table: &Table) -> Vec<u8> {
    table.members.values().filter(|member| member.key != 0).flat_map(|member| member.key.to_be_bytes()).collect()
}

fn reservation(table: &Table) -> Vec<u8> {
    let Some(held) = table.held else { return Vec::new() };
    let key = if kind::for_all(held.kind) { 0 } else { table.key(held.holder) };
    let mut list = key.to_be_bytes().to_vec();
    list.extend([0, 0, 0, 0, 0, held.kind, 0, 0]);
    list
}

fn full_status(table: &Table) -> Vec<u8> {
    let mut list = Vec::new();
    for (&id, member) in table.members.iter().filter(|(_, member)| member.key != 0) {
        let held = table.held.filter(|held| table.holds(id, *held));
        list.extend(member.key.to_be_bytes());
        list.extend([0; 4]);
        list.extend([u8::from(held.is_some()), held.map_or(0, |held| held.kind), 0, 0, 0, 0]);
        list.extend([0, 1]);
        list.extend(24u32.to_be_bytes());
        // A SAS transport ID (SPC-5, 7.6.4.6) whose address is the number of the nexus.
        list.extend([0x06, 0, 0, 0]);
        list.extend(u64::from(id).to_be_bytes());
        list.extend([0; 12]);
    }
    list
}

pub(in crate::scsi) fn persistent_out(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    if cdb.action() > outward::REGISTER_AND_IGNORE {
        return Err(sense::INVALID_FIELD);
    }
    if cdb.length(5, 4) != PARAMETERS {
        return Err(sense::PARAMETER_LENGTH);
    }
    if run.unit.nexus.with(|table, id| table.old.is_some_and(|holder| holder != id)) {
        return Ok(conflict());
    }
    Ok(Plan::Parameters(PARAMETERS))
}

/// What a PERSISTENT RESERVE OUT asks for.
struct Wish {
    /// The key under which the nexus should be registered.
    key: u64,
    /// The key that the action is about.
    about: u64,
    kind: u8,
}

pub(in crate::scsi) fn persistent_out_parameters(run: &mut Run<'_>, cdb: &Cdb, data: &[u8]) -> Result<Plan, Sense> {
    let number =
        |at: usize| data.get(at..at + 8).map(|bytes| bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)));
    let (Some(key), Some(about), Some(flags)) = (number(0), number(8), data.get(20)) else {
        return Err(sense::PARAMETER_LENGTH);
    };
    // SPEC_I_PT, ALL_TG_PT and APTPL are not offered.
    if flags & 0x0d != 0 {
        return Err(sense::INVALID_PARAMETER);
    }
    let (scope, kind) = (cdb.byte(2) >> 4, cdb.byte(2) & 0xf);
    let wish = Wish { key, about, kind };
    let action = cdb.action();
    let typed = matches!(action, outward::RESERVE | outward::RELEASE | outward::PREEMPT | outward::PREEMPT_AND_ABORT);
    if typed && (scope != 0 || !kind::is_known(kind)) {
        return Err(sense::INVALID_FIELD);
    }
    run.unit.nexus.with(|table, id| table.act(id, action, &wish))
}

impl Table {
    fn act(&mut self, id: u32, action: u8, wish: &Wish) -> Result<Plan, Sense> {
        let own = self.key(id);
        let keyless = action == outward::REGISTER_AND_IGNORE;
        let registers = keyless || action == outward::REGISTER;
        // Everything but a first registration needs the right key (SPC-5, 5.14.3).
        if !keyless && (own != wish.key || (own == 0 && !registers)) {
            return Ok(conflict());
        }
        match action {
            outward::REGISTER | outward::REGISTER_AND_IGNORE => self.register(id, wish.about),
            outward::RESERVE => return Ok(self.reserve(id, wish.kind)),
            outward::RELEASE => self.release(id, wish.kind)?,
            outward::CLEAR => self.clear(id),
            _ => return self.preempt(id, wish, action == outward::PREEMPT_AND_ABORT),
        }
        Ok(Reply::good().into())
    }

    fn register(&mut self, id: u32, key: u64) {
        self.generation = self.generation.wrapping_add(1);
        if key == 0 {
            self.unregister(id);
        } else if let Some(member) = self.members.get_mut(&id) {
            member.key = key;
        }
    }

    fn reserve(&mut self, id: u32, kind: u8) -> Plan {
        match self.held {
            None => self.held = Some(Held { holder: id, kind }),
            Some(held) if self.holds(id, held) && held.kind == kind => {}
            Some(_) => return conflict(),
        }
        Reply::good().into()
    }

    fn release(&mut self, id: u32, kind: u8) -> Result<(), Sense> {
        let Some(held) = self.held.filter(|held| self.holds(id, *held)) else { return Ok(()) };
        if held.kind != kind {
            return Err(sense::INVALID_RELEASE);
        }
        self.held = None;
        if kind::for_registrants(kind) {
            self.others(id).into_iter().for_each(|other| self.tell(other, sense::ATTENTION_RESERVATIONS_RELEASED));
        }
        Ok(())
    }

    fn clear(&mut self, id: u32) {
        self.generation = self.generation.wrapping_add(1);
        self.held = None;
        self.others(id).into_iter().for_each(|other| self.tell(other, sense::ATTENTION_RESERVATIONS_PREEMPTED));
        self.members.values_mut().for_each(|member| member.key = 0);
    }

    /// SPC-5, 5.14.11.2.4 and, if commands of those who lose are to end, 5.14.11.2.6.
    fn preempt(&mut self, id: u32, wish: &Wish, abort: bool) -> Result<Plan, Sense> {
        let all = self.held.is_some_and(|held| kind::for_all(held.kind));
        if wish.about == 0 && !all {
            return Err(sense::INVALID_PARAMETER);
        }
        let takes_over = match self.held {
            Some(_) if all => wish.about == 0,
            Some(held) => self.key(held.holder) == wish.about,
            None => false,
        };
        let victims: Vec<u32> = self
            .others(id)
            .into_iter()
            .filter(|other| (all && wish.about == 0) || self.key(*other) == wish.about)
            .collect();
        if victims.is_empty() && !takes_over {
            return Ok(conflict());
        }
        self.generation = self.generation.wrapping_add(1);
        let (before, mut aborted) = (self.held, Vec::new());
        for victim in victims {
            self.tell(victim, sense::ATTENTION_REGISTRATIONS_PREEMPTED);
            if let Some(member) = self.members.get_mut(&victim) {
                member.key = 0;
                aborted.extend(if abort { member.end_commands() } else { None });
            }
        }
        if takes_over {
            self.held = Some(Held { holder: id, kind: wish.kind });
            if before.is_some_and(|held| held.kind != wish.kind) {
                self.others(id).into_iter().for_each(|other| self.tell(other, sense::ATTENTION_RESERVATIONS_RELEASED));
            }
        } else if let Some(held) = self.held.filter(|held| self.key(held.holder) == 0) {
            // A holder among all registrants is gone: another of them stands for the rest.
            let heir = self.others(id).first().copied().unwrap_or(id);
            self.held = Some(Held { holder: heir, ..held });
        }
        let aborted: Victims = aborted.into_iter().collect();
        Ok(if aborted.is_empty() { Reply::good().into() } else { Plan::Preempt(aborted) })
    }
}
