//! Disks, drives and their snapshots.

use serde_json::{Value, json};

use crate::cli::{read_drive, text};
use crate::qmp::command::args::{BlockResize, BlockdevAdd, BlockdevChangeReadOnlyMode, ChangeMedium, Eject};
use crate::qmp::command::blockdev_check::check_node;
use crate::qmp::{Command, Inspect, QmpError};
use crate::spec::SpecError;
use crate::spec::blockdev::BlockdevArgs;
use crate::spec::read::Source;

use super::Context;
use super::commands::{Failure, Printed, Words, quiet};

/// Whether the words begin with `-f`, and where those after it begin.
pub(super) fn forced(words: &Words<'_>) -> (Option<bool>, usize) {
    if words.get(0) == Some("-f") { (Some(true), 1) } else { (None, 0) }
}

/// The flags among `known` with which a line begins, and where they end.
pub(super) fn flags(words: &Words<'_>, known: &[&'static str]) -> (Vec<&'static str>, usize) {
    let given = (0..).map_while(|index| known.iter().copied().find(|flag| words.get(index) == Some(flag)));
    let given: Vec<_> = given.collect();
    let end = given.len();
    (given, end)
}

/// What both ways of copying into a file take: device, target, format, how the target comes to be.
fn copy_words(words: &Words<'_>, first: usize, reuse: bool) -> Result<Value, Failure> {
    let mut args = json!({
        "device": words.need(first, "device")?,
        "target": words.need(first + 1, "target")?,
        "mode": if reuse { "existing" } else { "absolute-paths" },
    });
    if let Some(format) = words.get(first + 2) {
        args["format"] = format.into();
    }
    Ok(args)
}

pub(super) fn back_up(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let (flags, first) = flags(words, &["-n", "-f", "-c"]);
    let mut args = copy_words(words, first, flags.contains(&"-n"))?;
    args["sync"] = if flags.contains(&"-f") { "full" } else { "top" }.into();
    args["compress"] = flags.contains(&"-c").into();
    quiet(context, command("drive-backup", args)?)
}

pub(super) fn mirror(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let (flags, first) = flags(words, &["-n", "-f"]);
    let mut args = copy_words(words, first, flags.contains(&"-n"))?;
    args["sync"] = if flags.contains(&"-f") { "full" } else { "top" }.into();
    quiet(context, command("drive-mirror", args)?)
}

/// The command of this name with these arguments.
pub(super) fn command(name: &str, arguments: Value) -> Result<Command, Failure> {
    let Value::Object(arguments) = arguments else { return Err(Failure::Usage("no arguments".to_owned())) };
    Ok(Command::parse(name, arguments)?)
}

pub(super) fn eject(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let (force, first) = forced(words);
    let device = Some(words.need(first, "device")?.to_owned());
    quiet(context, Command::Eject(Eject { device, id: None, force }))
}

pub(super) fn change(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let (force, first) = forced(words);
    let device = Some(words.need(first, "device")?.to_owned());
    let filename = words.need(first + 1, "filename")?.to_owned();
    let format = words.get(first + 2).map(str::to_owned);
    let read_only_mode = match words.get(first + 3) {
        None => None,
        Some("retain") => Some(BlockdevChangeReadOnlyMode::Retain),
        Some("read-only") => Some(BlockdevChangeReadOnlyMode::ReadOnly),
        Some("read-write") => Some(BlockdevChangeReadOnlyMode::ReadWrite),
        Some(other) => return Err(Failure::Usage(format!("read-only-mode: '{other}' is none"))),
    };
    quiet(
        context,
        Command::BlockdevChangeMedium(ChangeMedium { device, id: None, filename, format, force, read_only_mode }),
    )
}

/// `drive_add [-n] slot [file=image][,if=none][,...]`; what went wrong is told without a word before it.
pub(super) fn add_drive(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let is_node = words.get(0) == Some("-n");
    // A slot of a SCSI adapter, long ago; scripts write `0` or `dummy`.
    words.need(usize::from(is_node), "slot")?;
    let options = words.need(usize::from(is_node) + 1, "options")?;
    let added = if is_node {
        add_node(context, options).map(|()| "")
    } else {
        let drive = read_drive(options).map_err(|error| QmpError::from_error(&error));
        drive.and_then(|drive| context.inspect(Inspect::AddDrive(Box::new(drive)))).map(|_| "OK\n")
    };
    Ok(added.map_or_else(|error| format!("{error}\n"), str::to_owned))
}

/// What `-blockdev` takes.
fn add_node(context: &mut Context<'_>, text: &str) -> Result<(), QmpError> {
    let read = text::pairs(text, None).and_then(text::nested).and_then(|options| {
        check_node(&options, Source::Text)?;
        if options.contains_key("node-name") {
            Ok(options)
        } else {
            Err(SpecError::new("'node-name' needs to be specified"))
        }
    });
    let options = read.map_err(|error| QmpError::from_error(&error))?;
    context.run(Command::BlockdevAdd(BlockdevAdd(BlockdevArgs { options }))).map(drop)
}

/// `drive_del device`; likewise.
pub(super) fn remove_drive(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let name = words.need(0, "id")?.to_owned();
    Ok(context.inspect(Inspect::RemoveDrive { name }).map_or_else(|error| format!("{error}\n"), |_| String::new()))
}

pub(super) fn commit(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let disk = Some(words.need(0, "device")?.to_owned()).filter(|disk| disk != "all");
    // What went wrong is told without a word before it.
    Ok(context.inspect(Inspect::Commit { disk }).map_or_else(|error| format!("{error}\n"), |_| String::new()))
}

pub(super) fn limit(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let mut args = json!({"device": words.need(0, "device")?});
    for (index, name) in (1..).zip(["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"]) {
        let number = words.need(index, name)?.parse::<i64>();
        args[name] = number.map_err(|_| Failure::Usage(format!("invalid {name}")))?.into();
    }
    quiet(context, command("block_set_io_throttle", args)?)
}

pub(super) fn resize(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let device = words.need(0, "device")?.to_owned();
    let size = words.get(1).and_then(size_in_mebibytes).ok_or_else(|| Failure::Usage("invalid size".into()))?;
    quiet(context, Command::BlockResize(BlockResize { device: Some(device), node_name: None, size }))
}

/// A number with a suffix; mebibytes without one.
pub(super) fn size_in_mebibytes(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let shift = match text.get(digits.len()..)?.to_ascii_uppercase().as_str() {
        "B" => 0,
        "K" => 10,
        "" | "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        _ => return None,
    };
    digits.parse::<i64>().ok()?.checked_mul(1 << shift)
}

/// `snapshot_blkdev [-n] device new-image-file [format]`.
pub(super) fn snapshot(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let reuse = words.get(0) == Some("-n");
    let first = usize::from(reuse);
    let device = words.need(first, "device")?;
    let Some(file) = words.get(first + 1) else {
        return Err(QmpError::generic("Parameter 'snapshot-file' is missing").into());
    };
    let mut args = json!({
        "device": device, "snapshot-file": file, "mode": if reuse { "existing" } else { "absolute-paths" },
    });
    if let Some(format) = words.get(first + 2) {
        args["format"] = format.into();
    }
    quiet(context, command("blockdev-snapshot-sync", args)?)
}

/// `snapshot_blkdev_internal device name`.
pub(super) fn snapshot_inside(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let args = json!({"device": words.need(0, "device")?, "name": words.need(1, "name")?});
    quiet(context, command("blockdev-snapshot-internal-sync", args)?)
}

/// `snapshot_delete_blkdev_internal device name [id]`.
pub(super) fn delete_snapshot_inside(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let mut args = json!({"device": words.need(0, "device")?, "name": words.need(1, "name")?});
    if let Some(id) = words.get(2) {
        args["id"] = id.into();
    }
    quiet(context, command("blockdev-snapshot-delete-internal-sync", args)?)
}
