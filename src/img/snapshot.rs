//! `snapshot`: an image's internal snapshots.

use rhea_block::format::qcow2::{Qcow2, Snapshot};
use rhea_block::{BlockError, ErrorKind};

use super::args::{Opt, Parsed};
use super::error::{ImgError, chain};
use super::open::{self, Want};
use super::{clock, output};
use crate::spec::human_size;

/// The verb's options.
pub(super) const OPTIONS: &[Opt] = &[
    open::OBJECT,
    open::IMAGE_OPTS,
    open::FORCE_SHARE,
    Opt::value('f').or("format"),
    Opt::flag('l').or("list"),
    Opt::value('a').or("apply"),
    Opt::value('c').or("create"),
    Opt::value('d').or("delete"),
    Opt::flag('q').or("quiet"),
];

/// Runs the verb.
///
/// # Errors
/// The image has no such snapshot, cannot have any, or cannot be read or written.
pub(super) fn run(parsed: &Parsed) -> Result<(), ImgError> {
    let [name] = parsed.operands.as_slice() else {
        return Err(ImgError::Usage("Expecting one image file name".to_owned()));
    };
    let actions = ["l", "a", "c", "d"].map(|action| parsed.all(action).count());
    if actions.iter().sum::<usize>() > 1 {
        return Err(ImgError::Usage("Cannot mix '-l', '-a', '-c', '-d'".to_owned()));
    }
    let change = ["a", "c", "d"].iter().find_map(|action| parsed.get(action).map(|name| (*action, name)));
    let want = Want { no_backing: true, ..Want::of(parsed)? };
    let Some((action, which)) = change else {
        let image = open::open(name, want)?;
        let list = image.layer().as_any().downcast_ref::<Qcow2>().map_or(Ok(Vec::new()), Qcow2::snapshots);
        let list = list.map_err(ImgError::block(format!("Could not read the snapshots of '{name}'")))?;
        return if list.is_empty() { Ok(()) } else { output::line(table(&list)) };
    };
    let image = open::open(name, want.writing())?;
    let verb = match action {
        "a" => "apply",
        "c" => "create",
        _ => "delete",
    };
    let fail = |text: String| ImgError::Said(format!("Could not {verb} snapshot '{which}': {text}"));
    let Some(qcow2) = image.layer().as_any().downcast_ref::<Qcow2>() else {
        return Err(fail(format!("-{} (Operation not supported)", libc::ENOTSUP)));
    };
    let result: Result<(), BlockError> = match action {
        "a" => qcow2.snapshot_apply(which),
        "c" => qcow2.snapshot_create(which, clock::now()),
        _ => qcow2.snapshot_delete(which),
    };
    result.map_err(|e| {
        fail(match (e.kind(), action) {
            (ErrorKind::NotFound, "a") => "Failed to load snapshot: No such file or directory".to_owned(),
            (ErrorKind::NotFound, "d") => "snapshot not found".to_owned(),
            _ => chain(&e),
        })
    })?;
    image.close()
}

/// The list as `-l` and `info` show it.
pub(super) fn table(list: &[Snapshot]) -> String {
    let mut text = "Snapshot list:\n".to_owned();
    text += &row("ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
    for s in list {
        let icount = if s.icount == u64::MAX { String::new() } else { s.icount.to_string() };
        let (size, date, clock) = (human_size(s.vm_state_size), clock::local(s.date.0), clock::guest(s.vm_clock));
        text += "\n";
        text += &row(&s.id, &s.name, &size, &date, &clock, &icount);
    }
    text
}

fn row(id: &str, tag: &str, size: &str, date: &str, clock: &str, icount: &str) -> String {
    format!("{id:<9} {tag:<16} {size:>8}{date:>20}{clock:>13}{icount:>11}")
}
