//! Jobs on disks.

use serde_json::json;

use crate::qmp::Command;
use crate::qmp::command::args::JobDevice;

use super::Context;
use super::block::{command, forced, size_in_mebibytes};
use super::commands::{Failure, Printed, Words, quiet};

/// `block_job_pause device` and the others that only name a job.
pub(super) fn steer(context: &mut Context<'_>, words: &Words<'_>, order: fn(JobDevice) -> Command) -> Printed {
    let device = words.need(0, "device")?.to_owned();
    quiet(context, order(JobDevice { device }))
}

/// `block_job_cancel [-f] device`.
pub(super) fn cancel(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let (force, first) = forced(words);
    let args = json!({"device": words.need(first, "device")?, "force": force.is_some()});
    quiet(context, command("block-job-cancel", args)?)
}

/// The `index`th word as bytes a second; mebibytes without a suffix.
fn speed(words: &Words<'_>, index: usize) -> Result<i64, Failure> {
    size_in_mebibytes(words.need(index, "speed")?).ok_or_else(|| Failure::Usage("invalid size".to_owned()))
}

/// `block_job_set_speed device speed`.
pub(super) fn set_speed(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let args = json!({"device": words.need(0, "device")?, "speed": speed(words, 1)?});
    quiet(context, command("block-job-set-speed", args)?)
}

/// `block_stream device [speed [base]]`.
pub(super) fn stream(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let mut args = json!({"device": words.need(0, "device")?});
    if words.get(1).is_some() {
        args["speed"] = speed(words, 1)?.into();
    }
    if let Some(base) = words.get(2) {
        args["base"] = base.into();
    }
    quiet(context, command("block-stream", args)?)
}
