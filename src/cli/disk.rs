//! Options about disks.

use serde_json::{Map, Value};

use crate::qmp::command::blockdev_check::check_node;
use crate::spec::SpecError;
use crate::spec::blockdev::{BlockdevArgs, BlockdevOption};
use crate::spec::describe::Describe;
use crate::spec::drive::{DriveInterface, DriveMedia, DriveOptions, DriveSpec};

use super::arg::Arg;
use super::draft::Draft;
use super::error::Stop;
use super::help;
use super::table::{OptionDef, flag, takes};
use super::text::{self, Pair};

pub(super) const OPTIONS: &[OptionDef] = &[
    takes(
        "drive",
        "file=IMAGE,if=ide|virtio|pflash|none[,format=FORMAT][,cache=MODE][,OPTION=VALUE...]",
        "a disk; -drive help lists the options",
        drive,
    ),
    takes(
        "blockdev",
        "[driver=]DRIVER[,node-name=NAME][,OPTION=VALUE...]",
        "a node of the block graph; also as JSON, as in blockdev-add",
        blockdev,
    ),
    takes("hda", "IMAGE", "first disk on IDE", hda),
    takes("hdb", "IMAGE", "second disk on IDE", hdb),
    takes("hdc", "IMAGE", "third disk on IDE", hdc),
    takes("hdd", "IMAGE", "fourth disk on IDE", hdd),
    takes("cdrom", "IMAGE", "CD drive in the place of -hdc", cdrom),
    takes("pflash", "IMAGE", "the next flash chip of the firmware: code, then variables", pflash),
    flag("snapshot", "throw away at the end what guests write to disks", snapshot),
];

/// What QEMU's PC takes for a drive without `if=`.
const DEFAULT: DriveInterface = DriveInterface::Ide;

fn drive(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    if arg.wants_help() {
        return Err(Stop::Print(help::properties::<DriveOptions>()));
    }
    let (own, block) = split(arg.pairs(None)?)?;
    draft.spec.drives.push(DriveSpec::read(arg.place().to_string(), own, block, DEFAULT)?);
    Ok(())
}

/// What `drive_add` of the human monitor is given.
///
/// # Errors
/// As of `-drive`.
pub(crate) fn read_drive(text: &str) -> Result<DriveSpec, SpecError> {
    let (own, block) = split(text::pairs(text, None)?)?;
    DriveSpec::read(text.to_owned(), own, block, DEFAULT)
}

/// Older names of limits, in the order in which QEMU looks at them.
const OLD_LIMITS: &[(&str, &str)] = &[
    ("iops", "throttling.iops-total"),
    ("iops_rd", "throttling.iops-read"),
    ("iops_wr", "throttling.iops-write"),
    ("bps", "throttling.bps-total"),
    ("bps_rd", "throttling.bps-read"),
    ("bps_wr", "throttling.bps-write"),
    ("iops_max", "throttling.iops-total-max"),
    ("iops_rd_max", "throttling.iops-read-max"),
    ("iops_wr_max", "throttling.iops-write-max"),
    ("bps_max", "throttling.bps-total-max"),
    ("bps_rd_max", "throttling.bps-read-max"),
    ("bps_wr_max", "throttling.bps-write-max"),
    ("iops_size", "throttling.iops-size"),
    ("group", "throttling.group"),
];

type Object = Map<String, Value>;

/// Parts `-drive`'s own options from those of the block driver. `cache=none,cache.direct=on` is one of each.
fn split(pairs: Vec<Pair>) -> Result<(Object, Object), SpecError> {
    let given = |key: &str| pairs.iter().any(|pair| pair.key == key);
    if let Some((old, name)) = OLD_LIMITS.iter().find(|(old, name)| given(old) && given(name)) {
        return Err(SpecError::new(format!("'{name}' and its alias '{old}' can't be used at the same time")));
    }
    let (mut own, mut limits, mut block) = (Map::new(), Map::new(), Vec::new());
    for mut pair in pairs {
        if let Some((_, name)) = OLD_LIMITS.iter().find(|(old, _)| *old == pair.key) {
            (*name).clone_into(&mut pair.key);
        }
        if DriveOptions::DESCRIPTION.find(&pair.key).is_some() {
            own.insert(pair.key, Value::String(pair.value));
        } else if let Some(limit) = pair.key.strip_prefix("throttling.") {
            limits.insert(limit.to_owned(), Value::String(pair.value));
        } else {
            block.push(pair);
        }
    }
    if !limits.is_empty() {
        own.insert("throttling".into(), Value::Object(limits));
    }
    Ok((own, text::nested(block)?))
}

fn blockdev(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    let (options, source) = arg.object("driver")?;
    check_node(&options, source)?;
    if !options.contains_key("node-name") {
        return Err(SpecError::new("'node-name' must be specified for the root node").into());
    }
    let args = BlockdevArgs { options };
    draft.spec.blockdevs.push(BlockdevOption { typed: arg.place().to_string(), args });
    Ok(())
}

fn snapshot(draft: &mut Draft, _: &Arg) -> Result<(), Stop> {
    draft.spec.snapshot = true;
    Ok(())
}

/// An image without an option in front of it: the first IDE disk, as `-hda`.
pub(super) fn image(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    ide(draft, arg, 0, DriveMedia::Disk)
}

fn hda(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    ide(draft, arg, 0, DriveMedia::Disk)
}

fn hdb(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    ide(draft, arg, 1, DriveMedia::Disk)
}

fn hdc(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    ide(draft, arg, 2, DriveMedia::Disk)
}

fn hdd(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    ide(draft, arg, 3, DriveMedia::Disk)
}

fn cdrom(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    ide(draft, arg, 2, DriveMedia::Cdrom)
}

fn pflash(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    let object = Map::from_iter([("file".to_owned(), Value::from(arg.text()?))]);
    draft.spec.drives.push(DriveSpec::read(arg.place().to_string(), object, Map::new(), DriveInterface::Pflash)?);
    Ok(())
}

fn ide(draft: &mut Draft, arg: &Arg, index: u32, media: DriveMedia) -> Result<(), Stop> {
    let object = Map::from_iter([
        ("file".to_owned(), Value::from(arg.text()?)),
        ("index".to_owned(), Value::from(index.to_string())),
        ("media".to_owned(), Value::from(media.as_str())),
    ]);
    draft.spec.drives.push(DriveSpec::read(arg.place().to_string(), object, Map::new(), DriveInterface::Ide)?);
    Ok(())
}
