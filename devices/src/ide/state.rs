//! Saved state of the IDE function: registers, the command in progress with its buffer, and what drives remember.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bus_master::BusMaster;
use super::channel::{Channel, Phase, Task, Work};
use super::drive::{Drive, Kind, Modes};
use super::function::Piix3Ide;
use super::regs::TaskFile;
use super::smart::SelfTests;
use super::transfer::BUFFER;
use crate::geometry::Geometry;
use crate::lifecycle::{DeviceError, Lifecycle, SaveRestore, decode, encode, unfit};
use crate::pci::config::ConfigState;
use crate::scsi::UnitState;
use crate::virtio::queue::GuestRange;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "version")]
enum Saved {
    #[serde(rename = "1")]
    V1(IdeState),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdeState {
    config: ConfigState,
    channels: Vec<ChannelState>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChannelState {
    drives: Vec<Option<DriveState>>,
    second: bool,
    control: u8,
    interrupt: bool,
    bus_master: BusMaster,
    work: Work,
    /// As much of the buffer as the command uses.
    buffer: Vec<u8>,
    /// Guest memory that a held request is about.
    ranges: Vec<(u64, u32)>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DriveState {
    regs: TaskFile,
    modes: Modes,
    kind: KindState,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
enum KindState {
    Disk {
        heads: u8,
        sectors: u8,
        multiple: u8,
        write_cache: bool,
        look_ahead: bool,
        smart: bool,
        #[serde(default, skip_serializing_if = "SelfTests::is_empty")]
        self_tests: SelfTests,
    },
    Cd(Box<UnitState>),
}

impl DriveState {
    fn of(drive: &Drive) -> Self {
        let kind = match &drive.kind {
            Kind::Disk(disk) => KindState::Disk {
                heads: disk.geometry.heads,
                sectors: disk.geometry.sectors,
                multiple: disk.multiple,
                write_cache: disk.write_cache,
                look_ahead: disk.look_ahead,
                smart: disk.smart,
                self_tests: disk.self_tests.clone(),
            },
            Kind::Cd(unit) => KindState::Cd(Box::new(unit.save())),
        };
        Self { regs: drive.regs, modes: drive.modes, kind }
    }

    fn check(&self, drive: &Drive) -> Result<(), String> {
        match (&self.kind, &drive.kind) {
            (KindState::Disk { heads, sectors, multiple, self_tests, .. }, Kind::Disk(_)) => {
                let multiple_fits = *multiple == 0 || (multiple.is_power_of_two() && *multiple <= 16);
                if *heads == 0 || *heads > 16 || *sectors == 0 || !multiple_fits {
                    return Err("a geometry that cannot be".to_owned());
                }
                self_tests.check()
            }
            (KindState::Cd(_), Kind::Cd(_)) => Ok(()),
            _ => Err("a disk where there is a CD drive, or the other way round".to_owned()),
        }
    }

    fn apply(&self, drive: &mut Drive) -> Result<(), String> {
        match (&self.kind, &mut drive.kind) {
            (
                KindState::Disk { heads, sectors, multiple, write_cache, look_ahead, smart, self_tests },
                Kind::Disk(disk),
            ) => {
                disk.geometry = Geometry { heads: *heads, sectors: *sectors, ..disk.default_geometry };
                disk.multiple = *multiple;
                disk.write_cache = *write_cache;
                disk.look_ahead = *look_ahead;
                disk.smart = *smart;
                disk.self_tests = self_tests.clone();
            }
            (KindState::Cd(state), Kind::Cd(unit)) => unit.restore(state)?,
            _ => {}
        }
        drive.regs = self.regs;
        drive.modes = self.modes;
        Ok(())
    }
}

impl ChannelState {
    fn of(channel: &Channel) -> Self {
        let work = &channel.work;
        // A held write has its data in the buffer, whose end says how much.
        let used = work.filled.max(work.end).max(
            work.step
                .filter(|step| !step.guest)
                .map_or(0, |step| usize::try_from(step.len).unwrap_or(BUFFER).min(BUFFER)),
        );
        Self {
            drives: channel.drives.iter().map(|drive| drive.as_ref().map(DriveState::of)).collect(),
            second: channel.second,
            control: channel.control,
            interrupt: channel.interrupt,
            bus_master: channel.bus_master.clone(),
            work: work.clone(),
            buffer: if work.task == Task::None { Vec::new() } else { channel.buffer.to_vec(0, used) },
            ranges: if work.held {
                channel.ranges.iter().map(|range| (range.addr, range.len)).collect()
            } else {
                Vec::new()
            },
        }
    }

    fn check(&self, channel: &Channel) -> Result<(), String> {
        if self.drives.len() != channel.drives.len() {
            return Err(format!("{} drives on a channel", self.drives.len()));
        }
        for pair in self.drives.iter().zip(&channel.drives) {
            match pair {
                (Some(saved), Some(drive)) => saved.check(drive)?,
                (None, None) => {}
                _ => return Err("a drive where there is none, or none where there is one".to_owned()),
            }
        }
        let work = &self.work;
        let present = self.drives.get(work.drive).is_some_and(Option::is_some);
        if work.drive > 1 || (work.task != Task::None && !present) {
            return Err("a command of a drive that is not there".to_owned());
        }
        if work.pos > work.end || work.end > BUFFER || work.filled > BUFFER || self.buffer.len() > BUFFER {
            return Err("a place outside of the buffer".to_owned());
        }
        let lent: u64 = self.ranges.iter().map(|&(_, len)| u64::from(len)).sum();
        if work.step.is_some_and(|step| step.guest && step.len != lent) {
            return Err(format!("{lent} bytes of guest memory"));
        }
        // Nothing is in flight in a saved machine: what the image has to do is held.
        if (work.phase == Phase::Busy) != work.held || work.held != work.step.is_some() {
            return Err("a request that is neither held nor done".to_owned());
        }
        check_task(work, channel)
    }

    fn apply(&self, channel: &mut Channel) -> Result<(), String> {
        for (saved, drive) in self.drives.iter().zip(&mut channel.drives) {
            if let (Some(saved), Some(drive)) = (saved, drive) {
                saved.apply(drive)?;
            }
        }
        channel.second = self.second;
        channel.control = self.control;
        channel.interrupt = self.interrupt;
        channel.bus_master = self.bus_master.clone();
        channel.work = self.work.clone();
        channel.job = None;
        channel.outbox = None;
        channel.buffer.put(0, &self.buffer);
        channel.ranges = self.ranges.iter().map(|&(addr, len)| GuestRange { addr, len }).collect();
        channel.drive_irq();
        Ok(())
    }
}

/// Whether a command in progress stays inside of its drive and its buffer.
fn check_task(work: &Work, channel: &Channel) -> Result<(), String> {
    let drive = channel.drives.get(work.drive).and_then(Option::as_ref);
    let disk = drive.and_then(|drive| match &drive.kind {
        Kind::Disk(disk) => Some(disk),
        Kind::Cd(_) => None,
    });
    let size = disk.map_or(0, |disk| disk.sectors() * 512);
    let inside = |offset: u64, len: u64| offset.checked_add(len).is_some_and(|end| end <= size);
    let bad = || Err("a command that its drive cannot have".to_owned());
    match &work.task {
        Task::None | Task::Reply => {}
        Task::Flush if disk.is_some() => {}
        Task::Sectors(sectors) if inside(sectors.offset, sectors.left) => {
            let past = work.phase == Phase::Out && work.end as u64 > sectors.left;
            if past || sectors.block == 0 || sectors.block > 16 * 512 || !sectors.block.is_multiple_of(512) {
                return bad();
            }
        }
        Task::Trim(trim) if trim.ranges.iter().all(|&(offset, len)| inside(offset, len)) => {}
        Task::Packet(packet) if disk.is_none() => packet.check()?,
        _ => return bad(),
    }
    let fits = |len: u64| usize::try_from(len).is_ok_and(|len| len <= BUFFER);
    match work.step {
        Some(step) if disk.is_some() && !inside(step.offset, step.len) => bad(),
        Some(step) if !step.guest && step.action.uses_buffer() && !fits(step.len) => bad(),
        _ => Ok(()),
    }
}

impl SaveRestore for Piix3Ide {
    fn save(&self) -> Result<Value, DeviceError> {
        let config = self.config().save();
        let channels = self.channels().iter().map(|channel| ChannelState::of(&channel.lock())).collect();
        encode(self.name(), &Saved::V1(IdeState { config, channels }))
    }

    fn restore(&self, state: Value) -> Result<(), DeviceError> {
        let Saved::V1(state) = decode(self.name(), state)?;
        let refused = |why: String| unfit(self.name(), why);
        if state.channels.len() != self.channels().len() {
            return Err(refused(format!("{} channels", state.channels.len())));
        }
        for (saved, channel) in state.channels.iter().zip(self.channels()) {
            saved.check(&channel.lock()).map_err(refused)?;
        }
        let mut config = self.config();
        config.restore(&state.config).map_err(|why| unfit(self.name(), why))?;
        for (saved, channel) in state.channels.iter().zip(self.channels()) {
            saved.apply(&mut channel.lock()).map_err(refused)?;
        }
        self.follow_config(&config);
        Ok(())
    }
}
