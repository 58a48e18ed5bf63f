//! Limits of disks: groups of the command line and of `object-add`, limits of a `-drive`, `block_set_io_throttle`.

use std::sync::Arc;

use rhea_block::BlockError;
use rhea_block::graph::Graph;
use rhea_block::throttle::{Group, Limits, Rate};

use super::Machine;
use super::drives::DriveError;
use crate::qmp::QmpError;
use crate::qmp::channel::{Answer, done};
use crate::qmp::command::args::IoThrottle;
use crate::spec::ObjectSpec;
use crate::spec::drive::DriveOptions;
use crate::spec::object::{ThrottleGroupSpec, ThrottleLimits};

/// The limits in the block layer's terms.
fn limits(asked: &ThrottleLimits) -> Limits {
    let rate = |average, burst, length| Rate { average, burst, length };
    Limits {
        bytes: [
            rate(asked.bps_total, asked.bps_total_max, asked.bps_total_max_length),
            rate(asked.bps_read, asked.bps_read_max, asked.bps_read_max_length),
            rate(asked.bps_write, asked.bps_write_max, asked.bps_write_max_length),
        ],
        requests: [
            rate(asked.iops_total, asked.iops_total_max, asked.iops_total_max_length),
            rate(asked.iops_read, asked.iops_read_max, asked.iops_read_max_length),
            rate(asked.iops_write, asked.iops_write_max, asked.iops_write_max_length),
        ],
        request_size: asked.iops_size,
    }
}

/// The same the other way round.
fn described(limits: &Limits) -> ThrottleLimits {
    let ([bps, bps_read, bps_write], [iops, iops_read, iops_write]) = (limits.bytes, limits.requests);
    let length = |rate: Rate| rate.length.max(1);
    ThrottleLimits {
        bps_total: bps.average,
        bps_read: bps_read.average,
        bps_write: bps_write.average,
        iops_total: iops.average,
        iops_read: iops_read.average,
        iops_write: iops_write.average,
        bps_total_max: bps.burst,
        bps_read_max: bps_read.burst,
        bps_write_max: bps_write.burst,
        iops_total_max: iops.burst,
        iops_read_max: iops_read.burst,
        iops_write_max: iops_write.burst,
        bps_total_max_length: length(bps),
        bps_read_max_length: length(bps_read),
        bps_write_max_length: length(bps_write),
        iops_total_max_length: length(iops),
        iops_read_max_length: length(iops_read),
        iops_write_max_length: length(iops_write),
        iops_size: limits.request_size,
    }
}

/// An object as it is now: a group's limits are what the last one said who set them, by whatever name.
pub(super) fn now(graph: &Graph, object: &ObjectSpec) -> ObjectSpec {
    let mut object = object.clone();
    if let ObjectSpec::ThrottleGroup(spec) = &mut object
        && let Ok(group) = graph.throttle_group(&spec.id)
    {
        spec.limits = described(&group.limits());
    }
    object
}

/// `-object throttle-group` and `object-add`.
///
/// # Errors
/// The name is taken, or the limits contradict each other.
pub(super) fn add_group(graph: &Graph, group: &ThrottleGroupSpec) -> Result<(), BlockError> {
    graph.add_throttle_group(&group.id, limits(&group.limits)).map(drop)
}

/// `qom-set` of a group's limits.
///
/// # Errors
/// The limits contradict each other.
pub(super) fn change_group(graph: &Graph, group: &ThrottleGroupSpec) -> Result<(), BlockError> {
    set(graph, &group.id, limits(&group.limits)).map(drop)
}

/// The group of a `-drive` with limits: the one it names, made if it is not there, or one of its own.
///
/// # Errors
/// The limits contradict each other.
pub(super) fn group_of(graph: &Graph, drive: &DriveOptions, id: &str) -> Result<Option<Arc<Group>>, DriveError> {
    let limits = limits(&drive.throttling);
    if !limits.any() {
        return Ok(None);
    }
    let name = drive.throttling_group.as_deref().unwrap_or(id);
    let wrong = |source| DriveError::Limits { what: format!("-drive id={id}: throttling"), source };
    set(graph, name, limits).map(Some).map_err(wrong)
}

/// Gives the group `name` these limits; makes it if it is not there. The last one to say so counts, as in QEMU.
fn set(graph: &Graph, name: &str, limits: Limits) -> Result<Arc<Group>, BlockError> {
    limits.check()?;
    match graph.throttle_group(name) {
        Ok(group) => {
            group.set_limits(limits);
            Ok(group)
        }
        Err(_) => graph.add_throttle_group(name, limits),
    }
}

impl Machine {
    /// `block_set_io_throttle`: all limits zero take the disk out of its group.
    pub(super) fn limit_disk(&self, args: &IoThrottle) -> Answer {
        let ((Some(name), None) | (None, Some(name))) = (&args.device, &args.id) else {
            return Err(QmpError::generic("Need exactly one of 'device' and 'id'"));
        };
        let disk = self.facts.find_disk(name).ok_or_else(|| QmpError::device_not_found(name))?;
        let Some(attached) = self.host.disk(&disk.id).attached else {
            return Err(QmpError::generic(format!("Device '{name}' has no medium")));
        };
        let limits = args.limits()?;
        limits.check().map_err(|error| QmpError::from_error(&error))?;
        if !limits.any() {
            attached.disk().set_throttle(None);
            return done();
        }
        let own = attached.disk().throttle().map_or_else(|| name.clone(), |group| group.name().to_owned());
        let group = args.group.clone().unwrap_or(own);
        let group = set(&self.host.graph, &group, limits).map_err(|e| QmpError::from_error(&e))?;
        attached.disk().set_throttle(Some(&group));
        done()
    }
}

impl IoThrottle {
    /// The limits in the block layer's terms.
    fn limits(&self) -> Result<Limits, QmpError> {
        let number = |name: &str, value: Option<i64>| {
            u64::try_from(value.unwrap_or(0)).map_err(|_| QmpError::expects(name, "a number that is not negative"))
        };
        let rate = |name: &str, average: i64, burst, length| {
            if length == Some(0) {
                return Err(QmpError::generic("the burst length cannot be 0"));
            }
            Ok::<_, QmpError>(Rate {
                average: number(name, Some(average))?,
                burst: number(name, burst)?,
                length: number(name, length)?,
            })
        };
        Ok(Limits {
            bytes: [
                rate("bps", self.bps, self.bps_max, self.bps_max_length)?,
                rate("bps_rd", self.bps_rd, self.bps_rd_max, self.bps_rd_max_length)?,
                rate("bps_wr", self.bps_wr, self.bps_wr_max, self.bps_wr_max_length)?,
            ],
            requests: [
                rate("iops", self.iops, self.iops_max, self.iops_max_length)?,
                rate("iops_rd", self.iops_rd, self.iops_rd_max, self.iops_rd_max_length)?,
                rate("iops_wr", self.iops_wr, self.iops_wr_max, self.iops_wr_max_length)?,
            ],
            request_size: number("iops_size", self.iops_size)?,
        })
    }
}
