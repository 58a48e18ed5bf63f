//! The command table of each kind of unit: what is not in it does not exist. REPORT SUPPORTED OPERATION CODES (SPC-5,
//! 6.35) reads the same table.

use super::cdb::Cdb;
use super::plan::{Plan, Reply};
use super::reserve::Access;
use super::sense::{self, Sense};
use super::state::State;
use super::unit::LogicalUnit;
use super::{inquiry, luns, reserve};

/// What a command's code works with.
pub(super) struct Run<'a> {
    pub(super) unit: &'a LogicalUnit,
    pub(super) state: &'a mut State,
}

pub(super) type Handler = fn(&mut Run<'_>, &Cdb) -> Result<Plan, Sense>;
pub(super) type Taker = fn(&mut Run<'_>, &Cdb, &[u8]) -> Result<Plan, Sense>;

/// One command.
pub(super) struct Command {
    /// The operation code, then which bits of each byte are looked at; as long as the command block.
    pub(super) usage: &'static [u8],
    /// Service action, where the operation code alone does not say it.
    action: Option<u8>,
    /// What a reservation of someone else means for it.
    pub(super) access: Access,
    /// Only with a medium, and started.
    pub(super) medium: bool,
    /// A pending unit attention does not hold it up (SAM-6, 5.14).
    pub(super) quiet: bool,
    pub(super) run: Handler,
    /// Takes the parameters that `run` asked for.
    pub(super) take: Option<Taker>,
}

impl Command {
    pub(super) const fn new(usage: &'static [u8], access: Access, run: Handler) -> Self {
        Self { usage, action: None, access, medium: false, quiet: false, run, take: None }
    }

    pub(super) const fn action(mut self, action: u8) -> Self {
        self.action = Some(action);
        self
    }

    pub(super) const fn medium(mut self) -> Self {
        self.medium = true;
        self
    }

    pub(super) const fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    pub(super) const fn takes(mut self, take: Taker) -> Self {
        self.take = Some(take);
        self
    }

    fn opcode(&self) -> u8 {
        self.usage.first().copied().unwrap_or(0)
    }

    pub(super) fn is(&self, opcode: u8, action: u8) -> bool {
        self.opcode() == opcode && self.action.is_none_or(|own| own == action)
    }
}

/// Commands of every unit.
pub(super) static COMMON: [Command; 13] = [
    Command::new(&[0x00, 0, 0, 0, 0, 0], Access::Free, test_unit_ready).medium(),
    Command::new(&[0x03, 1, 0, 0, 0xff, 0], Access::Free, request_sense).quiet(),
    Command::new(&[0x12, 1, 0xff, 0xff, 0xff, 0], Access::Free, inquiry::run).quiet(),
    Command::new(&[0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Access::Free, report_luns).quiet(),
    Command::new(&[0x16, 0, 0, 0, 0, 0], Access::Reserve, reserve::reserve),
    Command::new(&[0x17, 0, 0, 0, 0, 0], Access::Free, reserve::release),
    Command::new(&[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0], Access::Reserve, reserve::reserve),
    Command::new(&[0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0], Access::Free, reserve::release),
    Command::new(&[0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Access::Free, reserve::persistent_in),
    Command::new(&[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0], Access::Free, reserve::persistent_out)
        .takes(reserve::persistent_out_parameters),
    Command::new(&[0xa3, 0x1f, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Access::Free, report_opcodes)
        .action(0x0c),
    Command::new(&[0x1d, 0x04, 0, 0xff, 0xff, 0], Access::Free, self_test),
    Command::new(&[0x4d, 0, 0x3f, 0, 0, 0xff, 0xff, 0xff, 0xff, 0], Access::Free, log_sense),
];

/// SPC-5, 6.49. The medium was looked for before.
fn test_unit_ready(_run: &mut Run<'_>, _cdb: &Cdb) -> Result<Plan, Sense> {
    Ok(Reply::good().into())
}

/// SPC-5, 6.39: what a front end without autosense kept, or else a pending unit attention, which is then reported.
fn request_sense(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let pending = run.state.last_sense.take().or_else(|| run.unit.take_attention(run.state));
    let sense = pending.unwrap_or(sense::NO_SENSE);
    let data = if cdb.has(1, 1) { sense.descriptor() } else { sense.fixed().to_vec() };
    Ok(Reply::data(data, cdb.length(4, 1)).into())
}

/// The list of a target with this unit alone; a front end with more answers itself.
fn report_luns(_run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    luns::report_luns(cdb, &[0]).map(Plan::Done)
}

/// SPC-5, 6.42: the default self-test, which finds nothing.
fn self_test(_run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    if cdb.byte(1) & !0x04 != 0 || !cdb.has(1, 0x04) {
        return Err(sense::INVALID_FIELD);
    }
    Ok(Reply::good().into())
}

/// SPC-5, 6.8: only the list of supported pages (7.3.1), which holds itself.
fn log_sense(_run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let (page, subpage) = (cdb.byte(2) & 0x3f, cdb.byte(3));
    if page != 0 || subpage != 0 || cdb.has(1, 1) {
        return Err(sense::INVALID_FIELD);
    }
    Ok(Reply::data(vec![0, 0, 0, 1, 0], cdb.length(7, 2)).into())
}

/// REPORT SUPPORTED OPERATION CODES.
fn report_opcodes(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let timeouts = cdb.has(2, 0x80);
    let allocation = cdb.length(6, 4);
    let (opcode, action) = (cdb.byte(3), u8::try_from(cdb.be(4, 2)).unwrap_or(u8::MAX));
    let data = match cdb.byte(2) & 7 {
        0 => every_command(run.unit, timeouts),
        // By operation code alone, by service action, or either.
        1 if has_actions(run.unit, opcode) => return Err(sense::INVALID_FIELD.in_byte(2)),
        2 if !has_actions(run.unit, opcode) => return Err(sense::INVALID_FIELD.in_byte(2)),
        1..=3 => one_command(run.unit, opcode, action, timeouts),
        _ => return Err(sense::INVALID_FIELD.in_byte(2)),
    };
    Ok(Reply::data(data, allocation).into())
}

/// Operation codes whose service action is reported with them.
fn has_actions(unit: &LogicalUnit, opcode: u8) -> bool {
    matches!(opcode, 0x5e | 0x5f)
        || unit.commands().any(|command| command.opcode() == opcode && command.action.is_some())
}

fn actions(command: &Command) -> Vec<Option<u8>> {
    match command.opcode() {
        0x5e => (0..4).map(Some).collect(),
        0x5f => [0, 1, 2, 3, 4, 5, 6].map(Some).to_vec(),
        _ => vec![command.action],
    }
}

/// SPC-5, 6.35.2.
fn every_command(unit: &LogicalUnit, timeouts: bool) -> Vec<u8> {
    let mut list = Vec::new();
    for command in unit.commands() {
        for action in actions(command) {
            let flags = u8::from(action.is_some()) | u8::from(timeouts) << 1;
            let len = u8::try_from(command.usage.len()).unwrap_or(0);
            list.extend([command.opcode(), 0, 0, action.unwrap_or(0), 0, flags, 0, len]);
            if timeouts {
                list.extend(NO_TIMEOUTS);
            }
        }
    }
    let mut data = u32::try_from(list.len()).unwrap_or(0).to_be_bytes().to_vec();
    data.append(&mut list);
    data
}

/// A timeouts descriptor that names none (SPC-5, 6.35.4).
const NO_TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// SPC-5, 6.35.3.
fn one_command(unit: &LogicalUnit, opcode: u8, action: u8, timeouts: bool) -> Vec<u8> {
    let found = unit.commands().find(|command| {
        command.opcode() == opcode && (!has_actions(unit, opcode) || actions(command).contains(&Some(action)))
    });
    let Some(command) = found else { return vec![0, 1, 0, 0] };
    let mut data = vec![0, 3 | u8::from(timeouts) << 7];
    data.extend(u16::try_from(command.usage.len()).unwrap_or(0).to_be_bytes());
    data.extend(command.usage);
    if timeouts {
        data.extend(NO_TIMEOUTS);
    }
    data
}
